//! tidegate-wal
