"""The examples run, show what their docstrings say, and answer as what they are made of does by itself."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import vtokens
from tests.limits import close_pass
from vtokens import scenes

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "examples").glob("*.py"))
SPEC = "todre(keep=0.1)"
OF_OTHERS = ("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
"""What trainers say of their own settings and of each other."""


def answers(spec: str, examples: list[scenes.Example]) -> list[str]:
    model, processor = vtokens.load("scenes-llava", strategy=spec)
    return scenes.answer(model, processor, examples)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_says_what_it_shows_and_how_it_is_run(path: Path) -> None:
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert re.match(r"\S.*[.:]$", said.splitlines()[0])
    assert f"python -m examples.{path.stem}" in said
    assert f"[{path.name}]({path.name})" in (ROOT / "examples" / "README.md").read_text(encoding="utf-8")


def test_one_runs_as_a_script_from_another_folder(tmp_path: Path) -> None:
    """Whatever the name of an example is, it hides no package from what it imports."""
    command = [sys.executable, str(ROOT / "examples" / "streaming.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    example = scenes.examples("test", n=1, kinds=["caption"], seed=1)[0]
    first, second, third = done.stdout.splitlines()
    assert first == f"{example.question} {answers(SPEC, [example])[0]}"
    assert second == f"(right: {example.answer})"
    assert third.startswith("todre: 14.0 of 144 visual tokens")
    assert list(tmp_path.iterdir()) == []


def test_no_name_of_an_example_is_that_of_a_module() -> None:
    """A script's folder comes first where modules are looked for."""
    known = {
        *sys.stdlib_module_names,
        "ray",
        "trl",
        "peft",
        "transformers",
        "torch",
        "vtokens",
        "datasets",
        "tokenizers",
    }
    assert not known & {path.stem for path in FILES}


def test_the_pipeline(capsys: Any) -> None:
    from examples.pipeline import asked

    examples = scenes.examples("test", n=6, kinds=["where", "colour_of", "caption"])
    assert asked(SPEC, examples) == answers(SPEC, examples)
    assert "of 288 visual tokens" in capsys.readouterr().out  # a batch of four, then one of two


@torch.no_grad()
@pytest.mark.parametrize(("spec", "kept"), [("none", 144), ("cls(keep=0.1)", 14)])
def test_a_chat_goes_on_from_what_was_kept(spec: str, kept: int) -> None:
    """Where tokens are chosen by the picture alone, the second answer is that to the whole conversation fed at once."""
    from examples.chat import chat

    model, processor = vtokens.load("scenes-llava", strategy=spec)
    example = scenes.examples("test", n=1, kinds=["where"], seed=6)[0]
    turns = chat(model, processor, example.image, [example.question, "What is at row1 column1?"])
    starts = [turns[0].fed, turns[0].tokens.shape[1] - 1 + turns[1].fed]
    written = [turn.tokens.shape[1] - start for turn, start in zip(turns, starts, strict=True)]
    assert turns[1].fed < 20  # no picture, and of the first turn the one token that its cache has not seen
    assert turns[0].stored == turns[0].fed - 144 + kept + written[0] - 1
    assert turns[1].stored == turns[0].stored + turns[1].fed + written[1] - 1
    pixels = processor(images=example.image, text=scenes.prompt(processor, "x"), return_tensors="pt")["pixel_values"]
    asked = turns[1].tokens[:, : starts[1]]
    whole = model.generate(input_ids=asked, attention_mask=torch.ones_like(asked), pixel_values=pixels, do_sample=False)
    assert torch.equal(whole, turns[1].tokens)


