//! The planner on a model of a fleet: tables of single decisions, and random histories in which every plan is carried out.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tidegate_journal::entry::BrokerState;
use tidegate_journal::state::Replica;
use tidegate_model::{BrokerId, JournalId};
use uuid::Uuid;

use super::*;

fn broker(zone: &str) -> BrokerView {
    BrokerView {
        incarnation: Uuid::nil(),
        zone: zone.to_owned(),
        node: String::new(),
        state: BrokerState::Active,
        health: Health::Alive,
        slow: false,
    }
}

/// A fleet with the catalog and some data journals, all founded by broker 1.
fn fleet(brokers: u32, zones: u32, journals: u32, factor: usize) -> FleetView {
    let zone = |id: u32| if zones == 0 { String::new() } else { format!("z{}", id % zones) };
    let replica = Replica { id: 1, broker: BrokerId(1), incarnation: Uuid::nil() };
    let one = BTreeSet::from([1]);
    let led = Led { leader: 1, voters: one.clone(), unsettled: BTreeSet::new(), learners: BTreeSet::new(), in_sync: one };
    let journal = JournalView { replicas: vec![replica], lost: BTreeSet::new(), led: Some(led), load: 0.0, settled: true };
    FleetView {
        brokers: (1..=brokers).map(|id| (BrokerId(id), broker(&zone(id)))).collect(),
        journals: (0..=journals).map(|id| (JournalId(id), journal.clone())).collect(),
        replication_factor: factor,
    }
}

/// Carries steps out as the catalog and the journals would.
struct Model {
    view: FleetView,
    given: BTreeMap<(JournalId, BrokerId), u64>,
}

impl Model {
    fn new(view: FleetView) -> Model {
        let given = view.journals.keys().map(|journal| ((*journal, BrokerId(1)), 1)).collect();
        Model { view, given }
    }

    fn alive(&self, replica: u64) -> bool {
        self.view.brokers.get(&BrokerId(replica as u32)).is_some_and(|broker| broker.health == Health::Alive)
    }

