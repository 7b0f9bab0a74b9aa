#![allow(clippy::unwrap_used)]
//! A good history passes; each rule has a bad one that differs from it in one thing.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidegate_model::{PartitionId, TopicPartition, TopicUid};

use crate::*;

const AT: TopicPartition = TopicPartition { topic: TopicUid(uuid::Uuid::from_u128(1)), partition: PartitionId(0) };

fn seen(offset: i64, value: Value) -> Seen {
    Seen { offset, value, hash: value * 7, epoch: 1 }
}

fn send(id: u64, process: u32, values: &[Value]) -> Event {
    let records = values.iter().map(|value| Sent { value: *value, hash: value * 7 }).collect();
    Event::Send { id, process, at: AT, records }
}

fn sent(id: u64, outcome: Outcome<Option<i64>>) -> Event {
    Event::SendResult { id, outcome }
}

fn poll(process: u32, from: i64, moved: bool, records: Vec<Seen>) -> Event {
    Event::Poll { process, at: AT, from, moved, records, log_start: 0, high_watermark: 5, via: 0 }
}

/// Values 10 to 14 at offsets 0 to 4; 20 was refused, 21 is unknown and did not make it.
fn good() -> Vec<Event> {
    let all: Vec<Seen> = (0..5).map(|offset| seen(offset, 10 + offset.unsigned_abs())).collect();
    let mut events = vec![
        send(0, 1, &[10, 11]),
        sent(0, Outcome::Ok(Some(0))),
        send(1, 2, &[12]),
        send(2, 3, &[20]),
        sent(2, Outcome::Fail),
        send(3, 1, &[13, 14]),
        sent(3, Outcome::Ok(Some(3))),
        send(4, 4, &[21]),
        sent(4, Outcome::Info),
        poll(9, 0, false, all[..2].to_vec()),
        poll(9, 2, false, all[2..].to_vec()),
        Event::Commit { id: 0, group: 0, at: AT, offset: 2 },
        Event::CommitResult { id: 0, outcome: Outcome::Ok(()) },
        Event::Commit { id: 1, group: 0, at: AT, offset: 5 },
        Event::CommitResult { id: 1, outcome: Outcome::Info },
        Event::Position { group: 0, at: AT, offset: Some(5) },
        Event::Leads { journal: 1, term: 1, replica: 7 },
        Event::Leads { journal: 1, term: 2, replica: 8 },
        Event::Leads { journal: 1, term: 1, replica: 7 },
    ];
    for (read, source) in [(0, Source::Anywhere), (1, Source::Tier)] {
        events.push(Event::ReadBegin { read, at: AT, source, log_start: 0 });
        events.push(Event::ReadPart { read, records: all[..2].to_vec() });
        events.push(Event::ReadPart { read, records: all[2..].to_vec() });
        events.push(Event::ReadEnd { read, high_watermark: 5 });
    }
    events
}

/// Places in the good history.
const POLL: usize = 9;
const SECOND_POLL: usize = 10;
const FIRST_READ: usize = 20;
const SECOND_READ: usize = 24;

fn history(events: Vec<Event>) -> History {
    History { entries: events.into_iter().enumerate().map(|(at, event)| Entry { at_us: at as u64, event }).collect() }
}

fn broken(change: impl FnOnce(&mut Vec<Event>)) -> BTreeSet<Rule> {
    let mut events = good();
    change(&mut events);
    check(&history(events)).broken.into_keys().collect()
}

fn records_of(event: &mut Event) -> &mut Vec<Seen> {
    match event {
        Event::Poll { records, .. } | Event::ReadPart { records, .. } => records,
        other => panic!("{other:?} has no records"),
    }
}

#[track_caller]
fn finds(rule: Rule, change: impl FnOnce(&mut Vec<Event>)) {
    let rules = broken(change);
    assert!(rules.contains(&rule), "{rule:?} was not found, but {rules:?}");
}

#[test]
fn a_good_history_passes() {
    let verdict = check(&history(good()));
    assert!(verdict.holds(), "{verdict}");
    assert_eq!((verdict.count("acknowledged"), verdict.count("refused"), verdict.count("unknown")), (4, 1, 2));
    assert_eq!((verdict.count("polled"), verdict.count("read at the end"), verdict.count("full reads")), (5, 10, 2));
}