@pytest.mark.filterwarnings(*OF_OTHERS)
def test_fine_tuning(tmp_path: Path) -> None:
    """On held-out questions the loss falls, and what was trained is found again with its strategy."""
    from examples.trainer_sft import train

    model, processor, (before, after) = train(SPEC, 4, str(tmp_path))
    assert after < 0.9 * before
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    vtokens.save_pretrained(SPEC, tmp_path)
    again, _ = vtokens.load(tmp_path)
    assert vtokens.attachment(again).strategy == vtokens.attachment(model).strategy
    examples = scenes.examples("test", n=4, kinds=["count_all"])
    assert scenes.answer(again, processor, examples) == scenes.answer(model, processor, examples)


@torch.no_grad()
def test_labels_are_the_answers_alone() -> None:
    from examples.lora import batch
    from examples.trainer_sft import collator

    _, processor = vtokens.load("scenes-llava", strategy="none")
    examples = scenes.examples("train", n=3, kinds=["where", "count_all", "caption"])
    for made in (collator(processor)(examples), batch(processor, examples)):
        for row, example in zip(made["labels"], examples, strict=True):
            said = processor.decode(row[row != -100])
            assert said.replace(",", " , ").split() == [*example.answer.replace(",", " , ").split(), "<eos>"]


@pytest.mark.filterwarnings(*OF_OTHERS)
def test_grpo() -> None:
    """It samples and trains; what it takes for likelihoods is what the pruned model had when it sampled."""
    pytest.importorskip("trl")
    from examples.grpo import questions, train

    trainer, steps = train("fastv(keep=0.1, layer=2)", 3, samples=4)
    assert len(steps) == 3
    assert any(step["grad_norm"] > 0 for step in steps)
    assert all(0 <= step["reward"] <= 1 and step["completions/mean_length"] <= 8 for step in steps)
    model, processor = trainer.model.eval(), trainer.processing_class
    handle: Any = vtokens.attachment(model)
    rows = questions(4)
    texts = [processor.apply_chat_template(row["prompt"], add_generation_prompt=True) for row in rows]
    how: dict[str, Any] = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
    inputs = processor(images=[[row["image"]] for row in rows], text=texts, **how)
    pictures = {"pixel_values": inputs["pixel_values"], "num_images": [1] * len(rows)}
    how = {"do_sample": False, "max_new_tokens": 4, "output_logits": True, "return_dict_in_generate": True}
    with torch.no_grad():
        out = model.generate(**inputs, **how)
        kept = [sample.pictures[0].kept[-1].tolist() for sample in handle.report().samples]
        ids, length = out.sequences, len(out.logits)
        mask = torch.cat([inputs["attention_mask"], torch.ones(len(rows), length, dtype=torch.long)], dim=1)
        got = trainer._get_per_token_logps_and_entropies(model, ids, mask, length, **pictures)
    assert [sample.pictures[0].kept[-1].tolist() for sample in handle.report().samples] == kept
    logits = torch.stack(out.logits, dim=1) / trainer.temperature
    expected = logits.log_softmax(-1).gather(-1, ids[:, -length:, None])[..., 0]
    close_pass(got[0], expected)


@pytest.mark.filterwarnings(*OF_OTHERS)
def test_grpo_as_trl_has_it_is_refused_with_the_way_out() -> None:
    """TRL checkpoints activations unless it is told not to; the refusal names its setting."""
    model, processor = vtokens.load("scenes-llava", strategy=SPEC)
    model.train()
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    example = scenes.examples("train", n=1, kinds=["where"])[0]
    inputs = processor(images=example.image, text=scenes.prompt(processor, example.question), return_tensors="pt")
    with pytest.raises(ValueError, match="gradient_checkpointing=False"):
        model(**inputs)


