#!/usr/bin/env bash
# Profiles three published shapes with random weights in bfloat16 on the GPU at hand, every strategy that prunes at three
# keeps and two batch sizes, into benchmarks/results/profile-<gpu>. Interrupted, it goes on where it was; options
# are passed on to `vtokens profile`, so `--rounds 2` makes it shorter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-.venv/bin/python}
gpu=$("$python" - <<'EOF'
import re
import sys

import torch

if not torch.cuda.is_available():
    sys.exit("no CUDA device: this profile needs one, and a torch built for it")
print(re.sub("[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-"))
EOF
)
mkdir -p runs
"$python" -m vtokens profile --preset llava-1.5-7b,llava-next-7b,qwen2.5-vl-7b \
    --strategy random,uniform,cls,fastv,todre --keep 0.5,0.25,0.1 --batch 1,8 --new-tokens 128 \
    --device cuda --dtype bfloat16 --out "runs/profile-$gpu.json" "$@"
"$python" benchmarks/tables.py "runs/profile-$gpu.json" "benchmarks/results/profile-$gpu"
