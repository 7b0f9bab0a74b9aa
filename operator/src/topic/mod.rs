//! Topics: each object is looked at, a pure plan says the next step, the step is done, until there is nothing left to do.
//!
//! Reading what a plan needs ([`plan::Seen`]), doing what it says and writing the status are here; deciding is not.

pub mod adopt;
pub mod measure;
pub mod plan;
pub mod settings;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::controller::Action;
use kube::runtime::events::EventType;
use kube::{Api, CustomResourceExt, ResourceExt};
use serde_json::{Value, json};
use tidegate_crd::{Hub, Management, Topic, TopicStatus};
use tidegate_model::TopicUid;
use tidegate_proto::errors::Reason;
use tidegate_proto::operator::v1 as wire;
use tidegate_proto::v1;

use crate::catalog::{CallError, LinkState};
use crate::conditions::{self, Wanted};
use crate::context::{Context, hub_key};
use crate::error::Error;
use plan::{FINALIZER, Fact, HubView, Next, Readiness, Report, Seen, Wish};

/// Steps for one object before others get their turn.
const STEPS: usize = 12;
/// A hub that is out of reach for so long is mentioned in its topics' status.
const SILENT: Duration = Duration::from_secs(20);
/// A deletion waits so long for the hub before the wish is noted and the object let go.
const DELETION_PATIENCE: Duration = Duration::from_secs(120);
/// When to look again at what only time can change.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// When to try again what a broker refused.
const REFUSED_AGAIN: Duration = Duration::from_secs(60);

/// Brings one object and its topic together.
pub async fn reconcile(object: Arc<Topic>, ctx: Arc<Context>) -> Result<Action, Error> {
    ctx.metrics.reconciled("Topic");
    let mut work = Work::new(&ctx, Topic::clone(&object));
    if work.object.metadata.deletion_timestamp.is_none() && !object.managed_fields().is_empty() {
        match adopt::leave(&work.api, &object).await? {
            Some(left) => work.object = left,
            None => return Ok(Action::await_change()),
        }
    }
    for _ in 0..STEPS {
        if let Some(action) = work.step().await? {
            return Ok(action);
        }
    }
    Ok(Action::requeue(LOOK_AGAIN))
}

struct Work<'a> {
    ctx: &'a Context,
    object: Topic,
    api: Api<Topic>,
    namespace_going: Fact,
    other_gone: Fact,
}

