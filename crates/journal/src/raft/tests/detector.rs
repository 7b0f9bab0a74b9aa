//! One heartbeat for each pair of brokers: idle journals stay led, slow leaders hand over, and full logs hold a leader back but not for ever.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver;

use super::cluster::{Cluster, PATIENCE, eventually};
use super::*;

const THREE: [u64; 3] = [1, 2, 3];

/// Makes one of these lead.
async fn led_by(cluster: &Cluster, ids: &[u64]) -> u64 {
    let leader = cluster.leader().await;
    if ids.contains(&leader) {
        return leader;
    }
    cluster.journal(leader).transfer_leadership(ids[0], PATIENCE).await.unwrap();
    cluster.leader().await
}

#[test]
fn an_idle_journal_stays_led_without_a_message_of_its_own_and_takes_a_write() {
    on_threads(async {
        let cluster = Cluster::of(&THREE, 21).await;
        let leader = cluster.leader().await;
        cluster.propose(open(0)).await;
        cluster.propose(append(0, "first")).await;
        cluster.converged().await;
        let before = *cluster.journal(leader).leadership().borrow();
        // Ten leases of silence between the replicas, as far as Raft can tell.
        let metrics = cluster.journal(leader).raft().metrics();
        let silent = || metrics.borrow_watched().last_quorum_acked.is_some_and(|at| at.elapsed() > Duration::from_secs(3));
        eventually("Raft sends no heartbeats any more", || silent().then_some(())).await;
        assert_eq!(*cluster.journal(leader).leadership().borrow(), before, "nobody was elected meanwhile");
        let begun = Instant::now();
        tokio::time::timeout(PATIENCE, cluster.journal(leader).propose(append(0, "second"))).await.unwrap().unwrap();
        println!("the first write after a pause took {:?}", begun.elapsed());
        assert_eq!(cluster.values(0).await, ["first", "second"]);
    });
}

#[test]
fn a_leader_that_sends_and_does_not_hear_is_replaced() {
    on_threads(async {
        let cluster = Cluster::of(&THREE, 22).await;
        let deaf = cluster.leader().await;
        let rest: Vec<u64> = THREE.into_iter().filter(|id| *id != deaf).collect();
        rest.iter().for_each(|other| cluster.net.cut(*other, deaf));
        let next = cluster.leader_of(&rest).await;
        assert_ne!(next, deaf);
        cluster.net.heal();
        cluster.propose(open(0)).await;
        cluster.converged().await;
    });
}

#[test]
fn a_leader_with_a_slow_disk_hands_over() {
    on_threads(async {
        let cluster = Cluster::of(&THREE, 23).await;
        let slow = cluster.leader().await;
        cluster.propose(open(0)).await;
        cluster.syncs[&slow].store(400, Ordering::Relaxed);
        let begun = Instant::now();
        let mut number = 0;
        while cluster.leader().await == slow {
            assert!(begun.elapsed() < PATIENCE, "the slow one leads on");
            cluster.propose(append(0, &format!("{number}"))).await;
            number += 1;
        }
        println!("replaced after {:?}", begun.elapsed());
        cluster.syncs[&slow].store(0, Ordering::Relaxed);
        cluster.propose(append(0, "goes on")).await;
        assert_eq!(cluster.values(0).await.last().unwrap(), "goes on");
    });
}

#[test]
fn a_leader_behind_a_slow_link_hands_over_and_a_follower_behind_one_changes_nothing() {
    on_threads(async {
        let cluster = Cluster::of(&THREE, 24).await;
        let leader = cluster.leader().await;
        cluster.propose(open(0)).await;
        let far = *THREE.iter().find(|id| **id != leader).unwrap();
        cluster.net.far(far, Duration::from_millis(130));
        for number in 0..200 {
            cluster.propose(append(0, &format!("{number}"))).await;
        }
        assert_eq!(cluster.leader().await, leader, "the majority is near");
        cluster.net.far(far, Duration::ZERO);
        cluster.net.far(leader, Duration::from_millis(130));
        let elsewhere = || {
            let seen = cluster.replicas.values().map(|replica| *replica.journal.leadership().borrow());
            seen.filter(|now| now.is_self).max_by_key(|now| now.term).filter(|now| now.leader != Some(leader))
        };
        eventually("another one leads", elsewhere).await;
        cluster.net.far(leader, Duration::ZERO);
        cluster.propose(append(0, "goes on")).await;
        assert_eq!(cluster.values(0).await.last().unwrap(), "goes on");
    });
}