#[test]
fn two_values_at_one_offset() {
    finds(Rule::InconsistentOffset, |events| records_of(&mut events[SECOND_POLL])[0].value = 21);
}

#[test]
fn one_value_at_two_offsets() {
    finds(Rule::Duplicate, |events| {
        for place in [FIRST_READ + 1, SECOND_READ + 1] {
            records_of(&mut events[place]).push(seen(5, 12));
        }
    });
}

#[test]
fn an_acknowledged_value_is_gone() {
    finds(Rule::LostWrite, |events| {
        records_of(&mut events[SECOND_READ + 1]).pop();
    });
    finds(Rule::LostWrite, |events| {
        events.insert(0, sent(30, Outcome::Ok(None)));
        events.insert(0, send(30, 5, &[30]));
    });
}

#[test]
fn an_acknowledgement_after_a_full_read_asks_nothing_of_it() {
    assert_eq!(broken(|events| events.extend([send(30, 5, &[30]), sent(30, Outcome::Ok(Some(5)))])), BTreeSet::new());
}

#[test]
fn what_a_consumer_was_given_is_gone() {
    let unacknowledged = |events: &mut Vec<Event>| {
        events[6] = sent(3, Outcome::Info);
        for place in [FIRST_READ, SECOND_READ] {
            records_of(&mut events[place + 1]).truncate(1);
            let Event::ReadEnd { high_watermark, .. } = &mut events[place + 2] else { panic!("not an end") };
            *high_watermark = 3;
        }
    };
    assert_eq!(broken(unacknowledged), BTreeSet::from([Rule::LostRead]));
}

#[test]
fn a_refused_value_is_read() {
    finds(Rule::AbortedRead, |events| events.insert(3, sent(1, Outcome::Fail)));
    // Sent again, it may have been stored the second time.
    let again = |events: &mut Vec<Event>| {
        events.insert(3, send(40, 2, &[12]));
        events.insert(3, sent(1, Outcome::Fail));
    };
    assert_eq!(broken(again), BTreeSet::new());
}

#[test]
fn a_value_that_nobody_sent_is_read() {
    assert_eq!(broken(|events| drop(events.remove(2))), BTreeSet::from([Rule::Phantom]));
}

#[test]
fn a_consumer_goes_back_or_skips() {
    let again = |events: &mut Vec<Event>| {
        events[SECOND_POLL] = poll(9, 2, false, (1..5).map(|at| seen(at, 10 + at.unsigned_abs())).collect());
    };
    assert_eq!(broken(again), BTreeSet::from([Rule::NonmonotonicPoll]));
    let skips = |events: &mut Vec<Event>| _ = records_of(&mut events[SECOND_POLL]).remove(0);
    assert_eq!(broken(skips), BTreeSet::from([Rule::SkippedPoll]));
    let begins_late = |events: &mut Vec<Event>| _ = records_of(&mut events[POLL]).remove(0);
    assert_eq!(broken(begins_late), BTreeSet::from([Rule::SkippedPoll]));
}

#[test]
fn a_consumer_that_moved_on_purpose_neither_goes_back_nor_skips() {
    assert_eq!(broken(|events| events.push(poll(9, 4, true, vec![seen(4, 14)]))), BTreeSet::new());
}

#[test]
fn one_process_is_stored_out_of_order() {
    let swapped = |events: &mut Vec<Event>| {
        events[0] = send(0, 1, &[13, 14]);
        events[1] = sent(0, Outcome::Ok(Some(3)));
        events[5] = send(3, 1, &[10, 11]);
        events[6] = sent(3, Outcome::Ok(Some(0)));
    };
    assert_eq!(broken(swapped), BTreeSet::from([Rule::NonmonotonicSend]));
}

#[test]
fn a_read_has_a_hole() {
    finds(Rule::Hole, |events| _ = records_of(&mut events[FIRST_READ + 1]).remove(1));
    finds(Rule::Hole, |events| _ = records_of(&mut events[FIRST_READ]).pop());
}

