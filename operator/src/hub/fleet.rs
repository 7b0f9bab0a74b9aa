//! Which brokers a hub should have, and the next steps towards that. Pure: what is seen goes in, steps come out; each step is found anew from what
//! is, so whoever takes them may end anywhere.
//!
//! Held by every plan: a broker's number is never used twice; nothing of a broker that came in is deleted before the catalog has it as retired; at most one broker
//! leaves or restarts at a time, and only while each journal has all its voters in sync; never fewer brokers than copies.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_crd::hub::UpdateType;
use tidegate_proto::operator::v1::{ClusterBrokerState, DescribeClusterResponse};

use super::labels::FIRST;

/// A broker that its hub has not heard of for so long does not take part, in milliseconds.
pub(super) const SILENT_MS: u64 = 5_000;

/// A broker as the cluster and the hub have it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Broker {
    /// There is a StatefulSet of it.
    pub has_workload: bool,
    /// There is a volume claim of it that is not being deleted.
    pub has_claim: bool,
    /// Its pod is ready.
    pub ready: bool,
    /// Its pod is of an older template, and not being deleted.
    pub outdated: bool,
    /// Its node has gone for good, and its volume with it.
    pub node_lost: bool,
    /// What the hub has of it; `None` before it came in, or while the hub is not reached.
    pub known: Option<Known>,
}

/// A broker as its hub has it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Known {
    /// What it does.
    pub state: ClusterBrokerState,
    /// It was heard of in the last [`SILENT_MS`].
    pub heard: bool,
    /// Journals of which it has a copy.
    pub replicas: u32,
    /// Journals that it leads.
    pub leads: u32,
    /// Bytes per second of the journals of which it has a copy.
    pub load: f64,
    /// It leads the catalog.
    pub leads_catalog: bool,
}

/// What the hub says of itself as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Whole {
    /// Copies that each journal shall have.
    pub factor: u32,
    /// Journals with fewer voters in sync than that, or without a leader.
    pub lacking: u32,
    /// The greatest number that a broker ever had.
    pub greatest: u32,
}

/// All that is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// How many brokers there shall be.
    pub wanted: u32,
    /// How many copies there shall be.
    pub factor: u32,
    /// Who replaces outdated pods.
    pub update: UpdateType,
    /// All brokers by number.
    pub brokers: BTreeMap<u32, Broker>,
    /// What the hub says; `None` while it is not reached.
    pub whole: Option<Whole>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Set the number of copies.
    SetFactor(u32),
    /// Commit that a broker's copies go elsewhere, for good.
    Drain {
        /// Which.
        broker: u32,
        /// Why.
        why: &'static str,
    },
    /// Delete what is left of a broker that was retired, or that never came in and does not serve.
    Remove(u32),
    /// Replace a broker's pod.
    Replace {
        /// Which.
        broker: u32,
        /// Why.
        why: &'static str,
    },
}

/// The brokers whose objects shall be there, and the next steps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Brokers whose StatefulSet and volume claim are applied.
    pub kept: BTreeSet<u32>,
    /// Those among them that are new.
    pub new: BTreeSet<u32>,
    /// What else to do.
    pub steps: Vec<Step>,
    /// What is waited for, for people.
    pub waits: Vec<String>,
}

/// Takes what the hub says into the brokers.
pub fn learn(brokers: &mut BTreeMap<u32, Broker>, told: &DescribeClusterResponse) -> Whole {
    let factor = told.replication_factor.max(1);
    let in_sync = |journal: &tidegate_proto::operator::v1::ClusterJournal| {
        journal.replicas.iter().filter(|replica| replica.votes && replica.in_sync).count()
    };
    let lacking = told.journals.iter().filter(|journal| journal.leader.is_none() || in_sync(journal) < factor as usize).count();
    let leads_catalog = told.journals.iter().find(|journal| journal.journal == 0).and_then(|catalog| catalog.leader);
    for broker in &told.brokers {
        let id = broker.broker_id;
        let held = told.journals.iter().filter(|journal| journal.replicas.iter().any(|replica| replica.broker == id));
        let known = Known {
            state: broker.state(),
            heard: broker.silent_ms.is_some_and(|silent| silent < SILENT_MS),
            replicas: broker.replicas,
            leads: broker.leads,
            load: held.map(|journal| journal.bytes_per_second).sum(),
            leads_catalog: leads_catalog == Some(id),
        };
        brokers.entry(id).or_default().known = Some(known);
    }
    let greatest = told.brokers.iter().map(|broker| broker.broker_id).max().unwrap_or(0);
    Whole { factor, lacking: u32::try_from(lacking).unwrap_or(u32::MAX), greatest }
}

