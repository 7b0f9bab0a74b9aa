#!/usr/bin/env bash
# Builds etcd, the Kubernetes control plane, kubelet, kubectl (one binary under many names) and the pause program for the test cluster; prints the
# folder. Does nothing while the sources in deploy/cluster/kube are those of the last build. About four minutes when nothing is cached.
set -euo pipefail
version=1.35.4 # of k8s.io/kubernetes in kube/go.mod; 1.35 is the last line that takes containerd 1.x
bin="${TIDEGATE_TOOLS:-$HOME/.cache/tidegate/tools}/bin"
source_folder="$(cd "$(dirname "$0")/../kube" && pwd)"
stamp=$(cat "$source_folder"/go.* $(find "$source_folder" -name "*.go" | LC_ALL=C sort) "$0" | sha256sum | cut -c1-12)
binary="$bin/tidegate-kube-$version-$stamp"
mkdir -p "$bin"
if ! [ -x "$binary" ] || ! [ -x "$bin/kubernetes-pause" ]; then
  echo "building Kubernetes $version and etcd into $bin (about four minutes)" >&2
  flags="-s -w -X k8s.io/component-base/version.gitVersion=v$version -X k8s.io/component-base/version.gitMajor=${version%%.*}"
  flags="$flags -X k8s.io/component-base/version.gitMinor=$(cut -d. -f2 <<<"$version")"
  export CGO_ENABLED=0
  (cd "$source_folder" && go build -trimpath -ldflags "$flags" -o "$binary.part" . && go build -trimpath -ldflags "-s -w" -o "$bin/kubernetes-pause" ./pause)
  find "$bin" -maxdepth 1 -name 'tidegate-kube-*' ! -name "${binary##*/}.part" -delete
  mv "$binary.part" "$binary"
fi
for name in etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl local-provisioner; do
  [ "$(readlink "$bin/$name" 2>/dev/null)" = "${binary##*/}" ] || ln -sfn "${binary##*/}" "$bin/$name"
done
echo "$bin"
