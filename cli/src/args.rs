//! The command line's grammar.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tidegate_crd::quantity::{parse_bytes, parse_duration_ms};

use crate::commands::consume::{Place, parse_place};
use crate::generate::Kind;
use crate::input::{InputFormat, parse_time};

/// A duration in milliseconds or a size in bytes; `None` is `unlimited`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bound(pub(crate) Option<u64>);

fn duration(text: &str) -> Result<Bound, String> {
    parse_duration_ms(text).map(Bound).map_err(|error| error.to_string())
}

fn size(text: &str) -> Result<Bound, String> {
    parse_bytes(text).map(Bound).map_err(|error| error.to_string())
}

fn place(text: &str) -> Result<Place, String> {
    parse_place(text).map_err(|error| format!("{error:#}"))
}

fn time(text: &str) -> Result<i64, String> {
    parse_time(text, None).map_err(|error| format!("{error:#}"))
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("write a number of events a second above 0".to_owned()),
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

/// Tidegate: an event hub that keeps the newest data on disk and the rest in object storage.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, propagate_version = true, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 the hub is not reachable or not ready, 5 refused by the hub."
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How to reach the hub and how to answer.
#[derive(Clone, Debug, Args)]
pub(crate) struct Connection {
    /// Where the hub's gRPC listener is.
    #[arg(long, short = 'a', env = "TIDEGATE_ADDRESS", default_value = "http://127.0.0.1:7171", global = true)]
    pub(crate) address: String,
    /// Send records to, and read them from, the broker at --address only, which forwards. For hubs whose brokers' addresses cannot be reached from here.
    #[arg(long, env = "TIDEGATE_ANY_BROKER", global = true)]
    pub(crate) any_broker: bool,
    /// How answers look.
    #[arg(long, short = 'o', value_enum, default_value_t = Output::Table, global = true)]
    pub(crate) output: Output,
}

/// How answers look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For machines: one JSON document.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole hub on this machine: one broker, a directory as its object store.
    Dev(RunArgs),
    /// Run a broker with a settings file.
    Broker(RunArgs),
    /// Create, change, delete, restore, describe and list topics.
    Topic(TopicArgs),
    /// Show a hub's brokers and journals, drain brokers, set how often data is replicated.
    Cluster(ClusterArgs),
    /// Make topics as a file of manifests says (the same that `kubectl apply -f` takes).
    Apply(ApplyArgs),
    /// Append events from a file or standard input to a topic.
    Produce(ProduceArgs),
    /// Read events of a topic.
    Consume(ConsumeArgs),
    /// Show offsets of a topic, by time if wanted, and offsets that a group has committed.
    Offsets(OffsetsArgs),
    /// Make events that look real and append them to a topic, or print them.
    Generate(GenerateArgs),
    /// Measure how fast a hub takes and gives events.
    Bench(BenchArgs),
    /// Work on a hub for a while, write down every answer, and judge whether it kept its promises.
    Verify(VerifyArgs),
    /// Show what is in a file of the WAL, a tier object, a checkpoint.
    Inspect(InspectArgs),
    /// Rebuild a hub from what is in its object store.
    Recover(RecoverArgs),
    /// Print the settings in force, with their defaults, as a settings file.
    Config(ConfigArgs),
    /// Print a script that completes commands in a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Where a hub's settings come from. Flags win over the environment, that over the file, that over the defaults.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServerArgs {
    /// A settings file (TOML); `tidegate config` prints one with all defaults.
    #[arg(long, short = 'c', env = "TIDEGATE_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// One setting, such as `--set hub.journals=8`; may be given several times. Also by variables: TIDEGATE_SET_hub__journals=8.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub(crate) set: Vec<String>,
    /// Where local data is kept.
    #[arg(long, env = "TIDEGATE_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// Running a server.
#[derive(Clone, Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    /// Settings.
    pub(crate) server: ServerArgs,
    /// Write the addresses listened on to this file (JSON) when the hub serves, and remove it at the end.
    #[arg(long)]
    pub(crate) ready_file: Option<PathBuf>,
}

/// Cluster commands.
#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    /// Where a broker's gRPC listener for the operator is.
    #[arg(long, env = "TIDEGATE_OPERATOR_ADDRESS", default_value = "http://127.0.0.1:7172", global = true)]
    pub(crate) operator_address: String,
    /// How answers look.
    #[arg(long, short = 'o', value_enum, default_value_t = Output::Table, global = true)]
    pub(crate) output: Output,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: ClusterCommand,
}

