//! What replicas of a journal say to each other, as bytes (docs/formats/peer.md).
//!
//! A request opens with who speaks to whom; a receiver that is not meant refuses it. Entries travel as the WAL stores them, so that sending
//! and receiving copy nothing. All integers are little endian; a position of index 0 means "none", as in the WAL.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest,
    VoteResponse,
};
use tidegate_model::{HubId, JournalId};
use tidegate_wal::Position;

use super::peers::Message;
use super::types::{
    CodecError, LogId, RaftEntry, TypeConfig, VOTE_BYTES, Vote, decode_payload, decode_vote, encode_payload, encode_vote, log_id,
    position,
};

/// Version of the peers' protocol. A newer one is refused by name, never guessed at.
const VERSION: u8 = 1;

const APPEND: u8 = 1;
const VOTE: u8 = 2;
const PRE_VOTE: u8 = 3;
const TRANSFER: u8 = 4;
const SNAPSHOT: u8 = 5;
const BEAT: u8 = 6;
const REFUSED: u8 = 0xFF;

/// Who speaks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) hub: HubId,
    pub(super) journal: JournalId,
    pub(super) from: u64,
    pub(super) to: u64,
}

/// A part of a snapshot. The first has offset 0; each following one begins where the last ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) vote: Vote,
    /// The entry that the snapshot ends with: one sender sends at most one snapshot that ends there.
    pub(super) last: Option<LogId>,
    /// Bytes of the whole snapshot.
    pub(super) total: u64,
    pub(super) offset: u64,
    pub(super) data: Bytes,
}

/// What a broker says of itself to another one, see `detector.rs`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Beat {
    /// Drawn at random by each process.
    pub(super) boot: u64,
    /// Rises from beat to beat.
    pub(super) sequence: u64,
    /// Bytes of data that the sender's log still takes from others.
    pub(super) room: u64,
    /// Milliseconds that the sender's disk or its way to a majority makes a write wait.
    pub(super) strain: u32,
    /// Journals that the sender leads, with the term.
    pub(super) claims: Vec<(JournalId, u64)>,
    /// Journals for which it knows no leader.
    pub(super) leaderless: Vec<JournalId>,
}

/// What became of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PartAnswer {
    /// Go on from here.
    Received(u64),
    /// The whole was installed, or the vote is too old; this is the receiver's vote.
    Done(Vote),
}

/// A request.
#[derive(Debug)]
pub(super) enum Request {
    Append(AppendEntriesRequest<TypeConfig>),
    Vote(VoteRequest<TypeConfig>),
    PreVote(VoteRequest<TypeConfig>),
    Transfer(TransferLeaderRequest<TypeConfig>),
    Snapshot(Part),
    Beat(Beat),
}

/// An answer.
#[derive(Debug)]
pub(super) enum Reply {
    Append(AppendEntriesResponse<TypeConfig>),
    Vote(VoteResponse<TypeConfig>),
    Transfer(TransferLeaderResponse<TypeConfig>),
    Snapshot(PartAnswer),
    /// The beat was heard.
    Beat,
    /// The receiver is not who the sender means, or cannot take it now.
    Refused(String),
}

impl Header {
    fn begin(&self, kind: u8, capacity: usize) -> BytesMut {
        let mut out = BytesMut::with_capacity(38 + capacity);
        out.put_u8(VERSION);
        out.put_u8(kind);
        out.put_u32_le(self.journal.0);
        out.put_slice(self.hub.0.as_bytes());
        out.put_u64_le(self.from);
        out.put_u64_le(self.to);
        out
    }

    fn end(&self, head: BytesMut, bodies: Vec<Bytes>) -> Message {
        let mut chunks = Vec::with_capacity(1 + bodies.len());
        chunks.push(head.freeze());
        chunks.extend(bodies);
        Message { journal: self.journal, chunks }
    }

    pub(super) fn append(&self, request: &AppendEntriesRequest<TypeConfig>) -> Message {
        let mut out = self.begin(APPEND, VOTE_BYTES + 52 + 20 * request.entries.len());
        out.put_slice(&encode_vote(&request.vote));
        put_position(&mut out, request.prev_log_id.as_ref());
        put_position(&mut out, request.leader_commit.as_ref());
        out.put_u32_le(request.entries.len() as u32);
        let mut bodies = Vec::with_capacity(request.entries.len());
        for entry in &request.entries {
            let chunks = encode_payload(&entry.payload);
            out.put_u64_le(entry.log_id.leader_id.term);
            out.put_u64_le(0);
            out.put_u32_le(chunks.iter().map(Bytes::len).sum::<usize>() as u32);
            bodies.extend(chunks);
        }
        self.end(out, bodies)
    }

