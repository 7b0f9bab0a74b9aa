#!/usr/bin/env bash
# Installs versitygw, a second real S3 server for the tests, and prints its path. Does nothing if it is there.
set -euo pipefail
version=v1.8.0
bin="${TIDEGATE_TOOLS:-$HOME/.cache/tidegate/tools}/bin"
if ! [ -x "$bin/versitygw" ]; then
  echo "installing versitygw $version into $bin (a minute)" >&2
  mkdir -p "$bin"
  GOBIN="$bin" go install "github.com/versity/versitygw/cmd/versitygw@$version" >&2
fi
echo "$bin/versitygw"
