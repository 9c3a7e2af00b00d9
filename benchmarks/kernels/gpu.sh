#!/usr/bin/env bash
# Measures all kernels on the GPU at hand, those with targets first, and adds the rows to a CSV file in $OUT, or in
# benchmarks/results/ where that is not set. Needs a Python whose torch sees the GPU, triton, transformers and rich;
# nothing is installed. Stops after eight minutes; options go to `vtokens bench kernels`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

named='import re, sys, torch
torch.cuda.is_available() or sys.exit(1)
print(re.sub("[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-"))'
for python in "${PYTHON:-python3}" .venv/bin/python; do
    gpu=$("$python" -c "$named" 2>/dev/null) && break
done
[ -n "$gpu" ] || { echo "no torch here sees a GPU: name a Python that has one with make bench-gpu PYTHON=..." >&2; exit 1; }

"$python" -m vtokens bench kernels --device cuda --seconds 0.5 --limit 480 \
    --kernel block_sparse,farthest_point,grouped,attention_colsum,decode,gathered,bipartite_merge,unmerge \
    --csv "${OUT:-benchmarks/results}/kernels-$gpu.csv" "$@"