#[test]
fn an_epoch_falls() {
    finds(Rule::EpochFalls, |events| records_of(&mut events[SECOND_POLL])[2].epoch = 0);
}

#[test]
fn the_high_watermark_falls() {
    let told =
        |process| Event::Poll { process, at: AT, from: 4, moved: true, records: vec![], log_start: 0, high_watermark: 4, via: 0 };
    assert_eq!(broken(|events| events.push(told(9))), BTreeSet::from([Rule::WatermarkFalls]));
    assert_eq!(broken(|events| events.push(told(8))), BTreeSet::new(), "an answer to another client may have been under way");
    let elsewhere =
        Event::Poll { process: 9, at: AT, from: 4, moved: true, records: vec![], log_start: 0, high_watermark: 4, via: 7 };
    assert_eq!(broken(|events| events.push(elsewhere.clone())), BTreeSet::new(), "a follower may be behind");
}

#[test]
fn a_record_is_served_above_the_high_watermark() {
    let above = |events: &mut Vec<Event>| {
        let Event::Poll { high_watermark, .. } = &mut events[POLL] else { panic!("not a poll") };
        *high_watermark = 1;
    };
    assert_eq!(broken(above), BTreeSet::from([Rule::Uncommitted]));
}

#[test]
fn the_log_start_moves_where_nothing_is_dropped_or_falls_where_it_is() {
    let told = |log_start| Event::Poll {
        process: 8,
        at: AT,
        from: 4,
        moved: true,
        records: vec![],
        log_start,
        high_watermark: 5,
        via: 0,
    };
    assert_eq!(broken(|events| events.push(told(1))), BTreeSet::from([Rule::LogStartMoves]));
    let rises = |events: &mut Vec<Event>| events.extend([Event::MayTrim { at: AT }, told(2)]);
    assert_eq!(broken(rises), BTreeSet::new());
    let falls = |events: &mut Vec<Event>| events.extend([Event::MayTrim { at: AT }, told(2), told(1)]);
    assert_eq!(broken(falls), BTreeSet::from([Rule::LogStartMoves]));
}

#[test]
fn an_acknowledgement_names_another_offset() {
    finds(Rule::AcknowledgedElsewhere, |events| events[1] = sent(0, Outcome::Ok(Some(1))));
    let twice = |events: &mut Vec<Event>| events.extend([send(50, 1, &[10, 11]), sent(50, Outcome::Ok(Some(7)))]);
    assert_eq!(broken(twice), BTreeSet::from([Rule::AcknowledgedElsewhere]));
}

#[test]
fn content_changes() {
    assert_eq!(broken(|events| records_of(&mut events[POLL])[1].hash = 1), BTreeSet::from([Rule::Content]));
}

#[test]
fn two_reads_differ() {
    let differs = |events: &mut Vec<Event>| records_of(&mut events[SECOND_READ + 1])[2].epoch = 2;
    assert_eq!(broken(differs), BTreeSet::from([Rule::ReadsDiffer]));
}

#[test]
fn a_full_read_ends_early_or_begins_late() {
    let unacknowledged = |events: &mut Vec<Event>| {
        events[6] = sent(3, Outcome::Info);
        records_of(&mut events[SECOND_READ + 1]).pop();
    };
    assert_eq!(broken(unacknowledged), BTreeSet::from([Rule::NotCovered]));
    finds(Rule::NotCovered, |events| records_of(&mut events[FIRST_READ]).clear());
}

#[test]
fn nothing_is_proven_of_a_partition_that_was_never_read() {
    let unread = |events: &mut Vec<Event>| events.truncate(19);
    assert_eq!(broken(unread), BTreeSet::from([Rule::NeverRead]));
    let deleted = |events: &mut Vec<Event>| {
        events.truncate(19);
        events.push(Event::Gone { at: AT });
    };
    assert_eq!(broken(deleted), BTreeSet::new());
}

#[test]
fn a_committed_position_falls_or_comes_from_nowhere() {
    let reads = |offset| move |events: &mut Vec<Event>| events.push(Event::Position { group: 0, at: AT, offset });
    assert_eq!(broken(reads(Some(2))), BTreeSet::from([Rule::Position]), "5 was read before");
    assert_eq!(broken(reads(None)), BTreeSet::from([Rule::Position]));
    assert_eq!(broken(reads(Some(7))), BTreeSet::from([Rule::Position]));
}

