//! The plan: from what is known to at most so many steps.
//!
//! Each journal is brought nearer to its target by one step at a time, found anew from what is, so that whoever carries plans out may die
//! between any two steps. Held by every plan: a change of voters never leaves fewer voters in sync than before and than the replication factor;
//! no two voters on one broker; a fleet in balance gets no step.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_env::bugs::{self, Bug};
use tidegate_journal::entry::BrokerState;
use tidegate_journal::raft::broker_of;
use tidegate_journal::state::Replica;
use tidegate_model::{BrokerId, JournalId};

use super::view::{Bounds, FleetView, JournalView, Led, Step};

/// A leader without traffic weighs so many bytes per second, so that idle leaders are spread by number.
const LEADER_WEIGHT: f64 = 1024.0;

/// What to do next.
pub fn plan(view: &FleetView, bounds: &Bounds) -> Vec<Step> {
    let mut leads = BTreeMap::new();
    view.journals.values().filter_map(leader_of).for_each(|broker| *leads.entry(broker).or_default() += 1);
    let moves = bounds.moves.saturating_sub(under_way(view));
    let mut planner = Planner { view, counts: view.counts(), leads, moves, steps: Vec::new() };
    for (id, journal) in &view.journals {
        if let Some(led) = &journal.led {
            planner.journal(*id, journal, led);
        }
    }
    if planner.steps.is_empty() {
        planner.balance_replicas(bounds.moves);
    }
    if planner.steps.is_empty() {
        planner.balance_leaders(bounds.hysteresis);
    }
    planner.retire();
    planner.steps.truncate(bounds.steps);
    planner.steps
}

/// Data journals that have a replica which does not vote yet.
fn under_way(view: &FleetView) -> usize {
    view.journals.iter().filter(|(id, journal)| **id != JournalId::CATALOG && is_under_way(view, journal)).count()
}

fn is_under_way(view: &FleetView, journal: &JournalView) -> bool {
    let votes = |replica: &Replica| journal.led.as_ref().is_some_and(|led| led.voters.contains(&replica.id));
    journal.replicas.iter().any(|replica| view.is_good(replica) && !votes(replica))
}

struct Planner<'a> {
    view: &'a FleetView,
    /// Good replicas by broker, with those that this plan adds.
    counts: BTreeMap<BrokerId, usize>,
    /// Journals that each broker leads, with those that this plan hands to it.
    leads: BTreeMap<BrokerId, usize>,
    /// Additions that are still allowed.
    moves: usize,
    steps: Vec<Step>,
}

