//! tidegate-tier
