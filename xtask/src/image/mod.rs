//! `cargo xtask image`: static binaries into one small image archive, without a container builder or a daemon.
//!
//! The archive is for `kind load image-archive`, `docker load`, `podman load` and `ctr images import`. It holds the binaries, the certificate authorities
//! that object stores are checked against, a user that is not root, the licence and the bill of materials; no shell.
//! The same commit and toolchain give the same bytes; `--check` builds twice and compares.

mod archive;
mod sbom;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use serde_json::{Value, json};

use archive::{Description, Item};

const USAGE: &str = "usage: cargo xtask image [--profile PROFILE] [--host | --built] [--tag NAME:TAG] [--output FILE] [--check]
  --profile  release (default; what users get) or image (quick to build, for tests)
  --host     this machine's own kind of binary with the C library it needs, instead of a static one: nearly everything is built already
             when tests have run with the same profile (dev, ci); for tests on this machine
  --built    as --host, with the binaries that `cargo build --workspace --all-targets` left, as they are: for what has just built them
  --tag      what the image is loaded as; default tidegate:VERSION
  --output   default TARGET/container/tidegate-PROFILE.tar; the bill of materials goes beside it as .sbom.json
  --check    builds a second time in a fresh folder and fails unless both archives are the same";

/// The user and group of the image, the customary number of `nonroot`.
const USER: u64 = 65532;

/// Packages whose binary of the same name goes into the image, as far as the workspace has them.
const PACKAGES: &[&str] = &["tidegate", "tidegate-operator"];

struct Options {
    profile: String,
    host: bool,
    built: bool,
    tag: Option<String>,
    output: Option<PathBuf>,
    check: bool,
}

/// Runs the command with what follows `image` on the command line.
pub(crate) fn run(root: &Path, arguments: impl Iterator<Item = String>) -> Result<()> {
    let options = parse(arguments)?;
    let metadata = metadata(root)?;
    let target_folder = PathBuf::from(metadata["target_directory"].as_str().context("cargo metadata names no target folder")?);
    let output = options
        .output
        .clone()
        .unwrap_or_else(|| target_folder.join("container").join(format!("tidegate-{}.tar", options.profile)));
    let first = build(root, &metadata, &options, &target_folder)?;
    std::fs::create_dir_all(output.parent().context("the output has no folder")?)?;
    std::fs::write(&output, &first.archive).with_context(|| output.display().to_string())?;
    let bill = output.with_extension("sbom.json");
    std::fs::write(&bill, &first.bill).with_context(|| bill.display().to_string())?;
    println!("{} ({:.1} MB, sha256 {})", output.display(), first.archive.len() as f64 / 1e6, archive::digest(&first.archive));
    if options.check {
        let folder = target_folder.join("container").join("again");
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        let second = build(root, &metadata, &options, &folder)?;
        ensure!(
            first.archive == second.archive,
            "not reproducible: sha256 {} and {}; the second build's binaries are left in {}",
            archive::digest(&first.archive),
            archive::digest(&second.archive),
            folder.display()
        );
        std::fs::remove_dir_all(&folder)?;
        println!("reproducible: a second build in a fresh folder gave the same bytes");
    }
    Ok(())
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options { profile: "release".to_owned(), host: false, built: false, tag: None, output: None, check: false };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value\n{USAGE}"));
        match argument.as_str() {
            "--profile" => options.profile = value()?,
            "--tag" => options.tag = Some(value()?),
            "--output" => options.output = Some(std::path::absolute(value()?)?),
            "--host" => options.host = true,
            "--built" => (options.host, options.built) = (true, true),
            "--check" => options.check = true,
            _ => bail!("unknown argument {argument}\n{USAGE}"),
        }
    }
    ensure!(!(options.built && options.check), "--check builds twice, --built not at all: give one of them");
    Ok(options)
}

fn metadata(root: &Path) -> Result<Value> {
    let output =
        Command::new(env!("CARGO")).args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(root).output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("the answer of cargo metadata")
}

struct Built {
    archive: Vec<u8>,
    bill: Vec<u8>,
}