    fn led(&mut self, journal: JournalId) -> &mut Led {
        self.view.journals.get_mut(&journal).unwrap().led.as_mut().unwrap()
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::AddReplica { journal, broker } => {
                let host = &self.view.brokers[broker];
                assert_eq!((host.state, host.health), (BrokerState::Active, Health::Alive), "{step:?}");
                let generation = self.given.entry((*journal, *broker)).or_insert(0);
                let replica =
                    Replica { id: (*generation << 32) | u64::from(broker.0), broker: *broker, incarnation: host.incarnation };
                *generation += 1;
                let replicas = &mut self.view.journals.get_mut(journal).unwrap().replicas;
                assert!(replicas.iter().all(|other| other.broker != *broker), "two replicas on one broker: {step:?}");
                replicas.push(replica);
            }
            Step::AddLearner { journal, replica } => assert!(self.led(*journal).learners.insert(*replica), "{step:?}"),
            Step::ChangeVoters { journal, voters } => self.change_voters(*journal, voters, step),
            Step::TransferLeader { journal, to } | Step::BalanceLeader { journal, to } => {
                assert!(self.alive(*to), "{step:?}");
                let led = self.led(*journal);
                assert!(led.voters.contains(to) && led.in_sync.contains(to) && led.leader != *to, "{step:?} {led:?}");
                led.leader = *to;
            }
            Step::RemoveLearner { journal, replica } => {
                let (broker, journals) = (BrokerId(*replica as u32), self.view.journals.iter());
                let mut data = journals.filter(|(id, _)| **id != JournalId::CATALOG).flat_map(|(_, journal)| &journal.replicas);
                assert!(*journal != JournalId::CATALOG || data.all(|other| other.broker != broker), "it hears no more: {step:?}");
                let led = self.led(*journal);
                assert!(led.learners.remove(replica), "{step:?}");
                led.in_sync.remove(replica);
            }
            Step::RemoveReplica { journal, replica } => {
                let led = self.led(*journal);
                assert!(!led.voters.contains(replica) && !led.learners.contains(replica), "{step:?} {led:?}");
                self.view.journals.get_mut(journal).unwrap().replicas.retain(|other| other.id != *replica);
            }
            Step::Retire { broker } => {
                let holds = |journal: &JournalView| journal.replicas.iter().any(|replica| replica.broker == *broker);
                assert!(!self.view.journals.values().any(holds), "{step:?}");
                self.view.brokers.remove(broker);
            }
        }
    }

    fn change_voters(&mut self, journal: JournalId, voters: &BTreeSet<u64>, step: &Step) {
        let factor = self.view.replication_factor;
        let led = self.led(journal);
        let in_sync = |set: &BTreeSet<u64>| set.iter().filter(|replica| led.in_sync.contains(replica)).count();
        assert!(voters.len() >= factor, "fewer voters than the factor: {step:?}");
        assert!(in_sync(voters) >= in_sync(&led.voters).min(factor), "fewer voters in sync than before: {step:?} {led:?}");
        assert!(in_sync(voters) * 2 > voters.len(), "no majority in sync: {step:?} {led:?}");
        assert!(voters.contains(&led.leader), "the leader votes itself out: {step:?} {led:?}");
        let brokers: BTreeSet<u32> = voters.iter().map(|replica| *replica as u32).collect();
        assert_eq!(brokers.len(), voters.len(), "two voters on one broker: {step:?}");
        let gone: Vec<u64> = led.voters.difference(voters).copied().collect();
        led.in_sync.retain(|replica| !gone.contains(replica));
        led.learners.retain(|replica| !voters.contains(replica));
        if journal == JournalId::CATALOG {
            led.learners.extend(gone);
        }
        led.voters.clone_from(voters);
        led.unsettled.clear();
    }

    /// Members catch up, a part of them in each round; leaders that died are elected anew.
    fn breathe(&mut self, dice: &mut impl FnMut() -> bool) {
        let alive: BTreeSet<u32> =
            self.view.brokers.iter().filter(|(_, broker)| broker.health == Health::Alive).map(|(id, _)| id.0).collect();
        for journal in self.view.journals.values_mut() {
            let Some(led) = &mut journal.led else { continue };
            for member in led.voters.union(&led.learners).copied().collect::<Vec<_>>() {
                if !alive.contains(&(member as u32)) {
                    led.in_sync.remove(&member);
                } else if dice() {
                    led.in_sync.insert(member);
                }
            }
            if !alive.contains(&(led.leader as u32))
                && let Some(heir) = led.voters.iter().find(|voter| led.in_sync.contains(voter))
            {
                led.leader = *heir;
            }
            led.in_sync.insert(led.leader);
        }
    }

    /// Plans and does until nothing is left to do; the number of steps it took.
    fn settle(&mut self) -> usize {
        let mut done = 0;
        for _ in 0..2_000 {
            self.breathe(&mut || true);
            let steps = plan(&self.view, &Bounds::default());
            if steps.is_empty() {
                return done;
            }
            done += steps.len();
            steps.iter().for_each(|step| self.run(step));
        }
        panic!("the plan does not come to an end: {:#?}", plan(&self.view, &Bounds::default()));
    }

    fn leaders(&self) -> BTreeMap<u32, usize> {
        let mut leaders = BTreeMap::new();
        for led in self.view.journals.values().filter_map(|journal| journal.led.as_ref()) {
            *leaders.entry(led.leader as u32).or_insert(0) += 1;
        }
        leaders
    }

    fn counts(&self) -> Vec<usize> {
        let held = |id: u32| {
            let data = self.view.journals.iter().filter(|(journal, _)| **journal != JournalId::CATALOG);
            data.filter(|(_, journal)| journal.replicas.iter().any(|replica| replica.broker.0 == id)).count()
        };
        self.view.brokers.keys().map(|id| held(id.0)).collect()
    }

    /// What must hold of a fleet that came to rest with enough brokers.
    fn assert_whole(&self) {
        let factor = self.view.replication_factor;
        for (id, journal) in &self.view.journals {
            let led = journal.led.as_ref().unwrap();
            assert_eq!(led.voters.len(), factor, "{id}: {led:?}");
            for voter in &led.voters {
                let replica = journal.replicas.iter().find(|replica| replica.id == *voter).unwrap();
                assert_eq!(self.view.brokers[&replica.broker].state, BrokerState::Active);
            }
            let expected = if *id == JournalId::CATALOG { self.view.brokers.len() } else { factor };
            assert_eq!(journal.replicas.len(), expected, "{id}");
        }
    }
}

#[test]
fn one_broker_alone_has_nothing_to_do() {
    assert_eq!(plan(&fleet(1, 0, 4, 1), &Bounds::default()), []);
    // Nor has one that should have three voters and has no other broker to put them on.
    assert_eq!(plan(&fleet(1, 0, 4, 3), &Bounds::default()), []);
}

