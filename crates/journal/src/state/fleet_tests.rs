//! The registry of brokers and replicas: who is known, who may hold what, and ids that are never given out twice.

use std::collections::BTreeSet;

use tidegate_model::{BrokerId, JournalId, TimestampMs};
use uuid::Uuid;

use super::tests::register;
use super::*;
use crate::entry::{BrokerState, Entry, Operation, Outcome, Refusal, Unit};

const J: JournalId = JournalId(1);

/// A state and the number of its next entry.
struct Bench(State, u64);

impl Bench {
    /// Three brokers; broker 1 holds two data journals and the catalog.
    fn new() -> Bench {
        let mut bench = Bench(State::new(), 0);
        (1..=3).for_each(|broker| assert_eq!(bench.run(register(broker, u128::from(broker))), Ok(Outcome::Done)));
        bench.run(Operation::AddJournals { count: 2, replicas: vec![BrokerId(1)] }).unwrap();
        bench
    }

    fn run(&mut self, operation: Operation) -> Result<Outcome, Refusal> {
        self.1 += 1;
        let entry = Entry { time: TimestampMs(1_000), units: vec![Unit::of(operation)] };
        let (payload, _) = EntryPayload::encode(entry).unwrap();
        let applied = self.0.apply(Position { term: 1, index: self.1 }, &payload);
        self.0.check().unwrap();
        match applied.outcomes.into_iter().next().unwrap() {
            UnitOutcome::Applied(outcomes) => Ok(outcomes[0].clone()),
            UnitOutcome::Refused { refusal, .. } => Err(*refusal),
        }
    }

    fn add(&mut self, journal: JournalId, broker: u32) -> Result<Outcome, Refusal> {
        let incarnation = self.0.catalog().fleet().broker(BrokerId(broker)).unwrap().incarnation;
        self.run(Operation::AddReplica { journal, broker: BrokerId(broker), incarnation })
    }

    fn state(&mut self, broker: u32, state: BrokerState) -> Result<Outcome, Refusal> {
        let incarnation = self.0.catalog().fleet().broker(BrokerId(broker)).unwrap().incarnation;
        self.run(Operation::SetBrokerState { broker: BrokerId(broker), incarnation, state })
    }
}

#[test]
fn the_first_broker_founds_the_catalog_and_the_journals_that_are_added_with_it() {
    let bench = Bench::new();
    let fleet = bench.0.catalog().fleet();
    let founders: Vec<_> = fleet.journals().map(|(id, info)| (id.0, info.founder, info.replicas.len())).collect();
    assert_eq!(founders, [(0, 1, 1), (1, 1, 1), (2, 1, 1)]);
    assert_eq!(fleet.broker(BrokerId(2)).unwrap().address("grpc"), Some("127.0.0.1:2"));
    assert_eq!(fleet.replicas_on(BrokerId(1), Uuid::from_u128(1)).count(), 3);
    assert_eq!(fleet.replicas_on(BrokerId(1), Uuid::from_u128(2)).count(), 0, "another volume of that broker holds nothing");
}

#[test]
fn a_replica_id_is_never_given_out_twice() {
    let mut bench = Bench::new();
    let mut seen = BTreeSet::from([1]);
    for _ in 0..5 {
        let Ok(Outcome::Replica { id }) = bench.add(J, 2) else { panic!("refused") };
        assert_eq!((id as u32, seen.insert(id)), (2, true), "{id}");
        assert_eq!(bench.add(J, 2), Ok(Outcome::Replica { id }), "asked again, answered again");
        bench.run(Operation::RemoveReplica { journal: J, replica: id }).unwrap();
        bench.run(Operation::RemoveReplica { journal: J, replica: id }).unwrap();
    }
    assert_eq!(bench.run(Operation::RemoveReplica { journal: J, replica: 1 }), Err(Refusal::LastReplica { journal: J }));
}