/// What can be done to a cluster.
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// List brokers and journals, with leaders and replicas.
    Describe,
    /// Move everything from a broker to others; it is retired for good when it holds nothing any more.
    Drain {
        /// Its number.
        broker: u32,
    },
    /// End a drain before its end.
    Undrain {
        /// Its number.
        broker: u32,
    },
    /// Retire a broker that holds nothing.
    Retire {
        /// Its number.
        broker: u32,
    },
    /// Move a partition to another journal; its older records stay where they are. Writes to it pause for some milliseconds.
    Move {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The journal that it shall live in.
        #[arg(long)]
        to: u32,
    },
    /// Set how many voters each journal shall have: 1, 3 or 5.
    Replicas {
        /// The number.
        factor: u32,
    },
}

/// Topic commands.
#[derive(Debug, Args)]
pub(crate) struct TopicArgs {
    #[command(flatten)]
    /// How to reach the hub.
    pub(crate) connection: Connection,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: TopicCommand,
}

/// Settings of a topic as flags; absent ones stay as they are, or take their default on creation.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct TopicSettingArgs {
    /// Number of partitions; may grow, never shrink.
    #[arg(long, short = 'p')]
    pub(crate) partitions: Option<u32>,
    /// How long records are kept, such as `7d`, or `unlimited`.
    #[arg(long, value_parser = duration)]
    pub(crate) retention: Option<Bound>,
    /// How many bytes of each partition are kept, such as `10Gi`, or `unlimited`.
    #[arg(long, value_parser = size)]
    pub(crate) retention_bytes: Option<Bound>,
    /// The largest record batch, such as `1Mi`; `unlimited` is what the hub allows at most.
    #[arg(long, value_parser = size)]
    pub(crate) max_message_bytes: Option<Bound>,
    /// Stamp records with the broker's clock instead of the producer's.
    #[arg(long)]
    pub(crate) log_append_time: Option<bool>,
    /// Move data to the object store when so much waits, such as `8Mi`; `unlimited` is as the hub's settings say.
    #[arg(long, value_parser = size)]
    pub(crate) seal_bytes: Option<Bound>,
    /// Move data to the object store when the oldest record is so old, such as `10m`; `unlimited` is as the hub's settings say.
    #[arg(long, value_parser = duration)]
    pub(crate) seal_age: Option<Bound>,
    /// Share a journal with the other topics of this group (on creation only).
    #[arg(long)]
    pub(crate) placement_group: Option<String>,
}

/// What to do with topics.
#[derive(Debug, Subcommand)]
pub(crate) enum TopicCommand {
    /// Make a topic.
    Create {
        /// Its name.
        name: String,
        #[command(flatten)]
        /// Its settings.
        settings: TopicSettingArgs,
    },
    /// Change a topic's settings.
    Alter {
        /// Its name.
        name: String,
        #[command(flatten)]
        /// The settings to change.
        settings: TopicSettingArgs,
    },
    /// Delete a topic; `topic undelete` brings it back until its data is removed.
    Delete {
        /// Its name.
        name: String,
    },
    /// Bring a deleted topic back.
    Undelete {
        /// Its name.
        name: String,
        /// Which one, if several of this name were deleted; `topic list --deleted` shows it.
        #[arg(long)]
        uid: Option<uuid::Uuid>,
    },
    /// Show a topic's settings and measured numbers.
    Describe {
        /// Its name.
        name: String,
    },
    /// List topics.
    List {
        /// Only names that begin so.
        #[arg(long, default_value = "")]
        prefix: String,
        /// Deleted topics that can be restored, too.
        #[arg(long)]
        deleted: bool,
    },
}

/// Applying manifests.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    /// How to reach the hub.
    pub(crate) connection: Connection,
    /// Files of manifests (YAML or JSON); `-` is standard input.
    #[arg(long = "file", short = 'f', required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Check and say what would be done, without doing it.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Compression of produced batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompressionArg {
    /// No compression.
    None,
    /// gzip.
    Gzip,
    /// snappy.
    Snappy,
    /// lz4.
    Lz4,
    /// zstd.
    Zstd,
}

