//! A test's own namespace of a real API server, real brokers on loopback, and an operator in this process.

use std::collections::HashMap;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tidegate_broker::RunningBroker;
use tidegate_broker::hub::{Append, Caller, NewTopic, PartitionRef};
use tidegate_broker::settings::{BrokerSettings, HubSettings, ListenerSettings, ObjectStoreSettings, WalSettings};
use tidegate_crd::{Hub, Topic};
use tidegate_env::Env;
use tidegate_model::{BatchBuilder, Compression, TimestampMs, TopicSettings, TopicUid};
use tidegate_operator::catalog::BrokerNetwork;
use tidegate_operator::controller::{Parts, lead};
use tidegate_operator::lease::Term;
use tidegate_operator::metrics::Metrics;
use tidegate_operator::settings::Settings;
use tidegate_proto::token::SigningKey;
use tokio_util::sync::CancellationToken;

use crate::logs;

/// An API server; it ends with this process.
pub(crate) struct Server {
    _child: Child,
    _open: ChildStdin,
    pub(crate) folder: PathBuf,
}

impl Server {
    /// The administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }
}

fn start() -> Server {
    let folder = tempfile::tempdir().unwrap().keep();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/cluster/apiserver.sh");
    let mut child = Command::new("bash")
        .arg(script)
        .arg(&folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while !folder.join("ready").exists() {
        if child.try_wait().unwrap().is_some() || started.elapsed() > Duration::from_secs(900) {
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("the API server did not start: {said}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Server { _open: child.stdin.take().unwrap(), _child: child, folder }
}

/// The API server that tests share.
fn shared() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(start)
}

/// An API server for tests that take it, or its definitions, away: one test at a time.
pub(crate) async fn expendable() -> (&'static Server, tokio::sync::MutexGuard<'static, ()>) {
    static SERVER: OnceLock<Server> = OnceLock::new();
    static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let guard = ONE.lock().await;
    (tokio::task::spawn_blocking(|| SERVER.get_or_init(start)).await.unwrap(), guard)
}

/// How the shared API server is reached.
pub(crate) async fn config() -> Config {
    config_of(tokio::task::spawn_blocking(shared).await.unwrap()).await
}

/// How a server is reached as its administrator.
pub(crate) async fn config_of(server: &Server) -> Config {
    let kubeconfig = Kubeconfig::read_from(server.kubeconfig()).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    config.read_timeout = Some(Duration::from_secs(295));
    config
}

/// Waits until `look` finds something.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let started = Instant::now();
    let mut pause = tokio::time::interval(Duration::from_millis(25));
    while started.elapsed() < Duration::from_secs(60) {
        if let Some(found) = look().await {
            return found;
        }
        pause.tick().await;
    }
    panic!("not within a minute: {what}");
}

/// Where a test's brokers are, by hub.
#[derive(Default)]
pub(crate) struct Map(Mutex<HashMap<String, String>>);

impl Map {
    /// Where the operator finds a hub's broker from now on.
    pub(crate) fn point(&self, hub: &str, url: String) {
        self.0.lock().insert(hub.to_owned(), url);
    }
}

impl BrokerNetwork for Map {
    fn endpoint(&self, hub: &Hub, _pod: Option<&Pod>) -> Option<String> {
        self.0.lock().get(hub.metadata.name.as_deref()?).cloned()
    }
}

/// An operator in this process.
pub(crate) struct Operator {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Operator {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    /// As a kill does: nothing that is under way is finished.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
        self.stop.cancel();
    }
}

pub(crate) struct Bed {
    pub(crate) client: Client,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) namespace: String,
    pub(crate) network: Arc<Map>,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) patience: Option<Duration>,
}

impl Bed {
    pub(crate) async fn new(name: &str) -> Bed {
        Bed::on(tokio::task::spawn_blocking(shared).await.unwrap(), name).await
    }

    pub(crate) async fn on(server: &Server, name: &str) -> Bed {
        logs::begin();
        let client = Client::try_from(config_of(server).await).unwrap();
        install_definitions(&client).await;
        let namespace = format!("{name}-{}", &uuid::Uuid::new_v4().to_string()[..8]);
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let object = serde_json::from_value(json!({"metadata": {"name": namespace}})).unwrap();
        namespaces.create(&PostParams::default(), &object).await.unwrap();
        let (kubeconfig, folder) = (server.kubeconfig(), tempfile::tempdir().unwrap());
        Bed { client, kubeconfig, namespace, network: Arc::default(), folder, patience: None }
    }

