//! Proposing, reading, stopping, starting again.

use tidegate_model::{JournalId, Offset};

use super::*;
use crate::entry::Refusal;

#[test]
fn what_was_proposed_is_read_back_before_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let expected: Vec<String> = (0..50).map(|number| format!("value {number}")).collect();
    let before = on_threads(async {
        let broker = start(folder.path(), &Env::real()).await;
        broker.journal.propose(open(0)).await.unwrap();
        for (offset, value) in expected.iter().enumerate() {
            let appended = appended(broker.journal.propose(append(0, value)).await.unwrap());
            assert_eq!(appended.base, Offset(offset as i64));
        }
        assert_eq!(broker.values(0).await, expected);
        assert_eq!(values_by(&broker.journal, 0, 1).await, expected, "a read gives at least one batch however small its limit");
        let term = broker.journal.leadership().borrow().term;
        broker.stop().await;
        term
    });
    on_threads(async {
        let broker = start(folder.path(), &Env::real()).await;
        assert_eq!(broker.values(0).await, expected);
        assert!(broker.journal.leadership().borrow().term > before, "each start leads under a new term");
        let more = appended(broker.journal.propose(append(0, "more")).await.unwrap());
        assert_eq!(more.base, Offset(50));
        broker.stop().await;
    });
}

#[test]
fn the_tail_below_the_cache_is_read_from_the_wal() {
    let folder = tempfile::tempdir().unwrap();
    on_threads(async {
        let broker = start_with(folder.path(), &Env::real(), settings(), TailCache::new(1)).await;
        broker.journal.propose(open(0)).await.unwrap();
        let expected: Vec<String> = (0..20).map(|number| format!("{number}-{}", "x".repeat(9_000))).collect();
        for value in &expected {
            broker.journal.propose(append(0, value)).await.unwrap();
        }
        assert!(broker.cache.used_bytes() < 20_000, "old entries were evicted: {:?}", broker.cache);
        assert_eq!(broker.values(0).await, expected);
        assert_eq!(values_by(&broker.journal, 0, 20_000).await, expected);
        broker.stop().await;
    });
}

#[test]
fn reads_outside_of_the_tail_say_why() {
    let folder = tempfile::tempdir().unwrap();
    on_threads(async {
        let broker = start(folder.path(), &Env::real()).await;
        let unknown = broker.journal.read_tail(at(0), Offset(0), 1).await.unwrap_err();
        assert!(matches!(unknown, ReadError::UnknownPartition { .. }), "{unknown}");
        broker.journal.propose(open(0)).await.unwrap();
        broker.journal.propose(append(0, "one")).await.unwrap();
        let end = broker.journal.read_tail(at(0), Offset(1), 1).await.unwrap();
        assert!(end.batches.is_empty() && end.next == Offset(1) && end.high_watermark == Offset(1));
        let beyond = broker.journal.read_tail(at(0), Offset(2), 1).await.unwrap_err();
        assert!(matches!(beyond, ReadError::OutOfRange { high_watermark: Offset(1), .. }), "{beyond}");
        broker.stop().await;
    });
}

#[test]
fn one_refused_unit_does_not_hurt_its_neighbours() {
    let folder = tempfile::tempdir().unwrap();
    on_threads(async {
        let broker = start(folder.path(), &Env::real()).await;
        broker.journal.propose(open(0)).await.unwrap();
        let good = broker.journal.submit(append(0, "good")).await.unwrap();
        let lost = broker.journal.submit(append(9, "no such partition")).await.unwrap();
        let fine = broker.journal.submit(append(0, "fine")).await.unwrap();
        assert_eq!(appended(good.await.unwrap()).base, Offset(0));
        let UnitOutcome::Refused { refusal, .. } = lost.await.unwrap() else { panic!("it must be refused") };
        assert!(matches!(*refusal, Refusal::UnknownPartition { .. }), "{refusal}");
        assert_eq!(appended(fine.await.unwrap()).base, Offset(1));
        broker.stop().await;
    });
}

#[test]
fn high_watermarks_wake_only_those_who_follow_them() {
    let folder = tempfile::tempdir().unwrap();
    on_threads(async {
        let broker = start(folder.path(), &Env::real()).await;
        for partition in 0..2 {
            broker.journal.propose(open(partition)).await.unwrap();
        }
        let mut first = broker.journal.high_watermark(at(0)).unwrap();
        let second = broker.journal.high_watermark(at(1)).unwrap();
        assert!(broker.journal.high_watermark(at(9)).is_none());
        let waiting = tokio::spawn(async move { first.wait_for(|end| *end == Offset(1)).await.map(|end| *end) });
        broker.journal.propose(append(0, "wake up")).await.unwrap();
        assert_eq!(waiting.await.unwrap().unwrap(), Offset(1));
        assert!(!second.has_changed());
        let mut second = second;
        let close = unit(Operation::ClosePartition { at: at(1), generation: 1 });
        broker.journal.propose(close).await.unwrap();
        assert!(second.changed().await.is_err(), "followers of a closed partition are told");
        broker.stop().await;
    });
}

