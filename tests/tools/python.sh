#!/usr/bin/env bash
# A Python environment with grpcio for the client tests, in the tools folder; prints its interpreter. Does nothing if it is there.
set -euo pipefail
tools=${TIDEGATE_TOOLS:-$HOME/.cache/tidegate/tools}
version=1.85.1
stamp=$tools/venv/.tidegate-$version
if [ ! -e "$stamp" ]; then
  rm -rf "$tools/venv"
  python3 -m venv "$tools/venv"
  "$tools/venv/bin/pip" install --quiet "grpcio==$version" "grpcio-tools==$version" >&2
  touch "$stamp"
fi
echo "$tools/venv/bin/python"
