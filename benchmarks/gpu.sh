#!/usr/bin/env bash
# Run the CUDA tests and measure speed and memory on one GPU in at most 9 minutes. Writes the results to a folder.
#   bash benchmarks/gpu.sh [FOLDER]             on the first CUDA device
#   TOY=1 bash benchmarks/gpu.sh [FOLDER]       a trial run on the CPU at toy size
# PYTHON sets the interpreter. The results are tests.txt, tests.xml and gpu.json in FOLDER.
set -u
out=$(realpath -m "${1:-generation/gpu}")
python=${PYTHON:-python}
cd "$(dirname "$0")/.." || exit 1
mkdir -p "$out" || exit 1
tests=(tests/cuda -q -p no:cacheprovider "--junitxml=$out/tests.xml")
measures=(--out "$out/gpu.json")
if [ -n "${TOY:-}" ]; then
    export CUDA_TESTS_DEVICE=cpu
    tests+=(-k "loss_and_gradient or those_of_the_cpu")
    measures+=(--toy --gpu_id -1 --rounds 1 --budget 40)
else
    "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available() and "there is no CUDA device")' || exit 2
fi
timeout 180 "$python" -m pytest "${tests[@]}" > "$out/tests.txt" 2>&1
tested=$?
tail -n 3 "$out/tests.txt"
timeout 350 "$python" benchmarks/gpu.py "${measures[@]}"
measured=$?
[ "$tested" -eq 0 ] && [ "$measured" -eq 0 ]
