#!/usr/bin/env bash
# Check a machine with a GPU, then measure it.
#   OUT=folder benchmarks/gpu.sh DATA [tests] [loader] [step] [train] [sweep]
# DATA is a data set with train/ and val/; a thousand images are enough. Without parts it does all but the sweep. A part
# takes less than ten minutes (PART_SECONDS) and leaves out what it has no time for. It prints what it found, and keeps
# it in OUT; nothing that fails ends the rest.
# PYTHON is the interpreter that has torch and DALI.
set -uo pipefail
data=$(realpath "${1:?usage: OUT=folder benchmarks/gpu.sh DATA [tests] [loader] [step] [train] [sweep]}")
shift
parts=${*:-tests loader step train}
cd "$(dirname "$0")/.." || exit
out=$(realpath -m "${OUT:-benchmarks/results/gpu-$(date +%F)}")
work=${WORK:-$(mktemp -d)}  # packs stay here between calls if WORK is given
[ "${WORK:-}" ] || trap 'rm -rf "$work"' EXIT
mkdir -p "$out" "$work"
python=${PYTHON:-python3} device=${DEVICE:-gpu}  # DEVICE=cpu tries the script where there is no GPU
ln -sfn "$PWD" "$work/alexnet"  # an uninstalled checkout's import name
export PYTHONPATH=$work${PYTHONPATH:+:$PYTHONPATH} ALEXNET_CACHE=${ALEXNET_CACHE:-$work/cache}

say() { printf '\n== %s (%s s)\n' "$1" "$SECONDS"; }
# capped SECONDS: as many of them as the part has left; fails if it has none.
capped() {
  local left=$((end - SECONDS))
  echo $(($1 < left ? $1 : left))
  [ $left -gt 0 ]
}
# within SECONDS COMMAND...: whatever it does, go on; say so if it failed or took too long. It ends as by Ctrl-C, so that
# pytest tells what had failed by then, and Python where it was.
within() {
  local limit; limit=$(capped "$1") || { echo "LEFT OUT, no time is left: ${*:2}"; return; }
  timeout --signal INT --kill-after 10 "$limit" "${@:2}" || echo "FAILED ($?, at most $limit s): ${*:2}"
}
alexnet() { within "$1" "$python" -m alexnet.cli "${@:2}"; }
# measure SECONDS NAME COMMAND...: standard output goes to OUT/NAME.json, whole or not at all.
measure() {
  local limit name=$2; limit=$(capped "$1") || { echo "LEFT OUT, no time is left: $name"; return; }
  shift 2
  if timeout --kill-after 10 "$limit" "$python" -m alexnet.cli "$@" > "$out/$name.part"; then
    mv "$out/$name.part" "$out/$name.json"
  else
    echo "FAILED ($?, at most $limit s): $name: alexnet $*"
  fi
}
table() { "$python" benchmarks/gpu_table.py "$out" "$@"; }

# The CPU paths need compiled parts: an install builds them, a bare checkout lacks them.
for source in pipeline/decode/jpeg pipeline/decode/resample pipeline/decode/dct pipeline/decode/transcode train/network/lrn_cpu; do
  built=$(dirname $source)/_$(basename $source)
  ls $built*.so > /dev/null 2>&1 || cc -O3 -fno-math-errno -fno-trapping-math -shared -fPIC -o $built.so $source.c -lm
done
pack() { alexnet 120 pack "${@:2}" "$work/$1" --device cpu --max-bad 1; }  # a whole one stays as it is

tests() {
  say "Is the GPU path right?"
  measure 120 doctor doctor --json
  within 420 "$python" -m pytest -m gpu -p no:warnings -p no:cacheprovider -o addopts= --continue-on-collection-errors \
    --maxfail 20 -q tests | tee "$out/tests.txt"
}

packs() {
  pack pack "$data"
  pack dct "$work/pack" --dct
  pack raw "$data" --raw
}

loader() {
  say "The loader: originals, packs of JPEGs, coefficients and pixels; decoded on the GPU and on the CPU"
  local how="--device $device --rounds 3 --seconds 0.7 --batch-size 256 --json"
  bench original "$data"
  for load in 0 1; do  # the engines' share: does it matter for regions (fast), and for whole images (exact)?
    for decode in fast exact; do
      measure 90 "loader-original-$decode-load$load" bench-loader "$data" $how --decode $decode --hw-decoder-load $load
      table "loader-original-$decode-load$load.json"
    done
  done
  within 60 "$python" benchmarks/nvjpeg.py "$data" --out "$out/nvjpeg.json"
  table nvjpeg.json
  packs
  within 60 "$python" benchmarks/dct_kernels.py "$work/dct" --out "$out/dct-kernels.json"
  for images in dct raw pack; do bench $images "$work/$images"; done
  measure 90 loader-dct-gpu-resident bench-loader "$work/dct" $how --resident
  table "loader-dct-gpu-resident.json"
}
# bench NAME IMAGES: where they are decoded makes the difference; with the options `how`.
bench() {
  for on in gpu cpu; do
    measure 90 "loader-$1-$on" bench-loader "$2" $how --decode-on $on
    table "loader-$1-$on.json"
  done
}

step() {
  say "The training step"
  within 240 "$python" benchmarks/step.py --batch-size 128 --batch-size 256 --batch-size 1024 --rounds 3 --out "$out/step.json" \
    --contestant eager --contestant channels_last --contestant fused-norms --contestant space-to-depth \
    --contestant graph --contestant "graph, any order"
  within 300 "$python" benchmarks/step.py --batch-size 128 --batch-size 1024 --rounds 3 --out "$out/step-compiled.json" \
    --contestant graph --contestant compile --contestant compile+graph --contestant torchvision --contestant torchvision+graph
}

train() {
  say "Training, fed by the loader"
  packs
  for how in plain fused graphed compiled; do
    measure 150 "train-1x1-$how" bench-train "$work/raw" --device $device --mesh 1x1 --execution $how --rounds 3 --seconds 2 --json
    table "train-1x1-$how.json"
  done
  measure 120 train-1x2 bench-train "$work/raw" --devices cuda:0,cuda:0 --mesh 1x2 --rounds 3 --seconds 2 --json  # through the host
  table train-1x2.json
  for resident in "" --resident; do  # the losses of both must be the same; forty epochs, of which a start is little
    rm -rf "$work/run$resident"
    alexnet 150 train "$work/dct" --device $device --preset original --epochs 40 --batch-size 128 $resident --run "$work/run$resident"
    cp "$work/run$resident/metrics.jsonl" "$out/train-dct$resident.jsonl"
  done
  measure 60 evaluate evaluate "$work/run" "$work/dct" --device $device --json
  table train-dct.jsonl train-dct--resident.jsonl
}

sweep() {
  say "The loader's options, and torch's DataLoader"
  measure 590 sweep bench-loader "$data" --device $device --rounds 5 --seconds 1 --batch-size 256 --sweep --compare torch \
    --plot "$out/sweep.png" --json
  table sweep.json
}

for part in $parts; do
  end=$((SECONDS + ${PART_SECONDS:-575}))
  "$part"
done
say "All that is in $out"
table
