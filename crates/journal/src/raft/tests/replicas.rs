//! Three voters: agreement, deaths, partitions, elections.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver;

use super::cluster::*;
use super::*;

const THREE: [u64; 3] = [1, 2, 3];

fn epoch(journal: &Journal) -> LeaderEpoch {
    journal.read_state(|state| state.partition(at(0)).unwrap().epoch())
}

#[test]
fn three_voters_take_the_same_entries_into_the_same_state() {
    on_threads(async {
        let cluster = Cluster::of(&THREE, 1).await;
        let leader = cluster.leader().await;
        let journal = cluster.journal(leader);
        journal.propose(open(0)).await.unwrap();
        let expected: Vec<String> = (0..300).map(|number| format!("value {number} {}", "x".repeat(number * 20))).collect();
        let mut tickets = Vec::new();
        for value in &expected {
            tickets.push(journal.submit(append(0, value)).await.unwrap());
        }
        for (offset, ticket) in tickets.into_iter().enumerate() {
            assert_eq!(appended(ticket.await.unwrap()).base, Offset(offset as i64));
        }
        assert_eq!(cluster.values(0).await, expected);
        let other = *THREE.iter().find(|id| **id != leader).unwrap();
        let refused = cluster.journal(other).propose(append(0, "to a follower")).await.unwrap_err();
        assert!(matches!(refused, JournalError::NotLeader { leader: Some(known), .. } if known == leader), "{refused}");
    });
}

#[test]
fn a_dead_leader_costs_no_acknowledged_unit_and_comes_back_with_the_others_state() {
    on_threads(async {
        let mut cluster = Cluster::of(&THREE, 2).await;
        let mut expected = Vec::new();
        let first = cluster.leader().await;
        cluster.journal(first).propose(open(0)).await.unwrap();
        for round in 0..3 {
            let leader = cluster.leader().await;
            let before = epoch(cluster.journal(leader));
            for number in 0..40 {
                let value = format!("{round}-{number}");
                appended(cluster.journal(leader).propose(append(0, &value)).await.unwrap());
                expected.push(value);
            }
            cluster.kill(leader);
            let rest: Vec<u64> = THREE.into_iter().filter(|id| *id != leader).collect();
            let next = cluster.leader_of(&rest).await;
            assert!(epoch(cluster.journal(next)) > before, "a change of leaders raises the epoch");
            assert_eq!(cluster.values(0).await, expected, "round {round}");
            let value = format!("{round} without {leader}");
            appended(cluster.journal(next).propose(append(0, &value)).await.unwrap());
            expected.push(value);
            cluster.start(leader, Beginning::Restart).await.unwrap();
            assert_eq!(cluster.values(0).await, expected, "round {round}, all three");
        }
    });
}

#[test]
fn a_cut_off_leader_is_deposed_and_what_it_had_not_got_acknowledged_is_gone_everywhere() {
    on_threads(async {
        let cluster = Cluster::of(&THREE, 3).await;
        let old = cluster.leader().await;
        cluster.propose(open(0)).await;
        cluster.propose(append(0, "before")).await;
        cluster.converged().await;
        cluster.net.isolate(old, &THREE);
        let mut tickets = Vec::new();
        for number in 0..20 {
            let value = format!("lost {number} {}", "y".repeat(5_000));
            // A leader that knows already refuses.
            tickets.extend(cluster.journal(old).submit(append(0, &value)).await.ok());
        }
        let rest: Vec<u64> = THREE.into_iter().filter(|id| *id != old).collect();
        let next = cluster.leader_of(&rest).await;
        for number in 0..10 {
            appended(cluster.journal(next).propose(append(0, &format!("kept {number}"))).await.unwrap());
        }
        cluster.net.heal();
        for ticket in tickets {
            let error = tokio::time::timeout(PATIENCE, ticket).await.unwrap().unwrap_err();
            let is_refused = matches!(error, JournalError::NotLeader { .. } | JournalError::NoMajority { .. });
            assert!(is_refused || matches!(error, JournalError::Deposed { .. }), "{error}");
        }
        let mut expected = vec![String::from("before")];
        expected.extend((0..10).map(|number| format!("kept {number}")));
        assert_eq!(cluster.values(0).await, expected);
        assert!(!cluster.journal(old).leadership().borrow().is_self);
    });
}