    pub(super) fn vote(&self, request: &VoteRequest<TypeConfig>) -> Message {
        self.any_vote(VOTE, request)
    }

    pub(super) fn pre_vote(&self, request: &VoteRequest<TypeConfig>) -> Message {
        self.any_vote(PRE_VOTE, request)
    }

    fn any_vote(&self, kind: u8, request: &VoteRequest<TypeConfig>) -> Message {
        let mut out = self.begin(kind, VOTE_BYTES + 25);
        out.put_slice(&encode_vote(&request.vote));
        put_position(&mut out, request.last_log_id.as_ref());
        out.put_u8(u8::from(request.leadership_transfer));
        self.end(out, Vec::new())
    }

    pub(super) fn transfer(&self, request: &TransferLeaderRequest<TypeConfig>) -> Message {
        let mut out = self.begin(TRANSFER, VOTE_BYTES + 32);
        out.put_slice(&encode_vote(request.from_leader()));
        out.put_u64_le(*request.to_node_id());
        put_position(&mut out, request.last_log_id());
        self.end(out, Vec::new())
    }

    pub(super) fn part(&self, part: Part) -> Message {
        let mut out = self.begin(SNAPSHOT, VOTE_BYTES + 44);
        out.put_slice(&encode_vote(&part.vote));
        put_position(&mut out, part.last.as_ref());
        out.put_u64_le(part.total);
        out.put_u64_le(part.offset);
        out.put_u32_le(part.data.len() as u32);
        self.end(out, vec![part.data])
    }

    pub(super) fn beat(&self, beat: &Beat) -> Message {
        let mut out = self.begin(BEAT, 36 + 12 * beat.claims.len() + 4 * beat.leaderless.len());
        out.put_u64_le(beat.boot);
        out.put_u64_le(beat.sequence);
        out.put_u64_le(beat.room);
        out.put_u32_le(beat.strain);
        out.put_u32_le(beat.claims.len() as u32);
        for (journal, term) in &beat.claims {
            out.put_u32_le(journal.0);
            out.put_u64_le(*term);
        }
        out.put_u32_le(beat.leaderless.len() as u32);
        beat.leaderless.iter().for_each(|journal| out.put_u32_le(journal.0));
        self.end(out, Vec::new())
    }
}

/// Reads a request. Entries that claim to lie beyond the leader's own vote are refused: no protocol-following peer sends them.
pub(super) fn decode_request(message: Message) -> Result<(Header, Request), CodecError> {
    let mut rope = Rope::from(message.chunks);
    version(rope.u8()?)?;
    let kind = rope.u8()?;
    let journal = JournalId(rope.u32()?);
    let hub = HubId(uuid::Uuid::from_slice(&rope.take(16)?).map_err(|_| SHORT)?);
    let header = Header { hub, journal, from: rope.u64()?, to: rope.u64()? };
    let request = match kind {
        APPEND => Request::Append(append_request(&mut rope)?),
        VOTE => Request::Vote(vote_request(&mut rope)?),
        PRE_VOTE => Request::PreVote(vote_request(&mut rope)?),
        TRANSFER => {
            let (from, to, last) = (rope.vote()?, rope.u64()?, rope.position()?);
            Request::Transfer(TransferLeaderRequest::new(from, to, last))
        }
        SNAPSHOT => {
            let (vote, last, total, offset) = (rope.vote()?, rope.position()?, rope.u64()?, rope.u64()?);
            let length = rope.u32()? as usize;
            Request::Snapshot(Part { vote, last, total, offset, data: rope.take(length)? })
        }
        BEAT => Request::Beat(beat(&mut rope)?),
        kind => return Err(CodecError::Kind { what: "a peer's request", kind }),
    };
    rope.end().map(|()| (header, request))
}

fn vote_request(rope: &mut Rope) -> Result<VoteRequest<TypeConfig>, CodecError> {
    let mut request = VoteRequest::new(rope.vote()?, rope.position()?);
    request.leadership_transfer = rope.u8()? != 0;
    Ok(request)
}

