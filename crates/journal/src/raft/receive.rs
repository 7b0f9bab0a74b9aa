//! What arrives from other replicas: appends, votes, transfers, snapshots.
//!
//! A message is taken only if it is meant for exactly this replica of this hub's journal: one for an earlier replica of the same broker, or
//! from a broker of another hub, is refused before Raft sees it (I7). A snapshot is gathered in memory, at most one at a time.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use openraft::raft::{AppendEntriesRequest, VoteResponse};
use openraft::storage::{Snapshot, SnapshotMeta};
use parking_lot::Mutex;

use super::checkpoint::decode;
use super::journal::Journal;
use super::machine::SnapshotData;
use super::peers::{Message, broker_of};
use super::types::{LogId, RaftPayload, TypeConfig, Vote, position};
use super::wire::{Header, Part, PartAnswer, Reply, Request, decode_request, encode_reply};

/// The longest snapshot that is taken: what the state of one journal may come to at worst.
const SNAPSHOT_BYTES: u64 = 1 << 30;
/// How long the log of what a snapshot covers may take to the disk, and between two looks at it.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(10);

/// A request that is in its journal's queue.
pub struct Accepted {
    state: State,
}

enum State {
    Waiting(Pin<Box<dyn Future<Output = Message> + Send>>),
    Answered(Message),
}

impl std::fmt::Debug for Accepted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Accepted")
    }
}

impl Accepted {
    /// The answer, to be sent back over the same connection. Any order among answers will do.
    pub async fn answer(self) -> Message {
        match self.state {
            State::Waiting(answer) => answer.await,
            State::Answered(answer) => answer,
        }
    }
}

/// What has come of a snapshot.
#[derive(Default)]
pub(super) struct Incoming {
    from: Option<(Vote, Option<LogId>, u64)>,
    data: BytesMut,
}

/// What to do with a part.
enum Gathered {
    Answer(PartAnswer),
    Whole(Bytes),
    Refused(String),
}

impl Incoming {
    fn take(&mut self, part: &Part) -> Gathered {
        if part.total > SNAPSHOT_BYTES {
            return Gathered::Refused(format!("a snapshot of {} bytes is longer than {SNAPSHOT_BYTES}", part.total));
        }
        let this = Some((part.vote, part.last, part.total));
        if self.from != this {
            // Only a newer leader's snapshot, or the same leader's next one, takes the place of one that is coming in.
            *self = Incoming { from: this, data: BytesMut::new() };
        }
        let have = self.data.len() as u64;
        if part.offset != have {
            return Gathered::Answer(PartAnswer::Received(have));
        }
        if have + part.data.len() as u64 > part.total || (part.data.is_empty() && have < part.total) {
            return Gathered::Refused(String::from("a part of a snapshot does not fit its whole"));
        }
        self.data.extend_from_slice(&part.data);
        if (self.data.len() as u64) < part.total {
            return Gathered::Answer(PartAnswer::Received(self.data.len() as u64));
        }
        Gathered::Whole(std::mem::take(self).data.freeze())
    }
}

impl Message {
    /// The answer of a broker that cannot take a request to a journal, as it has no replica of it now.
    pub fn refusal(journal: tidegate_model::JournalId, why: &str) -> Message {
        encode_reply(journal, &Reply::Refused(why.to_owned()))
    }
}

impl Journal {
    /// Takes a request of another replica. Messages of one connection and lane must be given one after the other, each after this has
    /// returned for the last; the answers may be awaited at any time, side by side. Waits while Raft's own queue is full, never for the disk.
    ///
    /// What is not meant for this replica, or cannot be read, gets an answer that says so.
    pub async fn accept(&self, message: Message) -> Accepted {
        let (journal, whole) = (self.id(), self.clone());
        let mut answer: Pin<Box<dyn Future<Output = Message> + Send>> = Box::pin(async move {
            let reply = match decode_request(message) {
                Ok((header, request)) => match whole.refusal(&header) {
                    None => whole.serve(header.from, request).await,
                    Some(why) => Reply::Refused(why),
                },
                Err(error) => Reply::Refused(error.to_string()),
            };
            encode_reply(journal, &reply)
        });
        // The first poll puts the request into Raft's queue, or into the line before it: so requests keep their order.
        let first = std::future::poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await;
        Accepted {
            state: match first {
                Poll::Ready(answer) => State::Answered(answer),
                Poll::Pending => State::Waiting(answer),
            },
        }
    }

    fn refusal(&self, header: &Header) -> Option<String> {
        let (hub, replica) = (self.hub(), self.replica());
        if header.hub != hub {
            return Some(format!("this broker belongs to hub {hub}, not to {}", header.hub));
        }
        if header.journal != self.id() {
            return Some(format!("a message for journal {} came to journal {}", header.journal, self.id()));
        }
        (header.to != replica).then(|| format!("this is replica {replica} of journal {}, not {}", self.id(), header.to))
    }

