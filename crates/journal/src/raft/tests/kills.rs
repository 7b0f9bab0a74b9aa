//! Ends without a goodbye, idle times, checkpoints and purges.

use std::path::Path;
use std::time::Duration;

use tidegate_model::Offset;

use super::*;
use crate::entry::{ObjectInfo, TierRange};

#[test]
fn nothing_acknowledged_is_lost_when_the_runtime_is_dropped_under_load() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..8_u64 {
        let (before, target) = (acknowledged.clone(), 1 + round * 7);
        let (sender, acks) = std::sync::mpsc::sync_channel(100_000);
        on_threads(async {
            let settings = JournalSettings { checkpoint_bytes: 4 << 10, ..settings() };
            let broker = start_with(folder.path(), &Env::real(), settings, TailCache::new(1 << 20)).await;
            if round == 0 {
                broker.journal.propose(open(0)).await.unwrap();
            }
            let found = broker.values(0).await;
            assert!(found.len() >= before.len(), "round {round}: {} acknowledged, {} found", before.len(), found.len());
            assert_eq!(found[..before.len()], before, "round {round}");
            let journal = broker.journal.clone();
            tokio::spawn(async move {
                let mut tickets = std::collections::VecDeque::new();
                for number in 0.. {
                    let value = format!("{round}-{number}");
                    tickets.push_back((value.clone(), journal.submit(append(0, &value)).await.unwrap()));
                    while tickets.len() > 20 {
                        let (value, ticket) = tickets.pop_front().unwrap();
                        if ticket.await.is_err() || sender.send(value).is_err() {
                            return;
                        }
                    }
                }
            });
            let mut end = broker.journal.high_watermark(at(0)).unwrap();
            let goal = Offset(found.len() as i64 + target as i64 + 30);
            end.wait_for(|end| *end >= goal).await.unwrap();
            // What earlier runs appended without acknowledging it stays from now on.
            acknowledged = found;
        });
        acknowledged.extend(acks.try_iter());
    }
    assert!(acknowledged.len() > 8, "{}", acknowledged.len());
}

async fn filled(folder: &Path, values: usize) -> Broker {
    let broker = start(folder, &Env::real()).await;
    broker.journal.propose(open(0)).await.unwrap();
    for number in 0..values {
        broker.journal.propose(append(0, &number.to_string())).await.unwrap();
    }
    broker
}

/// Waits until the log was purged up to `index`.
async fn purged_to(broker: &Broker, index: u64) {
    while broker.wal.first_index(ID) <= index {
        tokio::task::yield_now().await;
    }
}

