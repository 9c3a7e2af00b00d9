#!/usr/bin/env bash
# The numeric tests as other processors would run them: without vector instructions, with the older ones, with MKL's
# order of sums that is the same everywhere; each with one thread and with two.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
failed=()
for threads in 1 2; do
    for setting in "as it is" "ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41" \
        "ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2" "MKL_CBWR=COMPATIBLE"; do
        variables=(VTOKENS_TEST_THREADS="$threads" HYPOTHESIS_PROFILE=cpus)
        [ "$setting" = "as it is" ] || variables+=($setting)
        printf '\n%s, %s thread(s)\n' "$setting" "$threads"
        env "${variables[@]}" "$python" -m pytest -q -n "${WORKERS:-2}" -m numeric "$@" || failed+=("$setting, $threads thread(s)")
    done
done
if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}"
    exit 1
fi
