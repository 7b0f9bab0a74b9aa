#!/usr/bin/env bash
# Installs what building (with the argument `tests`: testing; with `cluster`: running the test cluster of deploy/cluster) Tidegate needs and this
# machine lacks; says what it does.
# Debian and Ubuntu packages come by apt, Rust by rustup, test tools by `go install`, `cargo install`, Maven and pip into
# ${TIDEGATE_TOOLS:-~/.cache/tidegate/tools}. Nothing that is there is touched. Safe to run again.
# Scripts source this file for `say` and `shown`, too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
purpose=${1:-build}
export TIDEGATE_TOOLS=${TIDEGATE_TOOLS:-$HOME/.cache/tidegate/tools}
mkdir -p "$TIDEGATE_TOOLS/bin"

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }

# shown LABEL COMMAND…: runs a command whose output nobody wants to read. A terminal shows how long it has been at work and its last line, anything
# else a line every half minute. The whole output is printed if it fails.
shown() {
  local label=$1 log start=$SECONDS next=30 status=0 last
  shift
  log=$(mktemp)
  "$@" >"$log" 2>&1 </dev/null &
  local process=$!
  while kill -0 "$process" 2>/dev/null; do
    if [ -t 2 ]; then
      last=$(tail -n1 "$log" | tr -d '\r' | cut -c1-60)
      printf '\r\033[K    %s: %s s  %s' "$label" $((SECONDS - start)) "$last" >&2
    elif [ $((SECONDS - start)) -ge $next ]; then
      printf '    %s: %s s\n' "$label" $((SECONDS - start)) >&2
      next=$((SECONDS - start + 30))
    fi
    sleep 0.2
  done
  wait "$process" || status=$?
  [ ! -t 2 ] || printf '\r\033[K' >&2
  if [ $status != 0 ]; then
    cat "$log" >&2
    say "$label failed ($status)" >&2
  fi
  rm -f "$log"
  return $status
}

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# Debian packages: "probe:package" pairs, installed in one go. A probe is a command or, if it begins with /, a path.
need_packages() {
  local missing=() pair probe
  for pair in "$@"; do
    probe=${pair%%:*}
    case $probe in
      /*) [ -e "$probe" ] || missing+=("${pair##*:}") ;;
      *) command -v "$probe" >/dev/null 2>&1 || missing+=("${pair##*:}") ;;
    esac
  done
  [ ${#missing[@]} = 0 ] && return 0
  if ! command -v apt-get >/dev/null || { [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; }; then
    say "this needs packages that only root can install; please run: apt-get install ${missing[*]}"
    exit 1
  fi
  say "installing Debian packages: ${missing[*]}"
  as_root true # asks for the password now, not below a progress line
  shown "apt-get update" as_root apt-get update -qq
  shown "apt-get install" as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
}

at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n1)" = "$1" ]; }

# What the script at https://sh.rustup.rs does, from the same server, with the published checksum compared.
install_rustup() {
  local from=${RUSTUP_UPDATE_ROOT:-https://static.rust-lang.org/rustup}/dist/$(uname -m)-unknown-linux-gnu folder
  folder=$(mktemp -d)
  curl --proto '=https' --tlsv1.2 -sSfL "$from/rustup-init" -o "$folder/rustup-init"
  curl --proto '=https' --tlsv1.2 -sSfL "$from/rustup-init.sha256" -o "$folder/sum"
  echo "$(cut -d' ' -f1 "$folder/sum")  $folder/rustup-init" | sha256sum --check --quiet
  chmod +x "$folder/rustup-init"
  "$folder/rustup-init" -y --profile minimal --component rustfmt,clippy
  rm -rf "$folder"
}

need_rust() {
  local have needed
  [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
  needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  if ! command -v cargo >/dev/null; then
    need_packages curl:curl /etc/ssl/certs/ca-certificates.crt:ca-certificates
    say "installing Rust by rustup (https://rustup.rs) into ~/.cargo and ~/.rustup"
    shown "rustup" install_rustup
    . "$HOME/.cargo/env"
  fi
  have=$(rustc --version | cut -d' ' -f2)
  if ! at_least "$needed" "$have"; then
    command -v rustup >/dev/null || { say "Rust $have is older than $needed and did not come by rustup: please update it"; exit 1; }
    say "Rust $have is older than $needed: updating the stable toolchain"
    shown "rustup update" rustup update stable
    rustup default stable >/dev/null 2>&1
  fi
}

# Go since 1.21 fetches the version that a tool needs by itself. An older one (Debian 12 has 1.19) fetches a newer Go as the module that it is,
# checked by Go's checksum database.
need_go() {
  local have newer=go1.26.0 go
  export GOTOOLCHAIN=auto
  [ -x "$TIDEGATE_TOOLS/go/bin/go" ] && PATH=$TIDEGATE_TOOLS/go/bin:$PATH
  need_packages go:golang-go
  have=$(go version | cut -d' ' -f3)
  at_least go1.21 "$have" && return 0
  say "$have is too old for the test tools: fetching $newer into $TIDEGATE_TOOLS/go"
  shown "$newer" env GOFLAGS=-modcacherw go mod download "golang.org/toolchain@v0.0.1-$newer.linux-$(go env GOARCH)"
  go=$(go env GOMODCACHE)/golang.org/toolchain@v0.0.1-$newer.linux-$(go env GOARCH)
  rm -rf "$TIDEGATE_TOOLS/go"
  cp -r "$go" "$TIDEGATE_TOOLS/go"
  chmod -R u+w,a+x "$TIDEGATE_TOOLS/go/bin" "$TIDEGATE_TOOLS/go/pkg/tool"
  PATH=$TIDEGATE_TOOLS/go/bin:$PATH
}

need_venv() { python3 -c 'import ensurepip' 2>/dev/null || need_packages /no-such-file:python3-venv; }

# Each script installs one tool, if it is not there, and knows where.
install_tools() {
  local script
  for script in "$@"; do shown "tool $(basename "$script" .sh)" bash "$script"; done
}

need_packages cc:gcc /usr/include/stdio.h:libc6-dev make:make git:git
need_rust

if [ "$purpose" = tests ]; then
  need_packages python3:python3 java:default-jre-headless mvn:maven openssl:openssl strace:strace mkfs.ext4:e2fsprogs losetup:mount
  need_venv
  need_go
  install_tools tests/tools/*.sh deploy/cluster/tools/kubernetes.sh
fi

if [ "$purpose" = cluster ]; then
  need_packages python3:python3 containerd:containerd runc:runc /usr/lib/cni/bridge:containernetworking-plugins conntrack:conntrack \
    iptables:iptables ip:iproute2 socat:socat openssl:openssl curl:curl musl-gcc:musl-tools
  need_venv
  need_go
  install_tools deploy/cluster/tools/*.sh tests/tools/{minio,grpcurl,python}.sh
fi
