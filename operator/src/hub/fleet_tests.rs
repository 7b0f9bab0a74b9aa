//! Tables: what is seen, and what is done.

use super::*;

fn broker(leads: u32, replicas: u32) -> Broker {
    let known = Known { state: ClusterBrokerState::Active, heard: true, replicas, leads, load: 0.0, leads_catalog: false };
    Broker { has_workload: true, has_claim: true, ready: true, known: Some(known), ..Broker::default() }
}

fn view(wanted: u32, factor: u32, brokers: &[(u32, Broker)]) -> View {
    let greatest = brokers.iter().map(|(id, _)| *id).max().unwrap_or(0);
    View {
        wanted,
        factor,
        brokers: brokers.iter().cloned().collect(),
        whole: Some(Whole { factor, lacking: 0, greatest }),
        ..View::default()
    }
}

fn three() -> View {
    let mut view = view(3, 3, &[(1, broker(2, 5)), (2, broker(2, 5)), (3, broker(1, 5))]);
    view.brokers.get_mut(&1).unwrap().known.as_mut().unwrap().leads_catalog = true;
    view
}

fn at(view: &mut View, id: u32) -> &mut Broker {
    view.brokers.get_mut(&id).unwrap()
}

fn known(view: &mut View, id: u32) -> &mut Known {
    at(view, id).known.as_mut().unwrap()
}

fn ids(ids: &[u32]) -> BTreeSet<u32> {
    ids.iter().copied().collect()
}

#[test]
fn a_hub_begins_with_one_broker_and_the_rest_come_when_it_is_reached() {
    let new = View { wanted: 3, factor: 3, ..View::default() };
    assert_eq!((plan(&new).kept, plan(&new).new), (ids(&[1]), ids(&[1])));
    // Not reached yet: nothing but what is there.
    let mut starting = view(3, 3, &[(1, Broker { known: None, ready: false, ..broker(0, 0) })]);
    starting.whole = None;
    assert_eq!((plan(&starting).kept, plan(&starting).new, plan(&starting).steps), (ids(&[1]), ids(&[]), vec![]));
    let mut reached = view(3, 3, &[(1, broker(5, 5))]);
    reached.whole = Some(Whole { factor: 1, lacking: 0, greatest: 1 });
    let grown = plan(&reached);
    assert_eq!((grown.kept, grown.new, grown.steps), (ids(&[1, 2, 3]), ids(&[2, 3]), vec![]));
    assert!(grown.waits[0].contains("3 copies of each record need as many brokers, and 1 serve"), "{:?}", grown.waits);
}

#[test]
fn copies_become_more_when_enough_brokers_serve() {
    let mut view = three();
    view.whole = Some(Whole { factor: 1, lacking: 0, greatest: 3 });
    assert_eq!(plan(&view).steps, [Step::SetFactor(3)]);
    known(&mut view, 3).heard = false;
    assert_eq!(plan(&view).steps, []);
}

#[test]
fn a_hub_in_order_gets_no_step() {
    assert_eq!(plan(&three()), Plan { kept: ids(&[1, 2, 3]), ..Plan::default() });
    assert_eq!(plan(&view(1, 1, &[(1, broker(5, 5))])).steps, []);
}

#[test]
fn numbers_are_never_used_twice() {
    let mut view = three();
    view.wanted = 4;
    at(&mut view, 3).known = Some(Known { state: ClusterBrokerState::Retired, ..Known::default() });
    (at(&mut view, 3).has_workload, at(&mut view, 3).has_claim) = (false, false);
    view.whole = Some(Whole { factor: 3, lacking: 5, greatest: 7 });
    assert_eq!(plan(&view).new, ids(&[8, 9]));
}

