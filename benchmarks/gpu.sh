#!/usr/bin/env bash
# Checks and times everything that needs a GPU, in one command of under eight minutes: bash benchmarks/gpu.sh [FOLDER FOR THE RESULTS]
# Needs python3 with torch, triton and pytest; llmos itself need not be installed. PYTHON names another interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-${OUT:-benchmarks/results}}
python=${PYTHON:-python3}
export PYTHONPATH=src PYTHONUNBUFFERED=1
mkdir -p "$out"
"$python" -c 'import torch; assert torch.cuda.is_available(), "this machine has no CUDA device: nothing to measure"'
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$out/gpu-machine.txt"
timeout 300 "$python" -m pytest --noconftest tests/gpu -q -p no:cacheprovider | tee "$out/gpu-tests.txt"
timeout 170 "$python" benchmarks/gpu_attention.py --quick --json "$out/gpu_attention.json" | tee "$out/gpu_attention.txt"