/// Producing.
#[derive(Debug, Args)]
pub(crate) struct ProduceArgs {
    #[command(flatten)]
    /// How to reach the hub.
    pub(crate) connection: Connection,
    /// The topic.
    pub(crate) topic: String,
    /// The file to read; absent or `-` is standard input.
    #[arg(long, short = 'f')]
    pub(crate) file: Option<PathBuf>,
    /// How the input is cut into events.
    #[arg(long, value_enum, default_value_t = InputFormat::Lines)]
    pub(crate) format: InputFormat,
    /// TSV and CSV: the first record names the columns.
    #[arg(long)]
    pub(crate) header_row: bool,
    /// Where the key is: a field of JSON events; a column of TSV or CSV by number from 1, or by name with --header-row.
    #[arg(long, short = 'k')]
    pub(crate) key: Option<String>,
    /// Lines: the key is what stands before this text.
    #[arg(long, conflicts_with = "key")]
    pub(crate) key_until: Option<String>,
    /// Where the time is: a field or column, like --key. Without it, the time of reading.
    #[arg(long, short = 't')]
    pub(crate) time: Option<String>,
    /// Lines: the time begins behind this text.
    #[arg(long, conflicts_with = "time")]
    pub(crate) time_after: Option<String>,
    /// strftime pattern of the time, such as `%d/%b/%Y:%H:%M:%S %z`; default RFC 3339 or milliseconds since 1970.
    #[arg(long)]
    pub(crate) time_format: Option<String>,
    /// Append everything to this partition, instead of by key.
    #[arg(long, short = 'p')]
    pub(crate) partition: Option<u32>,
    /// A header for every event, `name=value`; may be given several times.
    #[arg(long = "header", short = 'H', value_name = "NAME=VALUE", value_parser = header)]
    pub(crate) headers: Vec<(String, String)>,
    /// At most so many events a second; default as fast as they are taken.
    #[arg(long, value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Compression of the batches sent.
    #[arg(long, value_enum, default_value_t = CompressionArg::None)]
    pub(crate) compression: CompressionArg,
    /// Ask for no acknowledgements: what a broken connection or a broker that ends still had is lost without a word.
    #[arg(long)]
    pub(crate) no_ack: bool,
}

/// How consumed events look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EventFormat {
    /// The value and a line end.
    Value,
    /// Key, tab, value, line end.
    KeyValue,
    /// One JSON object a line with partition, offset, time, key, headers and value.
    Json,
    /// The values alone, without anything between them.
    Raw,
}

/// Consuming.
#[derive(Debug, Args)]
pub(crate) struct ConsumeArgs {
    #[command(flatten)]
    /// How to reach the hub.
    pub(crate) connection: Connection,
    /// The topic.
    pub(crate) topic: String,
    /// Where to begin: `earliest`, `latest`, an offset such as `@1200`, or a time (RFC 3339 or milliseconds since 1970).
    #[arg(long, default_value = "earliest", value_parser = place)]
    pub(crate) from: Place,
    /// Where to end: an offset such as `@1300` (exclusive) or a time; default the end as it is now.
    #[arg(long, value_parser = place)]
    pub(crate) until: Option<Place>,
    /// Only these partitions; default all.
    #[arg(long, short = 'p', value_delimiter = ',')]
    pub(crate) partition: Vec<u32>,
    /// At most so many events.
    #[arg(long, short = 'n')]
    pub(crate) max: Option<u64>,
    /// Go on with new events until interrupted.
    #[arg(long, short = 'F')]
    pub(crate) follow: bool,
    /// How events look; default `value`, with `-o json` `json`.
    #[arg(long, value_enum)]
    pub(crate) format: Option<EventFormat>,
    /// Begin where this group committed (else at --from), and commit what was printed: at the end, and with --follow every few seconds.
    #[arg(long, short = 'g')]
    pub(crate) group: Option<String>,
}

/// Offsets.
#[derive(Debug, Args)]
pub(crate) struct OffsetsArgs {
    #[command(flatten)]
    /// How to reach the hub.
    pub(crate) connection: Connection,
    /// The topic.
    pub(crate) topic: String,
    /// Also the first offset at or after this time (RFC 3339 or milliseconds since 1970).
    #[arg(long, value_parser = time)]
    pub(crate) time: Option<i64>,
    /// Also what this group committed, and its lag.
    #[arg(long, short = 'g')]
    pub(crate) group: Option<String>,
}

