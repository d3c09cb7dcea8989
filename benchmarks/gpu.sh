#!/usr/bin/env bash
# Check a machine with a GPU, then measure it. Ends with a table; everything is in OUT.
#   OUT=results benchmarks/gpu.sh DATA      DATA: a data set with train/ and val/; OUT: a folder for the results
set -uo pipefail
data=${1:?usage: OUT=folder benchmarks/gpu.sh DATA}
out=${OUT:-benchmarks/results/gpu-$(date +%F)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
alexnet() { python -m alexnet.cli "$@"; }
say() { printf '\n== %s (%s s)\n' "$1" "$SECONDS"; }

# The CPU paths need compiled parts: an install builds them, a bare checkout lacks them.
for source in pipeline/decode/jpeg pipeline/decode/resample pipeline/decode/dct pipeline/decode/transcode train/network/lrn_cpu; do
  built=$(dirname $source)/_$(basename $source)
  ls $built*.so > /dev/null 2>&1 || cc -O3 -fno-math-errno -fno-trapping-math -shared -fPIC -o $built.so $source.c -lm
done

say "Is the GPU path right?"
alexnet doctor --json > "$out/doctor.json"
python -m pytest -m gpu -p no:warnings -o addopts= | tee "$out/tests.txt"

say "The loader: original JPEGs, packs of JPEGs, coefficients and pixels; on the GPU's engines and on the CPU"
alexnet pack "$data" "$work/pack" --split train --device cpu --max-bad 1
alexnet pack "$work/pack" "$work/dct" --split train --dct --device cpu --max-bad 1
alexnet pack "$data" "$work/dct" --split val --dct --device cpu --max-bad 1
alexnet pack "$data" "$work/raw" --split train --raw --device cpu --max-bad 1
for images in original pack dct raw; do
  case $images in original) from=$data ;; *) from=$work/$images ;; esac
  for device in gpu cpu; do
    alexnet bench-loader "$from" --device $device --rounds 5 --seconds 1.5 --batch-size 256 --json > "$out/loader-$images-$device.json"
  done
done
alexnet bench-loader "$work/dct" --device gpu --resident --rounds 5 --seconds 1.5 --batch-size 256 --json > "$out/loader-dct-gpu-resident.json"
python benchmarks/dct_kernels.py "$work/dct" --out "$out/dct-kernels.json"
alexnet bench-loader "$data" --device gpu --decode fast --rounds 5 --seconds 1.5 --batch-size 256 --json > "$out/loader-original-gpu-fast.json"
alexnet bench-loader "$data" --device gpu --rounds 5 --seconds 1 --batch-size 256 --sweep --compare torch --plot "$out/sweep.png" --json > "$out/sweep.json"

say "The training step, alone and fed"
alexnet bench-train "$work/raw" --device gpu --mesh 1x1 --rounds 5 --seconds 2 --json > "$out/train-1x1.json"
alexnet bench-train "$work/raw" --devices cuda:0,cuda:0 --mesh 1x2 --rounds 3 --seconds 2 --json > "$out/train-1x2.json"  # exchanging through the host
python benchmarks/step.py --out "$out/step.json"
alexnet train "$data" --device gpu --preset original --epochs 1 --batch-size 128 --run "$work/run"
alexnet evaluate "$work/run" "$data" --device gpu --json > "$out/evaluate.json"
for resident in "" --resident; do  # the losses of both must be the same
  alexnet train "$work/dct" --device gpu --preset original --epochs 1 --batch-size 128 $resident --run "$work/dct-run$resident"
  grep '"train"' "$work/dct-run$resident/metrics.jsonl" > "$out/train-dct$resident.jsonl"
done
cp "$work/run/metrics.jsonl" "$out/train-metrics.jsonl"

say "Results"
python - "$out" << 'EOT'
import json
import sys
from pathlib import Path

out = Path(sys.argv[1])


def read(path):
    text = path.read_text() if path.exists() else ""
    return json.loads(text) if text.strip() else {}


for path in sorted(out.glob("loader-*.json")):
    rates = (f"{stage['name']} {stage['images_per_second']:,.0f}" for stage in read(path).get("stages", []))
    print(f"{path.stem:28}", *rates, sep="  ")
print("kernels that decode coefficients:", read(out / "dct-kernels.json"))
losses = [
    [json.loads(line)["loss"] for line in path.read_text().splitlines()] for path in sorted(out.glob("train-dct*.jsonl"))
]
print("with resident images the losses are", "the same" if len(losses) == 2 and losses[0] == losses[1] else f"not: {losses}")
print("sweep recommends:", read(out / "sweep.json").get("sweep"))
for path in sorted(out.glob("train-*x*.json")):
    print(path.stem, json.dumps({k: v for k, v in read(path).items() if "per_second" in k or "share" in k}))
steps = [json.loads(line) for line in (out / "train-metrics.jsonl").read_text().splitlines()]
rates = sorted(step["images_per_second"] for step in steps if step["kind"] == "train")
print("training with the loader, median images/s:", rates[len(rates) // 2] if rates else "none")
EOT
