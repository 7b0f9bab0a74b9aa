#!/usr/bin/env bash
# Installs what building (with the argument `tests`: testing; with `cluster`: running the test cluster of deploy/cluster) Tidegate needs and this machine lacks; says what it does.
# Debian and Ubuntu packages come by apt, Rust by rustup, test tools by `go install`, `cargo install` and pip into
# ${TIDEGATE_TOOLS:-~/.cache/tidegate/tools}. Nothing that is there is touched. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."
purpose=${1:-build}
export TIDEGATE_TOOLS=${TIDEGATE_TOOLS:-$HOME/.cache/tidegate/tools}
mkdir -p "$TIDEGATE_TOOLS/bin"

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# Debian packages: "command:package" pairs, installed in one go.
need_packages() {
  local missing=()
  for pair in "$@"; do command -v "${pair%%:*}" >/dev/null 2>&1 || missing+=("${pair##*:}"); done
  [ ${#missing[@]} = 0 ] && return 0
  command -v apt-get >/dev/null || { say "please install: ${missing[*]}"; exit 1; }
  say "installing Debian packages: ${missing[*]}"
  as_root apt-get update -qq
  DEBIAN_FRONTEND=noninteractive as_root apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

need_rust() {
  [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
  if ! command -v cargo >/dev/null; then
    say "installing Rust by rustup (https://rustup.rs)"
    need_packages curl:curl
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --component rustfmt,clippy
    . "$HOME/.cargo/env"
  fi
  local have
  have=$(rustc --version | cut -d' ' -f2)
  if [ "$(printf '1.95.0\n%s\n' "$have" | sort -V | head -n1)" != 1.95.0 ]; then
    say "Rust $have is older than 1.95: updating the stable toolchain"
    rustup update stable
  fi
}

need_packages cc:gcc make:make git:git
need_rust

if [ "$purpose" = tests ]; then
  need_packages python3:python3 mvn:maven java:default-jre-headless go:golang-go
  for tool in tests/tools/*.sh; do bash "$tool" >/dev/null; done
fi

if [ "$purpose" = cluster ]; then
  need_packages python3:python3 go:golang-go containerd:containerd runc:runc /usr/lib/cni/bridge:containernetworking-plugins conntrack:conntrack \
    iptables:iptables ip:iproute2 socat:socat openssl:openssl curl:curl musl-gcc:musl-tools
  for tool in deploy/cluster/tools/*.sh tests/tools/{minio,grpcurl,python}.sh; do bash "$tool" >/dev/null; done
fi