#[test]
fn the_log_is_purged_only_below_two_checkpoints_and_only_what_is_tiered_or_trimmed() {
    let folder = tempfile::tempdir().unwrap();
    on_threads(async {
        let broker = filled(folder.path(), 10).await;
        broker.journal.checkpoint().await.unwrap().unwrap();
        broker.journal.propose(append(0, "10")).await.unwrap();
        let second = broker.journal.checkpoint().await.unwrap().unwrap();
        assert_eq!(broker.wal.first_index(ID), 1, "records that are in the log alone stay");

        let key = crate::entry::ObjectKey::from("objects/1");
        broker.journal.propose(unit(Operation::Intend { key: key.clone() })).await.unwrap();
        let range = TierRange {
            at: at(0),
            base: Offset(0),
            end: Offset(11),
            position: 0,
            bytes: 1_000,
            min_timestamp: TimestampMs(1_000),
            max_timestamp: TimestampMs(1_000),
        };
        let object = ObjectInfo { key, bytes: 1_000, crc32c: 1 };
        let tiered = broker.journal.propose(unit(Operation::Tier { object, ranges: vec![range] })).await.unwrap();
        assert!(matches!(tiered, UnitOutcome::Applied(_)), "{tiered:?}");
        broker.journal.propose(append(0, "11")).await.unwrap();
        let third = broker.journal.checkpoint().await.unwrap().unwrap();
        purged_to(&broker, second.index).await;
        assert!(broker.wal.first_index(ID) <= third.index);
        let below = broker.journal.read_tail(at(0), Offset(3), 1).await.unwrap_err();
        assert!(matches!(below, ReadError::BelowTail { tail_start: Offset(11), .. }), "{below}");
        assert_eq!(broker.values(0).await, ["11"]);
    });
    on_threads(async {
        let broker = start(folder.path(), &Env::real()).await;
        assert_eq!(broker.values(0).await, ["11"]);
        let next = appended(broker.journal.propose(append(0, "12")).await.unwrap());
        assert_eq!(next.base, Offset(12));
        broker.stop().await;
    });
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(checkpoints(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_checkpoint_costs_a_longer_replay_and_two_a_refusal() {
    let folder = tempfile::tempdir().unwrap();
    on_threads(async {
        let broker = filled(folder.path(), 5).await;
        let mut older = 0;
        for number in 5..8 {
            broker.journal.propose(unit(Operation::Trim { at: at(0), log_start: Offset(number) })).await.unwrap();
            older = broker.journal.checkpoint().await.unwrap().unwrap().index;
            broker.journal.propose(append(0, &number.to_string())).await.unwrap();
        }
        broker.journal.checkpoint().await.unwrap().unwrap();
        while broker.wal.first_index(ID) == 1 {
            tokio::task::yield_now().await;
        }
        // The log goes on from the older checkpoint, and begins there at the latest once the purge is done.
        let first = broker.wal.first_index(ID);
        assert!(first <= older + 1, "the log begins at {first}, the older checkpoint is of {older}");
    });
    assert_eq!(files(folder.path()).len(), 2, "two are kept: {:?}", files(folder.path()));
    damage(&files(folder.path())[1]);
    on_threads(async {
        let broker = start(folder.path(), &Env::real()).await;
        assert_eq!(broker.values(0).await, ["7"]);
        let start = broker.journal.read_state(|state| state.partition(at(0)).unwrap().log_start());
        assert_eq!(start, Offset(7));
    });
    damage(&files(folder.path())[0]);
    on_threads(async {
        let env = Env::real();
        let (wal, log) = open_log(folder.path(), &env).await;
        let parts = JournalParts {
            wal,
            cache: TailCache::new(1 << 20),
            checkpoint_dir: checkpoints(folder.path()),
            env,
            links: Links::none(),
        };
        let refused = Journal::start(ID, settings(), log, parts).await.unwrap_err();
        assert!(matches!(refused, StartError::NoCheckpoint { .. }), "{refused}");
    });
}

#[test]
fn a_journal_whose_log_is_gone_does_not_vote() {
    let folder = tempfile::tempdir().unwrap();
    on_threads(async {
        let broker = filled(folder.path(), 3).await;
        broker.stop().await;
    });
    on_threads(async {
        let env = Env::real();
        let (wal, _) = Wal::open(Settings::new(folder.path().join("another")), &env).await.unwrap();
        let parts = JournalParts {
            wal,
            cache: TailCache::new(1 << 20),
            checkpoint_dir: checkpoints(folder.path()),
            env,
            links: Links::none(),
        };
        let refused = Journal::start(ID, settings(), None, parts).await.unwrap_err();
        assert!(matches!(refused, StartError::LogLost { last: 0, .. }), "{refused}");
    });
}

#[test]
fn a_write_after_long_idleness_is_taken_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let broker = start(folder.path(), &Env::real()).await;
        broker.journal.propose(open(0)).await.unwrap();
        tokio::time::pause();
        for idle in [1, 10, 3_600] {
            tokio::time::advance(Duration::from_secs(idle)).await;
            tokio::time::resume();
            broker.journal.propose(append(0, "after a while")).await.unwrap();
            tokio::time::pause();
        }
        tokio::time::resume();
        assert_eq!(broker.values(0).await.len(), 3);
        broker.stop().await;
    });
}

#[test]
fn entry_time_never_falls_over_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let time = |broker: &Broker| broker.journal.read_state(State::time);
    let before = on_threads(async {
        let broker = filled(folder.path(), 1).await;
        time(&broker)
    });
    on_threads(async {
        let broker = start(folder.path(), &Env::real()).await;
        assert_eq!(time(&broker), before);
        let next = appended(broker.journal.propose(append(0, "next")).await.unwrap());
        assert!(next.time >= before);
        broker.stop().await;
    });
}
