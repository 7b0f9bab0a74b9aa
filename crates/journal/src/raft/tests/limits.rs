//! What bounds memory and disk.

use tidegate_env::sim::{Ended, Fault, OperationKind, Simulation};

use super::*;
use crate::raft::settings::ENTRY_OVERHEAD_BYTES;

#[test]
fn units_wait_for_their_bytes_and_control_does_not_wait_behind_data() {
    let folder = tempfile::tempdir().unwrap();
    on_threads(async {
        let settings = JournalSettings { data_bytes: 1 << 20, ..settings() };
        let broker = start_with(folder.path(), &Env::real(), settings, TailCache::new(64 << 20)).await;
        broker.journal.propose(open(0)).await.unwrap();
        let too_large = broker.journal.submit(append(0, &"x".repeat(2 << 20))).await.unwrap_err();
        assert!(matches!(too_large, JournalError::TooLarge { .. }), "{too_large}");
        let value = "x".repeat(300 << 10);
        let writers = (0..16).map(|_| {
            let (journal, value) = (broker.journal.clone(), value.clone());
            tokio::spawn(async move { journal.propose(append(0, &value)).await.unwrap() })
        });
        let writers: Vec<_> = writers.collect();
        broker.journal.propose(open(1)).await.unwrap();
        for writer in writers {
            writer.await.unwrap();
        }
        assert_eq!(broker.values(0).await.len(), 16);
        broker.stop().await;
    });
}

#[test]
fn a_full_wal_refuses_data_with_a_reason_and_takes_it_again_once_space_was_freed() {
    let folder = tempfile::tempdir().unwrap();
    on_threads(async {
        let env = Env::real();
        let wal_settings = Settings {
            file_bytes: 1 << 20,
            budget_bytes: 8 << 20,
            control_reserve_bytes: 2 << 20,
            ..wal_settings(folder.path())
        };
        let (wal, _) = Wal::open(wal_settings, &env).await.unwrap();
        let cache = TailCache::new(4 << 20);
        let parts = JournalParts {
            wal: wal.clone(),
            cache: cache.clone(),
            checkpoint_dir: checkpoints(folder.path()),
            env,
            links: Links::none(),
        };
        let settings = JournalSettings::fitting(11, wal.max_payload_bytes());
        let journal = Journal::start(ID, settings, None, parts).await.unwrap();
        journal.ensure_ready().await.unwrap();
        let broker = Broker { wal, journal, cache };
        broker.journal.propose(open(0)).await.unwrap();
        let value = "x".repeat(100 << 10);
        let mut taken = 0;
        let refusal = loop {
            match broker.journal.propose(append(0, &value)).await {
                Ok(outcome) => taken = appended(outcome).base.0 + 1,
                Err(refusal) => break refusal,
            }
            assert!(taken < 100, "8 MiB hold no 10 MiB");
        };
        let JournalError::Full { retry_after, budget, .. } = &refusal else { panic!("{refusal}") };
        assert!(!retry_after.is_zero());
        assert_eq!(*budget, 8 << 20);
        let text = refusal.to_string();
        assert_eq!((text.matches("bytes").count(), text.matches("try again").count()), (1, 1), "{text}");
        assert_eq!(broker.values(0).await.len() as i64, taken, "reads go on");
        let trim = unit(Operation::Trim { at: at(0), log_start: Offset(taken) });
        broker.journal.propose(trim).await.unwrap();
        for _ in 0..2 {
            broker.journal.checkpoint().await.unwrap().unwrap();
            broker.journal.propose(open(0)).await.unwrap();
        }
        broker.journal.checkpoint().await.unwrap().unwrap();
        let again = loop {
            match broker.journal.propose(append(0, &value)).await {
                Ok(outcome) => break appended(outcome),
                Err(JournalError::Full { .. }) => tokio::task::yield_now().await,
                Err(other) => panic!("{other}"),
            }
        };
        assert_eq!(again.base, Offset(taken));
        broker.stop().await;
    });
}