impl Planner<'_> {
    /// The next step of one journal.
    fn journal(&mut self, id: JournalId, journal: &JournalView, led: &Led) {
        let view = self.view;
        let factor = view.replication_factor;
        let good: Vec<&Replica> = journal.replicas.iter().filter(|replica| view.is_good(replica)).collect();
        let ready: Vec<&Replica> = good
            .iter()
            .copied()
            .filter(|replica| led.in_sync.contains(&replica.id) || led.voters.contains(&replica.id))
            .collect();
        // 1. A leader that is to go hands over first.
        let leaves = !good.iter().any(|replica| replica.id == led.leader);
        let heirs = good.iter().filter(|r| led.voters.contains(&r.id) && led.in_sync.contains(&r.id) && view.is_alive(r.broker));
        let heir = self.best_heir(heirs.map(|replica| replica.id));
        if let (true, Some(heir)) = (leaves, heir) {
            self.hand_over(id, heir);
            return;
        }
        // 2. What the catalog gave out and is wanted has to learn. All brokers follow the catalog.
        let ideal = self.target(id, &good, led, factor);
        let is_wanted = |replica: &Replica| id == JournalId::CATALOG || ideal.contains(&replica.id);
        let is_member = |replica: &Replica| led.voters.contains(&replica.id) || led.learners.contains(&replica.id);
        let outside = good.iter().filter(|replica| {
            // A newcomer is not heard before it has the catalog.
            let can_learn = id == JournalId::CATALOG || view.is_alive(replica.broker);
            is_wanted(replica) && !is_member(replica) && can_learn
        });
        let outside: Vec<Step> = outside.map(|replica| Step::AddLearner { journal: id, replica: replica.id }).collect();
        if !outside.is_empty() {
            self.steps.extend(outside);
            return;
        }
        // 3. A volume gets another replica only when the one that it lost is gone. That one answers nobody: without it no more voters are needed.
        if let Some(gone) = journal.lost.first() {
            self.drop_lost(id, *gone, journal, led);
            return;
        }
        // 4. Enough good replicas, or more are asked for.
        let missing = if id == JournalId::CATALOG { usize::MAX } else { factor.saturating_sub(good.len()) };
        let asked = self.ask(id, journal, missing);
        // 5. Voters: as many as there shall be, all good; a set with fewer is no target. What was cut off is finished: until then one broker may be all that a
        // majority hangs on.
        let target = self.target(id, &ready, led, factor);
        if target.len() == factor && (target != led.voters || !led.unsettled.is_empty()) {
            self.change_voters(id, led, target);
            return;
        }
        // 6. What neither votes nor is wanted goes: first from the journal, then from the catalog.
        let idle = journal.replicas.iter().filter(|replica| !led.voters.contains(&replica.id));
        // A broker that was away for long learns from the catalog what became of its replicas, and is heard again only then.
        let follows = |replica: &Replica| holds_data(view, replica.broker) || view.is_awaited(replica);
        let kept =
            |replica: &Replica| (is_wanted(replica) && view.is_good(replica)) || (id == JournalId::CATALOG && follows(replica));
        for replica in idle.filter(|replica| !asked && !kept(replica)).map(|replica| replica.id) {
            self.steps.push(if led.learners.contains(&replica) {
                Step::RemoveLearner { journal: id, replica }
            } else {
                Step::RemoveReplica { journal: id, replica }
            });
        }
    }

    /// Lets a replica go whose broker lives and has lost its data: from the voters, from the journal, from the catalog.
    fn drop_lost(&mut self, id: JournalId, gone: u64, journal: &JournalView, led: &Led) {
        let left: BTreeSet<u64> = led.voters.difference(&journal.lost).copied().collect();
        let in_sync = left.intersection(&led.in_sync).count();
        if !led.voters.contains(&gone) {
            self.steps.push(if led.learners.contains(&gone) {
                Step::RemoveLearner { journal: id, replica: gone }
            } else {
                Step::RemoveReplica { journal: id, replica: gone }
            });
        } else if left.contains(&led.leader) && in_sync > left.len() / 2 {
            self.steps.push(Step::ChangeVoters { journal: id, voters: left });
        }
    }

    /// Asks for replicas on the best brokers without one. True if it did.
    fn ask(&mut self, id: JournalId, journal: &JournalView, missing: usize) -> bool {
        let mut taken: BTreeSet<BrokerId> = journal.replicas.iter().filter(|r| self.view.is_good(r)).map(|r| r.broker).collect();
        let mut asked = false;
        let mut goes_on = id == JournalId::CATALOG || is_under_way(self.view, journal);
        for _ in 0..missing {
            let is_free = goes_on || self.moves > 0;
            let Some(broker) = self.best_host(&taken).filter(|_| is_free) else { break };
            if id != JournalId::CATALOG {
                // A journal counts once, however many replicas it gets.
                self.moves -= usize::from(!goes_on);
                self.counts.entry(broker).and_modify(|count| *count += 1);
            }
            self.steps.push(Step::AddReplica { journal: id, broker });
            taken.insert(broker);
            (asked, goes_on) = (true, true);
        }
        asked
    }

    /// The broker that best holds one more replica: in a zone and on a node that have none yet, with the fewest replicas.
    fn best_host(&self, taken: &BTreeSet<BrokerId>) -> Option<BrokerId> {
        let view = self.view;
        let hosts = self.counts.iter().filter(|(broker, _)| !taken.contains(broker) && view.is_alive(**broker));
        let cost = |broker: BrokerId, count: usize| {
            let in_zone = taken.iter().filter(|other| view.zone(**other) == view.zone(broker)).count();
            let on_node = taken.iter().filter(|other| shares(view.node(**other), view.node(broker))).count();
            (in_zone, on_node, count, broker)
        };
        hosts.map(|(broker, count)| cost(*broker, *count)).min().map(|(.., broker)| broker)
    }

    /// The best voters among the replicas that are ready: one by one, what is worst goes until no more than `factor` are left.
    fn target(&self, id: JournalId, ready: &[&Replica], led: &Led, factor: usize) -> BTreeSet<u64> {
        let view = self.view;
        let mut left: Vec<&Replica> = ready.to_vec();
        while left.len() > factor {
            let badness = |replica: &&Replica| {
                let others = || left.iter().filter(|other| other.id != replica.id);
                let in_zone = others().filter(|other| view.zone(other.broker) == view.zone(replica.broker)).count();
                let on_node = others().filter(|other| shares(view.node(other.broker), view.node(replica.broker))).count();
                let silent = !view.is_alive(replica.broker);
                let count = if id == JournalId::CATALOG { 0 } else { self.counts.get(&replica.broker).copied().unwrap_or(0) };
                // Who votes and who leads stays where nothing else decides.
                (silent, in_zone, on_node, count, !led.voters.contains(&replica.id), led.leader != replica.id, replica.id)
            };
            let Some(worst) = left.iter().max_by_key(|replica| badness(replica)).map(|replica| replica.id) else { break };
            left.retain(|replica| replica.id != worst);
        }
        left.iter().map(|replica| replica.id).collect()
    }

    /// The leader goes to one who stays, then the others go.
    fn change_voters(&mut self, id: JournalId, led: &Led, target: BTreeSet<u64>) {
        let in_sync = target.iter().filter(|replica| led.in_sync.contains(replica)).count();
        let before = led.voters.iter().filter(|replica| led.in_sync.contains(replica)).count();
        // A majority of the new voters must be able to go on, and no voter in sync is given up for one that is not.
        if in_sync <= target.len() / 2 || in_sync < before.min(target.len()) {
            return;
        }
        if target.contains(&led.leader) {
            self.steps.push(Step::ChangeVoters { journal: id, voters: target });
            return;
        }
        let stays = target.iter().filter(|replica| led.voters.contains(replica) && led.in_sync.contains(replica));
        match self.best_heir(stays.copied()) {
            Some(heir) => self.hand_over(id, heir),
            // Nobody who votes stays: the new ones vote beside the old first.
            None => {
                self.steps.push(Step::ChangeVoters { journal: id, voters: target.union(&led.voters).copied().collect() });
            }
        }
    }

    /// Who leads fewest journals, and rather none that is slow: the leaders of a broker that goes are spread over those that stay.
    fn best_heir(&self, heirs: impl Iterator<Item = u64>) -> Option<u64> {
        let leads = |broker: BrokerId| self.leads.get(&broker).copied().unwrap_or(0);
        heirs.min_by_key(|heir| (self.view.is_slow(broker_of(*heir)), leads(broker_of(*heir)), *heir))
    }

    fn hand_over(&mut self, id: JournalId, heir: u64) {
        *self.leads.entry(broker_of(heir)).or_default() += 1;
        self.steps.push(Step::TransferLeader { journal: id, to: heir });
    }

    /// Asks for replicas on better brokers: for journals with two voters in one zone, and from the fullest broker to the emptiest. Waits until
    /// earlier moves are done, for until then a moving replica counts on both its brokers.
    fn balance_replicas(&mut self, bound: usize) {
        if self.moves < bound {
            return;
        }
        let mut moved = BTreeSet::new();
        while moved.len() < bound {
            let Some((journal, source, target)) = self.best_move(&moved) else { return };
            self.steps.push(Step::AddReplica { journal, broker: target });
            self.counts.entry(source).and_modify(|count| *count -= 1);
            self.counts.entry(target).and_modify(|count| *count += 1);
            moved.insert(journal);
        }
    }

    fn best_move(&self, moved: &BTreeSet<JournalId>) -> Option<(JournalId, BrokerId, BrokerId)> {
        let view = self.view;
        let mut best: Option<(isize, JournalId, BrokerId, BrokerId)> = None;
        let data = view.journals.iter().filter(|(id, journal)| **id != JournalId::CATALOG && journal.led.is_some());
        for (id, journal) in data.filter(|(id, _)| !moved.contains(id)) {
            let hosts: BTreeSet<BrokerId> = journal.replicas.iter().map(|replica| replica.broker).collect();
            if hosts.len() != view.replication_factor || !hosts.iter().all(|host| self.counts.contains_key(host)) {
                continue;
            }
            for target in self.counts.keys().filter(|broker| !hosts.contains(broker) && view.is_alive(**broker)) {
                for source in &hosts {
                    let gain = self.gain(&hosts, *source, *target);
                    if gain > 0 && best.is_none_or(|(known, ..)| gain > known) {
                        best = Some((gain, *id, *source, *target));
                    }
                }
            }
        }
        best.map(|(_, journal, source, target)| (journal, source, target))
    }

    /// What a journal's and the fleet's spread gain by moving one replica; a zone counts more than any number of replicas.
    fn gain(&self, hosts: &BTreeSet<BrokerId>, source: BrokerId, target: BrokerId) -> isize {
        let view = self.view;
        let shared = |broker: BrokerId| {
            let others = || hosts.iter().filter(|other| **other != source && **other != broker);
            let zones = others().filter(|other| view.zone(**other) == view.zone(broker)).count();
            let nodes = others().filter(|other| shares(view.node(**other), view.node(broker))).count();
            (zones as isize, nodes as isize)
        };
        let (from, to) = (shared(source), shared(target));
        let count = |broker: BrokerId| self.counts.get(&broker).copied().unwrap_or(0) as isize;
        let zones = (from.0 - to.0) * 1_000_000 + (from.1 - to.1) * 10_000;
        let numbers = count(source) - count(target) - 1;
        if zones > 0 {
            zones + numbers.clamp(-5_000, 5_000)
        } else if zones == 0 {
            numbers
        } else {
            0
        }
    }

    /// Hands one leader from the busiest broker to a less busy one, if that makes a difference worth a gap in writes; where nobody is too busy, from
    /// who leads the most journals to who leads the fewest. Brokers that are slow are left out.
    fn balance_leaders(&mut self, hysteresis: f64) {
        let view = self.view;
        let mut shares: BTreeMap<BrokerId, Share> = BTreeMap::new();
        for broker in self.counts.keys().filter(|broker| !view.is_slow(**broker)) {
            shares.insert(*broker, Share::default());
        }
        for journal in view.journals.values() {
            if let Some(share) = leader_of(journal).and_then(|broker| shares.get_mut(&broker)) {
                share.load += weight(journal);
                share.leads += 1;
            }
        }
        let mean = shares.values().map(|share| share.load).sum::<f64>() / shares.len().max(1) as f64;
        let transfers = self.transfers(&shares);
        let best = by_load(&transfers, mean, hysteresis).or_else(|| by_number(&transfers, mean, hysteresis));
        if let Some(best) = best {
            self.steps.push(Step::BalanceLeader { journal: best.journal, to: best.to });
        }
    }

    /// Each way in which a leader may be handed over for balance.
    fn transfers(&self, shares: &BTreeMap<BrokerId, Share>) -> Vec<Transfer> {
        let view = self.view;
        let mut transfers = Vec::new();
        for (id, journal) in view.journals.iter().filter(|(_, journal)| journal.settled) {
            let Some((led, from)) = journal.led.as_ref().zip(leader_of(journal)) else { continue };
            let Some(before) = shares.get(&from) else { continue };
            let voters =
                journal.replicas.iter().filter(|replica| led.voters.contains(&replica.id) && led.in_sync.contains(&replica.id));
            let others = voters.filter(|r| r.broker != from && view.is_good(r) && view.is_alive(r.broker));
            transfers.extend(others.filter_map(|replica| {
                let after = *shares.get(&replica.broker)?;
                Some(Transfer { journal: *id, to: replica.id, weight: weight(journal), from: *before, into: after })
            }));
        }
        transfers
    }

    /// Draining brokers that hold nothing any more.
    fn retire(&mut self) {
        let holds =
            |broker: &BrokerId| self.view.journals.values().any(|journal| journal.replicas.iter().any(|r| r.broker == *broker));
        let empty = self
            .view
            .brokers
            .iter()
            .filter(|(id, broker)| broker.state == BrokerState::Draining && (!holds(id) || bugs::on(Bug::RetireTooSoon)));
        let steps: Vec<Step> = empty.map(|(id, _)| Step::Retire { broker: *id }).collect();
        self.steps.extend(steps);
    }
}

