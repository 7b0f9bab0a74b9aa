//! What peers say: written and read back, whole, cut anywhere, and with any bit turned.

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use tidegate_model::{HubId, JournalId};

use super::*;
use crate::entry::{Entry, EntryPayload};
use crate::raft::types::{Data, LogId, RaftEntry, RaftPayload, TypeConfig, Vote, log_id};
use crate::raft::wire::{Beat, Header, Part, PartAnswer, Reply, Request, decode_reply, decode_request, encode_reply};
use crate::state::tests::golden;

fn header() -> Header {
    Header { hub: HubId(uuid::Uuid::from_u128(0xABCD)), journal: ID, from: 7, to: replica_id(tidegate_model::BrokerId(8), 3) }
}

fn id(term: u64, index: u64) -> LogId {
    log_id(tidegate_wal::Position { term, leader: 7, index }).unwrap()
}

fn entries() -> AppendEntriesRequest<TypeConfig> {
    let units = vec![append(0, &"long ".repeat(2_000)), append(1, "short")];
    let (payload, _) = EntryPayload::encode(Entry { time: TimestampMs(5), units }).unwrap();
    let payloads = [RaftPayload::Blank, RaftPayload::Normal(Data(std::sync::Arc::new(payload)))];
    let entries = payloads.into_iter().zip(4..).map(|(payload, index)| RaftEntry { log_id: id(5, index), payload }).collect();
    AppendEntriesRequest { vote: Vote::new_committed(5, 7), prev_log_id: Some(id(4, 3)), entries, leader_commit: Some(id(4, 2)) }
}

/// One of each kind.
fn requests() -> Vec<(&'static str, Message)> {
    let mut vote = VoteRequest::new(Vote::new(6, 7), Some(id(5, 9)));
    vote.leadership_transfer = true;
    let last = Some(id(5, 9));
    let data = Bytes::from_static(b"a part of a snapshot");
    vec![
        ("append", header().append(&entries())),
        ("vote", header().vote(&vote)),
        ("pre-vote", header().pre_vote(&VoteRequest::new(Vote::new(6, 7), None))),
        ("transfer", header().transfer(&TransferLeaderRequest::new(Vote::new_committed(5, 7), 8, last))),
        ("beat", header().beat(&beat())),
        ("part", header().part(Part { vote: Vote::new_committed(5, 7), last, total: 99, offset: 20, data })),
    ]
}

fn beat() -> Beat {
    let claims = vec![(JournalId(0), 7), (JournalId(3), u64::MAX)];
    Beat { boot: 0x0102_0304_0506_0708, sequence: 9, room: 1 << 40, strain: 77, claims, leaderless: vec![JournalId(2)] }
}

fn replies() -> Vec<Reply> {
    let (vote, at) = (Vote::new(9, 2), Some(id(5, 9)));
    vec![
        Reply::Append(AppendEntriesResponse::Success),
        Reply::Append(AppendEntriesResponse::PartialSuccess(at)),
        Reply::Append(AppendEntriesResponse::Conflict),
        Reply::Append(AppendEntriesResponse::HigherVote(vote)),
        Reply::Vote(VoteResponse::new(vote, at, true)),
        Reply::Transfer(Ok(())),
        Reply::Transfer(Err(TransferLeaderError::VoteChanged { expected: vote, actual: Vote::new(10, 3) })),
        Reply::Transfer(Err(TransferLeaderError::LogNotFlushed { expected: at, actual: None })),
        Reply::Snapshot(PartAnswer::Received(77)),
        Reply::Snapshot(PartAnswer::Done(vote)),
        Reply::Beat,
        Reply::Refused(String::from("not me")),
    ]
}

fn flat(message: &Message) -> Vec<u8> {
    message.chunks.concat()
}

fn read(bytes: &[u8]) -> Result<(Header, Request), crate::raft::types::CodecError> {
    decode_request(Message { journal: ID, chunks: vec![Bytes::copy_from_slice(bytes)] })
}

/// The request as bytes again.
fn again(header: &Header, request: Request) -> Vec<u8> {
    flat(&match request {
        Request::Append(request) => header.append(&request),
        Request::Vote(request) => header.vote(&request),
        Request::PreVote(request) => header.pre_vote(&request),
        Request::Transfer(request) => header.transfer(&request),
        Request::Snapshot(part) => header.part(part),
        Request::Beat(beat) => header.beat(&beat),
    })
}

#[test]
fn requests_are_read_as_they_were_written_however_they_were_cut() {
    for (name, message) in requests() {
        let bytes = flat(&message);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/peer-{name}-v1.bin"));
        golden(&path, &bytes);
        for cut in (0..bytes.len()).step_by(1 + bytes.len() / 200) {
            let chunks = vec![Bytes::copy_from_slice(&bytes[..cut]), Bytes::copy_from_slice(&bytes[cut..])];
            let (whom, request) = decode_request(Message { journal: ID, chunks }).unwrap();
            assert_eq!(whom, header(), "{name}");
            assert!(again(&whom, request) == bytes, "{name} cut at {cut}");
        }
    }
}

#[test]
fn answers_are_read_as_they_were_written() {
    for reply in replies() {
        let message = encode_reply(ID, &reply);
        let read = decode_reply(message.clone()).unwrap();
        assert_eq!(format!("{read:?}"), format!("{reply:?}"));
        let bytes = flat(&message);
        for length in (0..bytes.len()).filter(|_| !matches!(reply, Reply::Refused(_))) {
            let short = Message { journal: ID, chunks: vec![Bytes::copy_from_slice(&bytes[..length])] };
            assert!(decode_reply(short).is_err(), "{reply:?} cut at {length}");
        }
    }
}

#[test]
fn cut_lengthened_and_turned_bytes_never_panic_and_lengths_are_exact() {
    for (name, message) in requests() {
        let bytes = flat(&message);
        let step = 1 + bytes.len() / 500;
        assert!((0..bytes.len()).step_by(step).all(|length| read(&bytes[..length]).is_err()), "{name}");
        assert!(read(&[&bytes[..], b"!"].concat()).is_err(), "{name}");
        for bit in (0..bytes.len() * 8).step_by(step) {
            let mut turned = bytes.clone();
            turned[bit / 8] ^= 1 << (bit % 8);
            if let Ok((whom, request)) = read(&turned) {
                let _ = again(&whom, request);
            }
        }
    }
}

#[test]
fn an_entry_of_a_later_term_than_its_sender_is_refused() {
    let mut forged = entries();
    forged.vote = Vote::new_committed(4, 7);
    let error = decode_request(header().append(&forged)).unwrap_err();
    assert!(error.to_string().contains("no replica sends that"), "{error}");
}
