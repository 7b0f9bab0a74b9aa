//! Rounds of cells: in each cell all brokers take turns. What was measured is printed at once, and the tables even if a run is cut off.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::cells::{self, CELLS, Round};
use crate::process;
use crate::report::{self, Series};
use crate::server::Broker;
use crate::{progress, until_interrupted};

/// What is measured, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan<'a> {
    /// Rounds, at least 1.
    pub(crate) rounds: usize,
    /// The time of a cell.
    pub(crate) duration: Duration,
    /// Cells whose name contains this text.
    pub(crate) cells: &'a str,
    /// Brokers of each hub or cluster.
    pub(crate) nodes: u16,
    /// Partitions of each topic.
    pub(crate) partitions: u32,
    /// For how long the idle brokers are watched, in seconds.
    pub(crate) idle: f64,
    /// Where the numbers go for machines.
    pub(crate) json: Option<&'a Path>,
}

/// What was measured so far.
struct Tables {
    /// The places of the cells in [`CELLS`].
    wanted: Vec<usize>,
    /// By cell, then by broker.
    series: Vec<Vec<Series>>,
    /// Share of a core of each broker.
    idle: Vec<f64>,
}

/// Runs all cells and shows their tables.
///
/// # Errors
///
/// After the tables: a cell failed, or the run was interrupted.
pub(crate) async fn measure(plan: Plan<'_>, brokers: &[Broker]) -> Result<()> {
    let begun = Instant::now();
    let wanted = wanted(plan.cells)?;
    let of_all = || brokers.iter().map(|broker| Series::new(broker.kind.name())).collect();
    let series = wanted.iter().map(|_| of_all()).collect();
    let mut tables = Tables { wanted, series, idle: Vec::new() };
    let outcome = until_interrupted(fill(plan, brokers, begun, &mut tables)).await;
    show(plan, brokers, &tables)?;
    outcome?;
    let failed = tables.series.iter().flatten().map(Series::failed).sum::<usize>();
    ensure!(failed == 0, "{failed} runs of cells failed; the tables say why");
    progress(begun, "done");
    Ok(())
}

async fn fill(plan: Plan<'_>, brokers: &[Broker], begun: Instant, tables: &mut Tables) -> Result<()> {
    for broker in brokers {
        progress(begun, &format!("warming up {}", broker.kind.name()));
        cells::warm_up(broker, &tables.wanted, plan.partitions, plan.duration).await?;
    }
    tables.idle = idle(brokers, plan.idle).await?;
    for round in 0..plan.rounds {
        let mut order: Vec<usize> = (0..brokers.len()).collect();
        // Each one goes first as often as the others.
        order.rotate_left(round % brokers.len());
        let mut rounds: Vec<Round<'_>> = brokers
            .iter()
            .zip(&tables.idle)
            .map(|(broker, idle)| Round {
                broker,
                number: round,
                partitions: plan.partitions,
                duration: plan.duration,
                idle: *idle,
                written: None,
            })
            .collect();
        for (slot, place) in tables.wanted.iter().copied().enumerate() {
            for turn in order.iter().copied() {
                // What others left in the page cache is not for this one's fsyncs to write.
                Command::new("sync").status().context("sync")?;
                let ran = rounds[turn].run(place).await?;
                let series = &mut tables.series[slot][turn];
                let (seconds, rounds) = (begun.elapsed().as_secs(), plan.rounds);
                println!("{seconds:>4} s  round {} of {rounds}: {}", round + 1, report::line(&CELLS[place], series.broker, &ran));
                series.push(round, ran);
            }
        }
    }
    Ok(())
}

/// The places of the wanted cells in [`CELLS`]; a cell that reads brings the one before, which writes for it.
fn wanted(text: &str) -> Result<Vec<usize>> {
    let matches = |place: usize| CELLS[place].name.contains(text);
    let reads = |place: usize| CELLS.get(place).is_some_and(|cell| cell.load == cells::Load::CatchUp);
    let wanted: Vec<usize> = (0..CELLS.len())
        .filter(|place| matches(*place) || (reads(place + 1) && matches(place + 1)) || (reads(*place) && matches(place - 1)))
        .collect();
    ensure!(!wanted.is_empty(), "--cells {text}: no cell's name contains that");
    Ok(wanted)
}

/// Share of a core that each broker uses while nobody asks it anything.
pub(crate) async fn idle(brokers: &[Broker], seconds: f64) -> Result<Vec<f64>> {
    let before: Vec<f64> = brokers.iter().map(|broker| process::cpu_seconds_of(&broker.process_ids)).collect::<Result<_>>()?;
    let start = Instant::now();
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    let share = |(broker, before): (&Broker, f64)| {
        anyhow::Ok((process::cpu_seconds_of(&broker.process_ids)? - before) / start.elapsed().as_secs_f64())
    };
    brokers.iter().zip(before).map(share).collect()
}

fn show(plan: Plan<'_>, brokers: &[Broker], tables: &Tables) -> Result<()> {
    let (nodes, partitions, rounds, seconds) = (plan.nodes, plan.partitions, plan.rounds, plan.duration.as_secs_f64());
    let mut out = format!(
        "\nMachine: {}. {rounds} rounds of cells of {seconds} s, brokers: {nodes}, partitions: {partitions}.\n\n\
         | broker | most memory, MiB | idle, % of a core |\n|---|---|---|\n",
        process::machine()
    );
    let mut memory = serde_json::Map::new();
    for (broker, idle) in brokers.iter().zip(&tables.idle) {
        let name = broker.kind.name();
        let each = broker.process_ids.iter().map(|process| process::memory_bytes(*process, "VmHWM"));
        // One that has ended meanwhile says nothing any more.
        match each.sum::<Result<u64>>() {
            Ok(bytes) => {
                let _ = writeln!(out, "| {name} | {} | {:.1} |", bytes >> 20, idle * 100.0);
                memory.insert(name.to_owned(), json!({"mostMemoryBytes": bytes, "idleCores": idle}));
            }
            Err(error) => {
                let _ = writeln!(out, "| {name} | – ({error:#}) | {:.1} |", idle * 100.0);
            }
        }
    }
    for (place, series) in tables.wanted.iter().zip(&tables.series) {
        let _ = write!(out, "\n{}\n", report::table(&CELLS[*place], series));
    }
    print!("{out}");
    if let Some(path) = plan.json {
        let cells = tables.wanted.iter().zip(&tables.series);
        let cells: Vec<_> = cells.map(|(place, series)| report::json(&CELLS[*place], series)).collect();
        let document = json!({"machine": process::machine(), "rounds": rounds, "nodes": nodes, "partitions": partitions, "brokers": memory, "cells": cells});
        std::fs::write(path, format!("{document:#}\n")).with_context(|| path.display().to_string())?;
    }
    Ok(())
}
