#!/usr/bin/env bash
# Builds Tidegate and shows it at work: a hub on this machine, three topics, a stream of events, the way to object storage and back.
# Everything it makes lies in ${TIDEGATE_DEMO_DIR:-./tidegate-demo}; the hub is stopped at the end unless --keep is given.
# TIDEGATE_BINARY names a `tidegate` that is built already; nothing is installed then.
set -euo pipefail
keep=${1:-}
cd "$(dirname "$0")/.."
demo=${TIDEGATE_DEMO_DIR:-$PWD/tidegate-demo}
events=${TIDEGATE_DEMO_EVENTS:-20000}
if [ -n "${TIDEGATE_BINARY:-}" ]; then
  say() { printf '\033[1m==>\033[0m %s\n' "$*"; }
  tidegate=$TIDEGATE_BINARY
else
  source deploy/setup.sh build
  export CARGO_TARGET_DIR=${TIDEGATE_TARGET_DIR:-$HOME/.cache/tidegate/target}
  say "building (the first time: about six minutes of one core's work; cargo shows its progress)"
  cargo build --package tidegate --profile "${TIDEGATE_PROFILE:-dev}"
  folder=${TIDEGATE_PROFILE:-dev}; [ "$folder" = dev ] && folder=debug
  tidegate=$CARGO_TARGET_DIR/$folder/tidegate
fi

if [ -e "$demo" ]; then say "removing what the last demonstration left in $demo"; rm -rf "$demo"; fi
mkdir -p "$demo"

# Free ports, so that the demonstration runs beside anything.
"$tidegate" dev --data-dir "$demo/data" --set listeners.client=127.0.0.1:0 --set listeners.operator=127.0.0.1:0 --set listeners.http=127.0.0.1:0 \
  --ready-file "$demo/ready.json" 2>"$demo/hub.log" &
hub=$!
trap 'kill "$hub" 2>/dev/null || true; wait "$hub" 2>/dev/null || true' EXIT
field() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" "$demo/ready.json"; }
say "starting a hub: one process, its log in $demo/data, a directory as its object store"
for _ in $(seq 300); do
  [ -s "$demo/ready.json" ] && break
  kill -0 "$hub" 2>/dev/null || { cat "$demo/hub.log"; exit 1; }
  sleep 0.1
done
export TIDEGATE_ADDRESS=http://$(field client)
run() { printf '\033[2m$ tidegate %s\033[0m\n' "$*"; "$tidegate" "$@"; }

say "making the topics that deploy/samples/topics.yaml describes (the same file works with kubectl on a cluster)"
run apply -f deploy/samples/topics.yaml

say "producing $events sensor readings, card transactions and clicks; each is on disk (fsync) before it counts as stored"
run generate sensors -n "$events"
run generate transactions -n "$events"
run generate clicks -n "$events"

say "waiting until the readings are in the object store (the topic asks for that after 5 seconds)"
tiered() { "$tidegate" topic describe sensors -o json | sed -n 's/.*"tieredEndOffset": \([0-9]*\).*/\1/p' | awk '{n+=$1} END {print n+0}'; }
for second in $(seq 120); do
  now=$(tiered)
  if [ -t 1 ]; then printf '\r    %s of %s events tiered after %s s ' "$now" "$events" "$second"; fi
  [ "$now" -ge "$events" ] && break
  sleep 1
done
if [ -t 1 ]; then printf '\n'; else printf '    %s of %s events tiered after %s s\n' "$now" "$events" "$second"; fi
[ "$(tiered)" -ge "$events" ] || { echo "the readings did not reach the object store; see $demo/hub.log"; exit 1; }
run topic describe sensors
printf '    the object store now holds: %s\n' "$(find "$demo/data-objects" -type f | wc -l) objects, $(du -sh "$demo/data-objects" | cut -f1)"

say "reading back: old readings come from the object store, new clicks from the log's tail"
run consume sensors -n 3 --format json
old=$("$tidegate" consume sensors | wc -l)
new=$("$tidegate" consume clicks | wc -l)
printf '    %s sensor readings read from the object store, %s clicks from the tail\n' "$old" "$new"
[ "$old" = "$events" ] && [ "$new" = "$events" ] || { echo "that is not what was produced"; exit 1; }

say "that was: manifests -> topics -> durable log -> object storage -> consumers"
cat <<EOT
    Go on by hand, with what is there now:
      export PATH=$(dirname "$tidegate"):\$PATH
      tidegate dev --data-dir $demo/data                   # the same hub, on port 7171, until Ctrl-C
    and in another terminal (with that PATH):
      tidegate generate clicks --follow                    # a live stream
      tidegate consume clicks --follow --from latest       # watch it
      tidegate offsets sensors --time $(date -u +%Y-01-01T00:00:00Z)
      tidegate --help
EOT
if [ "$keep" = --keep ]; then
  say "the hub goes on: export TIDEGATE_ADDRESS=$TIDEGATE_ADDRESS instead of \`tidegate dev\`; stop it by kill $hub"
  trap - EXIT
  disown "$hub"
fi