#[test]
fn a_leader_that_nobody_hears_any_more_can_be_shut_down_with_units_on_their_way() {
    on_threads(async {
        let mut cluster = Cluster::of(&THREE, 31).await;
        let old = cluster.leader().await;
        cluster.propose(open(0)).await;
        cluster.converged().await;
        cluster.net.isolate(old, &THREE);
        let journal = cluster.journal(old).clone();
        let ticket = journal.submit(append(0, "taken by nobody else")).await.unwrap();
        let rest: Vec<u64> = THREE.into_iter().filter(|id| *id != old).collect();
        cluster.leader_of(&rest).await;
        tokio::time::timeout(PATIENCE, journal.shutdown()).await.expect("it ends");
        let error = tokio::time::timeout(PATIENCE, ticket).await.unwrap().unwrap_err();
        // Both say that nobody knows whether it is stored.
        assert!(matches!(error, JournalError::Failed { .. } | JournalError::Closed { .. }), "{error}");
        assert_eq!(*journal.failed().borrow(), None, "nothing failed: its broker goes on");
        cluster.kill(old);
        assert_eq!(cluster.values(0).await, Vec::<String>::new());
    });
}

#[test]
fn the_truncated_suffix_is_gone_from_log_and_cache_after_a_restart_too() {
    on_threads(async {
        let mut cluster = Cluster::empty(4);
        cluster.cache_bytes = 1;
        for id in THREE {
            cluster.start(id, Beginning::Bootstrap { voters: THREE.into() }).await.unwrap();
        }
        let mut expected = Vec::new();
        cluster.leader().await;
        cluster.propose(open(0)).await;
        for round in 0..4 {
            let old = cluster.leader().await;
            cluster.net.isolate(old, &THREE);
            let doomed = format!("doomed {round} {}", "z".repeat(9_000));
            drop(cluster.journal(old).submit(append(0, &doomed)).await.unwrap());
            let rest: Vec<u64> = THREE.into_iter().filter(|id| *id != old).collect();
            let next = cluster.leader_of(&rest).await;
            let value = format!("{round} {}", "w".repeat(7_000 + round));
            appended(cluster.journal(next).propose(append(0, &value)).await.unwrap());
            expected.push(value);
            cluster.net.heal();
            assert_eq!(cluster.values(0).await, expected);
            cluster.kill(old);
            cluster.start(old, Beginning::Restart).await.unwrap();
            assert_eq!(cluster.values(0).await, expected);
        }
    });
}

#[test]
fn a_follower_that_cannot_hear_the_leader_does_not_depose_it() {
    on_threads(async {
        let cluster = Cluster::of(&THREE, 5).await;
        let leader = cluster.leader().await;
        cluster.propose(open(0)).await;
        let term = cluster.journal(leader).leadership().borrow().term;
        let deaf = *THREE.iter().find(|id| **id != leader).unwrap();
        cluster.net.cut(leader, deaf);
        // Ten times the longest wait for an election.
        let until = std::time::Instant::now() + Duration::from_secs(3);
        let mut written = 0;
        while std::time::Instant::now() < until {
            appended(cluster.journal(leader).propose(append(0, &written.to_string())).await.unwrap());
            written += 1;
        }
        let now = *cluster.journal(leader).leadership().borrow();
        assert!(now.is_self && now.term == term, "{now:?}, once {term}");
        cluster.net.heal();
        assert_eq!(cluster.values(0).await.len(), written);
        assert_eq!(cluster.journal(deaf).leadership().borrow().term, term);
    });
}

#[test]
fn slow_lanes_that_overtake_each_other_change_nothing() {
    on_threads(async {
        let cluster = Cluster::of(&THREE, 6).await;
        cluster.net.slow(Lane::Data, Duration::from_millis(15));
        cluster.net.slow(Lane::Control, Duration::from_millis(5));
        cluster.leader().await;
        cluster.propose(open(0)).await;
        let mut sequence = 0;
        for _ in 0..150 {
            cluster.propose(numbered(0, 9, sequence, &sequence.to_string())).await;
            sequence += 1;
        }
        let expected: Vec<String> = (0..sequence).map(|number| number.to_string()).collect();
        assert_eq!(cluster.values(0).await, expected);
    });
}

