//! Cuts, deaths, restarts, slow lanes and transfers in a random order under writes: whatever was acknowledged is there, once and in order.

use std::time::{Duration, Instant};

use tidegate_env::Random;
use tidegate_env::sim::SimRandom;

use super::cluster::*;
use super::*;

const THREE: [u64; 3] = [1, 2, 3];

async fn disturb(cluster: &mut Cluster, random: &SimRandom) {
    let victim = THREE[random.below(3) as usize];
    match random.below(6) {
        0 if cluster.replicas.len() == 3 => cluster.kill(victim),
        1 => {
            let missing: Vec<u64> = THREE.into_iter().filter(|id| !cluster.replicas.contains_key(id)).collect();
            for id in missing {
                cluster.start(id, Beginning::Restart).await.unwrap();
            }
        }
        2 => cluster.net.isolate(victim, &THREE),
        3 => cluster.net.cut(victim, THREE[random.below(3) as usize]),
        4 => {
            cluster.net.slow(Lane::Data, Duration::from_millis(random.below(20)));
            cluster.net.slow(Lane::Control, Duration::from_millis(random.below(10)));
        }
        _ => {
            let leader = cluster.replicas.values().find(|replica| replica.journal.leadership().borrow().is_self);
            if let Some(leader) = leader {
                let _ = leader.journal.transfer_leadership(victim, Duration::from_millis(500)).await;
            }
        }
    }
}

async fn one_round(seed: u64) {
    println!("seed {seed}");
    let random = SimRandom::new(seed);
    let mut cluster = Cluster::empty(seed);
    cluster.settings.checkpoint_bytes = 8 << 10;
    cluster.cache_bytes = 16 << 10;
    for id in THREE {
        cluster.start(id, Beginning::Bootstrap { voters: THREE.into() }).await.unwrap();
    }
    cluster.leader().await;
    cluster.propose(open(0)).await;
    let (mut sequence, begun) = (0, Instant::now());
    while begun.elapsed() < Duration::from_secs(4) {
        disturb(&mut cluster, &random).await;
        // An idempotent producer with one batch on its way: sent again until it was acknowledged.
        for _ in 0..random.below(20) {
            let value = format!("{sequence} {}", "v".repeat(random.below(3_000) as usize));
            let sent = tokio::time::timeout(Duration::from_secs(1), cluster.propose(numbered(0, 9, sequence, &value))).await;
            if sent.is_err() {
                cluster.net.heal();
                cluster.propose(numbered(0, 9, sequence, &value)).await;
            }
            sequence += 1;
        }
        if random.below(3) == 0 {
            cluster.net.heal();
        }
    }
    cluster.net.heal();
    for id in THREE {
        if !cluster.replicas.contains_key(&id) {
            cluster.start(id, Beginning::Restart).await.unwrap();
        }
    }
    let values = cluster.values(0).await;
    let numbers: Vec<String> = values.iter().map(|value| value.split(' ').next().unwrap().to_owned()).collect();
    let expected: Vec<String> = (0..sequence).map(|number| number.to_string()).collect();
    assert_eq!(numbers, expected, "seed {seed}");
}

#[test]
fn what_was_acknowledged_survives_cuts_deaths_and_slow_lanes() {
    let seeds = std::env::var("TIDEGATE_SEED").ok().map(|seed| seed.parse().unwrap());
    for seed in seeds.map_or(1..4, |seed: u64| seed..seed + 1) {
        on_threads(one_round(seed));
    }
}
