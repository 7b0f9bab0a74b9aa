//! Who leads and lives: one heartbeat for each pair of brokers, instead of one for each journal (DESIGN D2, docs/adr/0056).
//!
//! Raft's own clock is off. Each broker sends a *beat* to every broker with which it shares a journal, over the control lane, inside a message of any
//! journal that both have. A beat *claims* the journals that its sender leads, with their terms, and names those for which it knows no leader. From
//! that follows all that Raft's clock did:
//!
//! - A voter that hears no claim for a journal for a lease has an election begun, by a pre-vote; where several live, by turns (`turns.rs`).
//! - Whoever hears a claim, and a leader that a majority answers, objects to elections: a broker that cannot hear a leader which others hear disturbs
//!   nobody.
//! - A leader that no majority answers claims nothing any more, so that others may follow it; so does one that hands over.
//! - Beats tell how much room the sender's log has, which bounds what a leader admits, and how strained the sender is, see `strain.rs`.
//! - A journal in which something happened gets Raft's own heartbeats for a moment, so that followers learn what was committed last.
//!
//! It owns when to ask for votes, never whether one is given: leases of reads and of votes stay Raft's own, which only its own messages renew. So a
//! wrong guess costs time, and no promise.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use tidegate_env::Env;
use tidegate_model::{BrokerId, HubId, JournalId};

use super::journal::{Journal, WeakJournal};
use super::peers::{Lane, Message, Peers, broker_of};
use super::strain::{Slowness, Strain, smoothed};
use super::turnover::{Counts, Turnover};
use super::turns;
use super::wire::{Beat, Header, Reply, decode_reply};

/// Beats in the time of a lease.
const BEATS_IN_LEASE: u32 = 6;
/// Raft's heartbeats go on for so many leases after the last thing that happened.
const LINGER_LEASES: u32 = 2;
/// A voter leaves each that is ahead of it so much of a lease: two beats, for the rounds of two brokers are up to one apart.
const TURNS_IN_LEASE: u32 = 3;
/// Pauses between elections that fail grow up to eight thirds of a lease.
const MOST_DOUBLINGS: u32 = 3;
/// A leader that was to hand over and still leads tries again after so many leases.
const HAND_OVER_LEASES: u32 = 30;
/// Whoever lacks at most so many entries may take over.
const NEAR_ENTRIES: u64 = 64;
/// A broker that refused data tells that it has no room for so many leases, if it looks as if it had some.
const REFUSED_LEASES: u32 = 4;
/// A broker that shares no journal with anybody looks whether that has changed only after so many beats.
const ALONE_BEATS: u32 = 10;

/// The detector of one broker. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Detector {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    /// Some broker has no room in its log.
    is_short: AtomicBool,
    /// Some journal that is led here has no majority.
    is_lonely: AtomicBool,
    turnover: Counts,
}

#[derive(Default)]
struct State {
    journals: BTreeMap<JournalId, Watched>,
    peers: BTreeMap<BrokerId, Peer>,
    /// Tells this life of the process from others.
    boot: u64,
    sequence: u64,
    lease: Duration,
    runs: bool,
    strain: Strain,
    room: u64,
    /// When this broker's log did not take what a leader sent.
    refused: Option<Duration>,
}

/// What is known of another broker.
#[derive(Default)]
struct Peer {
    boot: u64,
    sequence: u64,
    /// When its last beat came.
    heard: Option<Duration>,
    /// When the last of our beats was sent that it answered.
    answered: Option<Duration>,
    /// The journals that it led then, and in which terms.
    claims: BTreeMap<JournalId, u64>,
    was_fresh: bool,
    /// How long a beat and its answer take.
    round_trip: Option<Duration>,
    room: u64,
    strain: u32,
    /// Since when it has no room.
    short_since: Option<Duration>,
}

/// A journal that this broker has a replica of.
struct Watched {
    journal: WeakJournal,
    replica: u64,
    /// When this replica was started.
    begun: Duration,
    /// As of the last round.
    standing: Standing,
    /// Without a claim since then.
    since: Duration,
    /// Not before then is another election asked for.
    retry_at: Duration,
    /// Elections asked for since a leader was known last.
    asked: u32,
    /// Raft's heartbeats are sent until then.
    active_until: Duration,
    /// A request to Raft that has not been taken yet.
    is_busy: bool,
}

