//! The tables: medians with their spread over the rounds, and ratios of runs that stood side by side.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::cells::{Cell, Load, Measured};

/// A cell that was run, perhaps more than once.
#[derive(Clone, Debug)]
pub(crate) struct Ran {
    /// `None`: it failed as often as it may be run.
    pub(crate) measured: Option<Measured>,
    /// Why it was run again, or failed.
    pub(crate) failures: Vec<String>,
}

/// All runs of one cell against one broker, by round.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) broker: &'static str,
    /// Of each round; `None` where it failed.
    runs: Vec<Option<Measured>>,
    notes: Vec<String>,
}

impl Series {
    pub(crate) fn new(broker: &'static str) -> Series {
        Series { broker, runs: Vec::new(), notes: Vec::new() }
    }

    /// Adds the next round, which counts from 0.
    pub(crate) fn push(&mut self, round: usize, ran: Ran) {
        if !ran.failures.is_empty() {
            let what = if ran.measured.is_some() { "run again" } else { "failed" };
            self.notes.push(format!("round {}, {what}: {}", round + 1, ran.failures.join("; ")));
        }
        self.runs.push(ran.measured);
    }

    /// Rounds without numbers.
    pub(crate) fn failed(&self) -> usize {
        self.runs.iter().filter(|run| run.is_none()).count()
    }

    fn measured(&self) -> impl Iterator<Item = &Measured> {
        self.runs.iter().flatten()
    }
}

/// Median, least and greatest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) greatest: f64,
}

impl Spread {
    /// Of at least one number.
    pub(crate) fn of(numbers: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut numbers: Vec<f64> = numbers.into_iter().collect();
        numbers.sort_by(f64::total_cmp);
        let (least, greatest) = (*numbers.first()?, *numbers.last()?);
        let middle = numbers.len() / 2;
        let median =
            if numbers.len().is_multiple_of(2) { (numbers[middle - 1] + numbers[middle]) / 2.0 } else { numbers[middle] };
        Some(Spread { median, least, greatest })
    }

    fn show(self, digits: usize) -> String {
        format!("{:.digits$} ({:.digits$}–{:.digits$})", self.median, self.least, self.greatest)
    }

    fn json(self) -> Value {
        json!({"median": self.median, "least": self.least, "greatest": self.greatest})
    }
}

/// One column of a cell's table.
struct Figure {
    title: &'static str,
    digits: usize,
    of: fn(&Measured) -> Option<f64>,
}

fn gigabytes(run: &Measured) -> f64 {
    run.bytes as f64 / 1e9
}

fn at(histogram: Option<&hdrhistogram::Histogram<u64>>, quantile: f64) -> Option<f64> {
    Some(histogram?.value_at_quantile(quantile) as f64 / 1000.0)
}

const CPU: Figure = Figure { title: "broker CPU s/GB", digits: 2, of: |run| Some(run.broker_cpu / gigabytes(run)) };
const RATE: Figure = Figure { title: "MB/s", digits: 0, of: |run| Some(gigabytes(run) * 1e3 / run.seconds) };
const RECORDS: Figure =
    Figure { title: "broker CPU s/M records", digits: 3, of: |run| Some(run.broker_cpu / (run.records as f64 / 1e6)) };
const ACK_50: Figure = Figure { title: "ack ms p50", digits: 2, of: |run| at(run.acknowledged_us.as_ref(), 0.5) };
const ACK_99: Figure = Figure { title: "ack ms p99", digits: 2, of: |run| at(run.acknowledged_us.as_ref(), 0.99) };
const READ_50: Figure = Figure { title: "to the reader ms p50", digits: 2, of: |run| at(run.received_us.as_ref(), 0.5) };
const READ_99: Figure = Figure { title: "to the reader ms p99", digits: 2, of: |run| at(run.received_us.as_ref(), 0.99) };
const DRIVER: Figure = Figure { title: "driver CPU s/GB", digits: 2, of: |run| Some(run.driver_cpu / gigabytes(run)) };
const OTHER: Figure = Figure { title: "other cores busy", digits: 2, of: |run| Some(run.other_cores) };
const LOAD: Figure = Figure { title: "load", digits: 1, of: |run| Some(run.load_average) };
const PER_BATCH: Figure =
    Figure { title: "broker CPU µs/record", digits: 0, of: |run| Some(run.broker_cpu * 1e6 / run.records as f64) };

fn figures(load: Load) -> Vec<Figure> {
    match load {
        Load::Bulk => vec![CPU, RATE, RECORDS, ACK_50, ACK_99, DRIVER, OTHER, LOAD],
        Load::CatchUp => vec![CPU, RATE, RECORDS, DRIVER, OTHER, LOAD],
        Load::Tail { .. } => vec![CPU, RATE, ACK_50, ACK_99, READ_50, READ_99, DRIVER, OTHER, LOAD],
        Load::Single => vec![ACK_50, ACK_99, PER_BATCH, OTHER, LOAD],
    }
}

