//! Who may say where a partition begins and ends.
//!
//! What a client was once told must hold of every later answer: marks never fall, and no offset that was served is called out of range. Only a leader
//! knows: one with a lease, or one that a majority has just confirmed, whose state shows all that was acknowledged before. A replica that follows serves
//! the records it has with its leader's marks. Where nobody leads, what is committed is still served, and its end is not told
//! ([`Marks::leaderless`]).

use std::time::Duration;

use tidegate_env::bugs::{self, Bug};
use tidegate_journal::raft::{Freshness, MemberError};
use tidegate_model::{JournalId, Offset};

use super::fetch::within_log;
use super::routes::Route;
use super::{Error, Fetched, Hub, Located, Marks, Position};

/// How long a broker may take to make sure that it leads.
const SURE: Duration = Duration::from_secs(1);
/// An election takes half a second; who finds no leader for so long goes without.
const LEADERLESS: Duration = Duration::from_secs(2);
/// Between two looks whether a majority is missing.
const LOOK: Duration = Duration::from_millis(50);

/// By what a replica that is here may answer.
pub(crate) enum Standing {
    /// It leads.
    Leads,
    /// It follows; these are the leader's marks.
    Follows(Marks),
    /// Nobody leads, and why.
    Leaderless(Error),
}

impl Hub {
    /// Makes sure that this broker leads a journal now, and that its state shows all that was acknowledged before. A leader that was deposed
    /// behind its back finds it out here.
    pub(crate) async fn leads_now(&self, id: JournalId) -> Result<(), Error> {
        if self.inner.is_alone() {
            return Ok(());
        }
        let journal = self.inner.any_journal(id)?;
        if !journal.leadership().borrow().is_self {
            return Err(self.inner.not_leader(id));
        }
        if bugs::on(Bug::StaleReads) || journal.holds_lease() {
            return Ok(());
        }
        Box::pin(self.confirmed(id)).await
    }

    /// As [`Hub::leads_now`], by asking a majority: the state then also shows what any replica has shown already.
    async fn confirmed(&self, id: JournalId) -> Result<(), Error> {
        if self.inner.is_alone() || bugs::on(Bug::StaleReads) {
            return Ok(());
        }
        if let Some(problem) = self.inner.lost_majority(id) {
            return Err(Error::unavailable(problem));
        }
        let journal = self.inner.any_journal(id)?;
        tokio::select! {
            biased;
            asked = journal.ensure_linearizable(Freshness::ReadIndex) => asked.map_err(|error| match error {
                MemberError::NotLeader { .. } => self.inner.not_leader(id),
                error => Error::unavailable(error),
            }),
            () = self.inner.env.clock.sleep(SURE) => {
                Err(Error::unavailable(format!("journal {id} has no majority that says who leads it")))
            }
        }
    }

    /// By what the replica here of a partition's home may answer. Waits for an election.
    pub(crate) async fn standing(&self, route: &Route) -> Standing {
        match self.leads_now(route.journal).await {
            Ok(()) => return Standing::Leads,
            Err(error) if error.is_not_leader() => {}
            Err(error) => return Standing::Leaderless(error),
        }
        let told = tokio::select! {
            biased;
            told = Box::pin(self.marks_elsewhere(route)) => told,
            error = self.nobody_leads(route.journal) => Err(error),
        };
        match told {
            Ok(marks) if marks.leaderless.is_none() => Standing::Follows(marks),
            Ok(_) => Standing::Leaderless(Error::unavailable(format!("the leader of journal {} has no majority", route.journal))),
            Err(error) => Standing::Leaderless(error),
        }
    }

    /// Returns once it is clear that a journal has no leader to wait for.
    async fn nobody_leads(&self, id: JournalId) -> Error {
        let clock = &self.inner.env.clock;
        let until = clock.monotonic() + LEADERLESS;
        loop {
            if let Some(problem) = self.inner.lost_majority(id) {
                return Error::unavailable(problem);
            }
            if clock.monotonic() >= until {
                return self.inner.not_leader(id);
            }
            clock.sleep(LOOK).await;
        }
    }

    /// Reads the replica here by its standing.
    pub(crate) async fn read_standing(&self, route: &Route, from: Offset, max_bytes: usize) -> Result<Fetched, Error> {
        match self.standing(route).await {
            Standing::Leads => self.read_leading(route, from, max_bytes).await,
            Standing::Follows(marks) => {
                within_log(from, &marks)?;
                match self.read_route(route, from, max_bytes).await {
                    Ok(read) if read.next <= marks.high_watermark && (read.bytes > 0 || from == marks.high_watermark) => {
                        Ok(Fetched { marks, ..read })
                    }
                    // This replica lags, or has applied what its leader has not yet.
                    _ => Box::pin(self.read_elsewhere(route, from, max_bytes)).await,
                }
            }
            Standing::Leaderless(why) => match self.read_route(route, from, max_bytes).await {
                Err(Error::OffsetOutOfRange { high_watermark, .. }) if from > high_watermark => Err(why),
                read => read.map(|read| Fetched { marks: Marks { leaderless: Some(self.inner.broker), ..read.marks }, ..read }),
            },
        }
    }

    /// Reads where this broker leads. A follower may have shown what the leader is about to apply: before that is called out of range, it is applied.
    pub(crate) async fn read_leading(&self, route: &Route, from: Offset, max_bytes: usize) -> Result<Fetched, Error> {
        match self.read_route(route, from, max_bytes).await {
            Err(Error::OffsetOutOfRange { high_watermark, .. }) if from > high_watermark => {
                Box::pin(self.confirmed(route.journal)).await?;
                self.read_route(route, from, max_bytes).await
            }
            read => read,
        }
    }

    /// Marks by the standing of the replica here.
    pub(crate) async fn marks_standing(&self, route: &Route) -> Result<Marks, Error> {
        match self.standing(route).await {
            Standing::Leads => self.marks(route),
            Standing::Follows(marks) => Ok(marks),
            Standing::Leaderless(_) => Ok(Marks { leaderless: Some(self.inner.broker), ..self.marks(route)? }),
        }
    }

    /// Finds an offset by the standing of the replica here. Where nobody leads, only what cannot become otherwise is found.
    pub(crate) async fn locate_standing(&self, route: &Route, position: Position) -> Result<Located, Error> {
        let why = match self.standing(route).await {
            Standing::Leads => return self.locate_leading(route, position).await,
            Standing::Follows(_) => return Box::pin(self.locate_elsewhere(route, position)).await,
            Standing::Leaderless(why) => why,
        };
        match self.locate_route(route, position).await {
            Err(Error::OffsetOutOfRange { offset, high_watermark, .. }) if offset > high_watermark => Err(why),
            Ok(located) if position == Position::Latest => {
                tracing::debug!(at = %route.at, known = located.offset.0, "the end of a partition is not known while nobody leads it");
                Err(why)
            }
            Ok(located) if matches!(position, Position::Timestamp(_)) && located.timestamp.is_none() => Err(why),
            located => located,
        }
    }

    /// Finds an offset where this broker leads.
    pub(crate) async fn locate_leading(&self, route: &Route, position: Position) -> Result<Located, Error> {
        match self.locate_route(route, position).await {
            Err(Error::OffsetOutOfRange { offset, high_watermark, .. }) if offset > high_watermark => {
                Box::pin(self.confirmed(route.journal)).await?;
                self.locate_route(route, position).await
            }
            located => located,
        }
    }
}
