//! tidegate-env