#[test]
fn one_broker_grows_to_three_and_shrinks_back() {
    let mut model = Model::new(fleet(3, 3, 8, 3));
    model.settle();
    model.assert_whole();
    assert_eq!(model.counts(), [8, 8, 8]);
    assert_eq!(model.leaders().values().copied().collect::<Vec<_>>(), [3, 3, 3]);
    model.view.replication_factor = 1;
    model.settle();
    model.assert_whole();
    for gone in [2, 3] {
        model.view.brokers.get_mut(&BrokerId(gone)).unwrap().state = BrokerState::Draining;
    }
    model.settle();
    assert_eq!((model.counts(), model.leaders()), (vec![8], BTreeMap::from([(1, 9)])));
}

#[test]
fn a_replica_whose_data_is_lost_goes_before_its_volume_gets_another() {
    let mut model = Model::new(fleet(3, 0, 1, 3));
    model.settle();
    let id = JournalId(1);
    let journal = model.view.journals.get_mut(&id).unwrap();
    let led = journal.led.as_mut().unwrap();
    let gone = *led.voters.iter().find(|voter| **voter != led.leader).unwrap();
    led.in_sync.remove(&gone);
    journal.lost.insert(gone);
    journal.replicas.iter_mut().filter(|replica| replica.id == gone).for_each(|replica| replica.incarnation = Uuid::max());
    let voters: BTreeSet<u64> = led.voters.iter().copied().filter(|voter| *voter != gone).collect();
    assert_eq!(plan(&model.view, &Bounds::default()), [Step::ChangeVoters { journal: id, voters: voters.clone() }]);
    model.led(id).voters = voters;
    let removed = Step::RemoveReplica { journal: id, replica: gone };
    assert_eq!(plan(&model.view, &Bounds::default()), std::slice::from_ref(&removed));
    model.run(&removed);
    // Its broker may go on telling of it for a moment.
    let added = Step::AddReplica { journal: id, broker: BrokerId(gone as u32) };
    model.view.journals.get_mut(&id).unwrap().lost.clear();
    assert_eq!(plan(&model.view, &Bounds::default()), [added]);
    model.settle();
    model.assert_whole();
}

#[test]
fn a_change_of_voters_that_was_cut_off_is_finished() {
    let mut model = Model::new(fleet(3, 0, 1, 3));
    model.settle();
    let id = JournalId(1);
    assert_eq!(plan(&model.view, &Bounds::default()), []);
    // A hub of one broker that grew: its first broker's vote is still a majority of its own.
    let led = model.led(id);
    led.unsettled = led.voters.iter().copied().filter(|voter| *voter != led.leader).collect();
    let step = Step::ChangeVoters { journal: id, voters: led.voters.clone() };
    assert_eq!(plan(&model.view, &Bounds::default()), std::slice::from_ref(&step));
    model.run(&step);
    assert_eq!(plan(&model.view, &Bounds::default()), []);
}

#[test]
fn a_journal_of_which_a_majority_is_lost_is_left_alone() {
    let mut model = Model::new(fleet(3, 0, 1, 3));
    model.settle();
    let journal = model.view.journals.get_mut(&JournalId(1)).unwrap();
    journal.lost = journal.led.as_ref().unwrap().voters.clone();
    journal.replicas.iter_mut().for_each(|replica| replica.incarnation = Uuid::max());
    // Nobody leads it: what its replicas still have must not be given up by a plan.
    journal.led = None;
    assert_eq!(plan(&model.view, &Bounds::default()), []);
}

#[test]
fn replicas_keep_to_different_zones_where_there_are_enough() {
    let mut model = Model::new(fleet(6, 3, 12, 3));
    model.settle();
    model.assert_whole();
    for journal in model.view.journals.values() {
        let led = journal.led.as_ref().unwrap();
        let zones: BTreeSet<_> = led.voters.iter().map(|voter| &model.view.brokers[&BrokerId(*voter as u32)].zone).collect();
        assert_eq!(zones.len(), 3);
    }
    assert_eq!(model.counts(), [6; 6]);
}