#[test]
fn units_submitted_at_once_keep_their_order_within_a_partition() {
    let folder = tempfile::tempdir().unwrap();
    on_threads(async {
        let broker = start(folder.path(), &Env::real()).await;
        for partition in 0..4 {
            broker.journal.propose(open(partition)).await.unwrap();
        }
        let writers = (0..4).map(|partition| {
            let journal = broker.journal.clone();
            tokio::spawn(async move {
                let mut tickets = Vec::new();
                for sequence in 0..500 {
                    tickets.push(journal.submit(numbered(partition, 5, sequence, &sequence.to_string())).await.unwrap());
                }
                for (offset, ticket) in tickets.into_iter().enumerate() {
                    let appended = appended(ticket.await.unwrap());
                    assert_eq!((appended.base, appended.duplicate), (Offset(offset as i64), false));
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        let expected: Vec<String> = (0..500).map(|sequence| sequence.to_string()).collect();
        for partition in 0..4 {
            assert_eq!(broker.values(partition).await, expected);
        }
        broker.stop().await;
    });
}

#[test]
fn a_closed_journal_takes_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    on_threads(async {
        let broker = start(folder.path(), &Env::real()).await;
        broker.journal.propose(open(0)).await.unwrap();
        let last = broker.journal.submit(append(0, "last")).await.unwrap();
        broker.journal.shutdown().await;
        assert_eq!(appended(last.await.unwrap()).base, Offset(0), "what was submitted before is still answered");
        let refused = broker.journal.propose(append(0, "too late")).await.unwrap_err();
        assert!(matches!(refused, JournalError::Closed { .. }), "{refused}");
        assert_eq!(broker.cache.used_bytes(), 0);
    });
}

#[test]
fn data_of_another_replica_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    on_threads(async { start(folder.path(), &Env::real()).await.stop().await });
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
        let refused = Journal::start(ID, JournalSettings { replica: 12, ..settings() }, log, parts).await.unwrap_err();
        assert!(matches!(refused, StartError::NotAMember { journal: JournalId(3), replica: 12 }), "{refused}");
    });
}

#[test]
fn a_replica_that_joined_and_was_stopped_before_it_was_a_member_goes_on_and_an_emptied_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    on_threads(async { start(folder.path(), &Env::real()).await.stop().await });
    on_threads(async {
        let env = Env::real();
        let (wal, log) = open_log(folder.path(), &env).await;
        let checkpoint_dir = checkpoints(folder.path());
        let parts = JournalParts { wal, cache: TailCache::new(1 << 20), checkpoint_dir, env, links: Links::none() };
        let joined = JournalSettings { replica: 12, ..settings() };
        let emptied = Journal::start_as(JournalId(9), joined.clone(), Beginning::Return, None, parts.clone()).await.unwrap_err();
        assert!(matches!(emptied, StartError::NothingStored { journal: JournalId(9), replica: 12 }), "{emptied}");
        let waits = Journal::start_as(ID, joined, Beginning::Return, log, parts).await.unwrap();
        assert!(!waits.members().voters.contains(&12) && !waits.leadership().borrow().is_self);
        waits.shutdown().await;
    });
}

#[test]
fn a_read_of_any_size_ends_before_the_first_batch_that_does_not_fit_and_skips_none() {
    on_threads(async {
        let folder = tempfile::tempdir().unwrap();
        let env = Env::real();
        let broker = start(folder.path(), &env).await;
        broker.journal.propose(open(0)).await.unwrap();
        // Several entries, each with a large batch between small ones.
        for round in 0..5usize {
            let mut tickets = Vec::new();
            for number in round * 12..round * 12 + 12 {
                let value = vec![b'x'; if number % 7 == 3 { 5_000 } else { 20 }];
                let append = unit(Operation::Append { at: at(0), batch: batch_of(&value), window: 0 });
                tickets.push(broker.journal.submit(append).await.unwrap());
            }
            for ticket in tickets {
                ticket.await.unwrap();
            }
        }
        for max_bytes in (1..12_000).step_by(97) {
            let mut from = Offset(0);
            while from < Offset(60) {
                let read = broker.journal.read_tail(at(0), from, max_bytes).await.unwrap();
                for batch in &read.batches {
                    assert_eq!(batch.header.base_offset, from, "with at most {max_bytes} bytes");
                    from = Offset(from.0 + 1);
                }
                assert_eq!(read.next, from);
            }
        }
        broker.stop().await;
    });
}

#[test]
fn an_end_that_is_cut_off_anywhere_leaves_nothing_that_panics() {
    for polls in 1..=40 {
        let folder = tempfile::tempdir().unwrap();
        let ended = on_threads(async {
            let broker = start(folder.path(), &Env::real()).await;
            broker.journal.propose(open(0)).await.unwrap();
            let ended = {
                let mut shutdown = std::pin::pin!(broker.journal.shutdown());
                let mut left = polls;
                std::future::poll_fn(|context| {
                    left -= 1;
                    let poll = shutdown.as_mut().poll(context);
                    if left == 0 { std::task::Poll::Ready(poll.is_ready()) } else { poll.map(|()| true) }
                })
                .await
            };
            // Asks Raft itself, whatever is left of it.
            let _may_have_ended = broker.journal.add_learner(2).await;
            broker.stop().await;
            ended
        });
        if ended {
            return;
        }
    }
    panic!("an end that was polled 40 times goes on");
}
