//! Several brokers as one hub: child processes on loopback with relays between them, one object store, and what `tidegate cluster` would show.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tidegate_client::Client;
use tidegate_client::proto::operator::v1 as wire;
use tidegate_client::proto::operator::v1::cluster_service_client::ClusterServiceClient;

use crate::disks::MemoryDisk;
use crate::hub::{Hub, HubSetup};
use crate::minio;
use crate::wires::Wires;

/// How long journals may take until they have all their voters again. Catching up after a minute of load is seconds; the machine may be busy.
pub const WHOLE_LIMIT: Duration = Duration::from_secs(120);
/// One question to one broker.
const ASK_LIMIT: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);
/// Enough for log, checkpoints and a filler.
const DISK_BYTES: u64 = 256 << 20;

/// One broker.
pub struct Member {
    /// How it is started.
    pub setup: HubSetup,
    /// Its process, while it runs.
    pub hub: Option<Hub>,
    /// Its disk, if it has one of its own that can be filled.
    pub disk: Option<MemoryDisk>,
    peer: SocketAddr,
    slot: usize,
    folder: PathBuf,
}

/// What a fleet is made of.
pub struct Plan {
    /// The binary under test.
    pub binary: PathBuf,
    /// Where it works.
    pub folder: PathBuf,
    /// Brokers at the beginning.
    pub brokers: u32,
    /// Where the object store is reached.
    pub store: SocketAddr,
    /// Whether each broker gets a small disk of its own (needs root).
    pub own_disks: bool,
    /// Settings of each broker beyond those of every fleet.
    pub settings: Vec<(&'static str, u64)>,
}

/// The brokers.
pub struct Fleet {
    plan: Plan,
    /// By number; those that were replaced are not there any more.
    pub members: BTreeMap<u32, Member>,
    /// The network between them.
    pub wires: Wires,
    /// Ports for clients. One more than brokers, for one that comes before another goes.
    client_ports: Vec<u16>,
    last: u32,
}

impl Fleet {
    /// Starts all of them, and lets each journal have three voters.
    ///
    /// # Errors
    /// If one does not start, or they do not come together.
    pub async fn start(plan: Plan) -> Result<Fleet> {
        let client_ports = (0..=plan.brokers).map(|_| tidegate_ports::free()).collect::<std::io::Result<_>>()?;
        let mut fleet = Fleet { members: BTreeMap::new(), wires: Wires::default(), client_ports, last: 0, plan };
        for _ in 0..fleet.plan.brokers {
            fleet.add().await?;
        }
        let begin = Instant::now();
        loop {
            let request = wire::SetReplicationFactorRequest { replication_factor: 3, context: None };
            let member = fleet.members.values().next().context("there are brokers")?;
            let address = member.setup.operator_address();
            let mut client = ClusterServiceClient::connect(address.clone()).await.with_context(|| address)?;
            match client.set_replication_factor(request).await {
                Ok(_) => break,
                Err(status) if begin.elapsed() > WHOLE_LIMIT => bail!("the replication factor cannot be set: {status}"),
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
        fleet.whole().await?;
        Ok(fleet)
    }

    /// Starts one more; answers its number.
    ///
    /// # Errors
    /// If it does not come in.
    pub async fn add(&mut self) -> Result<u32> {
        self.last += 1;
        let number = self.last;
        let folder = self.plan.folder.join(format!("broker-{number}"));
        std::fs::create_dir_all(&folder)?;
        let disk = match self.plan.own_disks {
            true => Some(MemoryDisk::make(&folder.join("disk"), DISK_BYTES)?),
            false => None,
        };
        let place = disk.as_ref().map_or_else(|| folder.clone(), |disk| disk.path().to_owned());
        let mut setup = HubSetup::new(&self.plan.binary, &folder, &place)?;
        minio::tier_to(&mut setup, self.plan.store);
        let taken: Vec<usize> = self.members.values().map(|member| member.slot).collect();
        let slot = (0..self.client_ports.len()).find(|slot| !taken.contains(slot)).context("a port for clients")?;
        setup.serve_clients_at(self.client_ports[slot]);
        let backend = SocketAddr::from(([127, 0, 0, 1], tidegate_ports::free()?));
        let peer = self.wires.before(number, backend).await?;
        let join: Vec<String> = self.members.values().map(|member| format!("\"{}\"", member.peer)).collect();
        setup.set("hub.broker_id", number);
        setup.set("hub.journals", 3);
        setup.set("hub.wal.budget_bytes", 128 << 20);
        for (name, value) in &self.plan.settings {
            setup.set(name, value);
        }
        setup.set("hub.fleet.join", format!("[{}]", join.join(",")));
        setup.set("hub.fleet.zone", format!("zone-{slot}"));
        setup.set("listeners.peer", backend);
        setup.set("listeners.advertised_peer", peer);
        self.members.insert(number, Member { setup, hub: None, disk, peer, slot, folder });
        self.run(number).await?;
        Ok(number)
    }

    /// Starts a member's process and waits until it serves.
    ///
    /// # Errors
    /// If it ends instead, or takes too long.
    pub async fn run(&mut self, number: u32) -> Result<()> {
        self.spawn(number)?;
        self.serves(number).await
    }

    /// Starts a member's process.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(&mut self, number: u32) -> Result<()> {
        let member = self.members.get_mut(&number).with_context(|| format!("broker {number}"))?;
        let hub = member.setup.spawn(&[])?;
        self.wires.is_process(number, hub.child_id());
        member.hub = Some(hub);
        Ok(())
    }

    /// Waits until a member serves.
    ///
    /// # Errors
    /// If it ends instead, or takes too long.
    pub async fn serves(&mut self, number: u32) -> Result<()> {
        let member = self.members.get_mut(&number).with_context(|| format!("broker {number}"))?;
        let hub = member.hub.as_mut().context("it was started")?;
        hub.serves().await.with_context(|| format!("broker {number}; the end of its log:\n{}", member.setup.log_tail()))
    }

    /// The process of a member that runs.
    ///
    /// # Errors
    /// If it does not run.
    pub fn hub(&mut self, number: u32) -> Result<&mut Hub> {
        let member = self.members.get_mut(&number).with_context(|| format!("broker {number}"))?;
        member.hub.as_mut().with_context(|| format!("broker {number} does not run"))
    }

    /// Numbers of all members.
    pub fn numbers(&self) -> Vec<u32> {
        self.members.keys().copied().collect()
    }

    /// Stops a member in order.
    ///
    /// # Errors
    /// If it does not end, or with a failure.
    pub async fn terminate(&mut self, number: u32) -> Result<()> {
        let member = self.members.get_mut(&number).with_context(|| format!("broker {number}"))?;
        let hub = member.hub.take().with_context(|| format!("broker {number} does not run"))?;
        hub.terminate().await.with_context(|| format!("broker {number}; the end of its log:\n{}", member.setup.log_tail()))
    }

    /// Restarts all brokers one after the other, each once the last is in sync again.
    ///
    /// # Errors
    /// If one does not end or come back.
    pub async fn restart_each(&mut self) -> Result<()> {
        for number in self.numbers() {
            self.terminate(number).await?;
            self.run(number).await?;
            self.whole().await?;
        }
        Ok(())
    }

    /// A client that knows of every port that brokers ever have.
    ///
    /// # Errors
    /// If nobody answers.
    pub async fn client(&self) -> Result<Client> {
        let addresses = self.addresses();
        Client::connect(addresses.clone()).await.with_context(|| format!("none of {addresses}"))
    }

    /// Where clients find brokers, separated by commas.
    pub fn addresses(&self) -> String {
        let addresses: Vec<String> = self.client_ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
        addresses.join(",")
    }

    /// What a broker says of the cluster, the leader of the catalog if it answers.
    pub async fn status(&self) -> Option<wire::DescribeClusterResponse> {
        let mut found = None;
        for (number, member) in &self.members {
            let ask = async {
                let mut client = ClusterServiceClient::connect(member.setup.operator_address()).await.ok()?;
                Some(client.describe_cluster(wire::DescribeClusterRequest {}).await.ok()?.into_inner())
            };
            let Ok(Some(told)) = tokio::time::timeout(ASK_LIMIT, ask).await else { continue };
            if told.journals.first().and_then(|catalog| catalog.leader) == Some(*number) {
                return Some(told);
            }
            found = Some(told);
        }
        found
    }

    /// Waits until each journal has a leader and three voters in sync, on brokers that are there.
    ///
    /// # Errors
    /// If that takes longer than [`WHOLE_LIMIT`].
    pub async fn whole(&self) -> Result<()> {
        let begin = Instant::now();
        loop {
            let status = self.status().await;
            if status.as_ref().is_some_and(|status| self.is_whole(status)) {
                return Ok(());
            }
            ensure!(
                begin.elapsed() < WHOLE_LIMIT,
                "the journals are not whole {WHOLE_LIMIT:?} later: {status:#?}\n{}",
                self.logs()
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    fn is_whole(&self, status: &wire::DescribeClusterResponse) -> bool {
        status.journals.iter().all(|journal| {
            let voters: Vec<_> = journal.replicas.iter().filter(|replica| replica.votes).collect();
            let good = voters.iter().filter(|voter| voter.in_sync && self.members.contains_key(&voter.broker)).count();
            journal.leader.is_some() && voters.len() == 3 && good == 3
        })
    }

    /// The brokers that lead something, those that lead most first.
    pub async fn leaders(&self) -> Vec<u32> {
        let journals = self.status().await.map(|status| status.journals).unwrap_or_default();
        let mut led = BTreeMap::<u32, u32>::new();
        journals.iter().filter_map(|journal| journal.leader).for_each(|leader| *led.entry(leader).or_default() += 1);
        let mut leaders: Vec<u32> = led.keys().copied().filter(|leader| self.members.contains_key(leader)).collect();
        leaders.sort_by_key(|leader| std::cmp::Reverse(led[leader]));
        leaders
    }

    /// Drains a broker, waits until it is retired, and takes it and its volume away.
    ///
    /// # Errors
    /// If that takes longer than [`WHOLE_LIMIT`].
    pub async fn replace(&mut self, number: u32) -> Result<()> {
        let begin = Instant::now();
        let mut asked = false;
        loop {
            let state = self.status().await.and_then(|status| {
                status.brokers.into_iter().find(|broker| broker.broker_id == number).map(|broker| broker.state())
            });
            match state {
                Some(wire::ClusterBrokerState::Retired) => break,
                Some(wire::ClusterBrokerState::Draining) => asked = true,
                _ if !asked => self.drain(number).await,
                _ => {}
            }
            let limit = begin.elapsed() < WHOLE_LIMIT;
            ensure!(limit, "broker {number} is not retired {WHOLE_LIMIT:?} later: {:#?}\n{}", self.status().await, self.logs());
            tokio::time::sleep(LOOK).await;
        }
        self.terminate(number).await?;
        if let Some(member) = self.members.remove(&number) {
            drop(member.disk);
            std::fs::remove_dir_all(&member.folder)?;
        }
        Ok(())
    }

    /// Asks any broker that answers to drain one; what comes of it shows in the status.
    async fn drain(&self, number: u32) {
        let request =
            wire::SetBrokerStateRequest { broker_id: number, state: wire::ClusterBrokerState::Draining.into(), context: None };
        for member in self.members.values() {
            let Ok(mut client) = ClusterServiceClient::connect(member.setup.operator_address()).await else { continue };
            if tokio::time::timeout(ASK_LIMIT, client.set_broker_state(request.clone())).await.is_ok_and(|answer| answer.is_ok())
            {
                return;
            }
        }
    }

    /// The ends of all logs, for a report.
    pub fn logs(&self) -> String {
        let each = self.members.iter().map(|(number, member)| format!("--- broker {number}\n{}\n", member.setup.log_tail()));
        each.collect()
    }
}
