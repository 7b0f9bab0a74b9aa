//! Where a consumer begins.

use tidegate_proto::v1;

/// A place in a partition to begin at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Start {
    /// The oldest record kept.
    Earliest,
    /// The next record to come.
    Latest,
    /// This offset, from 0.
    Offset(i64),
    /// The first record whose timestamp is at or after this time, in milliseconds since the Unix epoch; the end if there is none.
    Timestamp(i64),
}

impl From<Start> for v1::Position {
    fn from(start: Start) -> Self {
        use v1::position::Position;
        let position = match start {
            Start::Earliest => Position::Named(v1::NamedPosition::Earliest.into()),
            Start::Latest => Position::Named(v1::NamedPosition::Latest.into()),
            Start::Offset(offset) => Position::Offset(offset),
            Start::Timestamp(time) => Position::TimestampMs(time),
        };
        v1::Position { position: Some(position) }
    }
}
