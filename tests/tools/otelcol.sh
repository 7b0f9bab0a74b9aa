#!/usr/bin/env bash
# A small OpenTelemetry Collector (OTLP in, text out), built by the project's own builder; prints its path. Does nothing if it is there.
set -euo pipefail
tools=${TIDEGATE_TOOLS:-$HOME/.cache/tidegate/tools}
version=v0.160.0
binary=$tools/bin/tidegate-otelcol-$version
if [ ! -x "$binary" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  GOBIN=$work go install "go.opentelemetry.io/collector/cmd/builder@$version" >&2
  cat > "$work/builder.yaml" <<EOT
dist:
  name: otelcol
  output_path: $work/out
receivers:
  - gomod: go.opentelemetry.io/collector/receiver/otlpreceiver $version
exporters:
  - gomod: go.opentelemetry.io/collector/exporter/debugexporter $version
providers:
  - gomod: go.opentelemetry.io/collector/confmap/provider/envprovider v1.66.0
  - gomod: go.opentelemetry.io/collector/confmap/provider/fileprovider v1.66.0
EOT
  "$work/builder" --config "$work/builder.yaml" >&2
  mkdir -p "$tools/bin"
  mv "$work/out/otelcol" "$binary"
fi
ln -sf "$binary" "$tools/bin/otelcol"
echo "$binary"
