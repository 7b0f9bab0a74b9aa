#!/usr/bin/env bash
# Installs CoreDNS, the test cluster's DNS server, and prints its path. Does nothing if it is there.
set -euo pipefail
version=v1.14.7
bin="${TIDEGATE_TOOLS:-$HOME/.cache/tidegate/tools}/bin"
if ! [ -x "$bin/coredns-$version" ]; then
  echo "installing CoreDNS $version into $bin (two minutes)" >&2
  mkdir -p "$bin"
  work=$(mktemp -d) # two installations at a time do not meet
  trap 'rm -rf "$work"' EXIT
  GOBIN="$work" go install -ldflags "-s -w" "github.com/coredns/coredns@$version" >&2
  mv "$work/coredns" "$bin/coredns-$version"
fi
ln -sfn "coredns-$version" "$bin/coredns"
echo "$bin/coredns"
