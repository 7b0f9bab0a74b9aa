//! Members that change: brokers come in, are drained and retired, lose their volume and are replaced under a new number.

use std::time::Duration;

use futures::FutureExt;
use tidegate_broker::Hub;
use tidegate_env::Random;
use tidegate_journal::entry::BrokerState;
use tidegate_model::BrokerId;

use super::Run;
use crate::rot::damage_a_file;
use crate::store::Weather as StoreWeather;

/// The administrator's number on the network.
const ADMINISTRATOR: u32 = 3_000;
/// Brokers that take part at once, at most.
const MOST: usize = 5;

impl Run {
    /// One change of who takes part.
    pub(super) async fn change_members(&mut self) -> Result<(), String> {
        match self.cluster.random.below(5) {
            0 | 1 if self.members.len() < MOST => self.come_in(),
            2 if self.members.len() > 3 => {
                let leaver = self.any_member();
                self.note(format!("broker {leaver} is to leave"));
                self.members.remove(&leaver);
                self.leaving.insert(leaver);
                self.report.membership += 1;
            }
            // Damage that nobody has noticed yet is a volume that may be lost.
            3 if self.rotten.is_empty() => self.lose_one().await?,
            4 if self.rotten.is_empty() => self.rot_one().await?,
            _ => {}
        }
        self.drain_leaving().await;
        Ok(())
    }

    fn any_member(&self) -> u32 {
        let place = self.cluster.random.below(self.members.len() as u64) as usize;
        self.members.iter().nth(place).copied().unwrap_or(1)
    }

    /// A new broker comes in.
    fn come_in(&mut self) {
        let newcomer = self.next_broker;
        self.next_broker += 1;
        self.note(format!("broker {newcomer} comes in"));
        self.cluster.start(newcomer, &self.members);
        self.members.insert(newcomer);
        self.report.membership += 1;
    }

    /// Waits until all is well, then loses one volume for good. Its broker's number is never used again.
    async fn lose_one(&mut self) -> Result<(), String> {
        self.heal().await?;
        if self.cluster.random.below(2) == 0 {
            self.hold_back().await;
        }
        let victim = self.any_member();
        self.note(format!("broker {victim} loses its volume"));
        self.replace(victim);
        if self.cluster.random.below(2) == 0 {
            // An empty volume under the old number must not be let in.
            self.cluster.start(victim, &self.members);
        }
        Ok(())
    }

    /// Logs are purged as far as they may be; then the object store goes away, and checkpoints are taken of what is in the log alone: whoever comes in next
    /// must not get them for the log.
    async fn hold_back(&mut self) {
        for _ in 0..2 {
            self.take_checkpoints().await;
            self.cluster.pause(2_000).await;
        }
        self.note("the object store is Down, then checkpoints are taken".to_owned());
        self.cluster.world.lock().store.set(StoreWeather::Down);
        self.cluster.pause(3_000).await;
        self.take_checkpoints().await;
    }

    async fn take_checkpoints(&self) {
        for (broker, journal) in self.cluster.replicas() {
            let taken = tokio::select! {
                biased;
                taken = journal.checkpoint() => taken.map(|_| ()).map_err(|error| error.to_string()),
                () = self.cluster.env.clock.sleep(Duration::from_secs(5)) => Err("it takes too long".to_owned()),
            };
            if let Err(problem) = taken {
                self.note(format!("broker {broker} takes no checkpoint of journal {}: {problem}", journal.id()));
            }
        }
    }

    fn replace(&mut self, victim: u32) {
        self.cluster.lose_volume(victim);
        self.members.remove(&victim);
        self.lost.insert(victim);
        self.report.membership += 1;
        self.come_in();
    }

    /// Waits until all is well, stops one broker in order and damages a file of it. It must notice; then its volume is given up.
    async fn rot_one(&mut self) -> Result<(), String> {
        self.heal().await?;
        let victim = self.any_member();
        self.cluster.stop(victim).await;
        let mut damage = None;
        self.cluster.on_disk(victim, false, |disk| damage = damage_a_file(disk, &self.cluster.random));
        self.note(format!("the volume of broker {victim} is damaged: {damage:?}"));
        self.rotten.insert(victim);
        self.cluster.start(victim, &self.members);
        Ok(())
    }

    /// A broker called its files damaged: its volume is replaced.
    pub(super) fn give_up(&mut self, victim: u32, why: &str) {
        self.note(format!("broker {victim} is given up: {why}"));
        self.rotten.remove(&victim);
        self.leaving.remove(&victim);
        self.replace(victim);
    }

    /// Tells the hub who is to leave, and takes away who has left.
    pub(super) async fn drain_leaving(&mut self) {
        let states = self.states();
        for broker in self.leaving.iter().chain(&self.lost).copied().collect::<Vec<_>>() {
            match states.iter().find(|(known, _)| *known == broker).map(|(_, state)| *state) {
                Some(BrokerState::Retired) if self.leaving.remove(&broker) => {
                    self.note(format!("broker {broker} has left"));
                    self.cluster.stop(broker).await;
                    self.cluster.forget(broker);
                }
                Some(BrokerState::Active) => self.drain(broker).await,
                // On its way, gone, or never in.
                _ => {}
            }
        }
    }

    async fn drain(&mut self, broker: u32) {
        let open = self.cluster.open_brokers();
        let Some(asked) = open.get(self.cluster.random.below(open.len() as u64) as usize).copied() else { return };
        let ask = move |hub: Hub| async move { hub.set_broker_state(BrokerId(broker), BrokerState::Draining).await }.boxed();
        let told = tokio::select! {
            biased;
            told = self.cluster.call(ADMINISTRATOR, asked, ask) => format!("{told:?}"),
            () = self.cluster.env.clock.sleep(Duration::from_secs(2)) => "no answer".to_owned(),
        };
        self.note(format!("drain broker {broker}, asked of {asked}: {told}"));
    }

    /// What the catalog's leader has of each broker.
    pub(super) fn states(&self) -> Vec<(u32, BrokerState)> {
        let status = self.cluster.status();
        let brokers = status.into_iter().flat_map(|status| status.brokers);
        brokers.map(|broker| (broker.broker.0, broker.entry.state)).collect()
    }
}
