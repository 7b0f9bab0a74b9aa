#!/usr/bin/env bash
# Installs buf, which checks the style and the compatibility of the .proto files, and prints its path.
# Newer versions need modules that the Go proxy doesn't serve; this one installs from the proxy alone.
set -euo pipefail
version=v1.50.0
bin="${TIDEGATE_TOOLS:-$HOME/.cache/tidegate/tools}/bin"
if ! [ -x "$bin/buf" ] || [ "v$("$bin/buf" --version 2>&1)" != "$version" ]; then
  echo "installing buf $version into $bin (a minute or two)" >&2
  mkdir -p "$bin"
  GOBIN="$bin" go install "github.com/bufbuild/buf/cmd/buf@$version" >&2
fi
echo "$bin/buf"
