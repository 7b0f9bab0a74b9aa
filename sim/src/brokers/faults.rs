//! What goes wrong, drawn from the seed: crashes, networks, disks, clocks, the object store. Never more volumes lost than replication covers.

use std::time::Duration;

use futures::FutureExt;
use tidegate_env::Random;
use tidegate_env::sim::{Fault, Latency, OperationKind};

use super::Run;
use super::process::STORE;
use super::producing::PRODUCERS;
use super::reading::CONSUMERS;
use crate::net::Weather;
use crate::store::Weather as StoreWeather;

/// Disturbances in one run.
const ROUNDS: u64 = 24;
/// How long an acknowledgement is waited for.
const PATIENCE_MS: u64 = 2_000;
/// How long writes and syncs take on disks that are slow when the power goes.
const SLOW: Duration = Duration::from_millis(250);
/// How long a leader that is cut off may be left so: another leads by then, and has taken records.
const DEPOSED_MS: u64 = 4_000;
/// The longest that a clock stays off: shorter than a leap that retention believes.
const LEAP: Duration = Duration::from_secs(3);

impl Run {
    /// One disturbance after the other, while clients work.
    pub(super) async fn disturb_all(&mut self) -> Result<(), String> {
        for _ in 0..ROUNDS {
            self.disturb().await?;
            self.settle(1_500).await?;
            if self.cluster.random.below(3) == 0 {
                self.cluster.net.heal();
            }
        }
        Ok(())
    }

    /// Lets time go by, looking at what must hold.
    pub(super) async fn settle(&mut self, most_ms: u64) -> Result<(), String> {
        for _ in 0..4 {
            self.cluster.pause(most_ms / 4).await;
            self.tend()?;
            self.look.look(&self.cluster)?;
        }
        Ok(())
    }

    async fn disturb(&mut self) -> Result<(), String> {
        let random = &self.cluster.random;
        let all: Vec<u32> = self.members.iter().chain(&self.leaving).copied().collect();
        let mut victim = all[random.below(all.len() as u64) as usize];
        // Who leads has most to lose.
        let leaders = self.cluster.leaders();
        if !leaders.is_empty() && random.below(2) == 0 {
            victim = leaders[random.below(leaders.len() as u64) as usize];
        }
        match random.below(20) {
            0..=2 => {
                let with_power = random.below(2) == 0;
                self.crash(victim, with_power);
            }
            3 => self.lose_power(&all).await,
            4..=6 => self.revive(),
            7..=10 => {
                self.cut(victim, &all);
                if leaders.contains(&victim) && self.cluster.random.below(3) == 0 {
                    self.settle(DEPOSED_MS).await?;
                }
            }
            11 | 12 => self.weather(),
            13 => self.store_weather(),
            14 | 15 => self.disk(victim),
            16 => self.leap(victim),
            17 => {
                self.note(format!("broker {victim} is stopped in order"));
                self.cluster.stop(victim).await;
                self.report.stops += 1;
            }
            _ => self.change_members().await?,
        }
        Ok(())
    }

    /// All lose their power at once; mostly with disks so slow that what was not synced yet is much, and right after an acknowledgement.
    async fn lose_power(&mut self, all: &[u32]) {
        if self.cluster.random.below(4) > 0 {
            // A sync has its effect at once and takes its time then: what a power cut takes away was written and waits for its sync.
            let slow = Latency { sync: SLOW, transfer: SLOW, stall_one_in: 0 };
            all.iter().for_each(|broker| self.cluster.on_disk(*broker, false, |disk| disk.set_latency(slow)));
            self.note("all disks are slow".to_owned());
            self.cluster.pause(2_000).await;
            self.acknowledgement().await;
        }
        all.iter().for_each(|broker| self.crash(*broker, true));
    }

    /// Waits until some producer is told that something is stored: that must last from this moment on.
    async fn acknowledgement(&self) {
        let before = self.cluster.world.lock().acknowledgements;
        for _ in 0..PATIENCE_MS {
            if self.cluster.world.lock().acknowledgements > before {
                return;
            }
            self.cluster.pause(1).await;
        }
    }

    fn crash(&mut self, broker: u32, with_power: bool) {
        if self.cluster.crash(broker, with_power) {
            self.note(format!("broker {broker} crashes, power {with_power}"));
            self.report.crashes += 1;
        }
    }

