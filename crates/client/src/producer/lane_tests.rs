//! What a lane does with batches whose answers were lost.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use tidegate_model::{BatchBuilder, Compression, ProducerEpoch, ProducerId, TimestampMs};

use super::super::batch::Body;
use super::super::delivery::Outcome;
use super::*;

const FIRST: Option<Identity> = Some(Identity { id: ProducerId(1), epoch: ProducerEpoch(0) });
const SECOND: Identity = Identity { id: ProducerId(1), epoch: ProducerEpoch(1) };

fn batch(id: u64, deadline: Instant) -> Batch {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(TimestampMs(1), None, Some(b"x"), &[]);
    let outcome = Arc::new(Outcome::new(Arc::from("t"), 0));
    Batch::waiting(id, outcome, Body::Building(Box::new(builder)), 1, 1, deadline)
}

fn send(lane: &mut Lane, request: u64, identity: Option<Identity>, now: Instant) -> Stamp {
    let sent = lane.next_frame(request, 5, identity, now).expect("a batch may go");
    sent.unwrap().1.stamp.unwrap()
}

fn refuse(lane: &mut Lane, request: u64, reason: Reason, now: Instant) -> Vec<Decided> {
    lane.answered(request, Err(Failure::new(reason, "a test")), now, &Backoff::default()).decided
}

/// What a batch that was never acknowledged is said to be at its deadline.
fn at_the_deadline(happens: impl FnOnce(&mut Lane, Option<Identity>, Instant)) -> bool {
    let now = Instant::now();
    let mut lane = Lane::new(true);
    lane.push(batch(1, now + Duration::from_secs(1)));
    send(&mut lane, 1, FIRST, now);
    happens(&mut lane, FIRST, now);
    let expired = lane.expire(now + Duration::from_secs(2), Duration::from_secs(1));
    match &expired[0].1 {
        Err(Error::DeliveryTimeout { may_be_stored, .. }) => *may_be_stored,
        other => panic!("{other:?}"),
    }
}

/// The first try may still wait within a hub that is slow, and be stored behind the second one's refusal.
#[test]
fn a_batch_whose_answer_was_lost_may_be_stored_whatever_a_later_try_was_told() {
    assert!(at_the_deadline(|lane, identity, now| {
        lane.stream_broke();
        send(lane, 2, identity, now);
        assert!(refuse(lane, 2, Reason::OutOfSequence, now).is_empty());
    }));
}

/// A hub whose fsync fails has written the batch, and finds it again when it starts anew.
#[test]
fn a_batch_that_a_failing_hub_turned_away_may_be_stored_and_one_that_found_no_room_is_not() {
    for reason in [Reason::ShuttingDown, Reason::Unavailable, Reason::TimedOut, Reason::Internal] {
        let retried = matches!(remedy(&Failure::new(reason, ""), true), Remedy::Retry);
        let refused = |lane: &mut Lane, _, now| assert!(refuse(lane, 1, reason, now).is_empty());
        assert!(!retried || at_the_deadline(refused), "{reason:?}");
    }
    for reason in [Reason::StorageFull, Reason::Throttled, Reason::OutOfSequence] {
        let refused = |lane: &mut Lane, _, now| assert!(refuse(lane, 1, reason, now).is_empty());
        assert!(!at_the_deadline(refused), "{reason:?}");
    }
}

/// Two batches whose answers were lost; the first passes its deadline, the second is asked for and refused.
fn behind_a_gap(now: Instant) -> (Lane, Instant) {
    let mut lane = Lane::new(true);
    lane.push(batch(1, now + Duration::from_secs(1)));
    lane.push(batch(2, now + Duration::from_secs(60)));
    lane.push(batch(3, now + Duration::from_secs(60)));
    assert_eq!(send(&mut lane, 1, FIRST, now).base_sequence, Sequence(0));
    assert_eq!(send(&mut lane, 2, FIRST, now).base_sequence, Sequence(1));
    lane.stream_broke();
    let later = now + Duration::from_secs(2);
    assert_eq!(lane.expire(later, Duration::from_secs(1)).len(), 1);
    let asked = send(&mut lane, 3, FIRST, later);
    assert_eq!((asked.identity, asked.base_sequence), (FIRST.unwrap(), Sequence(1)));
    assert!(lane.next_frame(4, 5, FIRST, later).is_none(), "one at a time under a broken sequence");
    assert!(refuse(&mut lane, 3, Reason::OutOfSequence, later).is_empty());
    (lane, later)
}