#[test]
fn the_broker_that_costs_least_goes_and_never_the_eldest() {
    let mut view = view(3, 3, &[(1, broker(0, 1)), (2, broker(2, 4)), (4, broker(1, 3)), (5, broker(2, 3))]);
    let drained = |view: &View| match plan(view).steps.as_slice() {
        [Step::Drain { broker, .. }] => *broker,
        other => panic!("{other:?}"),
    };
    assert_eq!(drained(&view), 4, "as many copies, fewer leaders");
    known(&mut view, 4).load = 1e6;
    assert_eq!(drained(&view), 5, "less traffic");
    at(&mut view, 2).ready = false;
    assert_eq!(drained(&view), 2, "one that serves nobody");
}

#[test]
fn nobody_leaves_while_a_journal_lacks_a_copy_or_another_broker_leaves() {
    let four = || view(3, 3, &[(1, broker(2, 5)), (2, broker(2, 5)), (3, broker(1, 5)), (4, broker(0, 0))]);
    assert!(matches!(plan(&four()).steps.as_slice(), [Step::Drain { broker: 4, .. }]));
    let mut lacking = four();
    lacking.whole = Some(Whole { factor: 3, lacking: 2, greatest: 4 });
    assert_eq!(plan(&lacking).steps, []);
    assert!(plan(&lacking).waits[0].contains("2 have not"));
    let mut leaving =
        view(3, 3, &[(1, broker(2, 5)), (2, broker(2, 5)), (3, broker(1, 5)), (4, broker(0, 2)), (5, broker(0, 2))]);
    known(&mut leaving, 4).state = ClusterBrokerState::Draining;
    assert_eq!(plan(&leaving).steps, []);
    assert_eq!(plan(&leaving).waits, ["broker 4 drains: copies of 2 journals are still on it"]);
    // Fewer than copies: the object's rules refuse that, and so does the plan.
    let mut few = three();
    few.wanted = 2;
    assert_eq!(plan(&few).steps, []);
    assert!(plan(&few).waits[0].contains("no broker goes"), "{:?}", plan(&few).waits);
}

#[test]
fn one_that_never_came_in_needs_no_farewell_and_one_that_was_taken_away_is_drained() {
    let pending = Broker { ready: false, known: None, ..broker(0, 0) };
    let mut view = view(3, 3, &[(1, broker(2, 5)), (2, broker(2, 5)), (3, broker(1, 5)), (4, pending)]);
    assert_eq!((plan(&view).steps, plan(&view).kept), (vec![Step::Remove(4)], ids(&[1, 2, 3])));
    at(&mut view, 4).node_lost = true;
    assert_eq!((plan(&view).steps, plan(&view).kept), (vec![Step::Remove(4)], ids(&[1, 2, 3])), "nor where its node has gone");
    at(&mut view, 4).node_lost = false;
    // It may be coming in at this moment.
    at(&mut view, 4).ready = true;
    assert!(!plan(&view).steps.contains(&Step::Remove(4)));
    let mut taken = three();
    (at(&mut taken, 2).has_workload, at(&mut taken, 2).has_claim, at(&mut taken, 2).ready) = (false, false, false);
    let then = plan(&taken);
    assert!(matches!(then.steps.as_slice(), [Step::Drain { broker: 2, .. }]), "{:?}", then.steps);
    assert_eq!(then.new, ids(&[4]));
}

#[test]
fn copies_become_fewer_before_brokers_do() {
    let mut view = three();
    (view.wanted, view.factor) = (1, 1);
    assert_eq!(plan(&view).steps, [Step::SetFactor(1)]);
    view.whole = Some(Whole { factor: 1, lacking: 0, greatest: 3 });
    assert!(matches!(plan(&view).steps.as_slice(), [Step::Drain { broker: 3, .. }]));
}

#[test]
fn nothing_is_deleted_before_the_catalog_has_the_broker_as_retired() {
    let mut view = view(3, 3, &[(1, broker(2, 5)), (2, broker(2, 5)), (3, broker(1, 5)), (4, broker(0, 0))]);
    known(&mut view, 4).state = ClusterBrokerState::Draining;
    assert_eq!(plan(&view).steps, []);
    assert!(plan(&view).kept.contains(&4), "until then it is looked after");
    known(&mut view, 4).state = ClusterBrokerState::Retired;
    let then = plan(&view);
    assert_eq!((then.steps, then.kept), (vec![Step::Remove(4)], ids(&[1, 2, 3])));
    // Unknown is not retired.
    at(&mut view, 4).known = None;
    view.whole = None;
    assert_eq!((plan(&view).steps, plan(&view).kept), (vec![], ids(&[1, 2, 3, 4])));
}

