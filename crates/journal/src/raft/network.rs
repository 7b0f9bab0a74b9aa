//! Raft's calls to other replicas, over [`Peers`](super::peers::Peers).
//!
//! Entries go down one pipelined stream for each follower: up to [`PIPELINE`] requests wait for their answers at once, bounded in bytes by
//! the peer's budget. The stream of answers owns the stream of requests, as openraft asks for. Every wait has a deadline, because an
//! answer that never comes would hold the stream for ever. Votes, pre-votes, transfers and heartbeats take the control lane.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::{SnapshotOf, VoteOf};
use openraft::{AnyError, EmptyNode};
use tidegate_env::Env;
use tidegate_env::bugs::{self, Bug};
use tidegate_model::JournalId;

use super::machine::SnapshotData;
use super::own_vote::OwnVote;
use super::pacer::{Backlog, Stretch};
use super::peers::{Answer, Lane, Links, Message, PeerError, broker_of};
use super::types::{LogId, TypeConfig};
use super::wire::{Header, Part, PartAnswer, Reply, decode_reply};

/// Requests of one stream that wait for their answers.
const PIPELINE: usize = 32;

/// A stream from which nothing was answered for so long is given up and begun again.
const STALLED: Duration = Duration::from_secs(1);

/// What is sent of a snapshot at once.
const PART_BYTES: usize = 512 << 10;

/// How long one part of a snapshot may take; installing the last one takes longest.
const PART_DEADLINE: Duration = Duration::from_secs(60);

type Rpc<T> = Result<T, RPCError<TypeConfig>>;

/// Makes connections to the other replicas of a journal.
pub(super) struct Network {
    pub(super) journal: JournalId,
    pub(super) replica: u64,
    pub(super) own_vote: OwnVote,
    pub(super) links: Links,
    pub(super) env: Env,
}

/// The way to one replica.
#[derive(Clone)]
pub(super) struct Peer {
    header: Header,
    lane: Lane,
    own_vote: OwnVote,
    links: Links,
    env: Env,
}

impl Network {
    fn peer(&self, to: u64, lane: Lane) -> Peer {
        let header = Header { hub: self.links.hub, journal: self.journal, from: self.replica, to };
        Peer { header, lane, own_vote: self.own_vote.clone(), links: self.links.clone(), env: self.env.clone() }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Peer {
        self.peer(target, Lane::Data)
    }

    async fn new_heartbeat_client(&mut self, target: u64, _node: &EmptyNode) -> Peer {
        self.peer(target, Lane::Control)
    }
}

impl Peer {
    async fn send(&self, lane: Lane, message: Message) -> Result<Answer, PeerError> {
        self.links.peers.send(broker_of(self.header.to), lane, message).await
    }

    /// What only a leader says: once its own vote is durable.
    async fn send_as_leader(&self, lane: Lane, message: Message) -> Result<Answer, PeerError> {
        let broken = |error: std::io::Error| PeerError::Broken { broker: broker_of(self.header.to), reason: error.to_string() };
        self.own_vote.settled().await.map_err(broken)?;
        self.send(lane, message).await
    }

    /// One request and its answer, within `deadline`.
    async fn call(&self, lane: Lane, message: Message, deadline: Duration) -> Rpc<Reply> {
        let answered = async { self.send(lane, message).await?.await };
        self.in_time(answered, deadline).await
    }

    /// The same, of a leader.
    async fn call_as_leader(&self, lane: Lane, message: Message, deadline: Duration) -> Rpc<Reply> {
        let answered = async { self.send_as_leader(lane, message).await?.await };
        self.in_time(answered, deadline).await
    }

    async fn in_time(&self, answered: impl Future<Output = Result<Message, PeerError>>, deadline: Duration) -> Rpc<Reply> {
        match within(&self.env, deadline, answered).await {
            Some(answer) => self.read(answer),
            None => Err(self.late(deadline)),
        }
    }

    fn read(&self, answer: Result<Message, PeerError>) -> Rpc<Reply> {
        match answer.map(decode_reply) {
            Ok(Ok(Reply::Refused(why))) => Err(self.unreachable(format!("replica {} refused: {why}", self.header.to))),
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(unreadable)) => Err(self.unreachable(format!("replica {}: {unreadable}", self.header.to))),
            Err(error @ PeerError::Unreachable { .. }) => Err(self.unreachable(error.to_string())),
            Err(error @ PeerError::Broken { .. }) => Err(NetworkError::new(&error).into()),
        }
    }

    fn unreachable(&self, why: String) -> RPCError<TypeConfig> {
        Unreachable::new(&AnyError::error(why)).into()
    }

    fn late(&self, after: Duration) -> RPCError<TypeConfig> {
        let why = format!("replica {} did not answer within {after:?}", self.header.to);
        NetworkError::new(&AnyError::error(why)).into()
    }

    fn unexpected(&self) -> RPCError<TypeConfig> {
        self.unreachable(format!("replica {} answered another question than it was asked", self.header.to))
    }

    async fn any_vote(&self, message: Message, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        match self.call(Lane::Control, message, option.hard_ttl()).await? {
            Reply::Vote(answer) => Ok(answer),
            _ => Err(self.unexpected()),
        }
    }

    /// Whether what it is sent is a copy, which may be held back. The catalog is small, and all brokers wait for it.
    fn is_copied_to(&self) -> bool {
        self.header.journal != JournalId::CATALOG && self.links.detector.learns(self.header.journal, self.header.to)
    }

