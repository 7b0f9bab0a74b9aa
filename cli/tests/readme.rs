//! README's commands, and those that the quickstart prints, are run as they stand there: text and behaviour cannot drift apart.
//!
//! What is put in their place, because a test must not take a fixed port: the address 127.0.0.1:7171. `pip install` is left out; the tools'
//! folder has the same package.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use support::{free_port, repository, tool, tools, wait_for};

/// The address in the documents.
const DOCUMENTED: &str = "127.0.0.1:7171";

/// A block of README that its marker names, in order.
struct Block {
    kind: String,
    text: String,
}

fn blocks(markdown: &str) -> Vec<Block> {
    let marker = "<!-- run by cli/tests/readme.rs: ";
    let parts = markdown.split(marker).skip(1);
    parts
        .map(|part| {
            let (kind, rest) = part.split_once(" -->").unwrap();
            let fenced = rest.trim_start().strip_prefix("```").expect("a fenced block follows its marker");
            let (_, body) = fenced.split_once('\n').unwrap();
            let (text, _) = body.split_once("\n```").unwrap();
            Block { kind: kind.to_owned(), text: text.to_owned() }
        })
        .collect()
}

/// Commands of a block: lines without their comments, joined where they end in a backslash.
fn commands(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().filter_map(|line| line.split(" #").next()).map(str::trim);
    lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// A newcomer's terminal: a folder with the repository's files in it, the commands on the path, a hub's port.
struct Terminal {
    folder: tempfile::TempDir,
    port: u16,
}

impl Terminal {
    fn new() -> Terminal {
        let folder = tempfile::tempdir().unwrap();
        for name in ["deploy", "proto"] {
            std::os::unix::fs::symlink(repository().join(name), folder.path().join(name)).unwrap();
        }
        let log = "10.0.0.1 - - [17/May/2015:10:05:03 +0000] \"GET /a\"\n10.0.0.2 - - [18/May/2015:03:05:03 +0000] \"GET /b\"\n";
        std::fs::write(folder.path().join("access.log"), log).unwrap();
        Terminal { folder, port: free_port() }
    }

    fn shell(&self, command: &str) -> Command {
        let binary = Path::new(env!("CARGO_BIN_EXE_tidegate")).parent().unwrap().to_path_buf();
        let python = tools().join("venv/bin");
        let bin = tool("grpcurl").parent().unwrap().to_path_buf();
        let old = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([binary, python, bin].into_iter().chain(std::env::split_paths(&old))).unwrap();
        let mut shell = Command::new("bash");
        let command = command.replace(DOCUMENTED, &self.address());
        shell.args(["-euo", "pipefail", "-c", &format!("exec {command}")]);
        shell.current_dir(self.folder.path()).env("PATH", path).env("TIDEGATE_ADDRESS", self.address());
        shell.env("TIDEGATE_SET_listeners__client", self.address());
        shell.env("TIDEGATE_SET_listeners__operator", "127.0.0.1:0").env("TIDEGATE_SET_listeners__http", "127.0.0.1:0");
        shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        shell
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Runs a command to its end; gives what it printed. One that follows is interrupted as a person would, once it runs.
    fn run(&self, command: &str) -> String {
        if command.contains("--follow") {
            let mut running = Running::start(self, command);
            running.wait_until_it_follows();
            return running.interrupt();
        }
        let output = self.shell(command).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "$ {command}\n{out}{err}");
        out.into_owned()
    }

    /// `tidegate dev` as it stands in a document, until it serves.
    fn hub(&self, command: &str) -> Running {
        let mut hub = Running::start(self, command);
        let mut lines = BufReader::new(hub.child.stderr.take().unwrap()).lines();
        let serving = lines.by_ref().map_while(Result::ok).any(|line| line.starts_with("Tidegate is serving"));
        assert!(serving, "`{command}` ended without serving");
        // Its log must go somewhere while it runs.
        hub.reader = Some(std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop)));
        hub
    }
}

/// A command that goes on until Ctrl-C.
struct Running {
    child: Child,
    command: String,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    fn start(terminal: &Terminal, command: &str) -> Running {
        let child = terminal.shell(command).spawn().unwrap();
        Running { child, command: command.to_owned(), reader: None }
    }

    /// A command has come past its start when it listens for signals: the kernel's mask of caught signals has SIGINT.
    fn wait_until_it_follows(&mut self) {
        let status = format!("/proc/{}/status", self.child.id());
        wait_for(&format!("`{}` listening for Ctrl-C", self.command), || {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
            let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
            (caught & (1 << 1) != 0).then_some(())
        });
    }

    /// Ctrl-C; the command must end with success. Gives what it printed.
    fn interrupt(mut self) -> String {
        let status = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
        let mut printed = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
        let ended = wait_for(&format!("the end of `{}` after Ctrl-C", self.command), || self.child.try_wait().unwrap());
        assert!(ended.success(), "`{}` ended with {ended}", self.command);
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        printed
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn readmes_commands_do_what_it_says() {
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let blocks = blocks(&readme);
    let kinds: Vec<&str> = blocks.iter().map(|block| block.kind.as_str()).collect();
    assert_eq!(kinds, ["until-ctrl-c", "commands", "commands", "commands", "python"], "README's marked blocks");
    let terminal = Terminal::new();
    let hub = terminal.hub(blocks[0].text.trim());
    let mut printed = String::new();
    for block in &blocks[1..4] {
        for command in commands(&block.text) {
            printed.push_str(&terminal.run(&command));
        }
    }
    for expected in
        ["topic/clicks created", "1000 events stored in clicks", "2 events stored in logs", "AT TIME", "\"value\": \"aGVsbG8=\""]
    {
        assert!(printed.contains(expected), "no `{expected}` in what README's commands printed:\n{printed}");
    }
    let script = blocks[4].text.replace(DOCUMENTED, &terminal.address());
    std::fs::write(terminal.folder.path().join("clicks.py"), script).unwrap();
    let printed = terminal.run("python3 clicks.py");
    assert!(
        printed.contains("2 [(0, b'alice', b'hello'), (1, b'alice', b'hello')]"),
        "both records, by grpcurl and by Python: {printed}"
    );
    hub.interrupt();
}

#[test]
fn the_quickstart_ends_well_and_the_commands_that_it_prints_work() {
    let terminal = Terminal::new();
    let demo = terminal.folder.path().join("tidegate-demo");
    let mut quickstart = Command::new("bash");
    quickstart.arg(repository().join("deploy/quickstart.sh")).env("TIDEGATE_BINARY", env!("CARGO_BIN_EXE_tidegate"));
    let output = support::succeed(quickstart.env("TIDEGATE_DEMO_DIR", &demo).env("TIDEGATE_DEMO_EVENTS", "300"));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("300 sensor readings read from the object store, 300 clicks from the tail"), "{said}");
    let (_, by_hand) = said.split_once("Go on by hand").expect("the quickstart says how to go on");
    let commands: Vec<String> = commands(by_hand).into_iter().filter(|line| line.starts_with("tidegate ")).collect();
    let (serve, others) = commands.split_first().unwrap();
    assert!(serve.starts_with("tidegate dev ") && others.len() >= 4, "{commands:?}");
    let hub = terminal.hub(serve);
    for command in others {
        terminal.run(command);
    }
    assert!(terminal.run("tidegate offsets sensors").contains("PARTITION"));
    hub.interrupt();
}