    pub(crate) fn topics(&self) -> Api<Topic> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) fn hubs(&self) -> Api<Hub> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            namespace: Some(self.namespace.clone()),
            broker_image: "tidegate:test".into(),
            metrics_listen: "127.0.0.1:0".parse().unwrap(),
            lease_namespace: self.namespace.clone(),
            lease_name: "operator".into(),
            identity: "test".into(),
            measure_seconds: 1,
            status_writes_per_second: 5,
            api_calls_per_second: 100,
            deletion_patience: self.patience,
        }
    }

    pub(crate) fn operator(&self) -> Operator {
        self.operator_with(self.client.clone(), Arc::default())
    }

    pub(crate) fn operator_with(&self, client: Client, metrics: Arc<Metrics>) -> Operator {
        self.operator_as(self.settings(), client, metrics)
    }

    pub(crate) fn operator_as(&self, settings: Settings, client: Client, metrics: Arc<Metrics>) -> Operator {
        let stop = CancellationToken::new();
        let parts = Parts {
            client,
            settings,
            network: Arc::clone(&self.network) as Arc<dyn BrokerNetwork>,
            key: Arc::new(SigningKey::from_seed(&[7; 32])),
            metrics,
            term: Term::endless(),
        };
        Operator { stop: stop.clone(), task: tokio::spawn(lead(parts, stop)) }
    }

    /// Starts (or starts again) the broker of a hub; it keeps its folder and its ports.
    pub(crate) async fn broker(&self, hub: &str) -> RunningBroker {
        let folder = self.folder.path().join(hub);
        let known = self.network.0.lock().get(hub).cloned();
        let operator = known.map_or_else(|| "127.0.0.1:0".to_owned(), |url| url.trim_start_matches("http://").to_owned());
        let any = "127.0.0.1:0".parse().unwrap();
        let settings = BrokerSettings {
            hub: HubSettings {
                data_dir: folder.join("data"),
                journals: 1,
                wal: WalSettings {
                    file_bytes: 4 << 20,
                    budget_bytes: 64 << 20,
                    control_reserve_bytes: 1 << 20,
                    ..WalSettings::default()
                },
                ..HubSettings::default()
            },
            object_store: ObjectStoreSettings::Directory { path: folder.join("store") },
            listeners: ListenerSettings {
                client: any,
                operator: operator.parse().unwrap(),
                http: any,
                ..ListenerSettings::default()
            },
            shutdown_deadline_ms: 1000,
            ..BrokerSettings::default()
        };
        let broker = tidegate_broker::serve(settings, Env::real()).await.unwrap();
        self.network.0.lock().insert(hub.to_owned(), format!("http://{}", broker.operator_addr));
        broker
    }

    pub(crate) async fn hub(&self, name: &str) -> Hub {
        self.apply(json!({"apiVersion": "tidegate.dev/v1alpha1", "kind": "Hub", "metadata": {"name": name},
            "spec": {"objectStore": {"s3": {"bucket": "events"}}}}))
            .await
            .unwrap();
        self.hubs().get(name).await.unwrap()
    }

    /// As `kubectl apply --server-side`.
    pub(crate) async fn apply(&self, object: Value) -> Result<Value, kube::Error> {
        let kind = object["kind"].as_str().unwrap();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let params = PatchParams::apply("a-person").force();
        match kind {
            "Topic" => {
                self.topics().patch(&name, &params, &Patch::Apply(&object)).await.map(|t| serde_json::to_value(t).unwrap())
            }
            _ => self.hubs().patch(&name, &params, &Patch::Apply(&object)).await.map(|h| serde_json::to_value(h).unwrap()),
        }
    }

    pub(crate) async fn topic(&self, name: &str, spec: Value) -> Topic {
        let mut spec = spec;
        spec["hubRef"] = json!({"name": "hub"});
        let object = json!({"apiVersion": "tidegate.dev/v1alpha1", "kind": "Topic", "metadata": {"name": name}, "spec": spec});
        serde_json::from_value(self.apply(object).await.unwrap()).unwrap()
    }

    /// Waits until a Topic's Ready condition has a reason, and is about the newest spec.
    pub(crate) async fn until(&self, name: &str, reason: &str) -> Topic {
        let topics = self.topics();
        eventually(&format!("Topic {name} says {reason}"), || async {
            let topic = topics.get_opt(name).await.unwrap()?;
            let status = topic.status.as_ref()?;
            let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready")?;
            (ready.reason == reason && status.observed_generation == topic.metadata.generation).then(|| topic.clone())
        })
        .await
    }

    /// Waits until a condition of the Hub has a status and a reason; answers its message.
    pub(crate) async fn hub_says(&self, kind: &str, status: &str, reason: &str) -> String {
        let hubs = self.hubs();
        eventually(&format!("the Hub says {kind}={status}, {reason}"), || async {
            let conditions = hubs.get_opt("hub").await.unwrap()?.status?.conditions;
            let found = conditions.into_iter().find(|known| known.type_ == kind)?;
            (found.status == status && found.reason == reason).then_some(found.message)
        })
        .await
    }

    /// Waits for an Event with this reason about an object of this name; answers what it says.
    pub(crate) async fn event(&self, object: &str, reason: &str) -> String {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        eventually(&format!("an Event {reason} about {object}"), || async {
            let all = events.list(&ListParams::default()).await.unwrap();
            let about = |event: &Event| event.regarding.as_ref().is_some_and(|about| about.name.as_deref() == Some(object));
            all.into_iter().find(|event| event.reason.as_deref() == Some(reason) && about(event))?.note
        })
        .await
    }

    pub(crate) async fn delete(&self, name: &str) {
        self.topics().delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Waits until a Topic is gone; tells every 500 looks, 12 s or more, how it is.
    pub(crate) async fn gone(&self, name: &str) {
        let (topics, mut asked) = (self.topics(), 0_u32);
        eventually(&format!("Topic {name} is gone"), || {
            asked += 1;
            let (topics, tells) = (topics.clone(), asked.is_multiple_of(500));
            async move {
                let found = topics.get_opt(name).await.unwrap();
                if let Some(found) = found.as_ref().filter(|_| tells) {
                    println!("{name} is there still: {:?} {:?}", found.metadata, found.status);
                    println!("{}", logs::warnings_of(&found.namespace().unwrap_or_default()));
                }
                found.is_none().then_some(())
            }
        })
        .await;
    }
}

