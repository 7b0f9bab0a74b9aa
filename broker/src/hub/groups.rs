//! Committed offsets of consumer groups. A group's positions are kept in the journal of its name's hash, so that one atomic step covers
//! all of them.

use tidegate_journal::entry::{OffsetCommit, Operation, Unit};
use tidegate_model::{JournalId, LeaderEpoch, Offset, PartitionId, TimestampMs, TopicUid, murmur2};
use tidegate_proto::internal::v1 as wired;
use tidegate_proto::internal::v1::answer::Told;
use tidegate_proto::internal::v1::request::Ask;

use super::{Error, GroupOffset, Hub, PartitionRef};

/// A group's name has at most so many characters.
const NAME_CHARACTERS: usize = 249;
/// Note of a consumer on a position, at most.
const METADATA_BYTES: usize = 4096;

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupListing {
    /// Its name.
    pub name: String,
    /// Partitions with a position.
    pub partitions: usize,
}

impl Hub {
    /// Stores positions in one atomic step, durably; answers for each whether it was stored. Those that name no partition are left out.
    pub async fn commit_offsets(&self, group: &str, offsets: &[GroupOffset]) -> Result<Vec<Result<(), Error>>, Error> {
        check_group(group)?;
        if offsets.is_empty() {
            return Err(Error::invalid("offsets", "is empty: name at least one position"));
        }
        if self.inner.intake.is_cancelled() {
            return Err(Error::ShuttingDown);
        }
        let checked: Vec<_> = offsets.iter().enumerate().map(|(place, offset)| self.check_position(place, offset)).collect();
        let mut commits: Vec<OffsetCommit> = Vec::with_capacity(checked.len());
        for commit in checked.iter().flatten() {
            if commits.iter().any(|other| other.at == commit.at) {
                return Err(Error::invalid("offsets", format!("names partition {} twice", commit.at)));
            }
            commits.push(commit.clone());
        }
        if !commits.is_empty() {
            let unit = Unit::of(Operation::CommitOffsets { group: group.to_owned(), offsets: commits });
            self.propose(self.group_journal(group)?, unit).await?;
        }
        Ok(checked.into_iter().map(|commit| commit.map(|_| ())).collect())
    }

    fn check_position(&self, place: usize, offset: &GroupOffset) -> Result<OffsetCommit, Error> {
        let route = self.inner.routes.route(&PartitionRef::new(&offset.topic, offset.partition.0))?;
        if offset.offset.0 < 0 {
            return Err(Error::invalid(format!("offsets[{place}].offset"), format!("{} is below 0", offset.offset)));
        }
        if offset.metadata.len() > METADATA_BYTES {
            let problem = format!("has {} bytes; at most {METADATA_BYTES}", offset.metadata.len());
            return Err(Error::invalid(format!("offsets[{place}].metadata"), problem));
        }
        Ok(OffsetCommit {
            at: route.at,
            offset: offset.offset,
            leader_epoch: offset.leader_epoch.unwrap_or(LeaderEpoch(-1)),
            metadata: offset.metadata.clone(),
        })
    }

    /// A group's positions in partitions of living topics, by topic and partition. A group that does not exist has none.
    pub fn fetch_offsets(&self, group: &str) -> Result<Vec<GroupOffset>, Error> {
        check_group(group)?;
        let committed: Vec<_> = self.journal(self.group_journal(group)?)?.read_state(|state| {
            let group = state.group(group);
            group.map(|group| group.offsets().map(|(at, committed)| (at, committed.clone())).collect()).unwrap_or_default()
        });
        let mut offsets: Vec<_> = committed
            .into_iter()
            .filter_map(|(at, committed)| {
                Some(GroupOffset {
                    topic: self.name_of(at.topic)?,
                    partition: at.partition,
                    offset: committed.offset,
                    leader_epoch: Some(committed.leader_epoch).filter(|epoch| epoch.0 >= 0),
                    metadata: committed.metadata,
                    time: committed.time,
                })
            })
            .collect();
        offsets.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        Ok(offsets)
    }