/// What Raft says of a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) term: u64,
    pub(super) leads: bool,
    pub(super) knows_leader: bool,
    /// It leads, and does not any more as soon as another one can.
    pub(super) hands_over: bool,
    /// Last index, and last index applied.
    pub(super) reached: (u64, u64),
    /// During a change of voters two sets.
    pub(super) voters: Vec<BTreeSet<u64>>,
    /// Voters and learners.
    pub(super) members: BTreeSet<u64>,
}

/// What is asked of Raft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    Elect,
    Heartbeat,
    /// The voter that shall lead.
    HandOver(u64),
}

/// What a round comes to.
struct Round {
    beats: Vec<(BrokerId, Message)>,
    errands: Vec<(JournalId, Journal, Errand)>,
    /// Nobody else is there to be heard.
    is_alone: bool,
}

/// What ended.
enum Done {
    Answered { by: BrokerId, sent: Duration, took: Duration },
    Silent,
    Errand(JournalId),
}

fn is_fresh(at: Option<Duration>, now: Duration, lease: Duration) -> bool {
    at.is_some_and(|at| now.saturating_sub(at) <= lease)
}

impl Detector {
    /// Takes a journal in. The first one sets how often is beaten.
    pub(super) fn attend(&self, journal: &Journal, heartbeat: Duration, env: &Env, hub: HubId, peers: &Arc<dyn Peers>) {
        let now = env.clock.monotonic();
        let mut state = self.inner.state.lock();
        if state.boot == 0 {
            state.boot = env.random.next_u64().max(1);
            state.lease = heartbeat * BEATS_IN_LEASE;
        }
        let watched = Watched {
            journal: journal.downgrade(),
            replica: journal.replica(),
            begun: now,
            standing: Standing::default(),
            since: now,
            retry_at: now,
            asked: 0,
            active_until: now,
            is_busy: false,
        };
        state.journals.insert(journal.id(), watched);
        if !std::mem::replace(&mut state.runs, true) {
            let beat = state.lease / BEATS_IN_LEASE;
            let ring = Ring { inner: Arc::downgrade(&self.inner), env: env.clone(), hub, peers: Arc::clone(peers), beat };
            // It ends by itself with the last journal.
            drop(env.threads.task("detector", Box::pin(ring.run())));
        }
    }

    /// Lets a journal go.
    pub(super) fn leave(&self, journal: &Journal) {
        let mut state = self.inner.state.lock();
        if state.journals.get(&journal.id()).is_some_and(|watched| watched.replica == journal.replica()) {
            state.journals.remove(&journal.id());
        }
    }