#[test]
fn a_silent_brokers_replicas_stay_and_a_lost_ones_are_rebuilt() {
    let mut model = Model::new(fleet(4, 0, 8, 3));
    model.settle();
    let first = |model: &mut Model, health| model.view.brokers.get_mut(&BrokerId(2)).unwrap().health = health;
    first(&mut model, Health::Silent);
    model.breathe(&mut || true);
    let planned = plan(&model.view, &Bounds::default());
    // Only the catalog gets another voter at once: the fourth broker follows it already.
    let is_light = |step: &Step| {
        matches!(
            step,
            Step::TransferLeader { .. } | Step::BalanceLeader { .. } | Step::ChangeVoters { journal: JournalId::CATALOG, .. }
        )
    };
    assert!(planned.iter().all(is_light), "{planned:?}");
    first(&mut model, Health::Lost);
    model.settle();
    let holds = |journal: &JournalView| journal.replicas.iter().any(|replica| replica.broker == BrokerId(2));
    // It goes on following the catalog: else it would never hear what became of it, nor be heard again.
    let still: Vec<JournalId> = model.view.journals.iter().filter(|(_, journal)| holds(journal)).map(|(id, _)| *id).collect();
    assert_eq!(still, [JournalId::CATALOG]);
    assert!(!model.led(JournalId::CATALOG).voters.contains(&2));
    assert_eq!(model.counts(), [8, 0, 8, 8]);
    // It comes back: it gets its share, under new ids.
    first(&mut model, Health::Alive);
    model.settle();
    model.assert_whole();
    assert_eq!(model.counts(), [6; 4]);
}

#[test]
fn a_drain_that_nobody_can_take_over_moves_the_leaders_and_keeps_the_replicas() {
    let mut model = Model::new(fleet(3, 0, 4, 3));
    model.settle();
    model.view.brokers.get_mut(&BrokerId(1)).unwrap().state = BrokerState::Draining;
    model.settle();
    assert!(!model.leaders().contains_key(&1));
    assert!(model.view.journals.values().all(|journal| journal.led.as_ref().unwrap().voters.len() == 3));
    model.view.brokers.insert(BrokerId(4), broker(""));
    model.settle();
    model.assert_whole();
    assert!(!model.view.brokers.contains_key(&BrokerId(1)), "retired");
}

#[test]
fn the_leaders_of_a_broker_that_goes_are_spread_over_those_that_stay() {
    let mut model = Model::new(fleet(3, 0, 11, 3));
    model.settle();
    model.view.brokers.get_mut(&BrokerId(2)).unwrap().state = BrokerState::Draining;
    for step in plan(&model.view, &Bounds { steps: usize::MAX, ..Bounds::default() }) {
        assert!(matches!(step, Step::TransferLeader { .. }), "{step:?}");
        model.run(&step);
    }
    assert_eq!(model.leaders(), BTreeMap::from([(1, 6), (3, 6)]));
}

/// Leaders of one broker, as a fleet of three comes to rest with them.
fn rest(leads: [usize; 3], load: f64) -> Vec<usize> {
    let mut model = Model::new(fleet(3, 0, leads.iter().sum::<usize>() as u32 - 1, 3));
    model.settle();
    let leaders = (1u64..).zip(leads).flat_map(|(broker, count)| std::iter::repeat_n(broker, count));
    for (journal, leader) in model.view.journals.values_mut().zip(leaders) {
        journal.led.as_mut().unwrap().leader = leader;
        journal.load = load;
    }
    model.settle();
    (1..=3).map(|broker| model.leaders().get(&broker).copied().unwrap_or(0)).collect()
}

#[test]
fn leaders_come_to_rest_evenly_where_load_is_even_or_absent() {
    for load in [0.0, 1.0e6] {
        for leads in [[10, 10, 5], [25, 0, 0], [9, 9, 7], [2, 2, 0], [12, 7, 6]] {
            let rested = rest(leads, load);
            let (least, most) = (rested.iter().min().unwrap(), rested.iter().max().unwrap());
            assert!(most - least <= 1, "{leads:?} under {load} came to rest as {rested:?}");
        }
    }
}

#[test]
fn numbers_are_not_evened_out_at_the_cost_of_load() {
    // One journal has half of all the load: its leader leads little else.
    let mut model = Model::new(fleet(3, 0, 11, 3));
    model.settle();
    for (id, journal) in &mut model.view.journals {
        journal.load = if id.0 == 5 { 11.0e6 } else { 1.0e6 };
    }
    model.settle();
    let busiest = model.led(JournalId(5)).leader as u32;
    let others: Vec<usize> = model.leaders().iter().filter(|(broker, _)| **broker != busiest).map(|(_, count)| *count).collect();
    assert_eq!((model.leaders()[&busiest], others.iter().sum::<usize>()), (1, 11), "{:?}", model.leaders());
    assert!(others.iter().all(|count| [5, 6].contains(count)), "{others:?}");
}

