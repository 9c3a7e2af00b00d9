"""`vtokens heads press` and `ask`: examples of a task are pressed into heads, and questions are answered with it."""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtokens.cli.examples import read_examples
from vtokens.cli.loaded import plain_model
from vtokens.cli.options import add_placement, check_file, whole
from vtokens.cli.output import say
from vtokens.core.prompts import chat_text, encode_prompts, question_prompt
from vtokens.loading.hardware import check_device


@dataclass(frozen=True)
class _Example:
    image: Path
    question: str
    answer: str


def add_to(parts: Any) -> None:
    """Add both commands to those of `vtokens heads`."""
    press = parts.add_parser(
        "press",
        help="press examples of a task into heads",
        description="Find the heads that carry a task (multimodal task vectors): what they put out behind examples, in "
        "the mean, is put there while questions without examples are answered. A third of the rows are examples, a "
        "third is asked to find the heads, and with the last third the outcome is tried.",
        epilog="examples:\n  vtokens heads press llava-hf/llava-1.5-7b-hf birds.jsonl --out birds.safetensors\n\n"
        'each line of birds.jsonl: {"image": "1.jpg", "question": "Which bird is this?", "answer": "a wren"}\n',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    press.add_argument("model", help="an embedded model, a folder or a hub id")
    press.add_argument("examples", help="JSON lines with image, question and answer; images are found beside it")
    press.add_argument("--out", required=True, help="the safetensors file to write")
    press.add_argument("--shots", type=whole(), default=4, metavar="N", help="examples in a prompt (%(default)s)")
    press.add_argument("--prompts", type=whole(), default=50, metavar="N", help="prompts averaged over (%(default)s)")
    press.add_argument("--rounds", type=whole(), default=600, metavar="N", help="rounds of the search (%(default)s)")
    press.add_argument("--samples", type=whole(2), default=8, metavar="N", help="choices held together (%(default)s)")
    press.add_argument("--seed", type=whole(0), default=0, help="of what is drawn (%(default)s)")
    add_placement(press)
    press.set_defaults(run=_press)
    ask = parts.add_parser("ask", help="answer a question with a task vector", description="Answer with a task vector.")
    ask.add_argument("model", help="the model that it was pressed from")
    ask.add_argument("vector", help="the file that `vtokens heads press` wrote")
    ask.add_argument("pictures", nargs="+", help="pictures, each asked about by itself")
    ask.add_argument("--question", required=True, help="what to ask about each")
    ask.add_argument("--max-new-tokens", type=whole(), default=64, metavar="N", help="of an answer (%(default)s)")
    add_placement(ask)
    ask.set_defaults(run=_ask)


def _press(options: argparse.Namespace) -> None:
    from vtokens.adapters import adapter_for
    from vtokens.calibrate.tasks import press, surprise

    check_file(options.out, "--out", options.examples)
    rows = list(_read(Path(options.examples)))
    shown, asked, tried = rows[::3], rows[1::3], rows[2::3]
    if len(shown) <= options.shots or not tried:
        least = 3 * (options.shots + 1)
        raise ValueError(f"{len(rows)} rows are too few for prompts of {options.shots} examples: {least} are enough")
    model, processor = plain_model(options.model, options.dtype, check_device(options.device))
    drawn = random.Random(options.seed)
    picked = [drawn.sample(shown, options.shots + 1) for _ in range(options.prompts)]
    prompts = [_encoded(processor, one, model.device)[0] for one in picked]
    pairs = [_encoded(processor, [one], model.device) for one in asked]
    found = press(model, prompts, pairs, options.rounds, options.samples, options.seed)
    found.save(options.out)
    facts = adapter_for(model).facts
    say(f"{len(rows)} rows; heads (layer.head): {', '.join(f'{layer}.{head}' for layer, head in found.heads.tolist())}")
    left = [_encoded(processor, [one], model.device) for one in tried]
    without, behind = (
        sum(surprise(model, facts, *one, found.heads[:count], found.means[:count]) for one in left) / len(left)
        for count in (0, len(found.heads))
    )
    say(
        f"cross-entropy of the first token of {len(left)} answers left out: {without:.2f} without, {behind:.2f} with it"
    )
    say(f"written to {options.out}; use it with `vtokens heads ask {options.model} {options.out} PICTURES --question`")


def _ask(options: argparse.Namespace) -> None:
    from vtokens.calibrate.tasks import TaskVector
    from vtokens.core.images import open_image

    vector = TaskVector.load(options.vector)
    model, processor = plain_model(options.model, options.dtype, check_device(options.device))
    prompt = question_prompt(processor, options.question)
    for name in options.pictures:
        inputs = encode_prompts(processor, [prompt], [[open_image(Path(name))]]).to(model.device)
        with vector.on(model):
            output = model.generate(**inputs, do_sample=False, max_new_tokens=options.max_new_tokens)
        tokenizer = getattr(processor, "tokenizer", processor)
        [text] = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        say(f"{name}: {text.strip()}")


def _encoded(processor: Any, rows: Sequence[_Example], device: Any) -> tuple[dict[str, Any], int]:
    """The prompt that asks about the last row behind the others and their answers, and the answer's first token."""
    from vtokens.core.images import open_image

    turns: list[dict[str, Any]] = []
    for row in rows:
        content = [{"type": "image"}, {"type": "text", "text": row.question}]
        turns += [
            {"role": "user", "content": content},
            {"role": "assistant", "content": [{"type": "text", "text": row.answer}]},
        ]
    text, pictures = chat_text(processor, turns[:-1]), [[open_image(row.image) for row in rows]]
    answered = f"{text}{'' if text[-1:].isspace() else ' '}{rows[-1].answer}"
    prompt, whole = (encode_prompts(processor, [one], pictures) for one in (text, answered))
    token = int(whole["input_ids"][0, min(prompt["input_ids"].shape[1], whole["input_ids"].shape[1] - 1)])
    return dict(prompt.to(device)), token


def _read(path: Path) -> Iterator[_Example]:
    allowed = {"image": "1.jpg", "question": "Which bird is this?", "answer": "a wren"}
    for row in read_examples(path, "an image, a question or an answer", allowed):
        yield _Example(path.parent / row["image"], row["question"], row["answer"])