    /// Cuts a broker off, one direction, the hub in two halves with a bridge, clients or the object store from a broker.
    fn cut(&mut self, victim: u32, all: &[u32]) {
        let (random, net) = (&self.cluster.random, &self.cluster.net);
        let others: Vec<u32> = all.iter().copied().filter(|other| *other != victim).collect();
        let other = others[random.below(others.len() as u64) as usize];
        let both = |one: u32, other: u32| {
            net.cut(one, other);
            net.cut(other, one);
        };
        let what = match random.below(6) {
            0 | 1 => {
                others.iter().for_each(|other| both(victim, *other));
                format!("broker {victim} is cut off from the others")
            }
            2 => {
                net.cut(victim, other);
                format!("broker {victim} is not heard by {other}")
            }
            3 => {
                let (left, right) = others.split_at(others.len() / 2);
                left.iter().for_each(|one| right.iter().for_each(|other| both(*one, *other)));
                format!("{left:?} and {right:?} reach each other by nobody but {victim}")
            }
            4 => {
                (0..4).for_each(|number| {
                    both(PRODUCERS + number, victim);
                    both(CONSUMERS + number, victim);
                });
                format!("clients do not reach broker {victim}")
            }
            _ => {
                net.cut(victim, STORE);
                format!("broker {victim} does not reach the object store")
            }
        };
        self.note(what);
        self.report.cuts += 1;
    }

    fn weather(&mut self) {
        let random = &self.cluster.random;
        let weather = Weather {
            delay: Duration::from_micros(random.below(40_000)),
            lose_one_in: random.below(2) * 30,
            break_one_in: [0, 0, 8, 40][random.below(4) as usize],
            double_one_in: random.below(2) * 10,
        };
        self.note(format!("the network: {weather:?}"));
        self.cluster.net.set(weather);
    }

    fn store_weather(&mut self) {
        use StoreWeather::{Down, Fair, Lying, Refusing, Rotting, Silent, Slow};
        let kinds = [Fair, Down, Slow(3_000), Slow(300), Refusing, Silent, Lying, Rotting];
        let weather = kinds[self.cluster.random.below(kinds.len() as u64) as usize];
        self.note(format!("the object store is {weather:?}"));
        self.cluster.world.lock().store.set(weather);
    }

    /// Full, slow, or failing.
    fn disk(&mut self, victim: u32) {
        let random = &self.cluster.random;
        let (room, after, kind) = (random.below(1 << 18), random.below(200), random.below(6));
        let what = match random.below(3) {
            0 => {
                self.cluster.leave_room(victim, Some(room));
                self.later(Duration::from_millis(random.below(3_000)), move |cluster| cluster.leave_room(victim, None));
                "is full".to_owned()
            }
            1 => {
                let slow = Latency { sync: Duration::from_millis(200), transfer: Duration::from_millis(5), stall_one_in: 20 };
                self.cluster.on_disk(victim, false, |disk| disk.set_latency(slow));
                let usual = self.cluster.latency();
                self.later(Duration::from_millis(random.below(4_000)), move |cluster| {
                    cluster.on_disk(victim, false, |disk| disk.set_latency(usual));
                });
                "is slow".to_owned()
            }
            _ => {
                let on = if kind < 3 { OperationKind::Sync } else { OperationKind::Write };
                let path_contains = if kind % 3 == 0 { String::new() } else { ".wal".to_owned() };
                let fault = Fault { on, path_contains, after, error: std::io::ErrorKind::Other };
                let what = format!("will fail: {fault:?}");
                self.cluster.on_disk(victim, true, |disk| disk.inject(fault));
                what
            }
        };
        self.note(format!("the disk of broker {victim} {what}"));
    }

    /// A wall clock is wrong for a while.
    fn leap(&mut self, victim: u32) {
        let hours = self.cluster.random.below(40) as i64 - 20;
        let off = self.cluster.leap(victim, |now| if now == 0 { hours * 3_600_000 } else { 0 });
        self.note(format!("the wall clock of broker {victim} is off by {off} ms"));
        let back = Duration::from_millis(self.cluster.random.below(LEAP.as_millis() as u64));
        self.later(back, move |cluster| _ = cluster.leap(victim, |now| -now));
    }

    /// Does something after a while.
    fn later(&self, after: Duration, act: impl FnOnce(&super::Cluster) + Send + 'static) {
        let cluster = std::sync::Arc::clone(&self.cluster);
        let body = async move {
            cluster.env.clock.sleep(after).await;
            act(&cluster);
        };
        drop(self.cluster.env.threads.task("later", body.boxed()));
    }

    pub(super) fn note(&self, what: String) {
        self.cluster.note(what);
    }

    /// Nothing goes wrong from now on.
    pub(super) fn end_faults(&mut self) {
        self.note("all faults end".to_owned());
        self.cluster.net.heal();
        self.cluster.world.lock().store.set(StoreWeather::Fair);
        for broker in self.members.iter().chain(&self.leaving) {
            let usual = self.cluster.latency();
            self.cluster.leave_room(*broker, None);
            self.cluster.on_disk(*broker, false, |disk| disk.set_latency(usual));
            self.cluster.spare_disk(*broker);
            self.cluster.leap(*broker, |now| -now);
        }
    }
}
