"""Runs the notebooks and stores them with what they print and draw: `python tools/notebooks.py [NAME ...]`.

What is stored is in one form: outputs without what differs from run to run for no reason (metadata of the execution,
progress bars, a second copy of a picture), and nothing of the machine that they ran on.
"""

from __future__ import annotations

import base64
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
LANGUAGE = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python", "pygments_lexer": "ipython3"}
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
EXPECTED = re.compile(r"TqdmWarning|from \.autonotebook import|Loading weights|^\s*$")
"""What transformers may say on stderr of any notebook: its progress bar, and that ipywidgets would draw it nicer."""
TIMES = re.compile(r"selecting, ms\s+\d[\d.]*|\d[\d.e+-]*(?= ?m?s\b| of the time)")
NUMBER = re.compile(r"\d+\.\d+|\d+")


def execute(path: Path, **environment: str) -> Any:
    """A notebook with the outputs of a fresh kernel, which runs in an empty folder and under `environment`.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
        RuntimeError: one complained on stderr.
    """
    notebook = nbformat.read(path, as_version=4)
    searched = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    settings = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    settings |= {"PYTHONPATH": os.pathsep.join(filter(None, searched)), "MPLBACKEND": ""} | environment
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, kernel_name="python3", timeout=300, record_timing=False)
        client.resources["metadata"] = {"path": folder}
        manager: Any = client.create_kernel_manager()
        # Files in place of ports: nobody else on the machine can speak to the kernel.
        manager.transport, manager.connection_file = "ipc", f"{folder}/kernel.json"
        client.execute(env={**os.environ, **settings})
    for output in _outputs(notebook):
        said = output.get("text", "") if output.get("name") == "stderr" else ""
        if unknown := [line for line in re.split(r"[\r\n]", said) if not EXPECTED.search(line)]:
            raise RuntimeError(f"{path.name} complains: " + "\n".join(unknown))
    return notebook


def normalised(notebook: Any) -> Any:
    """The form in which a notebook is stored; the same object, changed."""
    notebook.metadata = {"kernelspec": dict(KERNEL), "language_info": dict(LANGUAGE)}
    count = 0
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number:02}", {}
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        cell.outputs = _joined([output for output in cell.outputs if output.get("name") != "stderr"])
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
            if "data" in output:
                output.metadata = {}
                if "image/png" in output.data:  # Pillow gives its pictures as JPEG too
                    output.data.pop("image/jpeg", None)
                    output.data["image/png"] = _small(output.data["image/png"])
    return notebook


def _joined(outputs: list[Any]) -> list[Any]:
    """Outputs with what was printed in a row as one: where a kernel cuts it depends on how fast it is."""
    found: list[Any] = []
    for output in outputs:
        if found and output.output_type == found[-1].output_type == "stream":
            found[-1].text += output.text
        else:
            found.append(output)
    return found


def _small(picture: str) -> str:
    """A PNG in base64, in steps of 8 of 256 brightnesses: most of a drawn scene is the noise of its ground."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        coarse = image.convert("RGB").point(lambda value: min(255, (value + 4) // 8 * 8))
    coarse.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def read(notebook: Any) -> list[str]:
    """What a reader sees of each output: text, without times, and the kinds of pictures."""
    found = []
    for output in _outputs(notebook):
        data = output.get("data", {"text/plain": output.get("text", "")})
        for kind, content in sorted(data.items()):
            if kind == "text/html":
                content = unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", content, flags=re.DOTALL))
            found.append(f"{kind}: " + ("" if kind.startswith("image/") else TIMES.sub("T", content)))
    return found


def alike(first: str, second: str) -> bool:
    """Whether two texts are the same, decimals up to one unit of their last place, as other processors round them."""
    numbers = [NUMBER.findall(text) for text in (first, second)]
    if NUMBER.sub("0", first) != NUMBER.sub("0", second) or len(numbers[0]) != len(numbers[1]):
        return False
    for one, other in zip(*numbers, strict=True):
        unit = 10.0 ** -len(one.partition(".")[2]) if "." in one and "." in other else 0
        if abs(float(one) - float(other)) > 1.01 * unit:
            return False
    return True


def _outputs(notebook: Any) -> Iterator[Any]:
    for cell in notebook.cells:
        yield from cell.get("outputs", ())


def main() -> None:
    names = sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.ipynb"))
    for name in names:
        path = FOLDER / f"{name}.ipynb"
        nbformat.write(normalised(execute(path)), path)
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
