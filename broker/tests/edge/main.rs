//! What comes in at the doors of a real broker and must not: each test sends it over the network and looks at the answer.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests use real files and clocks")]

mod admin;
mod bad_batches;
mod bad_requests;
#[path = "../common/mod.rs"]
mod common;
mod doors;
mod foreign;
mod leaving;
mod limits;
mod operator;
mod support;
