//! The command that repeats a seed.
#![allow(missing_docs, clippy::unwrap_used)]

use std::process::Command;

#[test]
fn the_command_that_is_printed_for_a_seed_repeats_it() {
    let command = tidegate_sim::replay_command(5);
    let (_, arguments) = command.split_once(" -- ").unwrap();
    let run = || {
        let output = Command::new(env!("CARGO_BIN_EXE_tidegate-sim")).args(arguments.split(' ')).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let first = run();
    assert!(first.starts_with("seed 5 holds"), "{first}");
    assert_eq!(run(), first, "processes differ");
}
