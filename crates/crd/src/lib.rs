//! tidegate-crd