fn beat(rope: &mut Rope) -> Result<Beat, CodecError> {
    let (boot, sequence, room, strain) = (rope.u64()?, rope.u64()?, rope.u64()?, rope.u32()?);
    let count = rope.u32()? as usize;
    if count > rope.len / 12 {
        return Err(SHORT);
    }
    let claims = (0..count).map(|_| Ok((JournalId(rope.u32()?), rope.u64()?))).collect::<Result<_, CodecError>>()?;
    let count = rope.u32()? as usize;
    if count > rope.len / 4 {
        return Err(SHORT);
    }
    let leaderless = (0..count).map(|_| rope.u32().map(JournalId)).collect::<Result<_, CodecError>>()?;
    Ok(Beat { boot, sequence, room, strain, claims, leaderless })
}

fn append_request(rope: &mut Rope) -> Result<AppendEntriesRequest<TypeConfig>, CodecError> {
    let (vote, prev_log_id, leader_commit) = (rope.vote()?, rope.position()?, rope.position()?);
    let count = rope.u32()? as usize;
    if count > rope.len / 20 {
        return Err(SHORT);
    }
    let mut heads = Vec::with_capacity(count);
    for _ in 0..count {
        heads.push((rope.u64()?, rope.u64()?, rope.u32()? as usize));
    }
    let mut entries = Vec::with_capacity(count);
    let first = prev_log_id.map_or(0, |id| position(&id).index) + 1;
    for (index, (term, leader, length)) in (first..).zip(heads) {
        let id = log_id(Position { term, leader, index }).ok_or(SHORT)?;
        if term > vote.leader_id.term {
            return Err(CodecError::Beyond { term, vote: vote.leader_id.term });
        }
        entries.push(RaftEntry { log_id: id, payload: decode_payload(rope.take(length)?)? });
    }
    Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

/// Writes an answer.
pub(super) fn encode_reply(journal: JournalId, reply: &Reply) -> Message {
    let mut out = BytesMut::with_capacity(64);
    out.put_u8(VERSION);
    match reply {
        Reply::Append(answer) => {
            out.put_u8(APPEND);
            match answer {
                AppendEntriesResponse::Success => out.put_u8(0),
                AppendEntriesResponse::PartialSuccess(upto) => {
                    out.put_u8(1);
                    put_position(&mut out, upto.as_ref());
                }
                AppendEntriesResponse::Conflict => out.put_u8(2),
                AppendEntriesResponse::HigherVote(vote) => {
                    out.put_u8(3);
                    out.put_slice(&encode_vote(vote));
                }
            }
        }
        Reply::Vote(answer) => {
            out.put_u8(VOTE);
            out.put_slice(&encode_vote(&answer.vote));
            out.put_u8(u8::from(answer.vote_granted));
            put_position(&mut out, answer.last_log_id.as_ref());
        }
        Reply::Transfer(answer) => {
            out.put_u8(TRANSFER);
            match answer {
                Ok(()) => out.put_u8(0),
                Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                    out.put_u8(1);
                    out.put_slice(&encode_vote(expected));
                    out.put_slice(&encode_vote(actual));
                }
                Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
                    out.put_u8(2);
                    put_position(&mut out, expected.as_ref());
                    put_position(&mut out, actual.as_ref());
                }
            }
        }
        Reply::Snapshot(PartAnswer::Received(upto)) => {
            out.put_u8(SNAPSHOT);
            out.put_u8(0);
            out.put_u64_le(*upto);
        }
        Reply::Snapshot(PartAnswer::Done(vote)) => {
            out.put_u8(SNAPSHOT);
            out.put_u8(1);
            out.put_slice(&encode_vote(vote));
        }
        Reply::Beat => out.put_u8(BEAT),
        Reply::Refused(why) => {
            out.put_u8(REFUSED);
            out.put_slice(why.as_bytes());
        }
    }
    Message { journal, chunks: vec![out.freeze()] }
}