    /// As [`Hub::fetch_offsets`], from the broker that leads the group's journal: what was committed anywhere before is there.
    pub async fn positions(&self, group: &str) -> Result<(bool, Vec<GroupOffset>), Error> {
        check_group(group)?;
        let journal = self.group_journal(group)?;
        match self.leads_now(journal).await {
            Err(error) if error.is_not_leader() => {}
            other => return other.and_then(|()| Ok((self.has_group(group)?, self.fetch_offsets(group)?))),
        }
        let ask = Ask::Positions(wired::AskPositions { group: group.to_owned() });
        let Told::Positions(told) = self.inner.ask_leader(journal, ask).await? else {
            return Err(Error::internal("positions were answered by something else"));
        };
        let position = |told: wired::GroupPosition| GroupOffset {
            topic: told.topic,
            partition: PartitionId(told.partition),
            offset: Offset(told.offset),
            leader_epoch: told.leader_epoch.map(LeaderEpoch),
            metadata: told.metadata,
            time: TimestampMs(told.time_ms),
        };
        Ok((told.known, told.positions.into_iter().map(position).collect()))
    }

    /// Answers another broker's question for positions, if this one leads the group's journal.
    pub(crate) async fn serve_positions(&self, group: &str) -> Result<wired::Positions, Error> {
        self.leads_now(self.group_journal(group)?).await?;
        let position = |offset: GroupOffset| wired::GroupPosition {
            topic: offset.topic,
            partition: offset.partition.0,
            offset: offset.offset.0,
            leader_epoch: offset.leader_epoch.map(|epoch| epoch.0),
            metadata: offset.metadata,
            time_ms: offset.time.0,
        };
        let positions = self.fetch_offsets(group)?.into_iter().map(position).collect();
        Ok(wired::Positions { known: self.has_group(group)?, positions })
    }

    fn name_of(&self, topic: TopicUid) -> Option<String> {
        self.inner.routes.view().by_uid.get(&topic).map(|topic| topic.name.to_string())
    }

    /// Groups by name, from a name on (exclusive), and whether there are more.
    pub fn list_groups(&self, after: &str, limit: usize) -> (Vec<GroupListing>, bool) {
        let mut groups: Vec<GroupListing> = Vec::new();
        for journal in self.inner.hosted.all().values() {
            journal.read_state(|state| {
                let names = state.groups().filter(|(name, _)| *name > after);
                groups.extend(
                    names.map(|(name, group)| GroupListing { name: name.to_owned(), partitions: group.offsets().count() }),
                );
            });
        }
        groups.sort_by(|a, b| a.name.cmp(&b.name));
        let more = groups.len() > limit;
        groups.truncate(limit);
        (groups, more)
    }

    /// True if the group has ever committed a position that is kept.
    pub fn has_group(&self, group: &str) -> Result<bool, Error> {
        check_group(group)?;
        Ok(self.journal(self.group_journal(group)?)?.read_state(|state| state.group(group).is_some()))
    }

    /// Forgets a group and its positions, durably.
    pub async fn delete_group(&self, group: &str) -> Result<(), Error> {
        if !self.positions(group).await?.0 {
            return Err(Error::UnknownGroup { group: group.to_owned() });
        }
        let unit = Unit::of(Operation::DeleteGroup { group: group.to_owned() });
        self.propose(self.group_journal(group)?, unit).await.map(|_| ())
    }

    /// The journal that keeps a group's positions.
    pub(crate) fn group_journal(&self, group: &str) -> Result<JournalId, Error> {
        self.inner.catalog.read_state(|state| {
            let fleet = state.catalog().fleet();
            let mut journals = fleet.group_journals();
            let place = (murmur2(group.as_bytes()) as u32 as usize) % journals.len().max(1);
            journals.nth(place).ok_or_else(|| Error::unavailable("the hub has no data journals yet"))
        })
    }
}

fn check_group(group: &str) -> Result<(), Error> {
    if group.is_empty() || group.chars().count() > NAME_CHARACTERS {
        let problem = format!("has {} characters; 1 to {NAME_CHARACTERS} are allowed", group.chars().count());
        return Err(Error::invalid("group", problem));
    }
    Ok(())
}
