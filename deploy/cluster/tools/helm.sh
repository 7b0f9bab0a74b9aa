#!/usr/bin/env bash
# Installs Helm and prints its path. Does nothing if it is there.
set -euo pipefail
version=v3.22.0
bin="${TIDEGATE_TOOLS:-$HOME/.cache/tidegate/tools}/bin"
if ! [ -x "$bin/helm-$version" ]; then
  echo "installing Helm $version into $bin (a minute)" >&2
  mkdir -p "$bin"
  # What its own Makefile sets: otherwise it takes clusters that it does not ask for version 1.20.
  flags="-s -w -X helm.sh/helm/v3/internal/version.version=$version"
  for package in pkg/chartutil pkg/lint/rules; do
    flags="$flags -X helm.sh/helm/v3/$package.k8sVersionMajor=1 -X helm.sh/helm/v3/$package.k8sVersionMinor=35"
  done
  work=$(mktemp -d) # two installations at a time do not meet
  trap 'rm -rf "$work"' EXIT
  GOBIN="$work" go install -ldflags "$flags" "helm.sh/helm/v3/cmd/helm@$version" >&2
  mv "$work/helm" "$bin/helm-$version"
fi
ln -sfn "helm-$version" "$bin/helm"
echo "$bin/helm"