/// Appends a record with this value to partition 0.
pub(crate) async fn say(broker: &RunningBroker, topic: &str, value: &str) {
    let mut batch = BatchBuilder::new(Compression::None);
    batch.push(TimestampMs(1), None, Some(value.as_bytes()), &[]);
    let append = Append { at: PartitionRef::new(topic, 0), batches: vec![batch.build().unwrap()] };
    broker.hub().append(append).await.unwrap();
}

/// How many records partition 0 has.
pub(crate) fn said(broker: &RunningBroker, topic: &str) -> i64 {
    broker.hub().marks_of(&PartitionRef::new(topic, 0)).unwrap().high_watermark.0
}

/// Makes a topic as a client does.
pub(crate) async fn create(broker: &RunningBroker, name: &str, settings: TopicSettings) -> TopicUid {
    let new = NewTopic { name: name.into(), settings, bound: None, management: tidegate_journal::entry::Management::Catalog };
    broker.hub().create_topic(new, &Caller::Client).await.unwrap().uid
}

pub(crate) fn uid_of(topic: &Topic) -> String {
    topic.status.as_ref().unwrap().topic_uid.clone().unwrap()
}

pub(crate) async fn install_definitions(client: &Client) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for (_, text) in tidegate_crd::generate::files() {
        let crd: CustomResourceDefinition = serde_yaml_ng::from_str(&text).unwrap();
        let name = crd.metadata.name.clone().unwrap();
        api.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&crd)).await.unwrap();
        eventually("the definition is served", || async {
            let crd = api.get(&name).await.unwrap();
            let conditions = crd.status?.conditions?;
            conditions.iter().any(|condition| condition.type_ == "Established" && condition.status == "True").then_some(())
        })
        .await;
    }
}