/// A run in one line, as soon as it is over.
pub(crate) fn line(cell: &Cell, broker: &str, ran: &Ran) -> String {
    let Some(measured) = &ran.measured else {
        return format!("{}: {broker}: failed: {}", cell.name, ran.failures.join("; "));
    };
    let figures = figures(cell.load);
    let shown = figures.iter().filter_map(|figure| {
        let number = (figure.of)(measured)?;
        Some(format!("{} {number:.*}", figure.title, figure.digits))
    });
    format!("{}: {broker}: {}", cell.name, shown.collect::<Vec<_>>().join(", "))
}

/// A cell's table in Markdown.
pub(crate) fn table(cell: &Cell, series: &[Series]) -> String {
    let figures = figures(cell.load);
    let mut out = format!("### {}\n\n{}\n\n| broker |", cell.name, cell.about);
    for figure in &figures {
        let _ = write!(out, " {} |", figure.title);
    }
    out.push_str("\n|---|");
    out.push_str(&"---|".repeat(figures.len()));
    for series in series {
        let _ = write!(out, "\n| {} |", series.broker);
        for figure in &figures {
            let spread = Spread::of(series.measured().filter_map(figure.of));
            let _ = write!(out, " {} |", spread.map_or_else(|| "–".to_owned(), |spread| spread.show(figure.digits)));
        }
    }
    out.push('\n');
    if let Some((first, others)) = series.split_first() {
        for other in others {
            out.push_str(&ratios(&figures[..2], first, other));
        }
    }
    for series in series {
        for note in &series.notes {
            let _ = write!(out, "\n- {}, {note}\n", series.broker);
        }
    }
    out
}

/// What another broker needs for each one of the first, round by round.
fn ratios(figures: &[Figure], first: &Series, other: &Series) -> String {
    let shown: Vec<String> = figures
        .iter()
        .filter_map(|figure| {
            let pairs = first.runs.iter().zip(&other.runs);
            let ratios = pairs.filter_map(|(first, other)| Some((figure.of)(other.as_ref()?)? / (figure.of)(first.as_ref()?)?));
            Some(format!("{} × {}", figure.title, Spread::of(ratios)?.show(2)))
        })
        .collect();
    format!("\n{} against {}, round by round: {}.\n", other.broker, first.broker, shown.join(", "))
}

/// The same numbers for machines.
pub(crate) fn json(cell: &Cell, series: &[Series]) -> Value {
    let figures = figures(cell.load);
    let brokers: serde_json::Map<String, Value> = series
        .iter()
        .map(|series| {
            let values: serde_json::Map<String, Value> = figures
                .iter()
                .filter_map(|figure| {
                    let spread = Spread::of(series.measured().filter_map(figure.of))?;
                    Some((figure.title.to_owned(), spread.json()))
                })
                .collect();
            (series.broker.to_owned(), Value::Object(values))
        })
        .collect();
    json!({"cell": cell.name, "brokers": brokers})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::CELLS;

    fn run(broker_cpu: f64) -> Ran {
        let measured = Measured {
            seconds: 2.0,
            bytes: 1_000_000_000,
            records: 1_000_000,
            broker_cpu,
            driver_cpu: 0.5,
            other_cores: 0.0,
            load_average: 1.0,
            acknowledged_us: None,
            received_us: None,
        };
        Ran { measured: Some(measured), failures: Vec::new() }
    }

    fn series(broker: &'static str, runs: Vec<Ran>) -> Series {
        let mut series = Series::new(broker);
        runs.into_iter().enumerate().for_each(|(round, ran)| series.push(round, ran));
        series
    }

    #[test]
    fn a_spread_is_median_least_and_greatest() {
        let spread = Spread::of([3.0, 1.0, 2.0, 10.0]).unwrap();
        assert_eq!(spread, Spread { median: 2.5, least: 1.0, greatest: 10.0 });
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn ratios_compare_runs_of_the_same_round() {
        let series = [series("A", vec![run(1.0), run(2.0)]), series("B", vec![run(2.0), run(4.0)])];
        let table = table(&CELLS[0], &series);
        assert!(table.contains("| A | 1.50 (1.00–2.00) | 500 (500–500) |"), "{table}");
        assert!(table.contains("B against A, round by round: broker CPU s/GB × 2.00 (2.00–2.00)"), "{table}");
        assert_eq!(json(&CELLS[0], &series)["brokers"]["B"]["broker CPU s/GB"]["median"], 3.0);
    }

    #[test]
    fn a_round_that_failed_is_told_and_spoils_no_other() {
        let again = Ran { failures: vec!["no leader".to_owned()], ..run(3.0) };
        let failed = Ran { measured: None, failures: vec!["a".to_owned(), "b".to_owned()] };
        assert!(line(&CELLS[0], "A", &failed).ends_with("A: failed: a; b"));
        assert!(line(&CELLS[0], "A", &again).contains("broker CPU s/GB 3.00, MB/s 500"));
        let series = [series("A", vec![failed, run(1.0)]), series("B", vec![again, run(2.0)])];
        let table = table(&CELLS[0], &series);
        assert!(table.contains("B against A, round by round: broker CPU s/GB × 2.00 (2.00–2.00)"), "{table}");
        assert!(table.contains("- A, round 1, failed: a; b") && table.contains("- B, round 1, run again: no leader"), "{table}");
        assert_eq!((series[0].failed(), series[1].failed()), (1, 0));
    }
}
