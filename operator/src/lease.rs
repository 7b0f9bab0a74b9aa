//! Leader election by a Lease. Losing it ends the process: whatever was under way is fenced by the hubs' operator epoch besides.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::core::ObjectMeta;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::settings::Settings;

/// How long a Lease holds without being renewed.
pub const HOLDS: Duration = Duration::from_secs(15);
/// Time between two renewals.
const RENEW: Duration = Duration::from_secs(5);
/// Time between two looks of a process that stands by.
const LOOK: Duration = Duration::from_secs(2);

/// A leader acts no longer than so long before another process may take its Lease.
const MARGIN: Duration = Duration::from_secs(2);

/// Until when this process may act as the leader. Whatever writes asks it first: a process that was paused past its Lease has work under way
/// when it goes on, before anything of it can see that the Lease was lost.
#[derive(Clone, Debug, Default)]
pub struct Term {
    until: Arc<Mutex<Option<Instant>>>,
}

impl Term {
    /// Ends at that time, unless it is extended.
    pub fn until(time: Instant) -> Term {
        Term { until: Arc::new(Mutex::new(Some(time))) }
    }

    /// Without an end: for a process that no other one may follow.
    pub fn endless() -> Term {
        Term::default()
    }

    /// Whether this process may act now.
    pub fn holds(&self) -> bool {
        self.until.lock().is_none_or(|until| Instant::now() < until)
    }

    /// The Lease was renewed by a call that began then.
    fn renewed(&self, began: Instant) {
        *self.until.lock() = Some(began + HOLDS - MARGIN);
    }
}

/// A Lease that this process holds or wants.
pub struct Election {
    api: Api<Lease>,
    name: String,
    identity: String,
    term: Term,
    /// The last Lease of somebody else that was seen, and when we saw it first: clocks of two machines are never compared.
    seen: Option<(String, Instant)>,
}

/// What a try came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Held {
    /// We hold it.
    Ours,
    /// Somebody else does.
    Theirs(String),
}

impl Election {
    /// For the Lease that the settings name.
    pub fn new(client: Client, settings: &Settings, identity: &str) -> Election {
        let api = Api::namespaced(client, &settings.lease_namespace);
        let term = Term::until(Instant::now());
        Election { api, name: settings.lease_name.clone(), identity: identity.to_owned(), term, seen: None }
    }

    /// Until when this process leads; it has not begun before the Lease is taken.
    pub fn term(&self) -> Term {
        self.term.clone()
    }

    /// Takes or renews the Lease if that is possible.
    pub async fn attempt(&mut self) -> Result<Held, kube::Error> {
        let began = Instant::now();
        let held = self.try_once().await?;
        if held == Held::Ours {
            self.term.renewed(began);
        }
        Ok(held)
    }

    async fn try_once(&mut self) -> Result<Held, kube::Error> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                spec: Some(self.spec(None)),
            };
            return match self.api.create(&PostParams::default(), &lease).await {
                Ok(_) => Ok(Held::Ours),
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(Held::Theirs("another process".to_owned())),
                Err(error) => Err(error),
            };
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        if holder != self.identity && !holder.is_empty() {
            let version = lease.metadata.resource_version.clone().unwrap_or_default();
            let held_for =
                spec.lease_duration_seconds.map_or(HOLDS, |seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(15)));
            match &self.seen {
                Some((seen, since)) if *seen == version && since.elapsed() > held_for => {}
                Some((seen, _)) if *seen == version => return Ok(Held::Theirs(holder)),
                _ => {
                    self.seen = Some((version, Instant::now()));
                    return Ok(Held::Theirs(holder));
                }
            }
        }
        // The resource version makes this a compare-and-swap.
        lease.spec = Some(self.spec(Some(spec)));
        match self.api.replace(&self.name, &PostParams::default(), &lease).await {
            Ok(_) => Ok(Held::Ours),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Held::Theirs(holder)),
            Err(error) => Err(error),
        }
    }

    fn spec(&self, old: Option<LeaseSpec>) -> LeaseSpec {
        let old = old.unwrap_or_default();
        let is_new = old.holder_identity.as_deref() != Some(&self.identity);
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(HOLDS.as_secs()).ok(),
            acquire_time: if is_new { Some(now.clone()) } else { old.acquire_time },
            renew_time: Some(now),
            lease_transitions: Some(old.lease_transitions.unwrap_or(0) + i32::from(is_new)),
            ..old
        }
    }

    /// Waits until the Lease is ours.
    pub async fn acquire(&mut self, ready: &std::sync::atomic::AtomicBool) {
        loop {
            match self.attempt().await {
                Ok(Held::Ours) => return,
                Ok(Held::Theirs(holder)) => {
                    ready.store(true, std::sync::atomic::Ordering::Relaxed);
                    tracing::debug!(holder, "standing by");
                }
                Err(error) => tracing::warn!(%error, "cannot reach the Lease"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Renews the Lease until it is lost, then cancels `leading`. A pause of the process longer than the Lease counts as lost.
    pub async fn keep(mut self, leading: CancellationToken) {
        let mut renewed = Instant::now();
        loop {
            let left = (HOLDS - Duration::from_secs(3)).saturating_sub(renewed.elapsed());
            let started = Instant::now();
            match tokio::time::timeout(left, self.attempt()).await {
                Ok(Ok(Held::Ours)) => renewed = started,
                Ok(Ok(Held::Theirs(holder))) => {
                    tracing::error!(holder, "another process took the Lease: stopping");
                    break;
                }
                Ok(Err(error)) => tracing::warn!(%error, "cannot renew the Lease"),
                Err(_) => {}
            }
            if renewed.elapsed() + Duration::from_secs(3) >= HOLDS {
                tracing::error!("the Lease ran out: stopping");
                break;
            }
            let wait = if renewed == started { RENEW } else { Duration::from_secs(1) };
            tokio::select! {
                biased;
                () = leading.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        leading.cancel();
    }

    /// Lets the Lease go, so that another process need not wait.
    pub async fn release(client: Client, settings: &Settings, identity: &str) {
        let mut election = Election::new(client, settings, identity);
        let Ok(Some(mut lease)) = election.api.get_opt(&election.name).await else { return };
        if lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) == Some(identity) {
            election.identity.clear();
            if let Some(spec) = &mut lease.spec {
                spec.holder_identity = Some(String::new());
            }
            let _ = election.api.replace(&election.name, &PostParams::default(), &lease).await;
        }
    }
}

/// An identity that no other process has.
pub fn identity(settings: &Settings) -> Arc<str> {
    let name = if settings.identity.is_empty() { "operator" } else { &settings.identity };
    format!("{name}_{}", uuid::Uuid::new_v4()).into()
}
