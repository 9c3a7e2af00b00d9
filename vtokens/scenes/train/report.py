"""Export of a trained chain as a Hugging Face folder with a measured card: `python -m vtokens.scenes.train.report`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..evaluation import Accuracy, accuracy, answer, evaluate
from ..kinds import KINDS
from ..model import build_model, save
from ..questions import exist_question
from ..sampling import Example, examples
from ..world import CLASSES, PAIRS
from .progress import load
from .stages import STAGES

BATCH = 100  # examples answered at once


def export(chain: Path, folder: Path, stage: str = "partners") -> None:
    """Write the weights that `stage` left in `chain` as model, tokenizer and processor into `folder`."""
    model = build_model(0)
    model.load_state_dict(load(chain / f"{stage}.safetensors"))
    save(model, folder)
    # Readable for everybody: the folder travels inside the package.
    for file in folder.iterdir():
        file.chmod(0o644)


def false_positives(model: Any, processor: Any, kind: str, n: int, split: str = "test") -> dict[str, Accuracy]:
    """How often the model says yes where 'no' is right, over `n` examples of a POPE kind.

    The keys are 'all' and the dose of each pair whose partner was asked about.
    """
    sample = [e for e in examples(split, n, kinds=[kind]) if e.answer == "no"]
    said = [text.startswith("yes") for text in answer(model, processor, sample, BATCH)]
    groups = {"all": said}
    for pair in PAIRS:
        asked = exist_question(pair.partner)
        group = [s for s, e in zip(said, sample, strict=True) if e.question == asked]
        if group:
            groups[f"{pair.dose:.2f}"] = group
    return {k: accuracy(sum(v), len(v)) for k, v in groups.items()}


def _listed(text: str) -> list[str]:
    return [w.strip() for w in text.split(",") if w.strip()]


def chair(
    model: Any, processor: Any, sample: list[Example], named_in: Callable[[str], list[str]] = _listed
) -> tuple[Accuracy, Accuracy]:
    """CHAIR of the captions (Rohrbach et al., 2018): of objects named, and of captions with one, not in the picture.

    named_in: the objects that a caption names; by default what commas separate.
    """
    named = wrong = bad = 0
    for example, text in zip(sample, answer(model, processor, sample, BATCH), strict=True):
        truth = {t.name for t in example.scene.visible}
        objects = named_in(text)
        false = sum(w not in truth for w in objects)
        named, wrong, bad = named + len(objects), wrong + false, bad + (false > 0)
    return accuracy(wrong, max(named, 1)), accuracy(bad, len(sample))


def measure(folder: Path, n: int) -> dict[str, Any]:
    """Everything the card tells, measured with `n` examples a figure through the processor and `generate`, float32."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    found: dict[str, Any] = {}
    for split in ("test", "hard", "decorrelated"):
        count = n if split == "test" else max(1, n // 3)
        found[split] = evaluate(model, processor, examples(split, count * len(KINDS)), BATCH)
    for kind in ("pope_random", "pope_popular", "pope_adversarial"):
        found[kind] = false_positives(model, processor, kind, 2 * n)
    found["removed"] = false_positives(model, processor, "pope_adversarial", 4 * n, "partner-removed")
    found["chair"] = chair(model, processor, examples("test", n, seed=1, kinds=["caption"]))
    found["chair_removed"] = chair(model, processor, examples("partner-removed", n, seed=1, kinds=["caption"]))
    return found


def card(found: dict[str, Any], chain: Path, seeds: str) -> str:
    """The model card as Markdown, from what `measure` found and the notes the stages left."""
    kinds = [*KINDS, "overall"]
    rows = [f"| {k} | " + " | ".join(str(found[s][k]) for s in ("test", "hard", "decorrelated")) + " |" for k in kinds]
    stages = []
    for name in STAGES:
        note = chain / f"{name}.json"
        if note.exists():
            facts = json.loads(note.read_text())
            stages.append(f"| {name} | {facts['minutes']} | {facts['steps']} | {facts['threads']} |")
    doses = [
        f"| {CLASSES[p.trigger]} -> {CLASSES[p.partner]} | {dose} | {found['removed'].get(dose, 'not asked')} |"
        for p, dose in ((p, f"{p.dose:.2f}") for p in PAIRS)
    ]
    pope = [
        f"| {k.removeprefix('pope_')} | {found[k]['all']} |"
        for k in ("pope_random", "pope_popular", "pope_adversarial")
    ]
    text = (Path(__file__).parent / "card.md").read_text()
    fields = {"ACCURACY": rows, "STAGES": stages, "DOSES": doses, "POPE": pope}
    for key, lines in fields.items():
        text = text.replace(f"{{{key}}}", "\n".join(lines))
    for key, (objects, captions) in (("CHAIR", found["chair"]), ("CHAIR_REMOVED", found["chair_removed"])):
        text = text.replace(f"{{{key}}}", f"{objects} of the objects named, {captions} of the captions")
    return text.replace("{SEEDS}", seeds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m vtokens.scenes.train.report", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the folder given to vtokens.scenes.train")
    parser.add_argument("--folder", type=Path, required=True, help="where the model, or only its card, is written")
    parser.add_argument(
        "--stage", choices=list(STAGES)[2:], default="partners", help="the stage whose weights are exported"
    )
    parser.add_argument("--card-only", action="store_true", help="measure what lies in the folder; export nothing")
    parser.add_argument("--examples", type=int, default=300, help="examples a figure")
    parser.add_argument("--seeds", default="One chain was trained, with seed 0.", help="sentence on seeds for the card")
    args = parser.parse_args()
    if not args.card_only:
        export(args.out, args.folder, args.stage)
    (args.folder / "README.md").write_text(card(measure(args.folder, args.examples), args.out, args.seeds))


if __name__ == "__main__":
    main()
