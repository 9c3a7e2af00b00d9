"""Task vectors against an untouched model whose output projections are given other heads, by hooks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vtokens
from tests.engine.contrasted import check_answers
from tests.engine.masked import decoder_layers
from tests.families import build, image, inputs
from tests.test_cli import failure
from vtokens.adapters import adapter_for
from vtokens.calibrate.tasks import TaskVector, press, surprise
from vtokens.calibrate.vectors import head_outputs
from vtokens.cli import main

DETAILS: dict[str, Any] = {
    "return_dict_in_generate": True, "output_logits": True, "output_scores": True, "do_sample": False,
    "max_new_tokens": 3, "min_new_tokens": 3,
}  # fmt: skip


@contextmanager
def replaced(model: Any, heads: Tensor, means: Tensor) -> Iterator[None]:
    """Give the output projections other heads at the last position of each pass."""
    hooks = []
    for (layer, head), mean in zip(heads.tolist(), means, strict=True):

        def change(module: Any, args: Any, head: int = head, mean: Tensor = mean) -> Any:
            given = args[0].clone()
            given[:, -1, head * len(mean) : (head + 1) * len(mean)] = mean
            return (given,)

        projection: Any = decoder_layers(model)[layer].self_attn.o_proj
        hooks.append(projection.register_forward_pre_hook(change))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def prompt(family: str, text: str = "Is there a cat?", seed: int = 0) -> Any:
    return dict(inputs(family, [text], [[image(84, 84, seed=seed)]]))


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3"])
@torch.no_grad()
def test_answers_are_those_of_replaced_heads(family: str, tmp_path: Path) -> None:
    """At the end of the prompt, and at each token behind it; beside a pruner; from a file too."""
    target, plain, batch = build(family)[0], build(family)[0], prompt(family)
    facts = adapter_for(target).facts
    heads = torch.tensor([[0, 1], [2, 0], [2, 3]])
    means = head_outputs(target, prompt(family, "Which one?", 3))[0, heads[:, 0], heads[:, 1]]
    vector = TaskVector(heads, means, facts.decoder)
    vector.save(tmp_path / "task.safetensors")
    with replaced(plain, heads, means):
        wanted = plain.generate(**batch, **DETAILS)
    with TaskVector.load(tmp_path / "task.safetensors").on(target):
        check_answers(target.generate(**batch, **DETAILS), wanted)
    left = target.generate(**batch, **DETAILS)
    assert not torch.allclose(left.logits[0], wanted.logits[0], atol=1e-3)
    for one in (target, plain):
        vtokens.attach(one, "uniform(keep=0.5)")
    with vector.on(target), replaced(plain, heads, means):
        check_answers(target.generate(**batch, **DETAILS), plain.generate(**batch, **DETAILS))


@torch.no_grad()
def test_surprise_is_that_of_replaced_heads() -> None:
    target, plain = build("llava")[0], build("llava")[0]
    facts, batch = adapter_for(target).facts, prompt("llava")
    means = head_outputs(target, prompt("llava", "Which one?", 3))[0]
    chosen = torch.rand(means.shape[:2], generator=torch.Generator().manual_seed(0)) < 0.3
    heads = chosen.nonzero()
    with replaced(plain, heads, means[chosen]):
        logits = plain(**batch).logits[0, -1].double()
    expected = float(logits.exp().sum().log() - logits[7])
    assert surprise(target, facts, batch, 7, heads, means[chosen]) == pytest.approx(expected, abs=1e-4)
    with torch.no_grad():
        none = plain(**batch).logits[0, -1].double().log_softmax(-1)[7]
    assert surprise(target, facts, batch, 7, heads[:0], means[chosen][:0]) == pytest.approx(-float(none), abs=1e-4)


def test_heads_that_carry_a_task_are_found() -> None:
    """Answers are those of a model whose layer 3 was replaced: pressing from that prompt makes them likelier."""
    target, _ = build("llava")
    facts, asked = adapter_for(target).facts, [prompt("llava", seed=seed) for seed in (0, 1)]
    shown = [prompt("llava", "Which one of these?", seed) for seed in (5, 6)]
    with torch.no_grad():
        means = torch.cat([head_outputs(target, batch) for batch in shown]).mean(0)
        every = torch.ones(means.shape[:2], dtype=torch.bool)
        tokens = []
        for batch in asked:
            heads = every.nonzero()
            with TaskVector(heads, means[every], facts.decoder).on(target):
                tokens.append(int(target(**batch).logits[0, -1].argmax()))
    pairs = list(zip(asked, tokens, strict=True))
    found = press(target, shown, pairs, rounds=16, samples=6)
    torch.testing.assert_close(found.means, means[found.heads[:, 0], found.heads[:, 1]])
    with_it, without = (
        sum(surprise(target, facts, batch, token, found.heads[:most], found.means[:most]) for batch, token in pairs)
        for most in (len(found.heads), 0)
    )
    assert len(found.heads) > 0
    assert with_it < without - 0.3
    assert vtokens.attachment(target) is None


def test_what_cannot_be_pressed_is_said(tmp_path: Path) -> None:
    target, _ = build("llava")
    batch = prompt("llava")
    with pytest.raises(ValueError, match="shown has 0: at least 1"):
        press(target, [], [(batch, 1)])
    with pytest.raises(ValueError, match="samples=1 cannot be held against each other"):
        press(target, [batch], [(batch, 1)], samples=1)
    text = {name: batch[name][:, -4:] for name in ("input_ids", "attention_mask")}
    with pytest.raises(ValueError, match="a prompt that is asked has no picture"):
        press(target, [batch], [(text, 1)])
    vector = TaskVector(torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 16), "another")
    with pytest.raises(ValueError, match="of the decoder 'another', and the model's is"), vector.on(target):
        pass
    (tmp_path / "x").write_text("no")
    with pytest.raises(ValueError, match="holds no task vector"):
        TaskVector.load(tmp_path / "x")


def written(folder: Path) -> list[str]:
    """The call that presses nine examples in a folder."""
    rows = []
    for number in range(9):
        picture = vtokens.scenes.examples("test", n=1, kinds=["where"], seed=number)[0].image
        picture.save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "question": "how many objects are there?", "answer": "three"})
    (folder / "few.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    call = ["heads", "press", "scenes-llava", str(folder / "few.jsonl"), "--out", str(folder / "task.safetensors")]
    return [*call, "--prompts", "2", "--shots", "2"]


@pytest.mark.slow
def test_a_task_is_pressed_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*written(tmp_path), "--rounds", "24", "--samples", "4"])
    told = capsys.readouterr().out
    assert re.search(r"of 3 answers left out: [\d.]+ without, [\d.]+ with it", told)
    heads = TaskVector.load(tmp_path / "task.safetensors").heads
    assert len(heads) == len(re.findall(r"\d\.\d", told.splitlines()[0])) > 0


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call, out = written(tmp_path), tmp_path / "task.safetensors"
    assert "no head is likelier than not" in failure(capsys, *call, "--rounds", "1", "--samples", "2")
    assert "9 rows are too few for prompts of 4 examples: 15 are enough" in failure(capsys, *call[:6])
    (tmp_path / "few.jsonl").write_text('{"image": "0.png", "answer": "three"}\n', encoding="utf-8")
    assert "line 1 of" in failure(capsys, *call)
    target, _ = vtokens.load("scenes-llava")
    facts = adapter_for(target).facts
    picture, heads = str(tmp_path / "0.png"), torch.tensor([[0, 0]])
    TaskVector(heads, torch.zeros(1, facts.width // 4), facts.decoder).save(out)
    main(["heads", "ask", "scenes-llava", str(out), picture, "--question", "how many objects are there?"])
    assert "0.png: " in capsys.readouterr().out