#[test]
fn what_may_be_stored_is_asked_for_under_its_own_numbers_until_it_is_found() {
    let (mut lane, now) = behind_a_gap(Instant::now());
    assert_eq!(lane.wants_other_than(), None, "no other epoch while it may be stored");
    let asked = send(&mut lane, 5, FIRST, now + Duration::from_secs(1));
    assert_eq!((asked.identity, asked.base_sequence), (FIRST.unwrap(), Sequence(1)));
    let found = Appended { base_offset: 7, log_append_time_ms: None, duplicate: true };
    let decided = lane.answered(5, Ok(found), now, &Backoff::default()).decided;
    assert!(matches!(decided[..], [(_, Ok(_))]), "{decided:?}");
    assert_eq!(lane.wants_other_than(), Some(FIRST));
    lane.adopt(SECOND);
    let third = send(&mut lane, 6, Some(SECOND), now + Duration::from_secs(1));
    assert_eq!((third.identity, third.base_sequence), (SECOND, Sequence(0)));
}

#[test]
fn what_may_be_stored_and_is_not_found_is_unknown_and_never_sent_under_another_epoch() {
    let (mut lane, begin) = behind_a_gap(Instant::now());
    let mut now = begin;
    for request in 5.. {
        now += Duration::from_secs(1);
        assert_eq!(send(&mut lane, request, FIRST, now).identity, FIRST.unwrap());
        let decided = refuse(&mut lane, request, Reason::OutOfSequence, now);
        if let [(given_up, outcome)] = &decided[..] {
            assert_eq!(given_up.id, 2);
            assert!(matches!(outcome, Err(Error::UnknownOutcome { .. })), "{outcome:?}");
            break;
        }
        assert_eq!(lane.wants_other_than(), None);
        assert!(now < begin + ASK_FOR, "it is asked for too long");
    }
    assert_eq!(lane.wants_other_than(), Some(FIRST));
    lane.adopt(SECOND);
    assert_eq!(lane.next_frame(100, 5, Some(SECOND), now).unwrap().unwrap().1.id, 3, "what was never sent goes on");
}

#[test]
fn a_batch_that_is_refused_for_good_after_its_answer_was_lost_is_unknown() {
    let now = Instant::now();
    let mut lane = Lane::new(true);
    lane.push(batch(1, now + Duration::from_secs(60)));
    send(&mut lane, 1, FIRST, now);
    lane.stream_broke();
    send(&mut lane, 2, FIRST, now);
    let decided = refuse(&mut lane, 2, Reason::MessageTooLarge, now);
    assert!(matches!(decided[..], [(_, Err(Error::UnknownOutcome { .. }))]), "{decided:?}");
}

/// A broker that hands over names the next leader, who takes the batch as soon as it leads.
#[test]
fn a_refusal_that_says_when_to_come_again_is_believed_and_one_that_does_not_is_backed_off_from() {
    for (after, at_once) in [(Some(Duration::ZERO), true), (None, false)] {
        let now = Instant::now();
        let mut lane = Lane::new(true);
        lane.push(batch(1, now + Duration::from_secs(1)));
        send(&mut lane, 1, FIRST, now);
        let failure = Failure { retry_after: after, ..Failure::new(Reason::NotLeader, "a test") };
        lane.answered(1, Err(failure), now, &Backoff::default());
        let soon = now + Duration::from_millis(2);
        assert_eq!(lane.ready_at().unwrap() <= soon, at_once, "{after:?}");
    }
}
