#!/usr/bin/env bash
# Installs Helm and prints its path. Does nothing if it is there.
set -euo pipefail
version=v3.22.0
bin="${TIDEGATE_TOOLS:-$HOME/.cache/tidegate/tools}/bin"
if ! [ -x "$bin/helm-$version" ]; then
  echo "installing Helm $version into $bin (a minute)" >&2
  mkdir -p "$bin"
  GOBIN="$bin" go install -ldflags "-s -w -X helm.sh/helm/v3/internal/version.version=$version" "helm.sh/helm/v3/cmd/helm@$version" >&2
  mv "$bin/helm" "$bin/helm-$version"
fi
ln -sfn "helm-$version" "$bin/helm"
echo "$bin/helm"
