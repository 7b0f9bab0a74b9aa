//! Tables of load → number of brokers.

use tidegate_proto::operator::v1::{ClusterBroker, ClusterJournal};

use super::*;

const NOTHING: Numbers = Numbers { bytes_in: None, bytes_out: None, cpu: None, disk: None };
const BOUNDS: Bounds = Bounds {
    least: 3,
    most: 10,
    targets: Numbers { bytes_in: Some(100.0), ..NOTHING },
    up_after: Duration::ZERO,
    down_after: Duration::from_secs(600),
};

fn at(minute: u64) -> Duration {
    Duration::from_secs(60 * minute)
}

fn load(total: Numbers, serving: u32) -> Load {
    Load { total, serving, is_complete: true }
}

fn taking(bytes_in: f64, serving: u32) -> Load {
    load(Numbers { bytes_in: Some(bytes_in), ..NOTHING }, serving)
}

fn at_once(bounds: &Bounds, present: u32, load: Option<&Load>) -> u32 {
    wanted(bounds, &mut History::default(), at(0), present, load).0
}

#[test]
fn the_load_decides_within_the_bounds() {
    for (present, bytes_in, expected) in [
        (3, 0.0, 3),
        (3, 300.0, 3),
        (3, 329.0, 3), // a tenth above the target is on target
        (3, 340.0, 4),
        (4, 750.0, 8),
        (4, 900.0, 8), // twice as many at most, then it is measured anew
        (8, 900.0, 9),
        (8, 1e12, 10),
        (2, 0.0, 3), // fewer than the least: somebody changed the bounds
    ] {
        assert_eq!(at_once(&BOUNDS, present, Some(&taking(bytes_in, present))), expected, "{present} {bytes_in}");
    }
}

#[test]
fn each_target_counts_and_the_greatest_decides() {
    let all = Numbers { bytes_in: Some(100.0), bytes_out: Some(300.0), cpu: Some(1.5), disk: Some(50.0) };
    let bounds = Bounds { targets: all, ..BOUNDS };
    let quiet = Numbers { bytes_in: Some(10.0), bytes_out: Some(10.0), cpu: Some(0.1), disk: Some(3.0) };
    for (total, expected) in [
        (quiet, (3, "bytes in")),
        (Numbers { bytes_in: Some(390.0), ..quiet }, (4, "bytes in")),
        (Numbers { bytes_out: Some(1_300.0), ..quiet }, (5, "bytes out")),
        (Numbers { cpu: Some(5.9), ..quiet }, (4, "CPU")),
        (Numbers { disk: Some(240.0), ..quiet }, (5, "disk")),
        (Numbers { bytes_in: Some(390.0), bytes_out: Some(1_300.0), cpu: Some(8.5), disk: Some(240.0) }, (6, "CPU")),
    ] {
        let seen = wanted(&bounds, &mut History::default(), at(0), 3, Some(&load(total, 3)));
        assert_eq!(seen, expected, "{total:?}");
    }
}

#[test]
fn brokers_come_only_when_more_were_needed_all_the_time() {
    let bounds = Bounds { up_after: at(1), ..BOUNDS };
    let mut history = History::default();
    let mut ask = |second, bytes_in| {
        let now = Duration::from_secs(second);
        wanted(&bounds, &mut history, now, 3, Some(&taking(bytes_in, 3))).0
    };
    assert_eq!([0, 15, 30, 45].map(|second| ask(second, 600.0)), [3; 4], "the minute is not over");
    assert_eq!(ask(60, 440.0), 5, "the least of the last minute");
    assert_eq!(ask(75, 100.0), 3, "a peak is over");
    assert_eq!(ask(120, 600.0), 3, "and begins anew");
    assert_eq!([136, 150].map(|second| ask(second, 600.0)), [6; 2]);
}

#[test]
fn no_more_come_before_those_that_came_serve() {
    assert_eq!(at_once(&BOUNDS, 6, Some(&taking(1_000.0, 3))), 6);
    assert_eq!(at_once(&BOUNDS, 6, Some(&taking(1_000.0, 6))), 10);
    assert_eq!(at_once(&BOUNDS, 6, Some(&taking(1_000.0, 0))), 6, "nobody goes because nobody is heard");
}

