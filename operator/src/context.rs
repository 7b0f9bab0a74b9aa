//! What all reconcilers share.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Resource, ResourceExt};
use parking_lot::Mutex;
use tidegate_crd::{Hub, Topic};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use crate::catalog::link::HubKey;
use crate::catalog::{BrokerNetwork, Links, ObjectId};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::settings::Settings;

/// On a Hub: the installation that acts on it, as `NAMESPACE/LEASE`. Another installation leaves the hub alone.
pub const OPERATED_BY: &str = "tidegate.dev/operated-by";

/// First and greatest wait after an error.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));

/// What all reconcilers share.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// Settings.
    pub settings: Settings,
    /// All Hubs.
    pub hubs: Store<Hub>,
    /// All Topics.
    pub topics: Store<Topic>,
    // Not the stores' own way to wait: it wakes one waiter only.
    pub(crate) hubs_known: watch::Receiver<bool>,
    pub(crate) topics_known: watch::Receiver<bool>,
    /// Links to hubs.
    pub links: Links,
    /// Where brokers are.
    pub network: Arc<dyn BrokerNetwork>,
    /// Numbers about ourselves.
    pub metrics: Arc<Metrics>,
    pub(crate) events: mpsc::Sender<(Event, ObjectReference)>,
    pub(crate) wake_topics: mpsc::Sender<ObjectRef<Topic>>,
    pub(crate) wake_hubs: mpsc::Sender<ObjectRef<Hub>>,
    pub(crate) attempts: Mutex<HashMap<String, u32>>,
    pub(crate) poked: Mutex<HashSet<HubKey>>,
    /// What the load of hubs that scale by it asked for lately.
    pub(crate) scaling: Mutex<HashMap<HubKey, crate::hub::autoscale::History>>,
    /// When this operator began: times of `scaling` count from here.
    pub(crate) begun: Instant,
    /// Uids of the hubs of which a broker has served since this operator began.
    pub(crate) served: Mutex<HashMap<HubKey, String>>,
    /// Objects of hubs whose fields were set back, and when.
    pub(crate) contested: Mutex<HashMap<(HubKey, String), Instant>>,
}

/// Events that wait to be published, of some hundred bytes each: what one change to each of thousands of topics brings. More are left out.
pub(crate) const EVENTS: usize = 8 * 1024;
/// Events that are published at a time: they come after what people wait for.
const EVENTS_AT_A_TIME: usize = 2;

/// Publishes events until the senders are gone.
pub(crate) async fn publish(recorder: Recorder, events: mpsc::Receiver<(Event, ObjectReference)>) {
    let recorder = &recorder;
    let published = ReceiverStream::new(events).for_each_concurrent(EVENTS_AT_A_TIME, |(event, object)| async move {
        if let Err(error) = recorder.publish(&event, &object).await {
            tracing::debug!(%error, reason = event.reason, "an event was not published");
        }
    });
    published.await;
}

/// The action of an Event. The recorder counts an Event up instead of making another when reason and action are those of a recent one, whatever
/// the note says: so each note has an action of its own, and none is lost.
fn action(reason: &str, note: &str) -> String {
    let mut hasher = DefaultHasher::new();
    note.hash(&mut hasher);
    format!("{reason}-{:016x}", hasher.finish())
}

/// A hub's key.
pub fn hub_key(hub: &Hub) -> HubKey {
    HubKey { namespace: hub.namespace().unwrap_or_default(), name: hub.name_any() }
}

impl Context {
    /// Waits until all Hubs were listed; false when that will never be.
    pub async fn hubs_are_known(&self) -> bool {
        self.hubs_known.clone().wait_for(|known| *known).await.is_ok()
    }

    /// Waits until all Topics were listed; false when that will never be.
    pub async fn topics_are_known(&self) -> bool {
        self.topics_known.clone().wait_for(|known| *known).await.is_ok()
    }

    /// A Hub as last seen.
    pub fn hub(&self, key: &HubKey) -> Option<Arc<Hub>> {
        self.hubs.get(&ObjectRef::new(&key.name).within(&key.namespace))
    }

    /// The Hub of a Topic as last seen.
    pub fn hub_of(&self, topic: &Topic) -> Option<Arc<Hub>> {
        let name = &topic.spec.hub_ref.as_ref()?.name;
        self.hubs.get(&ObjectRef::new(name).within(&topic.namespace().unwrap_or_default()))
    }