    /// Takes a beat of another broker. One that another has overtaken is nothing.
    pub(super) fn hear(&self, from: BrokerId, beat: Beat, now: Duration) {
        let mut state = self.inner.state.lock();
        let linger = now + state.lease * LINGER_LEASES;
        for id in beat.leaderless {
            if let Some(watched) = state.journals.get_mut(&id) {
                watched.active_until = watched.active_until.max(linger);
            }
        }
        let peer = state.peers.entry(from).or_default();
        if peer.boot == beat.boot && beat.sequence <= peer.sequence {
            return;
        }
        (peer.boot, peer.sequence, peer.heard) = (beat.boot, beat.sequence, Some(now));
        peer.claims = beat.claims.into_iter().collect();
        (peer.room, peer.strain) = (beat.room, beat.strain);
        if beat.room > 0 {
            peer.short_since = None;
        } else {
            peer.short_since.get_or_insert(now);
            self.inner.is_short.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a replica of a journal that is held here has no vote, as of the last round. One that was added since has none yet.
    pub(super) fn learns(&self, id: JournalId, replica: u64) -> bool {
        let state = self.inner.state.lock();
        state.journals.get(&id).is_some_and(|watched| {
            let voters = &watched.standing.voters;
            !voters.is_empty() && voters.iter().all(|set| !set.contains(&replica))
        })
    }

    /// Notes that this broker's log did not take data: there may be room left, but less than a leader's next entries need.
    pub(super) fn refuse(&self, now: Duration) {
        self.inner.state.lock().refused = Some(now);
    }

    /// How slow this broker is, as of the last round.
    pub(super) fn slowness(&self) -> Slowness {
        self.inner.state.lock().strain.slowness()
    }

    pub(super) fn turnover(&self) -> Turnover {
        self.inner.turnover.now()
    }

    /// Whether a broker was heard within a lease.
    pub(super) fn hears(&self, broker: BrokerId, now: Duration) -> bool {
        let state = self.inner.state.lock();
        state.peers.get(&broker).is_some_and(|peer| is_fresh(peer.heard, now, state.lease))
    }

    /// Brokers with voters of a journal that are not heard.
    pub(super) fn silent(&self, id: JournalId, now: Duration) -> Vec<BrokerId> {
        let state = self.inner.state.lock();
        let Some(watched) = state.journals.get(&id) else { return Vec::new() };
        let voters = watched.standing.voters.iter().flatten().filter(|voter| **voter != watched.replica);
        let brokers: BTreeSet<BrokerId> = voters.map(|voter| broker_of(*voter)).collect();
        let is_heard = |broker: &BrokerId| state.peers.get(broker).is_some_and(|peer| is_fresh(peer.heard, now, state.lease));
        brokers.into_iter().filter(|broker| !is_heard(broker)).collect()
    }

    /// The brokers that are missing to a majority of a journal that is led here; `None` if there is one.
    pub(super) fn lost_majority(&self, id: JournalId, now: Duration) -> Option<Vec<BrokerId>> {
        let is_lost = self.inner.is_lonely.load(Ordering::Relaxed) && {
            let state = self.inner.state.lock();
            state.journals.get(&id).is_some_and(|watched| state.is_lonely(watched, now))
        };
        is_lost.then(|| self.silent(id, now))
    }

    /// A voter of a journal that is led here whose log has no room for more data, if it is to be waited for: for `patience` at most, unless the others
    /// with room are no majority.
    pub(super) fn short_of_room(&self, id: JournalId, now: Duration, patience: Duration) -> Option<BrokerId> {
        if !self.inner.is_short.load(Ordering::Relaxed) {
            return None;
        }
        let state = self.inner.state.lock();
        let watched = state.journals.get(&id)?;
        watched.standing.voters.iter().find_map(|voters| {
            let others = voters.iter().filter(|voter| **voter != watched.replica).map(|voter| broker_of(*voter));
            let peers = others.filter_map(|broker| Some((broker, state.peers.get(&broker)?)));
            // Who is not heard has other troubles.
            let short = peers.filter(|(_, peer)| is_fresh(peer.heard, now, state.lease));
            let short: Vec<_> = short.filter_map(|(broker, peer)| Some((broker, peer.short_since?))).collect();
            let is_minority = short.len() * 2 < voters.len();
            let waits = |since: &Duration| !is_minority || now.saturating_sub(*since) < patience;
            short.iter().find(|(_, since)| waits(since)).map(|(broker, _)| *broker)
        })
    }

    /// Whether nobody needs `candidate` to lead a journal: its leader is alive, as far as this broker can tell. For a lease after its start a replica
    /// cannot tell: what it last answered may be what a leader still relies on.
    pub(super) fn objects(&self, journal: &Journal, candidate: u64, now: Duration) -> bool {
        let Some(standing) = journal.standing() else { return false };
        let state = self.inner.state.lock();
        let begun = state.journals.get(&journal.id()).map(|watched| watched.begun);
        if standing.term > 0 && begun.is_some_and(|begun| now.saturating_sub(begun) < state.lease) {
            return true;
        }
        if standing.leads {
            return !standing.hands_over && state.is_answered(&standing, journal.replica(), now);
        }
        state.claimed(journal.id(), standing.term, now, Some(broker_of(candidate))).is_some()
    }
}

impl State {
    /// Whether a majority of each set of voters answered within a lease.
    fn is_answered(&self, standing: &Standing, replica: u64, now: Duration) -> bool {
        let answers = |voter: &u64| {
            let peer = self.peers.get(&broker_of(*voter));
            *voter == replica || peer.is_some_and(|peer| is_fresh(peer.answered, now, self.lease))
        };
        standing.voters.iter().all(|voters| voters.iter().filter(|voter| answers(voter)).count() > voters.len() / 2)
    }

    /// Whether a journal is led here and no majority of its voters is heard.
    fn is_lonely(&self, watched: &Watched, now: Duration) -> bool {
        let is_heard = |voter: &u64| {
            let peer = self.peers.get(&broker_of(*voter));
            *voter == watched.replica || peer.is_some_and(|peer| is_fresh(peer.heard, now, self.lease))
        };
        let standing = &watched.standing;
        standing.leads
            && standing.voters.iter().any(|voters| voters.iter().filter(|voter| is_heard(voter)).count() * 2 <= voters.len())
    }

    /// Who claims a journal in this term or a later one, and when that was heard last; by somebody else than `not`.
    fn claimed(&self, journal: JournalId, term: u64, now: Duration, not: Option<BrokerId>) -> Option<(BrokerId, Duration)> {
        let claims = self
            .peers
            .iter()
            .filter(|(broker, peer)| Some(**broker) != not && peer.claims.get(&journal).is_some_and(|claimed| *claimed >= term));
        let heard = claims.filter_map(|(broker, peer)| Some((*broker, peer.heard?)));
        heard.filter(|(_, heard)| is_fresh(Some(*heard), now, self.lease)).max_by_key(|(_, heard)| *heard)
    }

    /// Whoever was not heard for a while and is heard again.
    fn returned(&mut self, now: Duration) -> BTreeSet<BrokerId> {
        let lease = self.lease;
        let mut returned = BTreeSet::new();
        for (broker, peer) in &mut self.peers {
            let is_fresh = is_fresh(peer.heard, now, lease) && is_fresh(peer.answered, now, lease);
            if is_fresh && !std::mem::replace(&mut peer.was_fresh, is_fresh) {
                returned.insert(*broker);
            }
            peer.was_fresh = is_fresh;
        }
        returned
    }
}

/// The loop.
struct Ring {
    inner: Weak<Inner>,
    env: Env,
    hub: HubId,
    peers: Arc<dyn Peers>,
    beat: Duration,
}

impl Ring {
    async fn run(self) {
        let mut flying: FuturesUnordered<BoxFuture<'static, Done>> = FuturesUnordered::new();
        let mut planned = self.env.clock.monotonic();
        loop {
            let left = planned.saturating_sub(self.env.clock.monotonic());
            tokio::select! {
                biased;
                Some(done) = flying.next(), if !flying.is_empty() => {
                    let Some(inner) = self.inner.upgrade() else { return };
                    inner.note(&done);
                    continue;
                }
                () = self.env.clock.sleep(left) => {}
            }
            let Some(inner) = self.inner.upgrade() else { return };
            let now = self.env.clock.monotonic();
            let Some(round) = inner.round(self.hub, now, now.saturating_sub(planned), &self.env) else { return };
            planned = now + if round.is_alone { self.beat * ALONE_BEATS } else { self.beat };
            for (to, message) in round.beats {
                flying.push(self.send(to, message, now));
            }
            for (id, journal, errand) in round.errands {
                flying.push(Box::pin(async move {
                    match errand {
                        Errand::Elect => journal.ask_for_votes().await,
                        Errand::Heartbeat => journal.renew().await,
                        Errand::HandOver(heir) => journal.yield_to(heir).await,
                    }
                    Done::Errand(id)
                }));
            }
        }
    }

    fn send(&self, to: BrokerId, message: Message, sent: Duration) -> BoxFuture<'static, Done> {
        let (sending, late) = (self.peers.send(to, Lane::Control, message), self.env.clock.sleep(self.beat * BEATS_IN_LEASE));
        let asked = async move { sending.await?.await };
        let clock = Arc::clone(&self.env.clock);
        Box::pin(async move {
            tokio::select! {
                biased;
                answer = asked => match answer.map(decode_reply) {
                    Ok(Ok(Reply::Beat)) => Done::Answered { by: to, sent, took: clock.monotonic().saturating_sub(sent) },
                    _ => Done::Silent,
                },
                () = late => Done::Silent,
            }
        })
    }
}

impl Inner {
    fn note(&self, done: &Done) {
        let mut state = self.state.lock();
        match done {
            Done::Answered { by, sent, took } => {
                let peer = state.peers.entry(*by).or_default();
                peer.round_trip = Some(smoothed(peer.round_trip, *took));
                peer.answered = peer.answered.max(Some(*sent));
            }
            Done::Silent => {}
            Done::Errand(id) => {
                if let Some(watched) = state.journals.get_mut(id) {
                    watched.is_busy = false;
                }
            }
        }
    }