#[test]
fn a_refused_commit_takes_nothing_from_an_unknown_one_of_the_same_position() {
    let commit = |id, outcome| [Event::Commit { id, group: 0, at: AT, offset: 7 }, Event::CommitResult { id, outcome }];
    let read = || Event::Position { group: 0, at: AT, offset: Some(7) };
    let unknown_then_refused = |events: &mut Vec<Event>| {
        events.extend(commit(10, Outcome::Info).into_iter().chain(commit(11, Outcome::Fail)).chain([read()]));
    };
    assert_eq!(broken(unknown_then_refused), BTreeSet::new());
    let refused_twice = |events: &mut Vec<Event>| {
        events.extend(commit(10, Outcome::Fail).into_iter().chain(commit(11, Outcome::Fail)).chain([read()]));
    };
    assert_eq!(broken(refused_twice), BTreeSet::from([Rule::Position]));
}

#[test]
fn one_term_has_two_leaders() {
    let two = Event::Leads { journal: 1, term: 2, replica: 7 };
    assert_eq!(broken(|events| events.push(two)), BTreeSet::from([Rule::TwoLeaders]));
}

#[test]
fn the_hub_raised_an_alarm() {
    assert_eq!(broken(|events| events.push(Event::Alarm { what: "a panic".into() })), BTreeSet::from([Rule::Alarm]));
}

#[test]
fn a_history_written_as_lines_is_judged_as_in_memory_and_may_end_in_half_a_line() {
    let history = history(good());
    let mut lines = Vec::new();
    history.write_lines(&mut lines).unwrap();
    assert_eq!(History::read_lines(&lines[..]).unwrap(), history);
    assert_eq!(check_lines(&lines[..]).unwrap(), check(&history));
    let whole = lines.len();
    lines.extend_from_slice(b"{\"at_us\":1,\"ev");
    assert_eq!(check_lines(&lines[..]).unwrap(), check(&history));
    lines.insert(whole, b'\n');
    assert!(matches!(check_lines(&lines[..]), Err(Error::Line { .. })));
}

#[test]
fn a_recorder_keeps_writes_and_judges_the_same() {
    let file: Arc<parking_lot::Mutex<Vec<u8>>> = Arc::default();
    struct Shared(Arc<parking_lot::Mutex<Vec<u8>>>);
    impl std::io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let recorder = Recorder::new(Arc::new(|| 3)).in_memory().checking().to_lines(Shared(Arc::clone(&file)));
    good().into_iter().for_each(|event| recorder.add(event));
    recorder.alarm("something");
    let recorded = recorder.finish().unwrap();
    let verdict = recorded.verdict.unwrap();
    assert_eq!(verdict.broken.keys().copied().collect::<Vec<_>>(), [Rule::Alarm]);
    assert_eq!(verdict, check(&recorded.history.unwrap()));
    assert_eq!(verdict, check_lines(&file.lock()[..]).unwrap());
}

#[test]
fn many_records_are_judged_as_they_come() {
    let recorder = Recorder::new(Arc::new(|| 0)).checking();
    let (batches, records) = (400_u64, 500_u64);
    for batch in 0..batches {
        let values = batch * records..(batch + 1) * records;
        let id = recorder.send(1, AT, values.map(|value| Sent { value, hash: value }).collect());
        recorder.sent(id, Outcome::Ok(Some((batch * records) as i64)));
    }
    for source in [Source::Anywhere, Source::Tier] {
        let read = recorder.read_begins(AT, source, 0);
        for batch in 0..batches {
            let values = batch * records..(batch + 1) * records;
            let part = values.map(|value| Seen { offset: value as i64, value, hash: value, epoch: 0 });
            recorder.read_part(read, part.collect());
        }
        recorder.read_ends(read, (batches * records) as i64);
    }
    let verdict = recorder.finish().unwrap().verdict.unwrap();
    assert!(verdict.holds(), "{verdict}");
    assert_eq!(verdict.count("acknowledged"), 200_000);
}
