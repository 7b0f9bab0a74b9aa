//! What a planned hand-over costs: syncs that wait for each other.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::FutureExt;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use tidegate_env::intercepted::{InterceptedDisk, SlowSyncs};

use super::cluster::{Cluster, PATIENCE, eventually};
use super::*;
use crate::raft::store::LogStore;
use crate::raft::types::{LogId, RaftEntry, RaftPayload, TypeConfig, Vote};

const THREE: [u64; 3] = [1, 2, 3];
/// Far longer than all else that a hand-over does.
const SYNC: Duration = Duration::from_millis(100);
/// A single slow disk.
const SLOW: Duration = Duration::from_millis(500);
const ROUNDS: usize = 5;

#[test]
fn a_hand_over_waits_for_few_syncs() {
    on_threads(async {
        let cluster = Cluster::of(&THREE, 31).await;
        let mut leader = cluster.leader().await;
        cluster.propose(open(0)).await;
        cluster.propose(append(0, "first")).await;
        cluster.converged().await;
        cluster.syncs.values().for_each(|sync| sync.store(SYNC.as_millis() as u64, Ordering::Relaxed));
        let mut took = Vec::new();
        for _ in 0..ROUNDS {
            let heir = THREE[leader as usize % THREE.len()];
            let begun = Instant::now();
            cluster.journal(leader).transfer_leadership(heir, PATIENCE).await.unwrap();
            let led = begun.elapsed();
            cluster.journal(heir).propose(append(0, "next")).await.unwrap();
            took.push((begun.elapsed(), led));
            // The next hand-over finds nothing on its way.
            cluster.converged().await;
            leader = cluster.leader().await;
        }
        took.sort_unstable();
        println!("until the first acknowledgement, and until the old leader knew of the new one: {took:?}");
        // The votes of the heir and of one more, the first entry of the term, and the next one. A machine that is busy shows in most rounds, not in all.
        assert!(took[0].0 < SYNC * 4, "{took:?}");
    });
}

#[test]
fn nobody_hears_of_a_leader_whose_own_vote_is_not_durable() {
    on_threads(async {
        let mut cluster = Cluster::empty(32);
        // Nobody else is to be elected while one disk is slow.
        cluster.settings.heartbeat_ms = 300;
        for id in THREE {
            cluster.start(id, Beginning::Bootstrap { voters: THREE.into() }).await.unwrap();
        }
        let leader = cluster.leader().await;
        cluster.propose(open(0)).await;
        cluster.converged().await;
        let heir = THREE[leader as usize % THREE.len()];
        let other = *THREE.iter().find(|id| ![leader, heir].contains(id)).unwrap();
        cluster.syncs[&heir].store(SLOW.as_millis() as u64, Ordering::Relaxed);
        let begun = Instant::now();
        let handed = cluster.journal(leader).transfer_leadership(heir, PATIENCE);
        let mut heard = cluster.journal(other).leadership();
        let heard = tokio::time::timeout(PATIENCE, heard.wait_for(|now| now.leader == Some(heir)));
        let next = cluster.journal(heir);
        let held = async {
            let told = || next.handing().is_coming(&next.leadership().borrow()).then_some(());
            eventually("the heir is told", told).await;
            (next.takes_units(), next.takes_units_soon(PATIENCE).await)
        };
        let (handed, heard, held) = tokio::join!(handed, heard, held);
        handed.unwrap();
        heard.unwrap().unwrap();
        assert!(begun.elapsed() >= SLOW, "heard after {:?}", begun.elapsed());
        assert_eq!(held, (false, true), "what comes early waits at the heir until it leads");
        assert!(!cluster.journal(other).takes_units_soon(PATIENCE * 2).await);
        assert!(begun.elapsed() < PATIENCE, "nobody waits at one that is not to lead");
    });
}

/// Raft takes a saved vote as word that all it gave to the log before is durable.
#[tokio::test]
async fn a_vote_for_oneself_is_not_saved_before_the_entries_that_came_first() {
    let folder = tempfile::tempdir().unwrap();
    let mut env = Env::real();
    let sync = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    env.disk = std::sync::Arc::new(InterceptedDisk { disk: env.disk, by: SlowSyncs(sync.clone()) });
    let (wal, _) = open_log(folder.path(), &env).await;
    let mut store = LogStore::new(ID, 11, wal.clone(), TailCache::new(1 << 20), None).unwrap();
    sync.store(SLOW.as_millis() as u64, Ordering::Relaxed);
    let vote = |term| Vote::new(term, 11);
    let begun = Instant::now();
    store.save_vote(&vote(2)).await.unwrap();
    assert!(begun.elapsed() < SLOW, "nothing waits for a vote with nothing before it");
    let (flushed, mut is_flushed) = TypeConfig::oneshot();
    let entry = RaftEntry { log_id: LogId::new_term_index(2, 0), payload: RaftPayload::Blank };
    store.append([entry], IOFlushed::signal(flushed)).await.unwrap();
    assert!((&mut is_flushed).now_or_never().is_none(), "the disk is slow");
    store.save_vote(&vote(3)).await.unwrap();
    is_flushed.now_or_never().unwrap().unwrap().unwrap();
    wal.close().await;
}
