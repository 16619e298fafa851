#!/usr/bin/env bash
# Everything that can be proved on a machine with a GPU only, in one command: builds what quanto needs, runs the tests that need CUDA, measures
# the architecture of Mistral 7B with random weights, some of it twice, and holds the numbers against what is promised. Needs no network.
#
#     scripts/gpu_proof.sh              on an H100 or H200; run files go to profiles/reference/
#     scripts/gpu_proof.sh --toy        the same steps on a CPU with a tiny model, in minutes: shows that the command works, and proves nothing
#
# PYTHON names the interpreter that has bitzones[measure,gpu,dev]; OUT another folder for the run files. Exits with 1 where a promise is broken.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} scale=mistral-7b
if [ "${1:-}" = --toy ]; then scale=toy; fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out=${OUT:-profiles/reference}
if [ "$scale" = toy ]; then out=${OUT:-$work/reference}; fi
say() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }
bitzones() { "$python" -m bitzones "$@"; }

say "what this machine can measure"
bitzones doctor --build
bitzones doctor
if [ "$scale" != toy ]; then
    say "tests that need CUDA"
    BITZONES_REQUIRE=cuda "$python" -m pytest -q tests -m cuda
fi
# Compiling takes a minute a cell: the promise is about one of them.
once='(latency or memory) and not plan and not (compile and (b8 or w8 or w4 or w2))'
again='latency and b1 and (bf16 or w4) and not (compile and w4)'
measure() {
    "$python" -m pytest bench -q -p no:cacheprovider -k "$2" --bitzones-profile="scripts/proof/$scale.toml" --benchmark-json="$work/run-$1.json" \
        --bitzones-journal="$work/run-$1.jsonl"
}
say "latency and memory"
began=$SECONDS
measure 1 "$once"
echo $((SECONDS - began)) >"$work/seconds"
say "some of it again"
measure 2 "$again"
say "a sweep of every layer, rounding, the bare loop, and the verdicts"
"$python" -m scripts.gpu_proof "scripts/proof/$scale.toml" "$work" "$out" --scale "$scale"
