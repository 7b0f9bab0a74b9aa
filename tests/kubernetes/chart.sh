#!/usr/bin/env bash
# Lints the chart and compares what it renders with the files in tests/kubernetes/chart: NAME.yaml are values, NAME.rendered.yaml what comes of them;
# refused-*.yaml must be refused by the schema. `chart.sh --update` writes the rendered files anew: look at the difference before committing it.
set -euo pipefail
cd "$(dirname "$0")/../.."
helm=$(deploy/cluster/tools/helm.sh)
update=${1:-}
failed=0

for values in tests/kubernetes/chart/*.yaml; do
  case $values in *.rendered.yaml) continue ;; esac
  case ${values##*/} in
    refused-*)
      wanted=$(sed -n 's/^# refused: //p' "$values")
      if message=$("$helm" template tidegate charts/tidegate --namespace tidegate-system --values "$values" 2>&1); then
        echo "chart.sh: $values was accepted" >&2
        failed=1
      elif ! grep -qF -- "$wanted" <<<"$message"; then
        printf 'chart.sh: %s was refused, but not for %s:\n%s\n' "$values" "$wanted" "$message" >&2
        failed=1
      fi
      continue
      ;;
  esac
  "$helm" lint --quiet --strict charts/tidegate --values "$values" >&2 || failed=1
  rendered=$("$helm" template tidegate charts/tidegate --namespace tidegate-system --values "$values")
  if [ "$update" = --update ]; then
    printf '%s\n' "$rendered" >"${values%.yaml}.rendered.yaml"
  elif ! diff -u "${values%.yaml}.rendered.yaml" <(printf '%s\n' "$rendered"); then
    echo "chart.sh: $values renders differently; if that is wanted: tests/kubernetes/chart.sh --update" >&2
    failed=1
  fi
done

# Rights: never all of something, never Secrets but the operator's own key.
all=$(cat tests/kubernetes/chart/*.rendered.yaml)
if grep -nE '\[?"?\*"?\]?$|: \["?\*' <<<"$(grep -E 'verbs|resources|apiGroups|^ +- "?\*' <<<"$all")"; then
  echo "chart.sh: a rule with a wildcard" >&2
  failed=1
fi
if grep -A2 'resources: \[secrets\]' <<<"$all" | grep -E 'list|watch'; then
  echo "chart.sh: a rule that reads all Secrets" >&2
  failed=1
fi
[ "$failed" = 0 ] || exit 1
echo "chart: $(ls tests/kubernetes/chart/*.rendered.yaml | wc -l) renderings as they should be"