impl<'a> Work<'a> {
    fn new(ctx: &'a Context, object: Topic) -> Work<'a> {
        let api = Api::namespaced(ctx.client.clone(), &object.namespace().unwrap_or_default());
        Work { ctx, object, api, namespace_going: Fact::Unknown, other_gone: Fact::Unknown }
    }

    fn hub(&self) -> Option<Arc<Hub>> {
        self.ctx.hub_of(&self.object)
    }

    /// Plans by what is known now.
    fn next(&self) -> Next {
        let patience = self.ctx.settings.deletion_patience.unwrap_or(DELETION_PATIENCE);
        let waited = self.has_waited(patience);
        let Some(hub) = self.hub() else { return self.plan(HubView::Missing, false, waited) };
        if !self.ctx.is_ours(&hub) {
            // Whoever acts on the hub comes first, and notes the wish if the hub does not answer.
            return self.plan(HubView::Elsewhere, false, self.has_waited(patience * 2));
        }
        if hub.metadata.deletion_timestamp.is_some() {
            return self.plan(HubView::Going, false, waited);
        }
        let unknown = |why: &str, is_long| self.plan(HubView::Unknown { why, is_long }, hub.spec.paused, waited);
        let Some(link) = self.ctx.links.get(&hub_key(&hub)) else { return unknown("connecting", false) };
        if let Some(next) = link.synced(|mirror| self.plan(HubView::Known(mirror), hub.spec.paused, waited)) {
            return next;
        }
        match link.state() {
            LinkState::Down { since, why } => unknown(&why, since.elapsed() >= SILENT),
            LinkState::Fenced => unknown("another operator took the hub over", true),
            LinkState::WrongHub { message } => unknown(&message, true),
            LinkState::Synced { .. } => unknown("connecting", false),
        }
    }

    /// Whether the object has been going for so long.
    fn has_waited(&self, patience: Duration) -> bool {
        self.object.metadata.deletion_timestamp.as_ref().is_some_and(|since| {
            let waited = Timestamp::now().duration_since(since.0);
            waited.as_secs() >= i64::try_from(patience.as_secs()).unwrap_or(i64::MAX)
        })
    }

    fn plan(&self, hub: HubView<'_>, is_paused: bool, waited: bool) -> Next {
        plan::plan(&Seen {
            object: &self.object,
            hub,
            is_paused,
            is_served: self.hub().is_some_and(|hub| self.ctx.has_served(&hub)),
            namespace_going: self.namespace_going,
            other_gone: self.other_gone,
            waited,
        })
    }

    /// One step; an action when there is nothing more to do now.
    async fn step(&mut self) -> Result<Option<Action>, Error> {
        let next = self.next();
        tracing::debug!(topic = %self.object.name_any(), ?next, "next step");
        match next {
            Next::Rest(report) => {
                self.report(&report).await?;
                let again =
                    if report.readiness == Readiness::Unknown { Action::requeue(LOOK_AGAIN * 6) } else { Action::await_change() };
                return Ok(Some(again));
            }
            Next::Wait => {
                let is_waiting = self.object.metadata.deletion_timestamp.is_none() || self.has_finalizer();
                return Ok(Some(if is_waiting { Action::requeue(LOOK_AGAIN) } else { Action::await_change() }));
            }
            Next::CheckNamespace => self.namespace_going = self.look_at_namespace().await?,
            Next::CheckOther(other) => {
                let api: Api<Topic> = Api::namespaced(self.ctx.client.clone(), &other.namespace);
                let found = api.get_opt(&other.name).await?;
                self.other_gone =
                    if found.is_some_and(|found| found.uid().as_deref() == Some(&other.uid)) { Fact::No } else { Fact::Yes };
            }
            Next::AddFinalizer => self.set_finalizer(true).await?,
            Next::Release(why) => {
                if let Some(why) = why {
                    self.event(EventType::Normal, "Released", &why);
                }
                self.set_finalizer(false).await?;
                if self.object.metadata.deletion_timestamp.is_some() {
                    return Ok(Some(Action::await_change()));
                }
            }
            Next::Note(wish) => {
                self.note(&wish).await?;
                let note = format!("the hub cannot be reached: topic `{}` will be deleted when it is back", wish.name);
                self.event(EventType::Warning, "DeletionNoted", &note);
                self.set_finalizer(false).await?;
                return Ok(Some(Action::await_change()));
            }
            Next::MarkAdopted(uid) => {
                let status = json!({"topicUid": uid.to_string(), "adoptedGeneration": self.object.metadata.generation});
                self.patch_status(status).await?;
            }
            Next::Follow(spec) => self.follow(&spec).await?,
            Next::DeleteObject => return self.delete_object().await.map(Some),
            calls => return self.call(calls).await,
        }
        Ok(None)
    }

    /// Steps that go to the brokers.
    async fn call(&mut self, next: Next) -> Result<Option<Action>, Error> {
        let link = self.hub().and_then(|hub| self.ctx.links.get(&hub_key(&hub)));
        let Some(link) = link else { return Ok(Some(Action::requeue(LOOK_AGAIN))) };
        let mine = plan::identity(&self.object);
        let bound: v1::BoundObject = mine.clone().into();
        let name = self.object.spec.topic_name(&mine.name).to_owned();
        let management = self.management();
        let (outcome, reason, what) = match next {
            Next::Create(settings) => {
                let request = wire::CreateTopicRequest {
                    name: name.clone(),
                    settings: Some(settings),
                    bound_object: Some(bound),
                    management,
                    ..Default::default()
                };
                (link.create(request).await.map(drop), "Created", format!("topic `{name}` was made"))
            }
            Next::Bind { uid, expected } => {
                let request = wire::BindTopicRequest {
                    topic_uid: bytes_of(uid),
                    expected_bound_object: expected.map(Into::into),
                    bound_object: Some(bound),
                    management,
                    ..Default::default()
                };
                (link.bind(request).await.map(drop), "Bound", format!("this object has topic `{name}` ({uid}) now"))
            }
            Next::Alter { uid, revision, settings } => {
                let request = wire::AlterTopicRequest {
                    topic_uid: bytes_of(uid),
                    expected_revision: Some(revision),
                    expected_bound_object: Some(bound),
                    settings: Some(settings),
                    ..Default::default()
                };
                (link.alter(request).await.map(drop), "Altered", format!("topic `{name}` was changed as the object says"))
            }
            Next::Delete(uid) => {
                // The last look before something is destroyed is a fresh one.
                let Some(fresh) = self.api.get_opt(&mine.name).await? else { return Ok(Some(Action::await_change())) };
                let is_same =
                    fresh.uid() == self.object.uid() && fresh.metadata.resource_version == self.object.metadata.resource_version;
                if !is_same {
                    self.object = fresh;
                    return Ok(if plan::identity(&self.object) == mine { None } else { Some(Action::await_change()) });
                }
                let request = wire::DeleteTopicRequest {
                    topic_uid: bytes_of(uid),
                    expected_bound_object: Some(bound),
                    ..Default::default()
                };
                let what = format!("topic `{name}` was deleted; it can be restored for 24 h");
                (link.delete(request).await, "Deleted", what)
            }
            _ => return Ok(Some(Action::requeue(LOOK_AGAIN))),
        };
        match outcome {
            Ok(()) => self.event(EventType::Normal, reason, &what),
            Err(error) if error.is_outdated() => {}
            Err(CallError::Refused(failure)) if !failure.is_retryable() && failure.reason != Reason::OperatorFenced => {
                let report = Report::problem("Refused", format!("the hub refused: {}", failure.message));
                self.report(&report).await?;
                return Ok(Some(Action::requeue(REFUSED_AGAIN)));
            }
            Err(error) => return Err(Error::Call(error)),
        }
        self.other_gone = Fact::Unknown;
        Ok(None)
    }

    fn management(&self) -> i32 {
        match self.object.spec.management {
            Management::Object => v1::TopicManagement::Object.into(),
            Management::Catalog => v1::TopicManagement::Catalog.into(),
        }
    }

    fn has_finalizer(&self) -> bool {
        self.object.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
    }

    /// Whether the object goes with its namespace or with its whole kind: nobody asked for the end of this topic then.
    async fn look_at_namespace(&self) -> Result<Fact, Error> {
        let namespaces: Api<Namespace> = Api::all(self.ctx.client.clone());
        let found = namespaces.get_opt(&self.object.namespace().unwrap_or_default()).await?;
        let is_going = found.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some());
        Ok(if is_going || self.kind_is_going().await? { Fact::Yes } else { Fact::No })
    }

