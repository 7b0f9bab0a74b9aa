//! Fault campaigns: the unmodified binary `tidegate` as a child process, hurt again and again while a workload writes down what it is told.
//!
//! Each campaign prints its seed and one line a round, ends with one line of counts, and is judged by `tidegate-checker`. It knows of the hub what an
//! operator can know: processes, files, ports, metrics. Timing is real, so a seed repeats the decisions of a campaign and not its moments.

pub mod brokers;
pub mod disks;
pub mod fleet;
pub mod fsync_error;
pub mod full_disk;
pub mod hub;
pub mod kill9;
pub mod minio;
pub mod overload;
pub mod pause;
pub mod power_cut;
pub mod probe;
pub mod proxy;
pub mod run;
pub mod soak;
pub mod store;
pub mod wires;