#[test]
fn a_lost_broker_is_drained_first_and_another_one_made() {
    for lose in [|broker: &mut Broker| broker.node_lost = true, |broker: &mut Broker| broker.has_claim = false] {
        let mut view = three();
        at(&mut view, 2).ready = false;
        known(&mut view, 2).heard = false;
        view.whole = Some(Whole { factor: 3, lacking: 5, greatest: 3 });
        assert_eq!((plan(&view).steps, plan(&view).new), (vec![], ids(&[])), "silence is no loss");
        lose(at(&mut view, 2));
        let then = plan(&view);
        assert!(matches!(then.steps.as_slice(), [Step::Drain { broker: 2, .. }]), "{:?}", then.steps);
        assert_eq!((then.kept, then.new), (ids(&[1, 3, 4]), ids(&[4])), "its claim is not made again, empty");
    }
    // The only broker has nobody to give its data to: that is a recovery from the bucket.
    let mut alone = view(1, 1, &[(1, Broker { has_claim: false, ready: false, ..broker(5, 5) })]);
    assert_eq!((plan(&alone).steps, plan(&alone).kept), (vec![], ids(&[1])));
    alone.whole = None;
    assert_eq!((plan(&alone).steps, plan(&alone).kept), (vec![], ids(&[1])));
}

#[test]
fn outdated_pods_go_one_at_a_time_when_all_is_in_sync_and_the_catalogs_leader_last() {
    let mut view = three();
    for id in [1, 2, 3] {
        at(&mut view, id).outdated = true;
    }
    let replaced =
        |view: &View| plan(view).steps.iter().map(|step| matches!(step, Step::Replace { broker: 3, .. })).collect::<Vec<_>>();
    assert_eq!(replaced(&view), [true], "the fewest leaders first");
    at(&mut view, 3).outdated = false;
    view.whole = Some(Whole { factor: 3, lacking: 1, greatest: 3 });
    assert_eq!(plan(&view).steps, [], "until it has all copies again");
    view.whole = Some(Whole { factor: 3, lacking: 0, greatest: 3 });
    assert!(matches!(plan(&view).steps.as_slice(), [Step::Replace { broker: 2, .. }]));
    at(&mut view, 2).outdated = false;
    assert!(matches!(plan(&view).steps.as_slice(), [Step::Replace { broker: 1, .. }]));
    view.update = UpdateType::OnDelete;
    assert_eq!(plan(&view).steps, []);
}

#[test]
fn an_outdated_pod_that_does_not_serve_is_replaced_at_once() {
    let mut view = three();
    view.whole = Some(Whole { factor: 3, lacking: 5, greatest: 3 });
    (at(&mut view, 2).outdated, at(&mut view, 2).ready) = (true, false);
    at(&mut view, 1).outdated = true;
    assert_eq!(plan(&view).steps, [Step::Replace { broker: 2, why: "it is outdated and does not serve" }]);
    view.whole = None;
    assert_eq!(plan(&view).steps.len(), 1, "whether or not the hub is reached");
}

#[test]
fn a_drain_of_nodes_takes_what_a_quorum_can_lose_and_nothing_while_a_copy_is_missing() {
    for (factor, lacking, expected) in [(1, 0, 1), (1, 3, 1), (3, 0, 1), (3, 1, 0), (5, 0, 2), (5, 1, 0)] {
        let view = View { whole: Some(Whole { factor, lacking, greatest: 5 }), ..three() };
        assert_eq!(may_leave(&view), expected, "{factor} copies, {lacking} journals lack one");
    }
    assert_eq!(may_leave(&View::default()), 1);
}
