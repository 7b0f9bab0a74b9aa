//! tidegate-proto
