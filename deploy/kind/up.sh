#!/usr/bin/env bash
# Tidegate on a kind cluster: cluster, image, MinIO, chart, a hub and three topics. Needs docker, kind, kubectl, helm and what building needs;
# safe to run again. Not run by the tests, which have no Docker: they check its syntax and let an API server take its manifests; the same steps run on
# deploy/cluster. `kind delete cluster --name tidegate` takes everything away.
set -euo pipefail
cd "$(dirname "$0")/../.."
for program in docker kind kubectl helm cargo; do
  command -v "$program" >/dev/null || { echo "up.sh: $program is missing; see https://kind.sigs.k8s.io and https://helm.sh, or deploy/setup.sh for cargo" >&2; exit 1; }
done
say() { printf '\033[1m==>\033[0m %s\n' "$*"; }

say "building the image"
target="$(uname -m)-unknown-linux-musl"
rustup target add "$target" >/dev/null 2>&1
command -v musl-gcc >/dev/null || { echo "up.sh: musl-gcc is missing: apt-get install musl-tools" >&2; exit 1; }
archive=$(cargo xtask image --profile "${TIDEGATE_IMAGE_PROFILE:-release}" --tag docker.io/library/tidegate:0.1.0 | cut -d' ' -f1)

kind get clusters 2>/dev/null | grep -qx tidegate || { say "starting the cluster"; kind create cluster --config deploy/kind/cluster.yaml --wait 120s; }
kubectl config use-context kind-tidegate
say "loading the image"
kind load image-archive --name tidegate "$archive"
say "starting MinIO"
kubectl apply -f deploy/kind/minio.yaml
kubectl -n minio rollout status deployment/minio --timeout 180s
say "installing the chart"
helm upgrade --install tidegate charts/tidegate --namespace tidegate-system --create-namespace --wait
say "a hub and three topics"
kubectl apply -f deploy/samples/hub-minio.yaml -f deploy/samples/topics.yaml
kubectl patch hub hub --type merge -p '{"spec":{"listeners":[{"name":"grpc","port":7171,"plaintext":true,"exposure":"NodePort","nodePort":30717}]}}'
kubectl wait hub/hub --for condition=Ready --timeout 120s
kubectl wait topic --all --for condition=Ready --timeout 60s
kubectl get hub,topic
say "it listens on 127.0.0.1:7171: tidegate generate clicks -n 1000; tidegate consume clicks"