#[test]
fn brokers_go_only_when_fewer_were_enough_all_the_time() {
    let mut history = History::default();
    let mut ask = |minute, bytes_in| wanted(&BOUNDS, &mut history, at(minute), 8, Some(&taking(bytes_in, 8))).0;
    assert_eq!(ask(0, 800.0), 8);
    assert_eq!((1..10).map(|minute| ask(minute, 300.0)).collect::<Vec<_>>(), [8; 9], "ten minutes are not over");
    assert_eq!(ask(11, 450.0), 5, "the most of the last ten minutes");
    assert_eq!(ask(12, 300.0), 5);
    assert_eq!(ask(22, 300.0), 3);
}

#[test]
fn a_peak_begins_the_wait_anew_and_an_operator_that_just_began_takes_nothing_away() {
    let mut history = History::default();
    for minute in 0..20 {
        wanted(&BOUNDS, &mut history, at(minute), 8, Some(&taking(if minute == 15 { 800.0 } else { 300.0 }, 8)));
    }
    assert_eq!(wanted(&BOUNDS, &mut history, at(20), 8, Some(&taking(300.0, 8))).0, 8);
    assert_eq!(wanted(&BOUNDS, &mut History::default(), at(500), 8, Some(&taking(0.0, 8))).0, 8);
}

#[test]
fn what_is_not_measured_takes_nobody_away_and_keeps_nobody_from_coming() {
    assert_eq!(at_once(&BOUNDS, 5, None), 5);
    assert_eq!(at_once(&BOUNDS, 50, None), 10, "but the bounds hold");
    let bounds =
        Bounds { targets: Numbers { bytes_in: Some(100.0), cpu: Some(1.0), ..NOTHING }, down_after: Duration::ZERO, ..BOUNDS };
    let silent = Load { is_complete: false, ..load(Numbers { bytes_in: Some(300.0), cpu: Some(3.0), ..NOTHING }, 8) };
    let unmeasured = taking(300.0, 8);
    for (seen, expected) in [
        (load(silent.total, 8), 3),
        (silent, 8),     // one of the brokers was not heard of
        (unmeasured, 8), // a target without a number
        (taking(950.0, 8), 10),
        (Load { total: NOTHING, ..silent }, 8),
    ] {
        assert_eq!(at_once(&bounds, 8, Some(&seen)), expected, "{seen:?}");
    }
}

#[test]
fn what_brokers_tell_is_summed_up() {
    let broker = |state: ClusterBrokerState, silent_ms| ClusterBroker {
        state: state.into(),
        silent_ms,
        bytes_out_per_second: Some(10.0),
        cpu_cores: Some(0.5),
        log_percent: Some(20.0),
        ..ClusterBroker::default()
    };
    let active = || broker(ClusterBrokerState::Active, Some(100));
    let journal = ClusterJournal { bytes_per_second: 7.0, ..ClusterJournal::default() };
    let mut told = DescribeClusterResponse {
        brokers: vec![active(), active(), broker(ClusterBrokerState::Retired, None)],
        journals: vec![journal.clone(), journal],
        ..DescribeClusterResponse::default()
    };
    let all = Numbers { bytes_in: Some(14.0), bytes_out: Some(20.0), cpu: Some(1.0), disk: Some(40.0) };
    assert_eq!(Load::of(&told, false), Load { total: all, serving: 2, is_complete: true });
    assert_eq!(Load::of(&told, true).total, Numbers { disk: None, ..all });
    told.brokers.push(broker(ClusterBrokerState::Active, Some(60_000)));
    assert_eq!(Load::of(&told, false), Load { total: all, serving: 2, is_complete: false }, "old numbers do not count");
    told.brokers.push(ClusterBroker { cpu_cores: None, ..active() });
    assert_eq!(Load::of(&told, false).total.cpu, None, "a sum that lacks one is none");
}

#[test]
fn a_hub_says_what_it_wants() {
    let scaling = serde_json::json!({"minReplicas": 1, "maxReplicas": 4, "scaleUpAfter": "1m",
        "targets": {"bytesInPerSecond": "1Ki", "bytesOutPerSecond": 2048, "cpu": "1500m", "diskPercent": 60}});
    let bounds = Bounds::of(&serde_json::from_value(scaling).unwrap());
    let targets = Numbers { bytes_in: Some(1024.0), bytes_out: Some(2048.0), cpu: Some(1.5), disk: Some(60.0) };
    assert_eq!(bounds, Bounds { least: 1, most: 4, targets, up_after: at(1), down_after: at(10) });
}

#[test]
fn people_are_told_once() {
    let mut history = History::default();
    assert_eq!(
        [(3, 3), (4, 3), (4, 3), (4, 4), (3, 4)].map(|(wanted, present)| history.is_news(wanted, present)),
        [false, true, false, false, true]
    );
}