    /// The object that a topic is bound to, as last seen; `None` too if another one has its name now.
    pub fn topic_of(&self, bound: &ObjectId) -> Option<Arc<Topic>> {
        let object = self.topics.get(&ObjectRef::new(&bound.name).within(&bound.namespace))?;
        (object.metadata.uid.as_deref() == Some(&bound.uid)).then_some(object)
    }

    /// Whether this installation acts on a hub.
    pub fn is_ours(&self, hub: &Hub) -> bool {
        hub.annotations().get(OPERATED_BY).is_none_or(|holder| *holder == self.settings.installation())
    }

    /// Whether clients have been served by this hub, which is what Ready means for its Topics.
    pub fn has_served(&self, hub: &Hub) -> bool {
        self.served.lock().get(&hub_key(hub)).is_some_and(|uid| Some(uid) == hub.metadata.uid.as_ref())
    }

    /// Notes that clients are served by this hub, and has its Topics looked at if that is news.
    pub async fn serves(&self, hub: &Hub) {
        let key = hub_key(hub);
        if self.has_served(hub) {
            return;
        }
        self.served.lock().insert(key.clone(), hub.uid().unwrap_or_default());
        for topic in self.topics.state_filter(|topic| self.hub_of(topic).is_some_and(|of| hub_key(&of) == key)) {
            let _ = self.wake_topics.send(ObjectRef::from_obj(&*topic)).await;
        }
    }

    /// Has a Topic looked at. A full queue is no loss: whatever woke us wakes us again, or the queue's objects see it.
    pub fn poke_topic(&self, topic: &Topic) {
        let _ = self.wake_topics.try_send(ObjectRef::from_obj(topic));
    }

    /// Has a Hub looked at.
    pub fn poke_hub(&self, key: &HubKey) {
        let _ = self.wake_hubs.try_send(ObjectRef::new(&key.name).within(&key.namespace));
    }

    /// Has an Event about an object published, soon: nothing waits for it. One that cannot be published is only logged.
    pub fn event<K: Resource<DynamicType = ()>>(&self, object: &K, kind: EventType, reason: &str, note: &str) {
        debug_assert!(crate::reasons::is_event(&K::kind(&()), reason), "Event {reason} is not in reasons.rs");
        let note: String = note.chars().take(1000).collect();
        let action = action(reason, &note);
        let event = Event { type_: kind, reason: reason.to_owned(), note: Some(note), action, secondary: None };
        if self.events.try_send((event, object.object_ref(&()))).is_err() {
            tracing::debug!(reason, "an event was left out: too many are waiting");
        }
    }

    /// What to do after an error: try again, later each time, not all at once.
    pub fn after_error<K: Resource<DynamicType = ()>>(&self, object: &K, error: &Error) -> Action {
        let key = format!("{}/{}/{}", K::kind(&()), object.namespace().unwrap_or_default(), object.name_any());
        let attempt = {
            let mut attempts = self.attempts.lock();
            let attempt = attempts.entry(key.clone()).or_default();
            *attempt += 1;
            *attempt
        };
        self.metrics.failed(&K::kind(&()), error.kind());
        let wait = RETRY.0.saturating_mul(1 << attempt.min(12)).min(RETRY.1).mul_f64(0.75 + rand::random::<f64>() / 2.0);
        tracing::warn!(object = %key, %error, attempt, "will be tried again in {:.1} s", wait.as_secs_f64());
        Action::requeue(wait)
    }

    /// Forgets errors of an object that went well.
    pub fn went_well<K: Resource<DynamicType = ()>>(&self, object: &K) {
        let mut attempts = self.attempts.lock();
        if !attempts.is_empty() {
            attempts.remove(&format!("{}/{}/{}", K::kind(&()), object.namespace().unwrap_or_default(), object.name_any()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_together_only_if_they_say_the_same() {
        let grown = action("Scaling", "the load asks for 4 brokers instead of 3 (bytes in)");
        assert_eq!(grown, action("Scaling", "the load asks for 4 brokers instead of 3 (bytes in)"));
        assert_ne!(grown, action("Scaling", "the load asks for 3 brokers instead of 4 (bytes in)"));
        assert!(grown.len() <= 128, "what the API server takes: {grown}");
    }
}
