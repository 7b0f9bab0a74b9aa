//! A hub's status: what was seen and measured, never what was wished. Pure but for [`Measured::gather`].

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::events::EventType;
use tidegate_crd::status::{BrokerStatus, ListenerStatus, Recovered};
use tidegate_crd::{Hub, HubStatus};
use tidegate_proto::operator::v1 as wire;

use super::found::Found;
use super::labels::{FIRST, Names, selector};
use super::{fleet, pods};
use crate::catalog::LinkState;
use crate::catalog::link::{HubKey, HubNumbers};
use crate::conditions::{self, Wanted};
use crate::context::Context;

/// What somebody has to look at: a reason in one word, and a sentence.
pub type Problem = (&'static str, String);

/// Names of detached topics that a status carries at most.
const MOST_DETACHED: usize = 100;

/// The brokers as they are and as they shall be.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    /// What the hub says of itself; `None` while it is not reached.
    pub told: Option<wire::DescribeClusterResponse>,
    /// What is known.
    pub view: fleet::View,
    /// What is done.
    pub plan: fleet::Plan,
}

/// What was seen of a hub.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// The brokers.
    pub fleet: Fleet,
    /// Brokers that have a pod.
    pub with_pod: BTreeSet<u32>,
    /// Whether each pod is of the newest template.
    pub up_to_date: bool,
    /// Why pods do not serve, by broker.
    pub troubles: BTreeMap<u32, Problem>,
    /// What keeps the objects from being as they should.
    pub problems: Vec<Problem>,
    /// How the link stands.
    pub link: Option<LinkState>,
    /// The hub's numbers.
    pub numbers: Option<HubNumbers>,
    /// Topics that the hub has.
    pub topics: Option<usize>,
    /// Topics whose object has gone.
    pub detached: Vec<String>,
}

impl Measured {
    /// Looks at everything.
    pub fn gather(ctx: &Context, key: &HubKey, found: &Found, fleet: Fleet, problems: Vec<Problem>) -> Measured {
        let link = ctx.links.get(key);
        let known = link.as_ref().and_then(|link| link.synced(|mirror| (mirror.living(), mirror.detached(MOST_DETACHED))));
        let trouble = |id: &u32| Some((*id, pods::trouble(found.pods.get(id)?, found.claims.get(id))?));
        let is_new = |id: &u32| {
            let revision = found.workloads.get(id).and_then(|workload| workload.status.as_ref()?.update_revision.clone());
            let present = found.pods.get(id).and_then(|pod| pod.labels().get("controller-revision-hash").cloned());
            present.is_some() && present == revision
        };
        Measured {
            up_to_date: fleet.plan.kept.iter().all(is_new),
            with_pod: found.pods.keys().copied().collect(),
            troubles: fleet.view.brokers.keys().filter_map(trouble).collect(),
            fleet,
            problems,
            link: link.as_ref().map(|link| link.state()),
            numbers: link.as_ref().and_then(|link| link.numbers()),
            topics: known.as_ref().map(|(topics, _)| *topics),
            detached: known.map(|(_, detached)| detached).unwrap_or_default(),
        }
    }

    fn is_linked(&self) -> bool {
        matches!(self.link, Some(LinkState::Synced { .. }))
    }

    /// Brokers that shall be there and serve.
    fn ready(&self) -> u32 {
        let brokers = &self.fleet.view.brokers;
        let serving = brokers.values().filter(|broker| broker.ready && !broker.is_draining() && !broker.is_retired());
        u32::try_from(serving.count()).unwrap_or(u32::MAX)
    }

    /// Journals that lack a copy, if that is known.
    fn lacking(&self) -> Option<u32> {
        self.fleet.view.whole.map(|whole| whole.lacking)
    }

    fn wanted(&self) -> u32 {
        self.fleet.view.wanted.max(1)
    }

