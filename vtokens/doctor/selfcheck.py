"""As a program: three guarantees, held against the embedded model on the device at hand, in some ten seconds.

Each line of output is a `Finding` as a JSON object.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from vtokens.core.prompts import encode_prompts, question_prompt

_SPECS = ("cls(keep=0.5)+fastv(keep=0.5, layer=2)", "todre", "dymu", "vhr", "m3id")
_QUESTIONS = ("where is the green triangle?", "how many objects are there in the scene, and which are red?")
_STEPS = 3
_TOLERANCE = 1e-4  # float32, logits of magnitude 10


def main() -> None:
    """Print what was found, line by line; an exception ends it."""
    import torch

    from vtokens.doctor.device import device

    found, name = device()
    print(json.dumps({"section": "device", "name": found, "says": name, "state": "ok"}), flush=True)
    if not torch.cuda.is_available():
        torch.set_num_threads(1)  # a model this small gains nothing from more
    import vtokens

    model, processor = vtokens.load("scenes-llava", strategy="none")
    model.eval().to(found)
    checks: tuple[tuple[str, Callable[[Any, Any], str]], ...] = (
        ("keep=1.0 changes no bit", identical),
        ("pruned equals masked", masked),
        ("batch equals single", batched),
    )
    for title, check in checks:
        start = time.perf_counter()
        try:
            with torch.no_grad():
                fault = check(model, processor)
        except Exception as error:  # whatever a transformers that does not fit makes of it
            fault = " ".join(f"{type(error).__name__}: {error}".split())
        spent = f"{time.perf_counter() - start:.1f} s"
        line = {"section": "self-check", "name": title, "says": fault or spent, "state": "wrong" if fault else "ok"}
        print(json.dumps(line), flush=True)


def identical(model: Any, processor: Any) -> str:
    """Logits of a batch with `keep=1.0` attached, and after detaching, against those of the untouched model: bits."""
    import torch

    import vtokens

    batch = _batch(model, processor, _QUESTIONS)
    plain = model(**batch).logits
    with vtokens.attach(model, "cls(keep=1.0)+fastv(keep=1.0, layer=2)"):
        attached = model(**batch).logits
    for when, logits in (("attached", attached), ("detached", model(**batch).logits)):
        if not torch.equal(plain, logits):
            return f"logits {when} differ by {float((plain - logits).abs().max()):.2g}"
    return ""


def masked(model: Any, processor: Any) -> str:
    """Logits of generated tokens against those of the full-length model whose layers mask what was dropped."""
    import torch

    import vtokens

    batch = _batch(model, processor, _QUESTIONS[:1])
    with vtokens.attach(model, _SPECS[0]) as handle:
        tokens, logits = _generate(model, batch)
        positions = handle.report().samples[0].positions
    whole = {**batch, "input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    fed, length = batch["input_ids"].shape[1], tokens.shape[1]
    seen = [torch.ones(length, dtype=torch.bool, device=tokens.device) for _ in positions]
    for kept, columns in zip(positions, seen, strict=True):
        columns[:fed] = False
        columns[torch.from_numpy(kept).to(tokens.device)] = True
    with _closing(model, seen):
        full = model(**whole, use_cache=False).logits[:, fed - 1 : -1]
    apart = _apart(full[0], logits[:, 0])
    return "" if apart < _TOLERANCE else f"logits are {apart:.2g} apart"


def batched(model: Any, processor: Any) -> str:
    """Logits of generated tokens in a padded batch against those of each sample alone, strategies of all stages."""
    import vtokens

    for spec in _SPECS:
        with vtokens.attach(model, spec):
            _, together = _generate(model, _batch(model, processor, _QUESTIONS))
            for row, question in enumerate(_QUESTIONS):
                _, alone = _generate(model, _batch(model, processor, (question,)))
                apart = _apart(together[:, row], alone[:, 0])
                if not apart < _TOLERANCE:
                    return f"under {spec!r} logits are {apart:.2g} apart"
    return ""


def _apart(some: Any, others: Any) -> float:
    """The largest difference; what a contrast cut off is minus infinity in both."""
    return float((some - others).masked_fill(some == others, 0).abs().max())


def _batch(model: Any, processor: Any, questions: tuple[str, ...]) -> dict[str, Any]:
    """Inputs for questions, each about the picture that it always has; the shorter prompts are padded."""
    import numpy as np
    from PIL import Image

    grids = [np.random.default_rng(len(q)).integers(0, 256, (6, 6, 3), np.uint8) for q in questions]
    images = [Image.fromarray(grid).resize((96, 96), Image.Resampling.NEAREST) for grid in grids]
    texts = [question_prompt(processor, question) for question in questions]
    return dict(encode_prompts(processor, texts, [[image] for image in images]).to(model.device))


def _generate(model: Any, batch: dict[str, Any]) -> tuple[Any, Any]:
    """Tokens (B, N + steps), and logits (steps, B, vocabulary) before any processing."""
    import torch

    options = {"do_sample": False, "min_new_tokens": _STEPS, "max_new_tokens": _STEPS}
    out = model.generate(**batch, **options, return_dict_in_generate=True, output_logits=True)
    return out.sequences, torch.stack(out.logits)


@contextmanager
def _closing(model: Any, seen: list[Any]) -> Iterator[None]:
    """Let each decoder layer see the columns of `seen`, bool (N,) a layer, and of those what is not ahead."""
    import torch

    def hook(columns: Any) -> Any:
        mask = torch.ones(len(columns), len(columns), dtype=torch.bool, device=columns.device).tril() & columns
        return lambda layer, args, kwargs: (args, {**kwargs, "attention_mask": mask[None, None]})

    layers = model.model.language_model.layers
    hooks = [
        layer.register_forward_pre_hook(hook(columns), with_kwargs=True)
        for layer, columns in zip(layers, seen, strict=True)
    ]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()


if __name__ == "__main__":
    main()