/// What a broker leads.
#[derive(Clone, Copy, Default)]
struct Share {
    /// Bytes per second, and the weight of each leader.
    load: f64,
    leads: usize,
}

/// A leader that could be handed over.
struct Transfer {
    journal: JournalId,
    to: u64,
    weight: f64,
    /// What its broker leads, and what the other one does, before.
    from: Share,
    into: Share,
}

fn leader_of(journal: &JournalView) -> Option<BrokerId> {
    let led = journal.led.as_ref()?;
    journal.replicas.iter().find(|replica| replica.id == led.leader).map(|replica| replica.broker)
}

fn weight(journal: &JournalView) -> f64 {
    journal.load + LEADER_WEIGHT
}

/// The transfer that relieves a broker the most that has too much.
fn by_load(transfers: &[Transfer], mean: f64, hysteresis: f64) -> Option<&Transfer> {
    let gain = |transfer: &Transfer| {
        let (busy, then) = (transfer.from.load, transfer.into.load + transfer.weight);
        busy - then.max(busy - transfer.weight)
    };
    let mut best: Option<(f64, &Transfer)> = None;
    for transfer in transfers.iter().filter(|transfer| transfer.from.load > mean * (1.0 + hysteresis)) {
        let gain = gain(transfer);
        if gain > mean * hysteresis / 2.0 && best.is_none_or(|(known, _)| gain > known) {
            best = Some((gain, transfer));
        }
    }
    best.map(|(_, transfer)| transfer)
}