/// Generating.
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    /// How to reach the hub.
    pub(crate) connection: Connection,
    /// What kind of events.
    #[arg(value_enum)]
    pub(crate) kind: Kind,
    /// The topic to append to; default: the kind's name. `-` prints the events instead.
    pub(crate) topic: Option<String>,
    /// How many events; default 10,000, with --follow without end.
    #[arg(long, short = 'n')]
    pub(crate) count: Option<u64>,
    /// Events a second; default as fast as they are taken.
    #[arg(long, value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Go on until interrupted (at --rate, default 100 a second).
    #[arg(long, short = 'F')]
    pub(crate) follow: bool,
    /// The same seed gives the same events.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

/// Measuring.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    /// How to reach the hub.
    pub(crate) connection: Connection,
    /// The topic to use; it is created with --partitions if it does not exist.
    #[arg(long, default_value = "bench")]
    pub(crate) topic: String,
    /// Partitions of the topic if it is created.
    #[arg(long, default_value_t = 4)]
    pub(crate) partitions: u32,
    /// Bytes of each event's value.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) event_bytes: u32,
    /// How many events.
    #[arg(long, short = 'n', default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: u64,
    /// Compression of the batches sent.
    #[arg(long, value_enum, default_value_t = CompressionArg::None)]
    pub(crate) compression: CompressionArg,
}

/// Verifying.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    /// How to reach the hub.
    pub(crate) connection: Connection,
    /// How long to work, such as `60s` or `10m`.
    #[arg(long = "for", value_name = "TIME", default_value = "60s")]
    pub(crate) time: String,
    /// The topic to make and use; it must not exist. Default: `verify-` and the seed.
    #[arg(long)]
    pub(crate) topic: Option<String>,
    /// Partitions of the topic.
    #[arg(long, short = 'p', default_value_t = 8)]
    pub(crate) partitions: i32,
    /// Idempotent producers, each with a connection of its own.
    #[arg(long, default_value_t = 4)]
    pub(crate) producers: u32,
    /// Consumers that poll, go back and commit; each has partitions of its own.
    #[arg(long, default_value_t = 4)]
    pub(crate) consumers: u32,
    /// Records a second of all producers together. A history takes about 200 bytes of memory a record.
    #[arg(long, default_value_t = 4000.0)]
    pub(crate) rate: f64,
    /// Decides what the clients do; printed at the start. Default: a random one.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Write the history to this file, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub(crate) history: Option<PathBuf>,
    /// Judge a history that was written before, without a hub.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["history", "seed", "topic"])]
    pub(crate) check: Option<PathBuf>,
    /// Leave the topic there at the end instead of deleting it.
    #[arg(long)]
    pub(crate) keep: bool,
}

/// Inspecting.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A WAL file, a checkpoint, or an object of the store: tier object, manifest object, checkpoint object.
    pub(crate) path: PathBuf,
    /// How answers look.
    #[arg(long, short = 'o', value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// Write a partition's range out of a tier object as a plain Kafka `.log` file.
    #[arg(long, value_name = "FILE")]
    pub(crate) kafka_log: Option<PathBuf>,
    /// With --kafka-log: the topic's name or uid, if the object holds several.
    #[arg(long)]
    pub(crate) topic: Option<String>,
    /// With --kafka-log: the partition, if the object holds several.
    #[arg(long, short = 'p')]
    pub(crate) partition: Option<i32>,
}

/// Printing settings.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(flatten)]
    /// Settings.
    pub(crate) server: ServerArgs,
    /// How they look: `table` is TOML, as the settings file.
    #[arg(long, short = 'o', value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

/// Recovering.
#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    /// How the answer looks.
    #[arg(long, short = 'o', value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    #[command(flatten)]
    /// Settings: the (empty) data directory and the object store to recover from.
    pub(crate) server: ServerArgs,
    /// Recover this hub only; another one in the object store is refused.
    #[arg(long, value_name = "HUB_ID")]
    pub(crate) from: Option<uuid::Uuid>,
    /// Do nothing, without an error, if the data directory holds a hub already: for a start that may come again.
    #[arg(long)]
    pub(crate) unless_present: bool,
}
