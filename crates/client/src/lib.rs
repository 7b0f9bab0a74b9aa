//! The Rust client of Tidegate: a producer that batches, pipelines and stores each record once, a consumer that follows
//! partitions and keeps its position, and the administration of topics, offsets and groups.
//!
//! ```no_run
//! # async fn example() -> Result<(), tidegate_client::Error> {
//! use tidegate_client::{Client, Record, Start};
//!
//! let client = Client::connect("http://127.0.0.1:7171").await?;
//! let producer = client.producer().build()?;
//! let delivery = producer.send(Record::new("clicks").key("alice").value("/index.html")).await?;
//! println!("stored at {}", delivery.wait().await?.offset);
//! producer.close().await?;
//!
//! let mut consumer = client.consumer().assign("clicks", Start::Earliest).build().await?;
//! while let Some(record) = consumer.next().await? {
//!     println!("{} {:?}", record.offset, record.value);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! It depends on the wire (`tidegate-proto`) and the batch format (`tidegate-model`) only. Memory is bounded in bytes: a
//! producer's by `buffer_bytes`, a consumer's by the HTTP/2 window of its stream and one message.

pub mod admin;
mod backoff;
mod connection;
pub mod consumer;
mod error;
mod leaders;
pub mod producer;
mod settings;
mod switch;
mod trace;

pub use admin::Admin;
pub use backoff::Backoff;
pub use connection::{Client, Transport};
pub use consumer::{Consumed, Consumer, ConsumerBuilder, Start};
pub use error::Error;
pub use producer::{Delivery, Producer, ProducerBuilder, Record, Settings as ProducerSettings, Stored};
pub use settings::ClientSettings;
pub use switch::Switch;
pub use tidegate_model::batch::Compression;
pub use tidegate_proto as proto;
pub use tidegate_proto::errors::{Failure, Reason};
pub use trace::{Propagation, TracePropagator};

/// Result of a call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