#[test]
fn a_voter_without_room_holds_the_leader_back_for_a_while_is_not_overrun_and_comes_back() {
    on_threads(async {
        let mut cluster = Cluster::empty(25);
        let budget = 24 << 20;
        cluster.settings.room_patience_ms = 3_000;
        cluster.settings.checkpoint_bytes = 8 << 20;
        cluster.budgets.insert(3, budget);
        for id in THREE {
            cluster.start(id, Beginning::Bootstrap { voters: THREE.into() }).await.unwrap();
        }
        let leader = led_by(&cluster, &[1, 2]).await;
        cluster.propose(open(0)).await;
        let value = "v".repeat(256 << 10);
        let full = async {
            loop {
                if let Err(error) = cluster.journal(leader).propose(append(0, &value)).await {
                    break error;
                }
            }
        };
        let error = tokio::time::timeout(PATIENCE, full).await.expect("the leader is held back");
        assert!(matches!(&error, JournalError::Full { why, .. } if why.contains("broker 3")), "{error}");
        // It is waited for, not for ever.
        let begun = Instant::now();
        while let Err(error) = cluster.journal(leader).propose(append(0, &value)).await {
            assert!(matches!(error, JournalError::Full { .. }) && begun.elapsed() < PATIENCE, "{error}");
        }
        for _ in 0..100 {
            // A beat in which it has room again lets the leader wait anew.
            let begun = Instant::now();
            while let Err(error) = cluster.journal(leader).propose(append(0, &value)).await {
                assert!(matches!(error, JournalError::Full { .. }) && begun.elapsed() < PATIENCE, "{error}");
            }
            let used = cluster.replicas[&3].wal.status().used_bytes;
            assert!(used <= budget, "{used} bytes in a log of {budget}");
        }
        // Once the others have let go of what it lacks, it gets a snapshot and has room again.
        let end = cluster.journal(leader).read_state(|state| state.partition(at(0)).unwrap().high_watermark());
        cluster.propose(unit(Operation::Trim { at: at(0), log_start: end })).await;
        let begun = Instant::now();
        while cluster.replicas[&leader].wal.first_index(ID) < 100 {
            assert!(begun.elapsed() < PATIENCE, "the leader's log is not purged");
            cluster.journal(leader).checkpoint().await.unwrap();
            cluster.propose(append(0, "all of them")).await;
        }
        cluster.converged().await;
    });
}

#[test]
fn the_first_write_after_a_pause_is_proposed_once() {
    on_threads(async {
        let cluster = Cluster::of(&THREE, 27).await;
        let leader = cluster.leader().await;
        cluster.propose(open(0)).await;
        for round in 0..3 {
            eventually("the lease has run out", || (!cluster.journal(leader).holds_lease()).then_some(())).await;
            let before = cluster.journal(leader).proposed_again();
            let begun = std::time::Instant::now();
            appended(cluster.journal(leader).propose(append(0, "after a pause")).await.unwrap());
            println!("the first write after a pause took {:?}", begun.elapsed());
            assert_eq!(cluster.journal(leader).proposed_again(), before, "round {round}: Raft refused it first");
        }
    });
}

#[test]
fn answers_that_are_late_renew_the_lease_all_the_same() {
    on_threads(async {
        let cluster = Cluster::of(&THREE, 28).await;
        let leader = cluster.leader().await;
        cluster.propose(open(0)).await;
        // Longer than a heartbeat, and well within a lease: a machine with more to do than it can.
        let late = Duration::from_millis(cluster.settings.heartbeat_ms + 30);
        THREE.iter().filter(|id| **id != leader).for_each(|other| cluster.net.far(*other, late));
        for round in 0..3 {
            eventually("the lease has run out", || (!cluster.journal(leader).holds_lease()).then_some(())).await;
            let before = cluster.journal(leader).proposed_again();
            appended(cluster.journal(leader).propose(append(0, "beside late answers")).await.unwrap());
            assert_eq!(cluster.journal(leader).proposed_again(), before, "round {round}: Raft refused it first");
        }
        let asked = || cluster.replicas.values().map(|replica| replica.journal.turnover().elections).sum::<u64>();
        let before = asked();
        THREE.iter().filter(|id| **id != leader).for_each(|other| cluster.net.cut(leader, *other));
        let rest: Vec<u64> = THREE.into_iter().filter(|id| *id != leader).collect();
        cluster.leader_of(&rest).await;
        assert!(asked() > before, "an election is counted");
        eventually("the old one has seen that it leads no more", || {
            cluster.net.heal();
            (cluster.journal(leader).turnover().lost == 1).then_some(())
        })
        .await;
    });
}