#[test]
fn a_new_volume_of_a_broker_is_another_replica_and_the_old_one_is_lost() {
    let mut bench = Bench::new();
    let other = |replaces: Option<u128>| {
        let mut register = register(1, 77);
        if let Operation::RegisterBroker { replaces: place, .. } = &mut register {
            *place = replaces.map(Uuid::from_u128);
        }
        register
    };
    assert!(matches!(bench.run(other(None)), Err(Refusal::BrokerIncarnation { .. })));
    bench.run(other(Some(1))).unwrap();
    assert_eq!(bench.add(J, 1), Ok(Outcome::Replica { id: (1 << 32) | 1 }));
    let stale = Operation::AddReplica { journal: J, broker: BrokerId(2), incarnation: Uuid::from_u128(8) };
    assert!(matches!(bench.run(stale), Err(Refusal::BrokerIncarnation { .. })));
}

#[test]
fn a_draining_broker_gets_nothing_and_only_an_empty_one_is_retired_for_good() {
    let mut bench = Bench::new();
    let second = BrokerId(2);
    bench.add(J, 2).unwrap();
    bench.state(2, BrokerState::Draining).unwrap();
    bench.run(register(2, 2)).unwrap();
    assert_eq!(bench.0.catalog().fleet().broker(second).unwrap().state, BrokerState::Draining, "a restart does not end a drain");
    let not_active = Refusal::BrokerNotActive { broker: second, state: BrokerState::Draining };
    assert_eq!(bench.add(JournalId(2), 2), Err(not_active.clone()));
    assert_eq!(bench.run(Operation::AddJournals { count: 1, replicas: vec![second] }), Err(not_active));
    assert_eq!(bench.state(2, BrokerState::Retired), Err(Refusal::BrokerBusy { broker: second, journals: 1 }));
    bench.run(Operation::RemoveReplica { journal: J, replica: 2 }).unwrap();
    bench.state(2, BrokerState::Retired).unwrap();
    bench.state(2, BrokerState::Retired).unwrap();
    assert_eq!(bench.state(2, BrokerState::Active), Err(Refusal::BrokerRetired { broker: second }));
    assert_eq!(bench.run(register(2, 2)), Err(Refusal::BrokerRetired { broker: second }));
}

#[test]
fn fields_out_of_bounds_are_refused_by_name() {
    let mut bench = Bench::new();
    for factor in [0, 2, 4, 6, 7] {
        let refused = bench.run(Operation::SetReplicationFactor { factor });
        assert!(matches!(refused, Err(Refusal::Invalid { field: "replication_factor", .. })), "{factor}: {refused:?}");
    }
    bench.run(Operation::SetReplicationFactor { factor: 5 }).unwrap();
    for replicas in [vec![], vec![BrokerId(1); 2], (1..=6).map(BrokerId).collect()] {
        let refused = bench.run(Operation::AddJournals { count: 1, replicas });
        assert!(matches!(refused, Err(Refusal::Invalid { field: "replicas", .. })), "{refused:?}");
    }
    let unknown = bench.run(Operation::AddJournals { count: 1, replicas: vec![BrokerId(9)] });
    assert_eq!(unknown, Err(Refusal::UnknownBroker { broker: BrokerId(9) }));
    assert!(matches!(bench.run(register(0, 1)), Err(Refusal::Invalid { field: "broker", .. })));
    let nowhere =
        bench.run(Operation::AddReplica { journal: JournalId(9), broker: BrokerId(1), incarnation: Uuid::from_u128(1) });
    assert_eq!(nowhere, Err(Refusal::UnknownJournal { journal: JournalId(9) }));
}

#[test]
fn a_salvaged_hub_knows_no_broker_and_its_first_one_takes_over_all_journals() {
    let bench = Bench::new();
    let (state, _) = bench.0.salvage(Position { term: 1, index: 1 });
    assert_eq!(state.catalog().fleet().brokers().len(), 0);
    let mut bench = Bench(state, 1);
    bench.run(register(4, 4)).unwrap();
    assert_eq!(bench.add(J, 4), Ok(Outcome::Replica { id: 4 }));
    let fleet = bench.0.catalog().fleet();
    assert_eq!((fleet.journal(JournalId::CATALOG).unwrap().founder, fleet.journal(J).unwrap().founder), (4, 4));
}
