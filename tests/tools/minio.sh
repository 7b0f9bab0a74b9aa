#!/usr/bin/env bash
# Installs MinIO, a real S3 server for the tests, and prints its path. Does nothing if it is there.
set -euo pipefail
version=v0.0.0-20260212201848-7aac2a2c5b7c
bin="${TIDEGATE_TOOLS:-$HOME/.cache/tidegate/tools}/bin"
if ! [ -x "$bin/minio" ]; then
  echo "installing MinIO $version into $bin (two or three minutes)" >&2
  mkdir -p "$bin"
  GOBIN="$bin" go install "github.com/minio/minio@$version" >&2
fi
echo "$bin/minio"
