#!/usr/bin/env bash
# image.sh ARCHIVE NAME PROGRAM PATH: an image archive (as `docker save` writes) of one static program that runs as PATH.
set -euo pipefail
archive=$1 name=$2 program=$3 path=$4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/root/$(dirname "$path")"
cp "$program" "$work/root/$path"
tar -C "$work/root" --owner 0 --group 0 --mtime @0 --sort name -cf "$work/layer.tar" .
digest=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
printf '{"architecture":"amd64","os":"linux","config":{"Entrypoint":["%s"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' "$path" "$digest" >"$work/config.json"
printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$name" >"$work/manifest.json"
tar -C "$work" -cf "$archive" manifest.json config.json layer.tar
