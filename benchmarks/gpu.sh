#!/usr/bin/env bash
# On a machine with a GPU: first check, then measure.
#   OUT=results benchmarks/gpu.sh DATA      DATA: a data set with train/ and val/; OUT: a folder for what was found
set -uo pipefail
data=${1:?usage: OUT=folder benchmarks/gpu.sh DATA}
out=${OUT:-benchmarks/results/gpu-$(date +%F)}
run=$(mktemp -d)
trap 'rm -rf "$run"' EXIT
mkdir -p "$out"
alexnet="python -m alexnet.cli"

python -m pytest -m gpu -p no:warnings | tee "$out/tests.txt"
$alexnet doctor --json > "$out/doctor.json"
for device in gpu cpu; do
  for decode in exact fast; do
    $alexnet bench-loader "$data" --device $device --decode $decode --batch-size 128 --json > "$out/loader-$device-$decode.json"
  done
done
$alexnet train "$data" --device gpu --preset original --epochs 1 --batch-size 128 --run "$run/original"
$alexnet evaluate "$run/original" "$data" --device gpu --json > "$out/evaluate.json"
cp "$run/original/metrics.jsonl" "$out/train-metrics.jsonl"

python - "$out" << 'EOF'
import json, sys
from pathlib import Path

out = Path(sys.argv[1])
for path in sorted(out.glob("loader-*.json")):
    stages = json.loads(path.read_text() or '{"stages": []}')["stages"]
    print(f"{path.stem:20}", *(f"{s['name']} {s['images_per_second']:,.0f}" for s in stages), sep="  ")
steps = [json.loads(line) for line in (out / "train-metrics.jsonl").read_text().splitlines()]
rates = sorted(s["images_per_second"] for s in steps if s["kind"] == "train")
print("training, median images/s:", rates[len(rates) // 2] if rates else "none")
EOF
