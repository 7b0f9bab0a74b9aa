//! The operator against a real API server and real brokers.
#![allow(missing_docs, clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "tests use real files")]

mod bed;
mod between;
mod calls;
mod faults;
mod leaders;
mod logs;
mod matrix;
mod observed;
mod outages;
mod program;
mod reports;
mod rights;
mod scale;
mod schema;