/// The transfer that evens numbers out the most, of those after which nobody is near to having too much: else the two would take turns.
fn by_number(transfers: &[Transfer], mean: f64, hysteresis: f64) -> Option<&Transfer> {
    let fits = |transfer: &&Transfer| {
        let is_even = transfer.from.leads < transfer.into.leads + 2;
        !is_even && transfer.into.load + transfer.weight <= mean * (1.0 + hysteresis / 2.0)
    };
    let uneven = |transfer: &Transfer| transfer.from.leads - transfer.into.leads;
    transfers.iter().filter(fits).min_by(|one, other| {
        let by_evenness = uneven(other).cmp(&uneven(one));
        by_evenness.then(one.weight.total_cmp(&other.weight)).then((one.journal, one.to).cmp(&(other.journal, other.to)))
    })
}

/// Whether a broker has replicas of journals other than the catalog: until they are gone it has to hear what the catalog says of them.
fn holds_data(view: &FleetView, broker: BrokerId) -> bool {
    let data = view.journals.iter().filter(|(id, _)| **id != JournalId::CATALOG);
    data.flat_map(|(_, journal)| &journal.replicas).any(|replica| replica.broker == broker)
}

/// Two nodes are one where both are known.
fn shares(one: &str, other: &str) -> bool {
    !one.is_empty() && one == other
}