    /// Whether the definition of Topics is being deleted. Without the right to read it, the API server's own list of what can be done with Topics
    /// tells, a moment later.
    async fn kind_is_going(&self) -> Result<bool, Error> {
        let definitions: Api<CustomResourceDefinition> = Api::all(self.ctx.client.clone());
        match definitions.get_metadata_opt(Topic::crd_name()).await {
            Ok(found) => Ok(found.is_none_or(|found| found.metadata.deletion_timestamp.is_some())),
            Err(kube::Error::Api(status)) if status.code == 403 => {
                let kinds = self.ctx.client.list_api_group_resources(tidegate_crd::API_VERSION).await?;
                let topics = kinds.resources.iter().find(|kind| kind.name == "topics");
                Ok(topics.is_none_or(|kind| !kind.verbs.iter().any(|verb| verb == "create")))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sets or drops our finalizer, if nobody changed the object meanwhile.
    async fn set_finalizer(&mut self, wanted: bool) -> Result<(), Error> {
        let mut finalizers: Vec<String> = self.object.finalizers().to_vec();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        if wanted {
            finalizers.push(FINALIZER.to_owned());
        }
        let patch = json!({"metadata": {
            "uid": self.object.uid(),
            "resourceVersion": self.object.resource_version(),
            "finalizers": finalizers,
        }});
        match self.api.patch(&self.object.name_any(), &params(), &Patch::Merge(patch)).await {
            Ok(object) => self.object = object,
            Err(kube::Error::Api(status)) if status.code == 404 && !wanted => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Writes the wish down at the Hub, durably.
    async fn note(&self, wish: &Wish) -> Result<(), Error> {
        let Some(hub) = self.hub() else { return Ok(()) };
        let object = plan::identity(&self.object);
        crate::hub::wishes::note(self.ctx, &hub, wish, &object).await
    }

    async fn follow(&mut self, spec: &tidegate_crd::TopicSpec) -> Result<(), Error> {
        let value = serde_json::to_value(spec).map_err(Error::Serialisation)?;
        let mut changed = serde_json::Map::new();
        for field in ["partitions", "retention", "maxMessageBytes", "timestampType", "sealing"] {
            changed.insert(field.to_owned(), value.get(field).cloned().unwrap_or(Value::Null));
        }
        // In a merge patch what is absent stays: a bound that was lifted has to be named.
        for (group, fields) in [("retention", ["duration", "bytesPerPartition"]), ("sealing", ["bytes", "age"])] {
            if let Some(Value::Object(group)) = changed.get_mut(group) {
                for field in fields {
                    group.entry(field).or_insert(Value::Null);
                }
            }
        }
        let patch = json!({
            "metadata": {"uid": self.object.uid(), "resourceVersion": self.object.resource_version()},
            "spec": changed,
        });
        let params = PatchParams { field_manager: Some(adopt::MANAGER.to_owned()), ..PatchParams::default() };
        self.object = self.api.patch(&self.object.name_any(), &params, &Patch::Merge(patch)).await?;
        Ok(())
    }

    async fn delete_object(&self) -> Result<Action, Error> {
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: self.object.uid(), resource_version: self.object.resource_version() }),
            ..DeleteParams::default()
        };
        match self.api.delete(&self.object.name_any(), &params).await {
            Ok(_) => Ok(Action::await_change()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Action::await_change()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes the status if it says anything new.
    async fn report(&mut self, report: &Report) -> Result<(), Error> {
        let old = self.object.status.clone().unwrap_or_default();
        let new = status_of(report, &old, self.object.metadata.generation, Timestamp::now());
        if new == old {
            return Ok(());
        }
        let was = reason_of(&old);
        let mut patch = json!({
            "observedGeneration": new.observed_generation,
            "conditions": new.conditions,
        });
        if report.entry.is_some() {
            patch["topicUid"] = json!(new.topic_uid);
            patch["partitions"] = json!(new.partitions);
        }
        self.patch_status(patch).await?;
        if report.degraded && was.as_deref() != Some(report.reason) {
            self.event(EventType::Warning, report.reason, &report.message);
        }
        Ok(())
    }

    async fn patch_status(&mut self, status: Value) -> Result<(), Error> {
        let patch = json!({"metadata": {"uid": self.object.uid()}, "status": status});
        match self.api.patch_status(&self.object.name_any(), &params(), &Patch::Merge(patch)).await {
            Ok(object) => {
                self.ctx.metrics.status_written("Topic");
                self.object = object;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn event(&self, kind: EventType, reason: &str, note: &str) {
        self.ctx.event(&self.object, kind, reason, note);
    }
}

pub(crate) fn params() -> PatchParams {
    PatchParams { field_manager: Some(crate::FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

pub(crate) fn bytes_of(uid: TopicUid) -> Bytes {
    Bytes::copy_from_slice(uid.0.as_bytes())
}

fn reason_of(status: &TopicStatus) -> Option<String> {
    status.conditions.iter().find(|condition| condition.type_ == "Ready").map(|condition| condition.reason.clone())
}

/// The status that a report comes to. Pure; measured numbers stay.
pub fn status_of(report: &Report, old: &TopicStatus, generation: Option<i64>, now: Timestamp) -> TopicStatus {
    let ready = match report.readiness {
        Readiness::Ready => Some(true),
        Readiness::NotReady => Some(false),
        Readiness::Unknown => None,
    };
    let degraded = if report.degraded { (report.reason, report.message.clone()) } else { ("AsExpected", String::new()) };
    let mut wanted = vec![
        Wanted::new("Ready", ready, report.reason, report.message.clone()),
        Wanted::new("Degraded", Some(report.degraded), degraded.0, degraded.1),
    ];
    if report.readiness == Readiness::Ready {
        let drifted = !report.drift.is_empty();
        let (reason, message) = if drifted {
            ("CatalogDiffers", format!("{}; edit the spec to decide", report.drift.join("; ")))
        } else {
            ("AsSpecified", String::new())
        };
        wanted.push(Wanted::new("Drifted", Some(drifted), reason, message));
    }
    let entry = report.entry.as_ref();
    TopicStatus {
        observed_generation: generation,
        topic_uid: entry.map(|entry| entry.uid.to_string()).or_else(|| old.topic_uid.clone()),
        partitions: entry.map(|entry| entry.settings.partitions.unwrap_or(1)).or(old.partitions),
        conditions: conditions::merge(&old.conditions, &wanted, generation, now),
        ..old.clone()
    }
}