/// Reads an answer.
pub(super) fn decode_reply(message: Message) -> Result<Reply, CodecError> {
    let mut rope = Rope::from(message.chunks);
    version(rope.u8()?)?;
    let reply = match rope.u8()? {
        APPEND => Reply::Append(match rope.u8()? {
            0 => AppendEntriesResponse::Success,
            1 => AppendEntriesResponse::PartialSuccess(rope.position()?),
            2 => AppendEntriesResponse::Conflict,
            3 => AppendEntriesResponse::HigherVote(rope.vote()?),
            kind => return Err(CodecError::Kind { what: "an append's answer", kind }),
        }),
        VOTE => {
            let (vote, granted) = (rope.vote()?, rope.u8()? != 0);
            Reply::Vote(VoteResponse::new(vote, rope.position()?, granted))
        }
        TRANSFER => Reply::Transfer(match rope.u8()? {
            0 => Ok(()),
            1 => Err(TransferLeaderError::VoteChanged { expected: rope.vote()?, actual: rope.vote()? }),
            2 => Err(TransferLeaderError::LogNotFlushed { expected: rope.position()?, actual: rope.position()? }),
            kind => return Err(CodecError::Kind { what: "a transfer's answer", kind }),
        }),
        SNAPSHOT => Reply::Snapshot(match rope.u8()? {
            0 => PartAnswer::Received(rope.u64()?),
            1 => PartAnswer::Done(rope.vote()?),
            kind => return Err(CodecError::Kind { what: "a snapshot part's answer", kind }),
        }),
        BEAT => Reply::Beat,
        REFUSED => {
            let text = rope.take(rope.len)?;
            Reply::Refused(String::from_utf8_lossy(&text).into_owned())
        }
        kind => return Err(CodecError::Kind { what: "a peer's answer", kind }),
    };
    rope.end().map(|()| reply)
}

const SHORT: CodecError = CodecError::Short { what: "a peer's message", given: 0 };

fn version(given: u8) -> Result<(), CodecError> {
    if given == VERSION { Ok(()) } else { Err(CodecError::Version { what: "a peer's message", given, known: VERSION }) }
}

fn put_position(out: &mut BytesMut, id: Option<&LogId>) {
    let at = id.map(position).unwrap_or_default();
    out.put_u64_le(at.term);
    out.put_u64_le(at.leader);
    out.put_u64_le(at.index);
}

/// Chunks one after the other. What lies within one chunk is taken without a copy.
struct Rope {
    chunks: VecDeque<Bytes>,
    len: usize,
}

impl From<Vec<Bytes>> for Rope {
    fn from(chunks: Vec<Bytes>) -> Rope {
        let len = chunks.iter().map(Bytes::len).sum();
        Rope { chunks: chunks.into(), len }
    }
}

impl Rope {
    fn take(&mut self, length: usize) -> Result<Bytes, CodecError> {
        if length > self.len {
            return Err(CodecError::Short { what: "a peer's message", given: self.len });
        }
        self.len -= length;
        while self.chunks.front().is_some_and(Bytes::is_empty) {
            self.chunks.pop_front();
        }
        if let Some(front) = self.chunks.front_mut()
            && front.len() >= length
        {
            return Ok(front.split_to(length));
        }
        let mut joined = BytesMut::with_capacity(length);
        while joined.len() < length {
            let Some(mut front) = self.chunks.pop_front() else { return Err(SHORT) };
            let step = front.len().min(length - joined.len());
            joined.put_slice(&front.split_to(step));
            self.chunks.push_front(front);
            if self.chunks.front().is_some_and(Bytes::is_empty) {
                self.chunks.pop_front();
            }
        }
        Ok(joined.freeze())
    }

    fn u8(&mut self) -> Result<u8, CodecError> {
        Ok(self.take(1)?.get_u8())
    }

    fn u32(&mut self) -> Result<u32, CodecError> {
        Ok(self.take(4)?.get_u32_le())
    }

    fn u64(&mut self) -> Result<u64, CodecError> {
        Ok(self.take(8)?.get_u64_le())
    }

    fn vote(&mut self) -> Result<Vote, CodecError> {
        decode_vote(&self.take(VOTE_BYTES)?)
    }

    fn position(&mut self) -> Result<Option<LogId>, CodecError> {
        let (term, leader, index) = (self.u64()?, self.u64()?, self.u64()?);
        Ok(log_id(Position { term, leader, index }))
    }

    fn end(&self) -> Result<(), CodecError> {
        if self.len == 0 { Ok(()) } else { Err(CodecError::Long { what: "a peer's message", extra: self.len }) }
    }
}
