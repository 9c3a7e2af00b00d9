"""Attention knock-outs against an eager model whose masks are edited by hand, and `vtokens profile --flow`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import vtokens
from tests.engine.masked import decoder_layers
from tests.families import build, image, inputs
from tests.limits import close_pass
from tests.test_cli import failure
from vtokens.adapters import adapter_for
from vtokens.calibrate.flow import PATHS, Flow, default_window, flow, windows
from vtokens.calibrate.knockout import Knockout
from vtokens.cli import main

TEXTS = ["Is there a red square?", "On the left <image> and on the right, how many?"]


def batch_of(family: str, side: str = "left") -> dict[str, Any]:
    groups = [[image(100, 60, seed=1)], [image(60, 130, seed=2)]]
    return dict(inputs(family, TEXTS, groups, padding_side=side))


def places(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """bool (B, N): where pictures, questions and last positions are."""
    ids, real = batch["input_ids"], batch["attention_mask"].bool()
    known = adapter_for(model).placeholder_ids.values()
    picture = torch.stack([ids == number for number in known]).any(0)
    at = torch.arange(ids.shape[1])
    last = at == torch.where(real, at, -1).amax(1, keepdim=True)
    behind = picture.cumsum(1) > 0
    return picture, behind & ~picture & real & ~last, last


@contextmanager
def closing(model: Any, closed: torch.Tensor, layers: tuple[int, ...]) -> Iterator[None]:
    """Let an eager model's layers not see pairs of row and key, bool (B, N, N)."""

    def hook(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        mask = kwargs["attention_mask"].masked_fill(closed[:, None], torch.finfo(torch.float32).min)
        return args, {**kwargs, "attention_mask": mask}

    found = [decoder_layers(model)[at].self_attn.register_forward_pre_hook(hook, with_kwargs=True) for at in layers]
    try:
        yield
    finally:
        for one in found:
            one.remove()


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "gemma3"])
def test_equals_a_mask_with_pairs_closed(family: str, side: str) -> None:
    target, plain = build(family)[0], build(family, attn_implementation="eager")[0]
    batch = batch_of(family, side)
    picture, question, last = places(plain, batch)
    before = plain(**batch).logits
    for source, aim in PATHS:
        keys, rows = (
            {"picture": picture, "question": question, "last": last}[source],
            {"question": question, "last": last}[aim],
        )
        closed = rows[:, :, None] & keys[:, None]
        with closing(plain, closed, (1, 3)):
            expected = plain(**batch).logits
        with vtokens.attach(target, Knockout(source, aim, (1, 3))):
            got = target(**batch).logits
        real = batch["attention_mask"].bool()
        close_pass(got[real], expected[real])
        assert (expected[last] - before[last]).abs().max() > 1e-3


@torch.no_grad()
def test_flow_is_made_of_knock_outs() -> None:
    """Each change is the answer's probability with a window closed over that without, in a batch and alone."""
    model, plain = build("llava")[0], build("llava", attn_implementation="eager")[0]
    batch = batch_of("llava")
    found = flow(model, [batch], window=3)
    assert found.depth == 4
    assert found.windows == ((0, 1), (0, 1, 2), (1, 2, 3), (2, 3))
    before = plain(**batch).logits[:, -1].softmax(-1)
    answers = before.argmax(-1)
    rows = torch.arange(2)
    close_pass(torch.tensor(found.probabilities), before[rows, answers])
    picture, _, last = places(plain, batch)
    route = found.routes[1]
    assert (route.source, route.target) == ("picture", "last")
    with closing(plain, last[:, :, None] & picture[:, None], found.windows[2]):
        after = plain(**batch).logits[:, -1].softmax(-1)
    change = after[rows, answers] / before[rows, answers] - 1
    close_pass(torch.tensor(route.changes[2]), change, size=1 / before[rows, answers].min())
    alone = flow(model, [dict(inputs("llava", TEXTS[:1], [[image(100, 60, seed=1)]]))], window=3)
    for mine, theirs in zip(alone.routes, found.routes, strict=True):
        wanted = torch.tensor(theirs.changes)[:, :1]
        close_pass(torch.tensor(mine.changes), wanted, size=1 / min(found.probabilities))


def test_windows() -> None:
    assert windows((0, 3, 7), 1) == ((0,), (3,), (7,))
    assert windows((0, 3, 7), 3) == ((0, 3), (0, 3, 7), (3, 7))
    assert [default_window(depth) for depth in (1, 8, 28, 32, 40)] == [1, 3, 7, 9, 11]


def test_layers_with_a_state_carry_nothing_that_can_be_closed() -> None:
    found = flow(build("qwen3_5")[0], [dict(inputs("qwen3_5", TEXTS[:1], [[image(84, 84, seed=1)]]))])
    attending = adapter_for(build("qwen3_5")[0]).facts.attending
    assert len(found.windows) == len(attending) < found.depth


def test_what_is_refused() -> None:
    model = build("llava")[0]
    with pytest.raises(ValueError, match="is the target too: 'picture' to 'question'"):
        Knockout("question", "question")
    with pytest.raises(ValueError, match="window=2 is out of range: odd numbers"):
        flow(model, [batch_of("llava")], window=2)
    with pytest.raises(ValueError, match="padded on the right"):
        flow(model, [batch_of("llava", "right")])
    with pytest.raises(ValueError, match="row 1 of a batch has no picture"):
        flow(model, [dict(inputs("llava", ["", "hello"], [[image(60, 60, seed=0)], []]))])
    with pytest.raises(ValueError, match="no prompts"):
        flow(model, [])
    batch = dict(inputs("mllama", [""], [[image(60, 60, seed=0)]]))
    with pytest.raises(ValueError, match="are no positions of the decoder"):
        flow(build("mllama")[0], [batch])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn, numbers = tmp_path / "flow.png", tmp_path / "flow.json"
    call = ["profile", "scenes-llava", "--samples", "2", "--flow"]
    main([*call, str(drawn)])
    assert "picture to last" in capsys.readouterr().out
    with Image.open(drawn) as picture:
        assert picture.width > 600
    main([*call, str(numbers), "--window", "1"])
    found = json.loads(numbers.read_text(encoding="utf-8"))
    assert set(found) == set(Flow.__dataclass_fields__)
    assert found["windows"] == [[layer] for layer in range(8)]
    photos = tmp_path / "photos"
    photos.mkdir()
    image(60, 60, seed=0).save(photos / "a.png")
    main([*call, str(numbers), "--images", str(photos), "--question", "how many objects are there?"])
    assert len(json.loads(numbers.read_text(encoding="utf-8"))["probabilities"]) == 1
    capsys.readouterr()
    assert "Did you mean 'png'" in failure(capsys, *call, str(tmp_path / "flow.pgn"))
    assert "looks into a model" in failure(capsys, "profile", "--flow", str(drawn))
    assert "no pictures in" in failure(capsys, *call, str(drawn), "--images", str(tmp_path / "photos" / "none"))
    assert "window=4 is out of range" in failure(capsys, *call, str(drawn), "--window", "4")