    async fn send_parts(
        &self,
        vote: VoteOf<TypeConfig>,
        last: Option<LogId>,
        data: bytes::Bytes,
    ) -> Rpc<SnapshotResponse<TypeConfig>> {
        let (total, mut offset) = (data.len(), 0);
        loop {
            let end = (offset + PART_BYTES).min(total);
            if self.is_copied_to() {
                self.links.pacer.pass((end - offset) as u64, &self.env).await;
            }
            let part = Part { vote, last, total: total as u64, offset: offset as u64, data: data.slice(offset..end) };
            match self.call_as_leader(Lane::Data, self.header.part(part), PART_DEADLINE).await? {
                Reply::Snapshot(PartAnswer::Done(vote)) => return Ok(SnapshotResponse::new(vote)),
                // The receiver says where to go on: it may have been started anew, or have the beginning from a call that broke off.
                Reply::Snapshot(PartAnswer::Received(upto)) if (upto as usize) < total => offset = upto as usize,
                _ => return Err(self.unexpected()),
            }
        }
    }
}

/// Runs `work` for at most `limit`.
async fn within<T>(env: &Env, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let (work, late) = (pin!(work), env.clock.sleep(limit));
    tokio::select! {
        biased;
        done = work => Some(done),
        () = late => None,
    }
}

/// What a request holds.
fn stretch(request: &AppendEntriesRequest<TypeConfig>, message: &Message) -> Stretch {
    Stretch {
        entries: request.entries.len() as u64,
        bytes: message.bytes() as u64,
        last: request.entries.last().map_or(0, |entry| entry.log_id.index),
        committed: request.leader_commit.map_or(0, |id| id.index),
    }
}

/// When the last answer of a stream came, in milliseconds of the monotonic clock.
struct Progress {
    last: AtomicU64,
    env: Env,
}

impl Progress {
    fn now(&self) -> u64 {
        self.env.clock.monotonic().as_millis() as u64
    }

    fn note(&self) {
        self.last.store(self.now(), Ordering::Relaxed);
    }

    /// Ends when nothing was answered for [`STALLED`]. A queue that moves is never late, however long it is.
    async fn stalls(&self) {
        let begun = self.now();
        loop {
            let since = self.now().saturating_sub(self.last.load(Ordering::Relaxed).max(begun));
            let left = (STALLED.as_millis() as u64).saturating_sub(since);
            if left == 0 {
                return;
            }
            self.env.clock.sleep(Duration::from_millis(left)).await;
        }
    }

    async fn or_stalled<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let work = pin!(work);
        tokio::select! {
            biased;
            done = work => { self.note(); Some(done) }
            () = self.stalls() => None,
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        match self.call_as_leader(self.lane, self.header.append(&request), option.hard_ttl()).await? {
            Reply::Append(answer) => Ok(answer),
            _ => Err(self.unexpected()),
        }
    }

    #[allow(clippy::async_yields_async, reason = "a request is sent first, in order; its answer is awaited later, beside others")]
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Rpc<BoxStream<'s, Rpc<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        let (peer, progress) = (self.clone(), Arc::new(Progress { last: AtomicU64::new(0), env: self.env.clone() }));
        let mut backlog = Backlog::default();
        let answers = input
            .then(move |request| {
                let (peer, progress) = (peer.clone(), progress.clone());
                let message = peer.header.append(&request);
                let stretch = stretch(&request, &message);
                let copied = if stretch.is_old() && peer.is_copied_to() { backlog.nearer(stretch) } else { 0 };
                async move {
                    peer.links.pacer.pass(copied, &peer.env).await;
                    let prev = request.prev_log_id;
                    let last = request.entries.last().map(|entry| entry.log_id).or(prev);
                    let sent = progress.or_stalled(peer.send_as_leader(peer.lane, message)).await;
                    drop(request);
                    async move {
                        let Some(sent) = sent else { return Err(peer.late(STALLED)) };
                        let answer = match sent {
                            Ok(answer) => progress.or_stalled(answer).await.ok_or_else(|| peer.late(STALLED))?,
                            Err(error) => Err(error),
                        };
                        if bugs::on(Bug::CountUnheard) && answer.is_err() {
                            return Ok(AppendEntriesResponse::Success.into_stream_result(prev, last));
                        }
                        match peer.read(answer)? {
                            Reply::Append(AppendEntriesResponse::Conflict) if prev.is_none() => Err(peer.unexpected()),
                            Reply::Append(answer) => Ok(answer.into_stream_result(prev, last)),
                            _ => Err(peer.unexpected()),
                        }
                    }
                }
            })
            .buffered(PIPELINE);
        Box::pin(async move { Ok(answers.boxed() as BoxStream<'s, _>) })
    }

    async fn vote(&mut self, request: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        self.any_vote(self.header.vote(&request), option).await
    }

    // openraft's default grants every pre-vote, which would let a cut-off replica raise its term.
    async fn pre_vote(&mut self, request: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        self.any_vote(self.header.pre_vote(&request), option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let last = snapshot.meta.last_log_id;
        let unreadable = |error| StreamingError::from(Unreachable::new(&AnyError::new(&error)));
        let data = snapshot.snapshot.bytes().await.map_err(unreadable)?;
        let cancel = pin!(cancel);
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            sent = self.send_parts(vote, last, data) => Ok(sent?),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        match self.call(Lane::Control, self.header.transfer(&request), option.hard_ttl()).await? {
            Reply::Transfer(answer) => Ok(answer),
            _ => Err(self.unexpected()),
        }
    }

    /// A peer that comes back is found within half a second.
    fn backoff(&self) -> Option<Backoff> {
        let delays = [20, 40, 80, 160, 320].into_iter().chain(std::iter::repeat(400));
        Some(Backoff::new(delays.map(Duration::from_millis)))
    }
}
