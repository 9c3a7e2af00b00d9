"""Runs the stages of every strategy on a device and says which of them wait for it: a JSON line for each spec.

python -m tests.engine.away_stages [away | cuda] [NAME ...]

In a process of its own, since a device that torch knows stays known. "away" is the device of `tests/engine/away.py`, on
which a CPU shows what a GPU would wait for; on "cuda" torch says it itself.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

os.environ["VTOKENS_KERNELS"] = "reference" if "away" in sys.argv[1:2] else "auto"

import torch

import vtokens
from tests.engine.combos import refusal, tables
from tests.families import build, image, inputs
from tests.strategies.videos import batch as videos
from vtokens.adapters import adapter_for
from vtokens.strategies import Strategy, VideoPruner, get, parse
from vtokens.strategies.base import needs_of
from vtokens.strategies.views.logits import Prompt

Watch = Callable[[], AbstractContextManager[None]]
Moved = tuple[Any, dict[str, Any], Watch, Callable[[Exception], bool]]
IMAGES, VIDEOS = "llava", "qwen2_5_vl"


def main() -> None:
    """Print what each spec does."""
    device, names = sys.argv[1], sys.argv[2:] or vtokens.strategies.list_strategies()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for name in names:
            for strategies in specs(name, Path(folder)):
                print(json.dumps({"name": name, **run(strategies, device)}), flush=True)


def specs(name: str, folder: Path) -> Iterator[list[Strategy]]:
    """Attachments of one strategy: as it is, and keeping a share; with the tables it wants, behind what it modifies."""
    kind: Any = get(name)
    adapter = adapter_for(base(VIDEOS if issubclass(kind, VideoPruner) else IMAGES))
    fields = {field.name for field in dataclasses.fields(kind) if field.init}
    trials = [{}, *({field: file} for field in fields & {"sinks", "patterns", "thresholds"} for file in files(folder))]
    needed = next((one for one in trials if refusal(name, one, adapter) is None), {})
    made = [kind(**needed)]
    if "keep" in fields and refusal(name, {**needed, "keep": 0.3}, adapter) is None:
        made.append(kind(**needed, keep=0.3))
    for one in made:
        yield [*parse("cls(keep=0.3)"), one] if one.modifies else [one]


@cache
def base(family: str) -> Any:
    """The tiny model of a family, on the CPU."""
    return build(family)[0]


@cache
def files(folder: Path) -> tuple[str, ...]:
    """Tables for the tiny model, of every kind."""
    return tables(adapter_for(base(IMAGES)).facts, folder)


def run(strategies: list[Strategy], device: str) -> dict[str, str]:
    """A prompt, and a token behind it, with the stages watched: what waited and where, if anything did."""
    found = {"spec": " + ".join(map(repr, strategies)), "waits": "", "error": ""}
    family = VIDEOS if any(isinstance(one, VideoPruner) for one in strategies) else IMAGES
    facts = adapter_for(base(family)).facts
    found["declared"] = "; ".join(filter(None, (needs_of(one, facts).waits for one in strategies)))
    with ExitStack() as stack:
        model, batch, watch, waits = (on_away if device == "away" else on_cuda)(family, stack)
        for kind in {type(one) for part in strategies for one in parse(part)}:
            stack.enter_context(watched(kind, watch))
        try:
            with vtokens.attach(model, strategies) as handle:
                if any(isinstance(one.negative(facts), Prompt) for one in strategies):
                    stack.enter_context(handle.negative_prompt(**batch))
                model.generate(**batch, max_new_tokens=2, do_sample=False)
        except Exception as error:  # all of them are told in the answer
            ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "/vtokens/" in frame.filename]
            place = f"{error} ({ours[-1].filename.split('/vtokens/')[-1]}:{ours[-1].lineno})" if ours else str(error)
            found["waits" if waits(error) else "error"] = place
    return found


@cache
def prompt(family: str) -> dict[str, Any]:
    """A ragged batch of one and two pictures, or of two videos."""
    if family == VIDEOS:
        return videos(family, [(4, 3, 4), (3, 4, 4)])
    pictures = [[image(100, 60, seed=0)], [image(84, 112, seed=1), image(60, 60, seed=2)]]
    return dict(inputs(family, ["Is there a cat?", "Compare <image> with <image> please"], pictures))


@cache
def moved(family: str, away: bool) -> Any:
    """The model on the device, once for all strategies, which leave it as it was."""
    from tests.engine.away import move

    model = build(family)[0]
    if not away:
        return model.to("cuda")
    move(model)
    return model


def on_away(family: str, stack: ExitStack) -> Moved:
    """Model, batch, what watches a stage, and what tells that a stage waited; on the device that is not there."""
    from tests.engine.away import Away, Elsewhere, Waits

    mode = stack.enter_context(Elsewhere())
    batch = {name: Away(value) if isinstance(value, torch.Tensor) else value for name, value in prompt(family).items()}
    return moved(family, True), batch, mode.watched, lambda error: isinstance(error, Waits)


def on_cuda(family: str, stack: ExitStack) -> Moved:
    """The same on a GPU."""

    @contextmanager
    def watch() -> Iterator[None]:
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)

    given = prompt(family).items()
    batch = {name: value.to("cuda") if isinstance(value, torch.Tensor) else value for name, value in given}
    return moved(family, False), batch, watch, lambda error: "synchronizing CUDA operation" in str(error)


@contextmanager
def watched(kind: type[Strategy], watch: Watch) -> Iterator[None]:
    """Inside, the stages of a strategy's class are watched."""
    names = [f"at_{stage}" for stage in kind.stages()] + ["at_selection"]
    stages = {name: (name in vars(kind), getattr(kind, name)) for name in names}

    def under(stage: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with watch():
                return stage(*args, **kwargs)

        return run

    for name, (_, stage) in stages.items():
        if stage is not getattr(Strategy, name):
            setattr(kind, name, under(stage))
    try:
        yield
    finally:
        for name, (own, stage) in stages.items():
            if own:
                setattr(kind, name, stage)
            elif name in vars(kind):
                delattr(kind, name)


if __name__ == "__main__":
    main()