    /// Looks at all journals; `None` if there is none left. `late`: how much later than planned, because this process or its machine stood still. Nobody
    /// could be heard then, so it does not count.
    fn round(&self, hub: HubId, now: Duration, late: Duration, env: &Env) -> Option<Round> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let journals: BTreeMap<JournalId, Journal> =
            state.journals.iter().filter_map(|(id, watched)| Some((*id, watched.journal.upgrade()?))).collect();
        state.journals.retain(|id, _| journals.contains_key(id));
        if state.journals.is_empty() {
            state.runs = false;
            return None;
        }
        state.measure(journals.values().next(), now);
        self.is_short.store(state.peers.values().any(|peer| peer.short_since.is_some()), Ordering::Relaxed);
        let is_lonely = state.journals.values().any(|watched| state.is_lonely(watched, now));
        self.is_lonely.store(is_lonely, Ordering::Relaxed);
        let returned = state.returned(now);
        state.sequence += 1;
        let mut errands = Vec::new();
        let mut all = std::mem::take(&mut state.journals);
        for (id, watched) in &mut all {
            let before = (watched.standing.leads, watched.standing.term);
            let errand = state.look(*id, watched, &journals[id], &returned, now, late, env);
            self.turnover.led(before, &watched.standing, &journals[id]);
            if let Some(errand) = errand.filter(|_| !watched.is_busy) {
                watched.is_busy = true;
                self.turnover.asked(errand);
                errands.push((*id, journals[id].clone(), errand));
            }
        }
        state.journals = all;
        let beats = state.beats(hub, now);
        let is_alone = state.journals.values().all(|watched| watched.standing.members.len() < 2 && watched.standing.leads);
        Some(Round { beats, errands, is_alone })
    }
}