#[test]
fn an_emptied_replica_does_not_start_under_its_old_id() {
    on_threads(async {
        let mut cluster = Cluster::of(&THREE, 7).await;
        cluster.leader().await;
        cluster.propose(open(0)).await;
        cluster.converged().await;
        cluster.kill(2);
        std::fs::remove_dir_all(cluster.path(2)).unwrap();
        let refused = cluster.start(2, Beginning::Restart).await.unwrap_err();
        assert!(matches!(refused, StartError::NothingStored { replica: 2, .. }), "{refused}");
    });
}

#[test]
fn messages_for_another_hub_journal_or_replica_are_refused() {
    on_threads(async {
        let cluster = Cluster::of(&THREE, 8).await;
        let leader = cluster.leader().await;
        let good = crate::raft::wire::Header { hub: cluster.hub, journal: ID, from: 2, to: leader };
        let vote = openraft::raft::VoteRequest::new(crate::raft::types::Vote::new(1_000, 2), None);
        let term = cluster.journal(leader).leadership().borrow().term;
        let other = |change: fn(&mut crate::raft::wire::Header)| {
            let mut header = good;
            change(&mut header);
            header.vote(&vote)
        };
        let forged = [
            (other(|header| header.hub = tidegate_model::HubId::default()), "belongs to hub"),
            (other(|header| header.journal = JournalId(77)), "a message for journal 77"),
            (other(|header| header.to = replica_id(broker_of(header.to), 1)), "this is replica"),
            (Message { journal: ID, chunks: vec![chunk("no message at all")] }, "run a newer build"),
            (Message { journal: ID, chunks: Vec::new() }, "ends after"),
        ];
        for (message, why) in forged {
            let answer = cluster.journal(leader).accept(message).await.answer().await;
            match crate::raft::wire::decode_reply(answer).unwrap() {
                crate::raft::wire::Reply::Refused(text) => assert!(text.contains(why), "{text}"),
                other => panic!("taken: {other:?}"),
            }
        }
        assert_eq!(cluster.journal(leader).leadership().borrow().term, term);
    });
}

#[test]
fn a_voter_that_was_just_started_gives_no_vote_for_a_lease() {
    on_threads(async {
        let mut cluster = Cluster::empty(9);
        // A lease of 1.2 s, in which the question surely comes.
        cluster.settings.heartbeat_ms = 200;
        for id in THREE {
            cluster.start(id, Beginning::Bootstrap { voters: THREE.into() }).await.unwrap();
        }
        let leader = cluster.leader().await;
        cluster.propose(open(0)).await;
        cluster.converged().await;
        let rest: Vec<u64> = THREE.into_iter().filter(|id| *id != leader).collect();
        let (voter, candidate) = (rest[0], rest[1]);
        cluster.kill(voter);
        // It hears of no leader, so that nothing but the lease holds it back.
        cluster.net.isolate(voter, &THREE);
        cluster.start(voter, Beginning::Restart).await.unwrap();
        let header = crate::raft::wire::Header { hub: cluster.hub, journal: ID, from: candidate, to: voter };
        let last = cluster.journal(leader).raft().data_metrics().borrow_watched().last_log;
        let vote = openraft::raft::VoteRequest::new(crate::raft::types::Vote::new(1_000, candidate), last);
        let asks = async || {
            let answer = cluster.journal(voter).accept(header.pre_vote(&vote)).await.answer().await;
            match crate::raft::wire::decode_reply(answer).unwrap() {
                crate::raft::wire::Reply::Vote(answer) => answer.vote_granted,
                other => panic!("no answer to a vote: {other:?}"),
            }
        };
        assert!(!asks().await, "the leader may still rely on what it answered in its last life");
        eventually_told("it votes again once the lease is over", async || asks().await.then_some(())).await;
    });
}
