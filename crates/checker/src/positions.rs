//! Committed positions of groups whose consumers commit one position at a time, up or down.

use std::collections::{BTreeMap, HashMap};

use tidegate_model::TopicPartition;

use crate::event::Outcome;
use crate::rule::{Rule, Verdict};

/// A group's position in a partition.
type Place = (u32, TopicPartition);

#[derive(Debug, Default)]
struct Known {
    /// What was committed or read last.
    certain: Option<i64>,
    /// What commits of unknown outcome may make, or may have made, of it, and how many of them.
    possible: BTreeMap<i64, u32>,
}

impl Known {
    /// One commit of this position is of unknown outcome no more. Others of the same position may be.
    fn settle(&mut self, offset: i64) {
        if let Some(commits) = self.possible.get_mut(&offset) {
            *commits -= 1;
            if *commits == 0 {
                self.possible.remove(&offset);
            }
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Positions {
    places: HashMap<Place, Known>,
    pending: HashMap<u64, (Place, i64)>,
}

impl Positions {
    pub(crate) fn commit(&mut self, id: u64, place: Place, offset: i64) {
        self.pending.insert(id, (place, offset));
        *self.places.entry(place).or_default().possible.entry(offset).or_default() += 1;
    }

    pub(crate) fn committed(&mut self, id: u64, outcome: Outcome<()>) {
        let Some((place, offset)) = self.pending.remove(&id) else { return };
        let known = self.places.entry(place).or_default();
        match outcome {
            Outcome::Ok(()) => {
                known.certain = Some(offset);
                known.settle(offset);
            }
            Outcome::Fail => known.settle(offset),
            Outcome::Info => {}
        }
    }

    pub(crate) fn read(&mut self, place: Place, offset: Option<i64>, verdict: &mut Verdict) {
        let known = self.places.entry(place).or_default();
        let (group, at) = place;
        if offset != known.certain && !offset.is_some_and(|offset| known.possible.contains_key(&offset)) {
            let certain = known.certain;
            let detail = || format!("{at}, group {group}: {certain:?} was committed, {offset:?} is read");
            verdict.add(Rule::Position, detail);
        }
        known.certain = offset;
    }
}
