//! The types that openraft is instantiated with, and how they map to what the WAL and the state know.
//!
//! openraft numbers entries from 0; the WAL and the state number them from 1, so that 0 can stand for "nothing". Every crossing goes
//! through [`position`] and [`log_id`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::impls::leader_id_std::LeaderId;
use openraft::rt::deterministic_rng::DeterministicRng;
use openraft::vote::RaftLeaderId;
use openraft::{EmptyNode, Membership};
use tidegate_wal as wal;

use crate::entry::{EntryPayload, UnitOutcome};

/// Tokio with openraft's randomness taken from a seed that the environment gives, so that a simulation repeats.
#[allow(deprecated, reason = "the only path to this type that needs no second dependency pinned to the same alpha version")]
pub(super) type Runtime = DeterministicRng<super::runtime::OrderedRuntime>;

openraft::declare_raft_types!(
    /// Entries hold their payload by reference count: what openraft clones on its way is never copied or serialised.
    pub(crate) TypeConfig:
        D = Data,
        R = Reply,
        NodeId = u64,
        Node = EmptyNode,
        // One leader for each term (I6): openraft's own default allows several, one after the other.
        LeaderId = LeaderId<u64, u64>,
        AsyncRuntime = Runtime,
);

pub(super) type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub(super) type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub(super) type RaftEntry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(super) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
pub(super) type RaftPayload = openraft::EntryPayload<Data, u64, EmptyNode>;

/// An encoded entry on its way through Raft.
#[derive(Clone)]
pub(crate) struct Data(pub(crate) Arc<EntryPayload>);

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} units in {} bytes", self.0.units(), self.0.bytes())
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What applying an entry came to, unit by unit in the order of application; empty for entries that carry none.
#[derive(Debug, Default)]
pub(crate) struct Reply(pub(crate) Vec<UnitOutcome>);

/// Where an entry stands in the WAL. Its term says who led; the place for a leader stays 0.
pub(super) fn position(id: &LogId) -> wal::Position {
    wal::Position { term: id.leader_id.term, leader: 0, index: id.index + 1 }
}

/// The inverse of [`position`]; `None` for index 0, which stands for "before the first entry".
pub(super) fn log_id(at: wal::Position) -> Option<LogId> {
    let index = at.index.checked_sub(1)?;
    Some(LogId { leader_id: LeaderId::new(at.term, 0).to_committed(), index })
}

/// Why stored bytes are not what Raft wrote.
#[derive(Debug, thiserror::Error)]
pub(super) enum CodecError {
    #[error("{what} ends after {given} bytes")]
    Short { what: &'static str, given: usize },
    #[error("{what} has format version {given}, this build knows {known}: run a newer build")]
    Version { what: &'static str, given: u8, known: u8 },
    #[error("{what} has {extra} bytes after its end")]
    Long { what: &'static str, extra: usize },
    #[error("{what} is of kind {kind}, which this build does not know: run a newer build")]
    Kind { what: &'static str, kind: u8 },
    #[error("an entry of term {term} comes from a leader of term {vote}: no replica sends that")]
    Beyond { term: u64, vote: u64 },
    #[error("the entry is damaged: {0}")]
    Entry(#[from] crate::entry::DecodeError),
}

const VOTE_VERSION: u8 = 1;
/// Bytes of an encoded vote.
pub(super) const VOTE_BYTES: usize = 18;

/// A vote as bytes (docs/formats/raft.md): version, committed, term and replica id, little endian.
pub(super) fn encode_vote(vote: &Vote) -> Bytes {
    let mut bytes = BytesMut::with_capacity(VOTE_BYTES);
    bytes.put_u8(VOTE_VERSION);
    bytes.put_u8(u8::from(vote.committed));
    bytes.put_u64_le(vote.leader_id.term);
    bytes.put_u64_le(vote.leader_id.voted_for);
    bytes.freeze()
}

pub(super) fn decode_vote(mut bytes: &[u8]) -> Result<Vote, CodecError> {
    if bytes.len() < VOTE_BYTES {
        return Err(CodecError::Short { what: "the vote", given: bytes.len() });
    }
    let version = bytes.get_u8();
    if version != VOTE_VERSION {
        return Err(CodecError::Version { what: "the vote", given: version, known: VOTE_VERSION });
    }
    let committed = bytes.get_u8() != 0;
    let (term, replica) = (bytes.get_u64_le(), bytes.get_u64_le());
    Ok(if committed { Vote::new_committed(term, replica) } else { Vote::new(term, replica) })
}

/// First byte of a new leader's empty entry. Entries with units start with their format version, which stays below.
const BLANK: u8 = 0xF0;
/// First byte of an entry that changes the members.
const MEMBERSHIP: u8 = 0xF1;

/// An entry's payload as the WAL stores it: the encoded units untouched, or a marked short form of Raft's own entries.
pub(super) fn encode_payload(payload: &RaftPayload) -> Vec<Bytes> {
    match payload {
        RaftPayload::Normal(data) => data.0.chunks().to_vec(),
        RaftPayload::Blank => vec![Bytes::from_static(&[BLANK])],
        RaftPayload::Membership(membership) => {
            let mut bytes = BytesMut::new();
            bytes.put_u8(MEMBERSHIP);
            encode_membership(membership, &mut bytes);
            vec![bytes.freeze()]
        }
    }
}

pub(super) fn decode_payload(bytes: Bytes) -> Result<RaftPayload, CodecError> {
    match bytes.first() {
        None => Err(CodecError::Short { what: "an entry", given: 0 }),
        Some(&BLANK) => Ok(RaftPayload::Blank),
        Some(&MEMBERSHIP) => Ok(RaftPayload::Membership(decode_membership(&mut &bytes[1..])?)),
        Some(_) => Ok(RaftPayload::Normal(Data(Arc::new(EntryPayload::decode(bytes)?)))),
    }
}

/// Members as bytes: number of voter sets, each a counted list of replica ids, then all members as such a list.
pub(super) fn encode_membership(membership: &Membership<u64, EmptyNode>, out: &mut BytesMut) {
    let sets = membership.get_joint_config();
    out.put_u16_le(sets.len() as u16);
    for set in sets {
        put_ids(set.iter().copied().collect(), out);
    }
    put_ids(membership.nodes().map(|(id, _)| *id).collect(), out);
}

fn put_ids(ids: Vec<u64>, out: &mut BytesMut) {
    out.put_u16_le(ids.len() as u16);
    ids.into_iter().for_each(|id| out.put_u64_le(id));
}

pub(super) fn decode_membership(bytes: &mut &[u8]) -> Result<Membership<u64, EmptyNode>, CodecError> {
    let sets = get_u16(bytes)?;
    let mut voters = Vec::new();
    for _ in 0..sets {
        voters.push(BTreeSet::from_iter(get_ids(bytes)?));
    }
    let nodes: BTreeMap<u64, EmptyNode> = get_ids(bytes)?.into_iter().map(|id| (id, EmptyNode::new())).collect();
    Ok(Membership::new_with_defaults(voters, nodes.into_keys()))
}

fn get_u16(bytes: &mut &[u8]) -> Result<u16, CodecError> {
    bytes.try_get_u16_le().map_err(|_| CodecError::Short { what: "a list of members", given: bytes.len() })
}

fn get_ids(bytes: &mut &[u8]) -> Result<Vec<u64>, CodecError> {
    let count = get_u16(bytes)?;
    let short = |given| CodecError::Short { what: "a list of members", given };
    (0..count).map(|_| bytes.try_get_u64_le().map_err(|error| short(error.available))).collect()
}
