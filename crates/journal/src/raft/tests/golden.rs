//! What version 1 wrote of votes, members and local checkpoint files: still written so, still read. Rules: docs/formats/README.md.

use std::collections::BTreeSet;

use bytes::BytesMut;
use openraft::Membership;

use super::*;
use crate::raft::checkpoint::{self, Core, decode};
use crate::raft::types::{StoredMembership, Vote, decode_vote, encode_membership, encode_vote, log_id};
use crate::state::tests::{golden, golden_state};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn core() -> Core {
    let at = |term, index| log_id(tidegate_wal::Position { term, leader: 7, index });
    let members = Membership::new_with_defaults(vec![BTreeSet::from([7, 8]), BTreeSet::from([7])], [7, 8, 9]);
    Core { state: golden_state(), applied: at(3, 1_000), membership: StoredMembership::new(at(2, 5), members) }
}

/// A checkpoint file's bytes.
fn file() -> Vec<u8> {
    checkpoint::encode(ID, &core()).unwrap().into_bytes()
}

#[test]
fn a_local_checkpoint_of_version_1_stays_readable_and_is_still_written_so() {
    let path = path("local-checkpoint-v1-state-v2.bin");
    golden(&path, &file());
    let (read, kept) = decode(ID, &std::fs::read(&path).unwrap()).unwrap();
    let core = core();
    assert_eq!((read.applied, &read.membership, kept.index()), (core.applied, &core.membership, 1_000));
    assert!(read.state == core.state);
    // The same envelope around a state of version 1.
    let (read, _) = decode(ID, &std::fs::read(self::path("local-checkpoint-v1.bin")).unwrap()).unwrap();
    assert_eq!((read.applied, &read.membership), (core.applied, &core.membership));
}

#[test]
fn every_cut_and_every_flipped_bit_of_a_local_checkpoint_is_found() {
    let good = file();
    assert!((0..good.len()).all(|length| decode(ID, &good[..length]).is_err()));
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(ID, &bytes).is_err(), "bit {bit}");
    }
    assert!(decode(JournalId(ID.0 + 1), &good).is_err(), "a file of another journal");
}

#[test]
fn a_vote_and_members_of_version_1_stay_readable_and_are_still_written_so() {
    for (name, vote) in [("vote-v1.bin", Vote::new(5, 7)), ("vote-committed-v1.bin", Vote::new_committed(5, 7))] {
        golden(&path(name), &encode_vote(&vote));
        assert_eq!(decode_vote(&std::fs::read(path(name)).unwrap()).unwrap(), vote);
    }
    let (core, mut members) = (core(), BytesMut::new());
    encode_membership(core.membership.membership(), &mut members);
    golden(&path("members-v1.bin"), &members);
    let kept = std::fs::read(path("members-v1.bin")).unwrap();
    assert_eq!(&crate::raft::types::decode_membership(&mut &kept[..]).unwrap(), core.membership.membership());
}
