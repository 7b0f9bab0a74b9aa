//! The envelope of a journal's checkpoint in the store. What the state's bytes mean, the journal knows. Format: docs/formats/checkpoint.md.

use bytes::Bytes;
use prost::Message;
use tidegate_model::{HubId, JournalId, TimestampMs};
use uuid::Uuid;

use crate::envelope::{DecodeError, Envelope as Sealed};

const ENVELOPE: Sealed = Sealed { what: "checkpoint object", magic: *b"TGCHECK1", version: 1 };
const MOST_BYTES: u64 = 4 << 30;

/// A journal's state at an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The hub.
    pub hub: HubId,
    /// The journal.
    pub journal: JournalId,
    /// Raft index of the last entry that is part of the state.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Its time.
    pub time: TimestampMs,
    /// The state as the journal encodes it.
    pub state: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Wire {
    #[prost(bytes = "vec", tag = "1")]
    hub: Vec<u8>,
    #[prost(uint32, tag = "2")]
    journal: u32,
    #[prost(uint64, tag = "3")]
    index: u64,
    #[prost(uint64, tag = "4")]
    term: u64,
    #[prost(sint64, tag = "5")]
    time: i64,
    #[prost(bytes = "bytes", tag = "6")]
    state: Bytes,
}

impl Envelope {
    /// Writes the object.
    ///
    /// # Errors
    /// None at present; a state over the limit of 4 GiB is refused.
    pub fn encode(&self) -> Result<Vec<u8>, DecodeError> {
        let wire = Wire {
            hub: self.hub.0.as_bytes().to_vec(),
            journal: self.journal.0,
            index: self.index,
            term: self.term,
            time: self.time.0,
            state: self.state.clone(),
        };
        let plain = wire.encode_to_vec();
        if plain.len() as u64 > MOST_BYTES {
            return Err(DecodeError::structure(
                ENVELOPE.what,
                format!("a state of {} bytes is over the limit of {MOST_BYTES}", plain.len()),
            ));
        }
        Ok(ENVELOPE.seal(&plain))
    }

    /// Reads an object and checks its checksum.
    pub fn decode(bytes: &[u8]) -> Result<Envelope, DecodeError> {
        let wrong = |reason: &dyn std::fmt::Display| DecodeError::structure(ENVELOPE.what, reason);
        let wire = Wire::decode(Bytes::from(ENVELOPE.open(bytes, MOST_BYTES)?)).map_err(|error| wrong(&error))?;
        Ok(Envelope {
            hub: HubId(Uuid::from_slice(&wire.hub).map_err(|error| wrong(&error))?),
            journal: JournalId(wire.journal),
            index: wire.index,
            term: wire.term,
            time: TimestampMs(wire.time),
            state: wire.state,
        })
    }
}