    async fn serve(&self, from: u64, request: Request) -> Reply {
        let (raft, now) = (self.raft(), self.env().clock.monotonic());
        if let Request::Vote(request) | Request::PreVote(request) = &request
            && !request.leadership_transfer
            && self.links().detector.objects(self, from, now)
        {
            return Reply::Vote(VoteResponse::new(self.vote(), None, false));
        }
        let served = match request {
            Request::Append(request) => {
                let fits = self.fits(&request).and_then(|()| self.room_for(&request.entries));
                let _room = match fits {
                    Ok(room) => room,
                    Err(why) => return Reply::Refused(why),
                };
                raft.append_entries(request).await.map(Reply::Append).map_err(|error| error.to_string())
            }
            Request::Vote(request) => raft.vote(request).await.map(Reply::Vote).map_err(|error| error.to_string()),
            Request::PreVote(request) => raft.pre_vote(request).await.map(Reply::Vote).map_err(|error| error.to_string()),
            Request::Transfer(request) => {
                if *request.to_node_id() == self.replica() {
                    self.handing().inherit(request.from_leader().leader_id.term);
                }
                raft.handle_transfer_leader(request).await.map(Reply::Transfer).map_err(|error| error.to_string())
            }
            Request::Snapshot(part) => Ok(self.gather(part).await),
            Request::Beat(beat) => {
                self.links().detector.hear(broker_of(from), beat, now);
                Ok(Reply::Beat)
            }
        };
        served.unwrap_or_else(|why| Reply::Refused(format!("journal {} has ended: {why}", self.id())))
    }

    /// An entry that this broker's log cannot hold must not reach it.
    fn fits(&self, request: &AppendEntriesRequest<TypeConfig>) -> Result<(), String> {
        let most = self.max_payload_bytes();
        let longest = request.entries.iter().map(|entry| match &entry.payload {
            RaftPayload::Normal(data) => data.0.bytes(),
            _ => 0,
        });
        match longest.max() {
            Some(longest) if longest > most => Err(format!(
                "an entry of {longest} bytes does not fit this broker's log, which takes {most}: raise wal.file_bytes"
            )),
            _ => Ok(()),
        }
    }

    async fn gather(&self, part: Part) -> Reply {
        let vote = part.vote;
        // Raft ends if it cannot install a snapshot that it took; one that is refused comes again.
        if part.offset == 0 {
            match self.checkpoints().have_room_for(part.total).await {
                Ok(true) => {}
                Ok(false) => {
                    return Reply::Refused(format!("this broker's disk has no room for a snapshot of {} bytes", part.total));
                }
                Err(error) => return Reply::Refused(format!("this broker's disk does not say how much is free: {error}")),
            }
        }
        let gathered = self.incoming().lock().take(&part);
        let data = match gathered {
            Gathered::Answer(answer) => return Reply::Snapshot(answer),
            Gathered::Refused(why) => return Reply::Refused(why),
            Gathered::Whole(data) => data,
        };
        let (core, kept) = match decode(self.id(), &data) {
            Ok(read) => read,
            Err(error) => return Reply::Refused(format!("the snapshot is damaged: {error}")),
        };
        if core.applied != part.last {
            return Reply::Refused(String::from("the snapshot does not end where its sender said"));
        }
        let (last, meta) = (core.applied, SnapshotMeta { last_log_id: core.applied, last_membership: kept.membership });
        drop(core);
        let snapshot = Snapshot { meta, snapshot: SnapshotData::Received(data) };
        if let Err(ended) = self.drop_what_contradicts(vote, last).await {
            return ended;
        }
        match self.raft().install_full_snapshot(vote, snapshot).await {
            Ok(response) if response.vote == vote && !self.is_on_disk(last).await => {
                Reply::Refused(String::from("what the snapshot covers is not on this broker's disk yet"))
            }
            Ok(response) => Reply::Snapshot(PartAnswer::Done(response.vote)),
            Err(error) => Reply::Refused(format!("journal {} has ended: {error}", self.id())),
        }
    }

    /// Has Raft drop what its log holds instead of the leader's entry at a snapshot's end, and what follows that, as the leader's next entries would. Raft
    /// by itself (0.10.0-alpha.37) would drop all that it does not know to be committed before it has the snapshot, which here may be more than it
    /// knows: entries that are durable and committed, and the members that stand in them, of which it says "committed log should never be truncated".
    async fn drop_what_contradicts(&self, vote: Vote, last: Option<LogId>) -> Result<(), Reply> {
        let request = AppendEntriesRequest { vote, prev_log_id: last, entries: Vec::new(), leader_commit: None };
        match self.raft().append_entries(request).await {
            // What it answers does not matter: it has another entry there, or none, or that one, or another leader.
            Ok(_) => Ok(()),
            Err(error) => Err(Reply::Refused(format!("journal {} has ended: {error}", self.id()))),
        }
    }

    /// Whether an entry is durable here, by the log or by a checkpoint, after a wait. Raft answers at once to a snapshot of what it knows to be committed,
    /// although its own log of that may be on the way to a slow disk; the leader would count on it.
    async fn is_on_disk(&self, last: Option<LogId>) -> bool {
        let Some(last) = last.map(|last| position(&last)) else { return true };
        let clock = &self.env().clock;
        let until = clock.monotonic() + WRITTEN_WITHIN;
        loop {
            let log = self.log();
            if log.is_durable(self.id(), last) || log.first_index(self.id()) > last.index || self.checkpoints().reach(last.index)
            {
                return true;
            }
            if clock.monotonic() >= until {
                return false;
            }
            clock.sleep(LOOK).await;
        }
    }
}

pub(super) type IncomingSnapshot = Mutex<Incoming>;