    /// Whether all brokers are there, serve, and are of the newest template.
    fn is_staffed(&self) -> bool {
        let plan = &self.fleet.plan;
        self.ready() >= self.wanted() && self.up_to_date && plan.new.is_empty() && plan.steps.is_empty() && plan.waits.is_empty()
    }

    fn recovered(&self) -> Option<Recovered> {
        self.numbers.as_ref()?.recovery.as_ref().filter(|_| self.is_linked()).map(super::recovery::told)
    }

    /// Whether nothing is on its way.
    pub fn is_settled(&self) -> bool {
        self.is_staffed() && self.is_linked() && self.problems.is_empty() && self.lacking() == Some(0)
    }
}

/// The status of a hub.
pub fn status_of(hub: &Hub, seen: &Measured, installation: &str, now: Timestamp) -> HubStatus {
    let old = hub.status.clone().unwrap_or_default();
    let names = Names::of(hub);
    let generation = hub.metadata.generation;
    let namespace = hub.namespace().unwrap_or_default();
    let listeners: Vec<ListenerStatus> = hub
        .spec
        .listeners
        .iter()
        .enumerate()
        .map(|(index, listener)| ListenerStatus {
            name: listener.name.clone(),
            address: format!("{}.{namespace}.svc:{}", names.listener(index, &listener.name), listener.port),
        })
        .collect();
    let hub_id = match &seen.link {
        Some(LinkState::Synced { hub_id }) => Some(hub_id.to_string()),
        _ => old.hub_id.clone(),
    };
    let select: Vec<String> = selector(hub).into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    HubStatus {
        observed_generation: generation,
        hub_id,
        replicas: count(seen.with_pod.len()),
        ready_replicas: count(seen.ready() as usize),
        brokers_ready: format!("{}/{}", seen.ready(), seen.wanted()),
        replication_factor: seen.fleet.view.whole.map(|whole| count(whole.factor as usize)).or(old.replication_factor),
        under_replicated_journals: seen.lacking().map(|lacking| count(lacking as usize)).or(old.under_replicated_journals),
        leaders: leaders(seen).or_else(|| old.leaders.clone()),
        selector: Some(select.join(",")),
        address: listeners.first().map(|listener| listener.address.clone()),
        listeners,
        brokers: seen.fleet.view.brokers.iter().filter_map(|(id, broker)| broker_status(&names, *id, broker, seen)).collect(),
        topics: seen.topics.map(|topics| u32::try_from(topics).unwrap_or(u32::MAX)).or(old.topics),
        detached_topics: if seen.is_linked() { seen.detached.clone() } else { old.detached_topics.clone() },
        pending_deletions: old.pending_deletions.clone(),
        recovered: seen.recovered().or_else(|| old.recovered.clone()),
        conditions: with_note(
            &old.conditions,
            conditions::merge(&old.conditions, &wanted(hub, seen), generation, now),
            installation,
        ),
    }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// How many journals each broker leads that takes part.
fn leaders(seen: &Measured) -> Option<String> {
    seen.fleet.told.as_ref()?;
    let taking_part = seen.fleet.view.brokers.values().filter(|broker| broker.is_active());
    let leads: Vec<String> = taking_part.filter_map(|broker| Some(broker.known?.leads.to_string())).collect();
    Some(leads.join("/"))
}

/// `None` for one of which nothing is left.
fn broker_status(names: &Names<'_>, id: u32, broker: &fleet::Broker, seen: &Measured) -> Option<BrokerStatus> {
    let has_pod = seen.with_pod.contains(&id);
    if !broker.is_there() && !has_pod && !broker.is_active() && !broker.is_draining() {
        return None;
    }
    let state = match broker {
        _ if broker.is_retired() => "Retired",
        _ if broker.is_draining() => "Draining",
        _ if broker.is_lost() && seen.fleet.view.brokers.len() > 1 => "Lost",
        _ if !has_pod => "Missing",
        _ if broker.ready => "Ready",
        _ => "NotReady",
    };
    let known = broker.known.unwrap_or_default();
    Some(BrokerStatus {
        id: i32::try_from(id).unwrap_or(i32::MAX),
        pod: names.pod(id),
        volume_claim: names.workload(id),
        state: state.to_owned(),
        replicas: count(known.replicas as usize),
        leads: count(known.leads as usize),
        message: seen.troubles.get(&id).map(|(_, message)| message.clone()),
    })
}

/// What is left when a Hub is deleted, and how it is taken up again. Pure.
pub fn what_stays(hub: &Hub) -> String {
    let id = hub.status.as_ref().and_then(|status| status.hub_id.as_deref());
    let claims: Vec<&str> =
        hub.status.iter().flat_map(|status| &status.brokers).map(|broker| broker.volume_claim.as_str()).collect();
    let first = Names::of(hub).workload(FIRST);
    let claim = match claims.as_slice() {
        [] => format!("volume claim {first}"),
        [claim] => format!("volume claim {claim}"),
        claims => format!("volume claims {}", claims.join(", ")),
    };
    let store = match &hub.spec.object_store.s3 {
        Some(s3) => format!("everything under {} of bucket {}", super::config::prefix(hub), s3.bucket),
        None => "the object store".to_owned(),
    };
    let again = match id {
        Some(id) => format!("a Hub of the same name with spec.restoreFrom.hubId: {id} takes them up again"),
        None => "it never served".to_owned(),
    };
    format!("the Hub was deleted; {claim} and {store} stay: {again}")
}

/// The condition that an installation writes which leaves a hub to another one. Pure.
pub fn left_alone(ours: &str, holder: &str, hub: &str) -> Wanted {
    let message = format!(
        "{}; operator {ours}, which watches this namespace too, leaves the hub alone. If {holder} was uninstalled: kubectl annotate hub {hub} {}-",
        acts(holder),
        crate::context::OPERATED_BY
    );
    Wanted::new(OPERATED_ELSEWHERE, Some(true), "ClaimedByAnother", message)
}

const OPERATED_ELSEWHERE: &str = "OperatedElsewhere";

fn acts(holder: &str) -> String {
    format!("operator {holder} acts on this hub")
}

/// Our conditions, and the note of another installation while it is about us: it is true, and people should see it.
fn with_note(old: &[Condition], mut new: Vec<Condition>, installation: &str) -> Vec<Condition> {
    let begin = format!("{};", acts(installation));
    new.extend(old.iter().find(|known| known.type_ == OPERATED_ELSEWHERE && known.message.starts_with(&begin)).cloned());
    new
}

fn wanted(hub: &Hub, seen: &Measured) -> Vec<Wanted> {
    let linked = seen.is_linked();
    let trouble = degradation(seen);
    let (ready, reason, message) = match &trouble {
        Some((reason, message)) => (false, *reason, message.clone()),
        None if hub.spec.paused => (seen.ready() > 0, "Paused", "spec.paused is true: changes wait".to_owned()),
        None if seen.with_pod.is_empty() => (false, "BrokerStarting", "the broker's pod is not there yet".to_owned()),
        None if seen.ready() < seen.wanted() => {
            (false, "BrokerStarting", format!("{} of {} brokers serve", seen.ready(), seen.wanted()))
        }
        None if !linked => (false, "CatalogUnknown", why_unlinked(seen)),
        None if seen.lacking().is_some_and(|lacking| lacking > 0) => (
            false,
            "UnderReplicated",
            format!("{} journals have no leader, or fewer voters in sync than there shall be", seen.lacking().unwrap_or(0)),
        ),
        None => (true, "Serving", "all is as the object says".to_owned()),
    };
    let progressing = !seen.problems.is_empty() || !seen.is_staffed();
    let mut conditions = vec![
        Wanted::new("Ready", Some(ready && linked), if ready && !linked { "CatalogUnknown" } else { reason }, message),
        if seen.ready() > 0 {
            Wanted::new("Available", Some(true), "BrokerReady", "clients are served")
        } else {
            Wanted::new("Available", Some(false), "NoBroker", "no broker serves")
        },
        if progressing {
            let waits = &seen.fleet.plan.waits;
            let what =
                if waits.is_empty() { "pods or volumes are not yet as they should be".to_owned() } else { waits.join("; ") };
            Wanted::new("Progressing", Some(true), "Changing", what)
        } else {
            Wanted::new("Progressing", Some(false), "Settled", "")
        },
        match trouble.or_else(|| tier_trouble(seen)) {
            Some((reason, message)) => Wanted::new("Degraded", Some(true), reason, message),
            None => Wanted::new("Degraded", Some(false), "AsExpected", ""),
        },
    ];
    conditions.push(match seen.numbers.as_ref().filter(|_| linked) {
        Some(HubNumbers { tier_problem: None, .. }) => Wanted::new("TierAvailable", Some(true), "Reached", ""),
        Some(HubNumbers { tier_problem: Some(said), .. }) => Wanted::new("TierAvailable", Some(false), "Unreachable", away(said)),
        None => Wanted::new("TierAvailable", None, "NotMeasured", "no broker has said yet"),
    });
    conditions
}

/// Clients are served without the object store, so the hub stays Ready; but somebody has to look.
fn tier_trouble(seen: &Measured) -> Option<Problem> {
    let said = seen.numbers.as_ref()?.tier_problem.as_ref().filter(|_| seen.is_linked())?;
    Some(("ObjectStoreUnavailable", away(said)))
}

fn away(said: &str) -> String {
    let said = if said.is_empty() { "see the brokers' logs" } else { said };
    format!("the object store cannot be reached or refuses; records stay on the brokers' disks until it can: {said}")
}

/// What somebody has to look at.
fn degradation(seen: &Measured) -> Option<Problem> {
    if let Some((reason, _)) = seen.problems.first() {
        let all: Vec<&str> = seen.problems.iter().map(|(_, message)| message.as_str()).collect();
        return Some((reason, all.join("; ")));
    }
    match &seen.link {
        Some(LinkState::Fenced) => {
            return Some(("OperatedElsewhere", "another operator took the hub over; it is left alone for a minute".to_owned()));
        }
        Some(LinkState::WrongHub { message }) => {
            return Some(("HubChanged", format!("the broker belongs to another hub: {message}")));
        }
        _ => {}
    }
    let is_needed = |id: &u32| seen.fleet.view.brokers.get(id).is_none_or(|broker| !broker.is_draining() && !broker.is_retired());
    seen.troubles.iter().find(|(id, _)| is_needed(id)).map(|(_, trouble)| trouble.clone())
}

fn why_unlinked(seen: &Measured) -> String {
    match &seen.link {
        Some(LinkState::Down { why, .. }) => format!("the broker serves, and the operator cannot reach it: {why}"),
        _ => "the operator is connecting to the broker".to_owned(),
    }
}

/// What is worth an Event: readiness turned, or the reason of a degradation.
pub fn turned(old: &HubStatus, new: &HubStatus) -> Option<(EventType, String, String)> {
    let find = |status: &HubStatus, kind: &str| status.conditions.iter().find(|condition| condition.type_ == kind).cloned();
    let (was, is) = (find(old, "Degraded"), find(new, "Degraded")?);
    if is.status == "True" && was.is_none_or(|was| was.status != "True" || was.reason != is.reason) {
        return Some((EventType::Warning, is.reason, is.message));
    }
    let (was, is) = (find(old, "Ready"), find(new, "Ready")?);
    let turned = was.is_none_or(|was| was.status != is.status);
    (turned && is.status == "True").then_some((EventType::Normal, "Ready".to_owned(), is.message))
}
