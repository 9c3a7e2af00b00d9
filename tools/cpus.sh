#!/usr/bin/env bash
# The numeric tests as other processors would run them: without vector instructions, with the older ones, with MKL's
# order of sums that is the same everywhere; each with one thread and with two. So that this takes minutes, each setting
# runs a share of the tests, another one than the setting before it; WHOLE=1 runs all of them in every setting.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
failed=()
for threads in 1 2; do
    number=0
    # Processes of two threads each take turns on two cores, so there is one of them, which is slower: a smaller share.
    workers=$((${WORKERS:-2} / threads)) parts=$((4 * threads))
    [ -z "${WHOLE:-}" ] || parts=1
    for setting in "as it is" "ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41" \
        "ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2" "MKL_CBWR=COMPATIBLE"; do
        variables=(VTOKENS_TEST_THREADS="$threads" HYPOTHESIS_PROFILE=cpus)
        [ "$setting" = "as it is" ] || variables+=($setting)
        share=$((number++ % parts))/$parts
        printf '\n%s, %s thread(s), share %s\n' "$setting" "$threads" "$share"
        env "${variables[@]}" "$python" -m pytest -q -n "$workers" -m numeric --share "$share" "$@" ||
            failed+=("$setting, $threads thread(s)")
    done
done
if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}"
    exit 1
fi
