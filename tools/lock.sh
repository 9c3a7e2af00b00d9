#!/usr/bin/env bash
# Resolve everything that pyproject.toml asks for, for Python 3.11 to 3.14 and every platform, into requirements/.
# Pins stay where they are while they can; `make lock ARGS=--upgrade` moves all, `ARGS="-P numpy"` one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export UV_CUSTOM_COMPILE_COMMAND="make lock"
compile() { "${UV:-uv}" pip compile --quiet pyproject.toml "$@"; }

echo "requirements/all.txt: every extra together, so that they fit each other"
compile --universal --python-version 3.11 --all-extras --output-file requirements/all.txt "$@"
for extra in core filter cli eval-light eval video nlp ray serve smol triton worlds dev; do
    echo "requirements/$extra.txt"
    wanted=(--extra "$extra")
    [ "$extra" != core ] || wanted=()
    compile --universal --python-version 3.11 --no-annotate --constraints requirements/all.txt "${wanted[@]}" \
        --output-file "requirements/$extra.txt"
done

# The marks in a universal lock say which releases allow a Python, not whether anybody has built them for it.
for python in 3.11 3.12 3.13 3.14; do
    for platform in x86_64-manylinux_2_28 aarch64-manylinux_2_28 aarch64-apple-darwin x86_64-pc-windows-msvc; do
        MACOSX_DEPLOYMENT_TARGET=14.0 compile --python-version "$python" --python-platform "$platform" \
            --only-binary :all: --extra dev --constraints requirements/all.txt >/dev/null
        echo "Python $python, $platform: a wheel for each package of the extra dev"
    done
done
