//! Placement: which broker holds and leads which journal. [`plan()`] is a pure function from what is known to what is to be done next; a loop
//! on the catalog's leader measures, plans and does, over and over. It moves replicas (tails), never history.

mod patience;
mod plan;
mod view;

#[cfg(test)]
mod tests;

pub use patience::Patience;
pub use plan::plan;
pub use view::{Bounds, BrokerView, FleetView, Health, JournalView, Led, Step};