fn build(root: &Path, metadata: &Value, options: &Options, target_folder: &Path) -> Result<Built> {
    let (target, architecture) = match std::env::consts::ARCH {
        "x86_64" => ("x86_64-unknown-linux-musl", "amd64"),
        "aarch64" => ("aarch64-unknown-linux-musl", "arm64"),
        other => bail!("no image for processors of kind {other}"),
    };
    let (packages, version) = packages(metadata)?;
    let folder = compile(root, options, target_folder, target, &packages)?;
    let created = created(root)?;
    let bill = sbom::generate(root, &packages, target, &archive::rfc3339(created)?)?;
    let mut items = system_files(root, &bill)?;
    for name in &packages {
        let path = folder.join(name);
        let content =
            if options.host { stripped(&path)? } else { std::fs::read(&path).with_context(|| path.display().to_string())? };
        items.push(Item::File { path: name.clone(), mode: 0o755, content });
    }
    if options.host {
        items.extend(libraries(&packages.iter().map(|name| folder.join(name)).collect::<Vec<_>>())?);
    }
    let layer = archive::layer(&items, created)?;
    let description = Description {
        reference: options.tag.clone().unwrap_or_else(|| format!("docker.io/library/tidegate:{version}")),
        architecture,
        created,
        config: json!({
            "User": format!("{USER}:{USER}"),
            "Entrypoint": ["/tidegate"],
            "Cmd": ["--help"],
            "WorkingDir": "/var/lib/tidegate",
            "Env": ["PATH=/", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"],
            "ExposedPorts": {"7171/tcp": {}, "7172/tcp": {}, "7173/tcp": {}},
            "StopSignal": "SIGTERM",
            "Labels": {
                "org.opencontainers.image.title": "tidegate",
                "org.opencontainers.image.description": "An event hub for Kubernetes: brokers, operator and command line",
                "org.opencontainers.image.licenses": "Apache-2.0",
                "org.opencontainers.image.version": version,
                "org.opencontainers.image.revision": revision(root)?,
                "org.opencontainers.image.created": archive::rfc3339(created)?,
            },
        }),
    };
    let mut archive = Vec::with_capacity(layer.len() + (1 << 16));
    archive::write(&mut archive, &layer, &description)?;
    Ok(Built { archive, bill })
}

/// The packages of the image that this workspace has, and the version of the first.
fn packages(metadata: &Value) -> Result<(Vec<String>, String)> {
    let known = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    let find = |name: &str| {
        known.iter().find(|package| {
            package["name"] == name
                && package["targets"].as_array().is_some_and(|targets| {
                    targets.iter().any(|target| {
                        target["name"] == name && target["kind"].as_array().is_some_and(|kinds| kinds.contains(&json!("bin")))
                    })
                })
        })
    };
    let version =
        find(PACKAGES[0]).and_then(|package| package["version"].as_str()).context("the workspace has no package tidegate")?;
    let present = PACKAGES.iter().filter(|name| find(name).is_some()).map(|name| (*name).to_owned()).collect();
    Ok((present, version.to_owned()))
}

/// Builds, and answers the folder of the binaries.
fn compile(root: &Path, options: &Options, target_folder: &Path, target: &str, packages: &[String]) -> Result<PathBuf> {
    let profile = if options.profile == "dev" { "debug" } else { &options.profile };
    if options.built {
        return Ok(target_folder.join(profile));
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--locked", "--profile", &options.profile]).current_dir(root);
    if !options.host {
        cargo.args(["--target", target]);
    }
    cargo.env("CARGO_TARGET_DIR", target_folder);
    for name in packages {
        cargo.args(["--package", name, "--bin", name]);
    }
    // What users get names no folder of the machine that built it, and no symbols; the profile of tests keeps the flags of other builds.
    if options.profile == "release" {
        let cargo_home = std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")))?;
        let mut flags = String::new();
        for (folder, stands_for) in
            [(root.display().to_string(), "/tidegate"), (cargo_home, "/cargo"), (target_folder.display().to_string(), "/target")]
        {
            write!(flags, "--remap-path-prefix={folder}={stands_for}\x1f")?;
        }
        flags.push_str("-Cstrip=symbols");
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags);
    }
    let status = cargo.status().context("cargo build")?;
    ensure!(
        status.success(),
        "cargo build failed; the target and a C compiler for it are needed: rustup target add {target} && apt-get install musl-tools"
    );
    Ok(if options.host { target_folder.join(profile) } else { target_folder.join(target).join(profile) })
}

/// A binary without its debug information, which is most of it in profiles of tests.
fn stripped(path: &Path) -> Result<Vec<u8>> {
    let copy = path.with_extension("stripped");
    let status = Command::new("strip").arg("-o").arg(&copy).arg(path).status().context("strip (of binutils)")?;
    ensure!(status.success(), "strip {} failed", path.display());
    let content = std::fs::read(&copy)?;
    std::fs::remove_file(&copy)?;
    Ok(content)
}

/// The shared libraries that binaries of this machine need, at the places where their loader looks for them.
fn libraries(binaries: &[PathBuf]) -> Result<Vec<Item>> {
    let output = Command::new("ldd").args(binaries).output().context("ldd")?;
    ensure!(output.status.success(), "ldd: {}", String::from_utf8_lossy(&output.stderr));
    let listed = String::from_utf8(output.stdout).context("ldd's answer is not UTF-8")?;
    let paths: BTreeSet<&str> = listed
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/') && !word.ends_with(':')))
        .collect();
    let read = |path: &str| -> Result<Item> {
        let content = std::fs::read(path).with_context(|| path.to_owned())?;
        Ok(Item::File { path: path.trim_start_matches('/').to_owned(), mode: 0o755, content })
    };
    paths.into_iter().map(read).collect()
}

/// Folders, user, certificate authorities, licence and bill of materials, sorted by path.
fn system_files(root: &Path, bill: &[u8]) -> Result<Vec<Item>> {
    let folder = |path: &str, mode: u32, owner: u64| Item::Folder { path: path.to_owned(), mode, owner };
    let file = |path: &str, content: Vec<u8>| Item::File { path: path.to_owned(), mode: 0o644, content };
    let passwd = format!("root:x:0:0:root:/:/sbin/nologin\nnonroot:x:{USER}:{USER}:nonroot:/var/lib/tidegate:/sbin/nologin\n");
    Ok(vec![
        folder("etc/", 0o755, 0),
        file("etc/group", format!("root:x:0:\nnonroot:x:{USER}:\n").into_bytes()),
        file("etc/passwd", passwd.into_bytes()),
        folder("etc/ssl/", 0o755, 0),
        folder("etc/ssl/certs/", 0o755, 0),
        file("etc/ssl/certs/ca-certificates.crt", certificate_authorities()?),
        folder("tmp/", 0o1777, 0),
        folder("usr/", 0o755, 0),
        folder("usr/share/", 0o755, 0),
        folder("usr/share/tidegate/", 0o755, 0),
        file("usr/share/tidegate/LICENSE", std::fs::read(root.join("LICENSE"))?),
        file("usr/share/tidegate/sbom.cdx.json", bill.to_vec()),
        folder("var/", 0o755, 0),
        folder("var/lib/", 0o755, 0),
        folder("var/lib/tidegate/", 0o750, USER),
    ])
}

/// Mozilla's list as PEM, at the version in Cargo.lock.
fn certificate_authorities() -> Result<Vec<u8>> {
    let mut pem = String::new();
    for certificate in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        let text = base64::engine::general_purpose::STANDARD.encode(certificate.as_ref());
        for line in text.as_bytes().chunks(64) {
            writeln!(pem, "{}", std::str::from_utf8(line)?)?;
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    Ok(pem.into_bytes())
}

/// SOURCE_DATE_EPOCH, or else the time of the last commit.
fn created(root: &Path) -> Result<u64> {
    let text = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => git(root, &["log", "-1", "--format=%ct"])?,
    };
    text.trim().parse().with_context(|| format!("SOURCE_DATE_EPOCH is {text:?}, not a number of seconds"))
}

/// The commit, marked when files differ from it.
fn revision(root: &Path) -> Result<String> {
    let changed = !git(root, &["status", "--porcelain", "--untracked-files=no"])?.trim().is_empty();
    Ok(format!("{}{}", git(root, &["rev-parse", "HEAD"])?.trim(), if changed { "-modified" } else { "" }))
}

fn git(root: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new("git").args(arguments).current_dir(root).output().context("git")?;
    ensure!(output.status.success(), "git {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).context("git's answer is not UTF-8")
}
