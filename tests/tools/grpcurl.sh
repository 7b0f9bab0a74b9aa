#!/usr/bin/env bash
# Installs grpcurl, a gRPC client nobody here wrote, and prints its path.
set -euo pipefail
version=v1.9.4
bin="${TIDEGATE_TOOLS:-$HOME/.cache/tidegate/tools}/bin"
if ! [ -x "$bin/grpcurl" ]; then
  echo "installing grpcurl $version into $bin (a minute or two)" >&2
  mkdir -p "$bin"
  GOBIN="$bin" go install "github.com/fullstorydev/grpcurl/cmd/grpcurl@$version" >&2
fi
echo "$bin/grpcurl"