#[test]
fn a_slow_broker_is_given_no_leaders_until_it_is_not_slow_any_more() {
    let mut model = Model::new(fleet(3, 0, 8, 3));
    model.settle();
    let slow = |model: &mut Model, broker: u32, slow| model.view.brokers.get_mut(&BrokerId(broker)).unwrap().slow = slow;
    slow(&mut model, 1, true);
    // As its own journals hand over.
    for journal in model.view.journals.values_mut() {
        let led = journal.led.as_mut().unwrap();
        led.leader = if led.leader == 1 { 2 } else { led.leader };
    }
    model.settle();
    assert!(!model.leaders().contains_key(&1), "{:?}", model.leaders());
    assert_eq!(model.leaders().values().copied().max(), Some(5), "the others share what there is");
    // Whoever leaves hands over to one that is not slow.
    model.view.brokers.get_mut(&BrokerId(3)).unwrap().state = BrokerState::Draining;
    model.settle();
    assert_eq!(model.leaders(), BTreeMap::from([(2, 9)]));
    // Where all are slow, nobody is left out.
    slow(&mut model, 2, true);
    model.settle();
    assert_eq!(model.leaders().len(), 2);
    slow(&mut model, 2, false);
    slow(&mut model, 1, false);
    model.view.brokers.get_mut(&BrokerId(3)).unwrap().state = BrokerState::Active;
    model.settle();
    assert_eq!(model.leaders().values().copied().collect::<Vec<_>>(), [3, 3, 3]);
}

#[test]
fn a_leader_moves_for_load_only_if_that_makes_a_difference() {
    let mut model = Model::new(fleet(3, 0, 3, 3));
    model.settle();
    let moved = |model: &Model| plan(&model.view, &Bounds::default());
    let busiest = model.view.journals[&JournalId(1)].led.as_ref().unwrap().leader;
    for journal in model.view.journals.values_mut() {
        let leader = journal.led.as_ref().unwrap().leader;
        journal.load = if leader == busiest { 1.1e6 } else { 1.0e6 };
    }
    model.settle();
    assert_eq!(moved(&model), [], "a tenth more is not worth a gap");
    let other = *model.view.journals.keys().next_back().unwrap();
    for (id, journal) in &mut model.view.journals {
        journal.load = if *id == other { 9.0e6 } else { 1.0e6 };
        journal.led.as_mut().unwrap().leader = 1;
    }
    let steps = moved(&model);
    assert!(matches!(steps.as_slice(), [Step::BalanceLeader { .. }]), "{steps:?}");
    model.view.journals.values_mut().for_each(|journal| journal.settled = false);
    assert_eq!(moved(&model), [], "whoever moved lately stays");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Brokers come, go silent, are lost, drained and return; each plan is carried out in part; then all is quiet.
    #[test]
    fn any_history_comes_to_rest_whole(seed in any::<u64>(), journals in 1u32..10, zones in 0u32..4) {
        let mut random = seed | 1;
        let mut roll = move |sides: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 11) % sides
        };
        let mut model = Model::new(fleet(1 + roll(6) as u32, zones, journals, 3));
        let mut next = 20;
        for _ in 0..60 {
            let ids: Vec<BrokerId> = model.view.brokers.keys().copied().collect();
            let id = ids[roll(ids.len() as u64) as usize];
            // At most one broker is away at a time, so that majorities hold.
            let away = model.view.brokers.values().any(|broker| broker.health != Health::Alive);
            let broker = model.view.brokers.get_mut(&id).unwrap();
            match roll(8) {
                0 if !away && ids.len() > 3 => broker.health = Health::Silent,
                1 if broker.health == Health::Silent => broker.health = Health::Lost,
                2 => model.view.brokers.values_mut().for_each(|broker| broker.health = Health::Alive),
                3 if ids.len() > 4 => broker.state = BrokerState::Draining,
                4 if ids.len() < 8 => {
                    next += 1;
                    let zone = if zones == 0 { String::new() } else { format!("z{}", next % zones) };
                    model.view.brokers.insert(BrokerId(next), self::broker(&zone));
                }
                _ => {}
            }
            model.breathe(&mut || roll(3) == 0);
            let steps = plan(&model.view, &Bounds::default());
            prop_assert!(steps.len() <= Bounds::default().steps);
            for step in steps {
                if roll(4) > 0 {
                    model.run(&step);
                }
            }
        }
        model.view.brokers.values_mut().for_each(|broker| broker.health = Health::Alive);
        while model.view.brokers.values().filter(|broker| broker.state == BrokerState::Active).count() < 3 {
            next += 1;
            model.view.brokers.insert(BrokerId(next), self::broker(""));
        }
        model.settle();
        model.assert_whole();
    }
}
