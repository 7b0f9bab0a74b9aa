//! Acknowledgements of a produce stream in order for each partition, and no partition of one journal waiting for another journal.
//!
//! A lane is a journal: its tickets resolve in the order of their submission, so within a lane the order costs nothing, and there are few lanes
//! to look at. Refusals that no journal has seen stand in the lane of their partition's journal, behind what was sent to it before.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tidegate_model::JournalId;

use crate::hub::{Appended, Error};

/// Acknowledgements that one look gives at most.
const ACKS: usize = 512;

/// Whose acknowledgements a frame's follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Those of a journal's partitions.
    Journal(JournalId),
    /// No partition is known; always refused already.
    None,
}

/// A frame on its way.
pub(crate) struct Pending<T, R> {
    pub(crate) request_id: u64,
    pub(crate) ticket: Result<T, Error>,
    /// Nothing is said of it unless it is refused.
    pub(crate) is_silent: bool,
    /// What is held until the frame is acknowledged.
    pub(crate) _room: R,
}

/// Frames on their way, by lane. Lanes are few: one for each journal that the stream has met.
pub(crate) struct Lanes<T, R> {
    lanes: Vec<(Lane, VecDeque<Pending<T, R>>)>,
    waiting: usize,
}

impl<T, R> Default for Lanes<T, R> {
    fn default() -> Self {
        Lanes { lanes: Vec::new(), waiting: 0 }
    }
}

impl<T: Future<Output = Result<Appended, Error>> + Unpin, R> Lanes<T, R> {
    pub(crate) fn push(&mut self, lane: Lane, pending: Pending<T, R>) {
        self.waiting += 1;
        match self.lanes.iter_mut().find(|(known, _)| *known == lane) {
            Some((_, queue)) => queue.push_back(pending),
            None => {
                let place = match lane {
                    // First, so that a refusal comes before what is sent to the same partition once it is known.
                    Lane::None => 0,
                    Lane::Journal(_) => self.lanes.len(),
                };
                self.lanes.insert(place, (lane, VecDeque::from([pending])));
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Gives what is known by now, at most [`ACKS`], in order within each lane. The task wakes when more is.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>, mut give: impl FnMut(u64, Result<Appended, Error>)) {
        let mut given = 0;
        for (_, queue) in &mut self.lanes {
            while let Some(first) = queue.front_mut() {
                if given == ACKS {
                    context.waker().wake_by_ref();
                    return;
                }
                let outcome = match &mut first.ticket {
                    Ok(ticket) => match Pin::new(ticket).poll(context) {
                        Poll::Ready(outcome) => outcome,
                        Poll::Pending => break,
                    },
                    Err(error) => Err(error.clone()),
                };
                if outcome.is_err() || !first.is_silent {
                    give(first.request_id, outcome);
                }
                queue.pop_front();
                (given, self.waiting) = (given + 1, self.waiting - 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use futures::FutureExt;
    use futures::channel::oneshot;
    use futures::future::BoxFuture;
    use futures::task::noop_waker;
    use tidegate_model::{LeaderEpoch, Offset};

    use super::*;

    type Ticket = BoxFuture<'static, Result<Appended, Error>>;

    fn ticket() -> (oneshot::Sender<Result<Appended, Error>>, Ticket) {
        let (resolve, ticket) = oneshot::channel();
        (resolve, ticket.map(|outcome| outcome.unwrap()).boxed())
    }

    fn appended() -> Result<Appended, Error> {
        Ok(Appended {
            base_offset: Offset(0),
            record_count: 1,
            log_append_time: None,
            log_start: Offset(0),
            epoch: LeaderEpoch(0),
            duplicate: false,
            leader: None,
        })
    }

    fn look(lanes: &mut Lanes<Ticket, Arc<()>>) -> Vec<u64> {
        let (waker, mut given) = (noop_waker(), Vec::new());
        lanes.poll(&mut Context::from_waker(&waker), |request_id, _| given.push(request_id));
        given
    }

    #[test]
    fn a_slow_journal_holds_back_nobody_elses_acknowledgements_and_order_stays_within_each() {
        let (slow, quick) = (Lane::Journal(JournalId(1)), Lane::Journal(JournalId(2)));
        let room = Arc::new(());
        let mut lanes = Lanes::default();
        let mut resolvers = Vec::new();
        for (request_id, lane) in [slow, quick, slow, quick, quick].into_iter().enumerate() {
            let (resolve, ticket) = ticket();
            resolvers.push(Some(resolve));
            lanes.push(
                lane,
                Pending { request_id: request_id as u64, ticket: Ok(ticket), is_silent: false, _room: Arc::clone(&room) },
            );
        }
        let refused = || Err(Error::ShuttingDown);
        lanes.push(slow, Pending { request_id: 5, ticket: refused(), is_silent: false, _room: Arc::clone(&room) });
        lanes.push(Lane::None, Pending { request_id: 6, ticket: refused(), is_silent: false, _room: Arc::clone(&room) });
        assert_eq!(
            look(&mut lanes),
            [6],
            "what no partition is known of waits for nobody; a refusal of the slow one waits for it"
        );
        let mut resolve = |place: usize| resolvers[place].take().unwrap().send(appended()).unwrap();
        resolve(3);
        assert!(look(&mut lanes).is_empty(), "3 follows 1");
        resolve(1);
        assert_eq!(look(&mut lanes), [1, 3]);
        resolve(4);
        assert_eq!(look(&mut lanes), [4]);
        resolve(2);
        assert!(look(&mut lanes).is_empty(), "2 follows 0");
        assert_eq!(Arc::strong_count(&room), 4, "room is given back with the acknowledgement, not before");
        resolve(0);
        assert_eq!(look(&mut lanes), [0, 2, 5]);
        assert!(lanes.is_empty());
        assert_eq!(Arc::strong_count(&room), 1);
    }

    #[test]
    fn one_look_gives_a_bounded_number_and_the_next_the_rest() {
        let mut lanes: Lanes<Ticket, Arc<()>> = Lanes::default();
        for request_id in 0..ACKS as u64 + 10 {
            lanes.push(
                Lane::None,
                Pending { request_id, ticket: Err(Error::ShuttingDown), is_silent: false, _room: Arc::default() },
            );
        }
        assert_eq!(look(&mut lanes).len(), ACKS);
        assert_eq!(look(&mut lanes).len(), 10);
    }
}
