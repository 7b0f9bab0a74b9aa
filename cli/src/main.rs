//! The command `tidegate`: composition root of the hub and its clients.
mod generate;
mod input;
mod telemetry;

fn main() {}