impl Broker {
    fn state(&self) -> Option<ClusterBrokerState> {
        self.known.map(|known| known.state)
    }

    /// Whether it came into the hub and shall stay.
    pub fn is_active(&self) -> bool {
        self.state() == Some(ClusterBrokerState::Active)
    }

    /// Whether it was retired: nothing of it is needed.
    pub fn is_retired(&self) -> bool {
        self.state() == Some(ClusterBrokerState::Retired)
    }

    /// Whether its copies are on the way elsewhere.
    pub fn is_draining(&self) -> bool {
        self.state() == Some(ClusterBrokerState::Draining)
    }

    /// Whether anything of it is in the cluster.
    pub fn is_there(&self) -> bool {
        self.has_workload || self.has_claim
    }

    /// Whether its data has gone for good: somebody deleted its volume claim, or its node with the volume on it.
    pub fn is_lost(&self) -> bool {
        self.node_lost || (self.known.is_some() && self.has_workload && !self.has_claim)
    }

    fn serves(&self) -> bool {
        self.ready && self.known.is_some_and(|known| known.heard)
    }
}

/// The next steps.
pub fn plan(view: &View) -> Plan {
    let mut plan = Plan::default();
    // Those that stay, lost ones among them.
    let members: BTreeSet<u32> =
        view.brokers.iter().filter(|(_, broker)| broker.is_there() && !broker.is_retired()).map(|(id, _)| *id).collect();
    if members.is_empty() {
        // A hub that has brokers somewhere is not made anew: its first one must not come back empty.
        plan.kept = [FIRST].into();
        plan.new = [FIRST].into();
        return plan;
    }
    let alone = members.len() == 1;
    let is_kept = |id: &&u32| {
        let broker = &view.brokers[*id];
        // The claim of one that is lost is not made again: an empty volume is no copy.
        alone || (broker.has_claim && !broker.node_lost)
    };
    plan.kept = members.iter().filter(is_kept).copied().collect();
    let Some(whole) = view.whole else {
        replace_idle(view, &members, &mut plan);
        return plan;
    };
    for (id, _) in view.brokers.iter().filter(|(_, broker)| broker.is_retired() && broker.is_there()) {
        plan.steps.push(Step::Remove(*id));
    }
    let is_lost = |id: &&u32| !alone && view.brokers[*id].is_lost();
    let staying: Vec<u32> = members.iter().filter(|id| !view.brokers[*id].is_draining() && !is_lost(id)).copied().collect();
    grow(view, whole, &staying, &mut plan);
    let has_left = leave(view, whole, &members, &staying, &mut plan);
    replace_idle(view, &members, &mut plan);
    if !has_left {
        roll(view, whole, &members, &mut plan);
    }
    plan
}

/// New brokers, and more or fewer copies.
fn grow(view: &View, whole: Whole, staying: &[u32], plan: &mut Plan) {
    let greatest = view.brokers.keys().copied().max().unwrap_or(0).max(whole.greatest);
    let missing = view.wanted.saturating_sub(u32::try_from(staying.len()).unwrap_or(u32::MAX));
    for id in (greatest + 1..).take(missing as usize) {
        plan.kept.insert(id);
        plan.new.insert(id);
    }
    let active = staying.iter().filter(|id| view.brokers[*id].is_active() && view.brokers[*id].serves()).count();
    if view.factor < whole.factor || (view.factor > whole.factor && active >= view.factor as usize) {
        plan.steps.push(Step::SetFactor(view.factor));
    } else if view.factor > whole.factor {
        plan.waits.push(format!("{} copies of each record need as many brokers, and {active} serve", view.factor));
    }
}