impl State {
    #[allow(clippy::too_many_arguments, reason = "all that a round knows")]
    fn look(
        &self,
        id: JournalId,
        watched: &mut Watched,
        journal: &Journal,
        returned: &BTreeSet<BrokerId>,
        now: Duration,
        late: Duration,
        env: &Env,
    ) -> Option<Errand> {
        let standing = journal.standing().unwrap_or_default();
        let before = std::mem::replace(&mut watched.standing, standing);
        let standing = &watched.standing;
        if standing.leads {
            let others = || standing.members.iter().filter(|member| **member != watched.replica);
            if before.reached != standing.reached
                || before.term != standing.term
                || others().any(|id| returned.contains(&broker_of(*id)))
            {
                watched.active_until = now + self.lease * LINGER_LEASES;
            }
            (watched.since, watched.asked) = (now, 0);
            if let Some(heir) = self.heir(watched, journal, now) {
                watched.retry_at = now + self.lease * HAND_OVER_LEASES;
                return Some(Errand::HandOver(heir));
            }
            // Every other round: a lease is three of them.
            return (now < watched.active_until && self.sequence.is_multiple_of(2) && others().next().is_some())
                .then_some(Errand::Heartbeat);
        }
        if late > self.lease / BEATS_IN_LEASE {
            watched.since += late.min(now.saturating_sub(watched.since));
        }
        if before.term != standing.term || before.leads {
            watched.since = now;
        }
        if let Some((_, heard)) = self.claimed(id, standing.term, now, None)
            && heard > watched.since
        {
            (watched.since, watched.asked) = (heard, 0);
        }
        let votes = standing.voters.iter().any(|voters| voters.contains(&watched.replica));
        let silence = now.saturating_sub(watched.since);
        if !votes || silence < self.lease || now < watched.retry_at {
            return None;
        }
        let is_heard = |broker| self.peers.get(&broker).is_some_and(|peer| is_fresh(peer.heard, now, self.lease));
        if silence < self.lease + self.lease / TURNS_IN_LEASE * turns::ahead(id, watched.replica, &standing.voters, is_heard) {
            return None;
        }
        // Quick at first, for two that met; then slower, for one that was voted out and has not heard it.
        let pause = self.lease / 3 * (1 << watched.asked.min(MOST_DOUBLINGS));
        watched.asked += 1;
        tracing::info!(journal = id.0, ?silence, "heard of no leader: asks for votes");
        watched.retry_at = now + pause + Duration::from_millis(env.random.below(pause.as_millis() as u64 + 1));
        Some(Errand::Elect)
    }