@pytest.mark.filterwarnings(*OF_OTHERS)
def test_an_adapter_is_trained_saved_loaded_and_merged(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from examples.lora import adapted, again

    wrapped, processor, losses = adapted(SPEC, 3, str(tmp_path))
    assert losses[-1] != losses[0]
    merged = again(SPEC, str(tmp_path))
    assert type(merged).__name__ == "LlavaForConditionalGeneration"
    assert vtokens.attachment(merged).strategy == "todre"
    example = scenes.examples("test", n=1, kinds=["count_all"])[0]
    inputs = processor(images=example.image, text=scenes.prompt(processor, example.question), return_tensors="pt")
    plain, _ = vtokens.load("scenes-llava", strategy=SPEC)
    with torch.no_grad():
        close_pass(merged(**inputs).logits, wrapped(**inputs).logits)
        assert not torch.allclose(merged(**inputs).logits, plain(**inputs).logits, atol=1e-3)


@pytest.mark.filterwarnings(*OF_OTHERS)
def test_eight_bits() -> None:
    """A quarter of the bytes, and answers that hardly move."""
    pytest.importorskip("bitsandbytes")
    from examples.eight_bits import answered, in_eight_bits

    examples = scenes.examples("test", n=22)
    full, small = answered(SPEC, examples), in_eight_bits(SPEC, examples)
    assert small.bytes < full.bytes / 3
    assert sum(one != other for one, other in zip(full.answers, small.answers, strict=True)) <= 3


@pytest.fixture(scope="module")
def page(tmp_path_factory: Any) -> Iterator[str]:
    """The address of the page, which shows one scene."""
    from examples.comparison_page import Page, server

    folder = tmp_path_factory.mktemp("pictures")
    scenes.examples("test", n=1, kinds=["count_all"])[0].image.save(folder / "a scene.png")
    (folder / "notes.txt").write_text("no picture")
    with server(Page(*vtokens.load("scenes-llava", strategy="none"), folder), 0) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_address[1]}/"
        serving.shutdown()
        thread.join()


def test_the_page(page: str) -> None:
    """Its form, a comparison, and what is wrong said on it, escaped."""

    def asked(**fields: str) -> str:
        with urllib.request.urlopen(f"{page}?{urllib.parse.urlencode(fields)}") as answer:
            return answer.read().decode()

    form = asked()
    assert "<option>a scene.png</option>" in form
    assert "notes.txt" not in form
    assert "http" not in form.replace("https://", "http://").replace("http-equiv", "")
    found = asked(picture="a scene.png", question="Is there a <ring>?", strategies="cls, uniform", keep="0.25, 9")
    assert found.count("<article>") == 5
    assert "<option selected>a scene.png" in found
    assert "<ring>" not in found
    for fields, reason in (
        ({"picture": "../a scene.png"}, "there is no picture"),
        ({"picture": "a scene.png", "strategies": "clss"}, "Did you mean"),
        ({"picture": "a scene.png", "keep": "much"}, "shares or counts"),
        ({"picture": "a scene.png", "keep": "1.5"}, "out of range"),
    ):
        with pytest.raises(urllib.error.HTTPError, match="400") as error:
            asked(**fields)
        assert reason in error.value.read().decode()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{page}other")


@pytest.mark.slow
@pytest.mark.ray_smoke
@pytest.mark.filterwarnings(*OF_OTHERS, "ignore::ResourceWarning")
def test_captions_on_ray(tmp_path: Path) -> None:
    """Each picture's caption is what the model says to it alone, and a file that is no picture says why."""
    ray = pytest.importorskip("ray")
    from examples.ray_captions import captions

    examples = scenes.examples("test", n=3, kinds=["caption"])
    for number, example in enumerate(examples):
        example.image.save(tmp_path / f"{number}.png")
    (tmp_path / "x.png").write_bytes(b"no picture")
    started = not ray.is_initialized()
    if started:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        rows = captions(tmp_path, SPEC, "Describe the image.")
    finally:
        if started:
            ray.shutdown()
    assert [row["name"] for row in rows] == ["0.png", "1.png", "2.png", "x.png"]
    assert [row["answer"] for row in rows[:3]] == answers(SPEC, examples)
    assert [row["kept"] for row in rows[:3]] == [14.0] * 3
    assert "does not open" in rows[3]["refused"]