/// Brokers that shall go: lost ones at once, one of too many when nothing else is on its way. True if one goes.
fn leave(view: &View, whole: Whole, members: &BTreeSet<u32>, staying: &[u32], plan: &mut Plan) -> bool {
    let mut goes = false;
    for id in members {
        let broker = &view.brokers[id];
        if broker.is_draining() {
            goes = true;
            let left = broker.known.map_or(0, |known| known.replicas);
            plan.waits.push(format!("broker {id} drains: copies of {left} journals are still on it"));
        } else if members.len() > 1 && broker.is_lost() && broker.is_active() {
            goes = true;
            plan.steps.push(Step::Drain { broker: *id, why: "its node or volume has gone for good" });
        } else if members.len() > 1 && broker.is_lost() && broker.known.is_none() && !broker.ready {
            plan.steps.push(Step::Remove(*id));
        }
    }
    // Somebody took away all that there was of it: nobody may count on its copies.
    for (id, _) in view.brokers.iter().filter(|(_, broker)| broker.is_active() && !broker.is_there()) {
        goes = true;
        plan.steps.push(Step::Drain { broker: *id, why: "neither its StatefulSet nor its volume claim is there" });
    }
    let surplus = u32::try_from(staying.len()).unwrap_or(u32::MAX).saturating_sub(view.wanted);
    if goes || surplus == 0 {
        return goes;
    }
    let never_came = |id: &&u32| view.brokers[*id].known.is_none() && !view.brokers[*id].ready;
    if let Some(id) = staying.iter().skip(1).rfind(never_came) {
        plan.kept.remove(id);
        plan.steps.push(Step::Remove(*id));
        return true;
    }
    if whole.factor != view.factor || whole.lacking > 0 {
        plan.waits.push(format!(
            "{surplus} brokers are too many; one goes when all journals have {} voters in sync ({} have not)",
            view.factor, whole.lacking
        ));
        return false;
    }
    if staying.len() as u32 <= view.factor {
        plan.waits.push(format!("no broker goes: {} copies of each record need as many brokers", view.factor));
        return false;
    }
    let Some(broker) = cheapest(view, staying) else { return false };
    plan.steps.push(Step::Drain { broker, why: "there are more brokers than spec.brokers.replicas asks for" });
    true
}

/// The broker that costs least to lose: one that serves nobody, then the fewest copies to move, the least traffic, the fewest leaders, and of equals
/// the newest. The eldest stays: it would take the next one's restart, as that one would become the founder.
fn cheapest(view: &View, staying: &[u32]) -> Option<u32> {
    let eldest = staying.iter().min().copied()?;
    let cost = |id: &u32| {
        let broker = &view.brokers[id];
        let known = broker.known.unwrap_or_default();
        (broker.serves(), known.replicas, known.load as u64, known.leads_catalog, known.leads, std::cmp::Reverse(*id))
    };
    staying.iter().copied().filter(|id| *id != eldest).min_by_key(cost)
}

/// Outdated pods that serve nobody are replaced at once, so that a bad template never stands in the way of its own correction.
fn replace_idle(view: &View, members: &BTreeSet<u32>, plan: &mut Plan) {
    for id in members.iter().filter(|id| view.brokers[*id].outdated && !view.brokers[*id].ready) {
        plan.steps.push(Step::Replace { broker: *id, why: "it is outdated and does not serve" });
    }
}

/// One outdated pod that serves, if all others serve and nothing lacks a copy; the one that leads the catalog last.
fn roll(view: &View, whole: Whole, members: &BTreeSet<u32>, plan: &mut Plan) {
    let outdated: Vec<u32> = members.iter().filter(|id| view.brokers[*id].outdated && view.brokers[*id].ready).copied().collect();
    if outdated.is_empty() || view.update == UpdateType::OnDelete {
        return;
    }
    let alone = members.len() == 1;
    let holds = |id: &&u32| !view.brokers[*id].serves();
    if !alone && (whole.lacking > 0 || members.iter().any(|id| holds(&id)) || !plan.new.is_empty()) {
        plan.waits.push(format!(
            "{} pods are outdated; the next is replaced when all brokers serve and all journals have their voters in sync ({} have not)",
            outdated.len(),
            whole.lacking
        ));
        return;
    }
    let order = |id: &u32| {
        let known = view.brokers[id].known.unwrap_or_default();
        (known.leads_catalog, known.leads, *id)
    };
    if let Some(broker) = outdated.into_iter().min_by_key(order) {
        plan.steps.push(Step::Replace { broker, why: "it is outdated" });
    }
}

/// Pods that a drain of nodes may take at a time: as many as every journal can lose and still go on, none while one lacks a copy.
pub fn may_leave(view: &View) -> u32 {
    match view.whole {
        Some(whole) if whole.factor >= 3 && whole.lacking > 0 => 0,
        Some(whole) if whole.factor >= 3 => (whole.factor - 1) / 2,
        _ => 1,
    }
}

#[cfg(test)]
#[path = "fleet_tests.rs"]
mod tests;