    /// Measures what this broker tells of itself.
    fn measure(&mut self, journal: Option<&Journal>, now: Duration) {
        let Some(status) = journal.map(|journal| journal.log().status()) else { return };
        let refused = self.refused.is_some_and(|at| now.saturating_sub(at) < self.lease * REFUSED_LEASES);
        self.room = if refused { 0 } else { status.room_bytes };
        let fresh = self.peers.values().filter(|peer| is_fresh(peer.answered, now, self.lease));
        let mut ways: Vec<Duration> = fresh.filter_map(|peer| peer.round_trip).collect();
        ways.sort_unstable();
        // This broker and the nearest half of the others are a majority.
        let way = ways.get(ways.len().div_ceil(2).saturating_sub(1)).copied();
        self.strain.measure(&status, way, now);
    }

    /// The voter that should lead instead of this one, which is strained.
    fn heir(&self, watched: &Watched, journal: &Journal, now: Duration) -> Option<u64> {
        if now < watched.retry_at || !self.strain.yields_to(0, now) || watched.standing.hands_over {
            return None;
        }
        let progress = journal.progress();
        let near = |voter: u64| progress.iter().any(|(id, at)| *id == voter && at.matched + NEAR_ENTRIES >= at.last);
        let others = watched.standing.voters.last()?.iter().filter(|voter| **voter != watched.replica && near(**voter));
        let peers = others.filter_map(|voter| Some((*voter, self.peers.get(&broker_of(*voter))?)));
        let fresh = peers.filter(|(_, peer)| is_fresh(peer.heard, now, self.lease) && is_fresh(peer.answered, now, self.lease));
        let better = fresh.filter(|(_, peer)| self.strain.yields_to(peer.strain, now));
        better.min_by_key(|(voter, peer)| (peer.strain, *voter)).map(|(voter, _)| voter)
    }

    /// One beat for each broker that shares a journal with this one.
    fn beats(&self, hub: HubId, now: Duration) -> Vec<(BrokerId, Message)> {
        let mut shared: BTreeMap<BrokerId, Vec<(JournalId, u64, u64)>> = BTreeMap::new();
        for (id, watched) in &self.journals {
            for member in watched.standing.members.iter().filter(|member| broker_of(**member) != broker_of(watched.replica)) {
                shared.entry(broker_of(*member)).or_default().push((*id, watched.replica, *member));
            }
        }
        let claims = |journals: &[(JournalId, u64, u64)]| {
            let mine = journals.iter().filter_map(|(id, ..)| Some((*id, self.journals.get(id)?)));
            mine.filter(|(_, watched)| {
                let standing = &watched.standing;
                standing.leads && !standing.hands_over && self.is_answered(standing, watched.replica, now)
            })
            .map(|(id, watched)| (id, watched.standing.term))
            .collect()
        };
        let leaderless = |journals: &[(JournalId, u64, u64)]| {
            let mine =
                journals.iter().filter(|(id, ..)| self.journals.get(id).is_some_and(|watched| !watched.standing.knows_leader));
            mine.map(|(id, ..)| *id).collect()
        };
        let beat = |(broker, journals): (&BrokerId, &Vec<(JournalId, u64, u64)>)| {
            // By turns: a replica that is not open there any more, or not yet, must not silence the pair.
            let (journal, from, to) = journals[self.sequence as usize % journals.len()];
            let header = Header { hub, journal, from, to };
            let beat = Beat {
                boot: self.boot,
                sequence: self.sequence,
                room: self.room,
                strain: self.strain.now_ms(),
                claims: claims(journals),
                leaderless: leaderless(journals),
            };
            (*broker, header.beat(&beat))
        };
        shared.iter().map(beat).collect()
    }
}
