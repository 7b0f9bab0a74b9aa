//! What comes in at the doors of a real broker and must not: each test sends it over the network and looks at the answer.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests use real files and clocks")]

#[path = "../common/mod.rs"]
mod common;
mod leaving;
mod operator;
mod support;