/// Records that many send at once overtake the log's own count of what it holds, and small entries of clients come on top: what frees space must find
/// room all the same, or a log that was full once would be full for ever.
#[test]
fn a_log_that_many_filled_at_once_keeps_to_its_budget_and_can_be_emptied() {
    let folder = tempfile::tempdir().unwrap();
    on_threads(async {
        let env = Env::real();
        let wal_settings = Settings {
            file_bytes: 1 << 20,
            budget_bytes: 16 << 20,
            control_reserve_bytes: 2 << 20,
            ..wal_settings(folder.path())
        };
        let budget = wal_settings.budget_bytes;
        let (wal, _) = Wal::open(wal_settings, &env).await.unwrap();
        let cache = TailCache::new(4 << 20);
        let parts = JournalParts {
            wal: wal.clone(),
            cache: cache.clone(),
            checkpoint_dir: checkpoints(folder.path()),
            env,
            links: Links::none(),
        };
        let settings = JournalSettings::fitting(11, wal.max_payload_bytes());
        let journal = Journal::start(ID, settings, None, parts).await.unwrap();
        journal.ensure_ready().await.unwrap();
        let broker = Broker { wal, journal, cache };
        broker.journal.propose(open(0)).await.unwrap();
        let value = "x".repeat(100 << 10);
        let mut tickets = Vec::new();
        loop {
            match broker.journal.submit(append(0, &value)).await {
                Ok(ticket) => tickets.push(ticket),
                Err(JournalError::Full { .. }) => break,
                Err(other) => panic!("{other}"),
            }
        }
        let mut taken = Offset(0);
        for ticket in tickets {
            taken = Offset(appended(ticket.await.unwrap()).base.0 + 1);
        }
        let used = broker.wal.status().used_bytes;
        assert!(used <= budget, "{used} of {budget} bytes");
        // Clients go on with what needs little room, until that is used up as well.
        let commits = || {
            let commit = |offset| crate::entry::OffsetCommit {
                at: at(0),
                offset: Offset(offset),
                leader_epoch: LeaderEpoch(0),
                metadata: "m".repeat(2000),
            };
            unit(Operation::CommitOffsets { group: "g".to_owned(), offsets: (0..50).map(commit).collect() })
        };
        loop {
            match broker.journal.propose(commits()).await {
                Ok(_) => {}
                Err(JournalError::Full { .. }) => break,
                Err(other) => panic!("{other}"),
            }
        }
        let used = broker.wal.status().used_bytes;
        assert!(used <= budget, "{used} of {budget} bytes");
        // Far more of what frees space than there is room left.
        let trim = unit(Operation::Trim { at: at(0), log_start: taken });
        for _ in 0..3 {
            broker.journal.propose(trim.clone()).await.unwrap();
            broker.journal.checkpoint().await.unwrap().unwrap();
        }
        loop {
            match broker.journal.propose(append(0, &value)).await {
                Ok(outcome) => break assert_eq!(appended(outcome).base, taken),
                Err(JournalError::Full { .. }) => tokio::task::yield_now().await,
                Err(other) => panic!("{other}"),
            }
        }
        broker.stop().await;
    });
}

#[test]
fn a_unit_that_could_not_fit_into_a_file_of_the_log_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    on_threads(async {
        let env = Env::real();
        let (wal, _) = open_log(folder.path(), &env).await;
        let start = async |settings| {
            let parts = JournalParts {
                wal: wal.clone(),
                cache: TailCache::new(1 << 20),
                checkpoint_dir: checkpoints(folder.path()),
                env: env.clone(),
                links: Links::none(),
            };
            Journal::start(ID, settings, None, parts).await
        };
        let room = wal.max_payload_bytes() - ENTRY_OVERHEAD_BYTES;
        for (settings, named) in [
            (JournalSettings { unit_bytes: room + 1, ..settings() }, "unit_bytes"),
            (JournalSettings { entry_limit_bytes: room + 1, ..settings() }, "entry_limit_bytes"),
        ] {
            let refused = start(settings).await.unwrap_err().to_string();
            assert!(refused.contains(named) && refused.contains("file_bytes"), "{refused}");
        }
        // One that nearly fills it goes through.
        let journal = start(JournalSettings { unit_bytes: room, ..settings() }).await.unwrap();
        journal.ensure_ready().await.unwrap();
        journal.propose(open(0)).await.unwrap();
        let outcome = journal.propose(append(0, &"x".repeat(room - 1024))).await.unwrap();
        assert_eq!(appended(outcome).base, Offset(0));
        journal.shutdown().await;
        drop(journal);
        wal.close().await;
    });
}

#[test]
fn a_disk_that_does_not_read_for_once_is_no_damage() {
    let (mut simulation, folder) = (Simulation::new(7), Path::new("/broker"));
    let ended = simulation.live(async |env, handle| {
        // A cache for nothing: reads go to the disk.
        let broker = start_with(folder, &env, settings(), TailCache::new(1)).await;
        broker.journal.propose(open(0)).await.unwrap();
        for value in ["a", "b", "c"] {
            broker.journal.propose(append(0, value)).await.unwrap();
        }
        let fault = |error| Fault { on: OperationKind::Read, path_contains: "/wal/".into(), after: 0, error };
        for error in [std::io::ErrorKind::Other, std::io::ErrorKind::TimedOut] {
            handle.disk.inject(fault(error));
            let refused = broker.journal.read_tail(at(0), Offset(0), 1 << 20).await.unwrap_err();
            assert!(matches!(&refused, ReadError::Unavailable { reason, .. } if reason.contains("simulated fault")), "{refused}");
            assert_eq!(broker.values(0).await, ["a", "b", "c"], "the next read finds everything");
        }
        // A file that ends too early is damage, and so are other bytes.
        handle.disk.inject(fault(std::io::ErrorKind::UnexpectedEof));
        let refused = broker.journal.read_tail(at(0), Offset(0), 1 << 20).await.unwrap_err();
        assert!(matches!(refused, ReadError::Damaged { .. }), "{refused}");
        broker.stop().await;
    });
    assert_eq!(ended, Ended::Output(()));
}
