"""What kvpress makes of the prompts of benchmarks/peers.py, which runs this beside the releases that kvpress takes.

python benchmarks/peers_kvpress.py FOLDER   # reads FOLDER/job.json, writes FOLDER/answers.json and FOLDER/times.json

Here is no vtokens but its clock. A press removes cache entries of what is read under it, once it has been read.
`before` reads up to the picture's last token under the press and the question after it, as kvpress' own pipeline does;
`with` reads the question under it too, all but the prompt's last token.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import kvpress
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, DynamicCache, LlavaForConditionalGeneration

from vtokens.core.timing import Clock, peak_bytes, rounds, summary

PRESSES: dict[str, tuple[str, Callable[[float, int], Any]]] = {
    "RandomPress": ("before", lambda share, words: kvpress.RandomPress(share, seed=0)),
    "KnormPress": ("before", lambda share, words: kvpress.KnormPress(share)),
    "KeyDiffPress": ("before", lambda share, words: kvpress.KeyDiffPress(share)),
    "ExpectedAttentionPress": ("before", lambda share, words: kvpress.ExpectedAttentionPress(share)),
    "SnapKVPress": ("with", lambda share, words: kvpress.SnapKVPress(share, window_size=words)),
    "TOVAPress": ("with", lambda share, words: kvpress.TOVAPress(share)),
}
"""Name -> what it is applied to, and the press for a share to remove and so many words after the picture."""
PLAIN = "none"


class Prompt:
    """A batch of prompts of one length, with pictures at the same place.

    Args:
        model: the LLaVA.
        tensors: input_ids (B, L) and pixel_values.
        where: how many tokens there are up to the picture's last one.
        visual: visual tokens of the picture.
    """

    def __init__(self, model: Any, tensors: dict[str, torch.Tensor], where: int, visual: int) -> None:
        self.model, self.ids, self.pixels = model, tensors["input_ids"], tensors["pixel_values"]
        self.where, self.visual, self.length = where, visual, self.ids.shape[1]

    def read(self, name: str, kept: int) -> Iterator[torch.Tensor]:
        """Greedy tokens (B,) without an end, from a cache with as many entries as `kept` visual tokens leave."""
        self.cache = DynamicCache(config=self.model.config.get_text_config())
        to, press = self.where, nullcontext()
        if name != PLAIN:
            stage, made = PRESSES[name]
            to = self.where if stage == "before" else self.length - 1
            left = to - self.visual + kept
            press = made(1 - (left + 0.5) / to, self.length - 1 - self.where)(self.model)
        with press:
            self.model.model(input_ids=self.ids[:, :to], pixel_values=self.pixels, past_key_values=self.cache)
        ids, at = self.ids[:, to:], torch.arange(to, self.length)[None]
        while True:
            out = self.model(input_ids=ids, past_key_values=self.cache, position_ids=at, logits_to_keep=1)
            token = out.logits[:, -1].argmax(-1)
            yield token
            ids, at = token[:, None], at[:, -1:] + 1

    def answers(self, name: str, kept: int, longest: int, end: int) -> list[list[int]]:
        """The tokens of each row up to the end."""
        found, open_ = [], torch.ones(len(self.ids), dtype=torch.bool)
        for number, token in enumerate(self.read(name, kept), 1):
            found.append(token)
            open_ &= token != end
            if number == longest or not open_.any():
                break
        rows = torch.stack(found, 1).tolist()
        return [row[: row.index(end)] if end in row else row for row in rows]

    def held_bytes(self) -> int:
        """Bytes of keys and values in the cache of the last reading."""
        return sum(one.nbytes for layer in self.cache.layers for one in (layer.keys, layer.values))


def answers(job: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """A row a press and keep: the answers of all questions, batch by batch."""
    model = load(job["model"])
    tensors = load_file(folder / "prompts.safetensors")
    rows = []
    for name in (PLAIN, *PRESSES):
        for kept in job["kept"] if name != PLAIN else [job["visual"]]:
            texts: dict[int, list[int]] = {}
            for batch in job["batches"]:
                part = {key: tensors[f"{batch['name']}.{key}"] for key in ("input_ids", "pixel_values")}
                prompt = Prompt(model, part, job["where"], job["visual"])
                told = prompt.answers(name, kept, job["longest"], job["end"])
                texts |= dict(zip(batch["numbers"], told, strict=True))
            rows.append({"method": name, "kept": kept, "tokens": [texts[number] for number in sorted(texts)]})
    return rows


def times(job: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """A row a press and keep of one prompt: seconds to the first token and of a step, bytes."""
    model = load(job["model"])
    prompt = Prompt(model, load_file(folder / "timed.safetensors"), job["where"], job["visual"])
    clock = Clock(torch.device("cpu"), 1)

    def timed(name: str, kept: int) -> tuple[float, float, int]:
        begun, tokens = clock.now(), prompt.read(name, kept)
        next(tokens)
        first, held = clock.now(), prompt.held_bytes()
        for _ in range(job["steps"]):
            next(tokens)
        return first - begun, (clock.now() - first) / job["steps"], held

    cells = [(PLAIN, job["visual"]), *((name, kept) for name in PRESSES for kept in job["kept"])]
    taken = rounds({f"{name}@{kept}": lambda n=name, k=kept: timed(n, k) for name, kept in cells}, job["rounds"])
    rows = []
    for name, kept in cells:
        first, step, held = zip(*taken[f"{name}@{kept}"], strict=True)
        plain = [one[0] for one in taken[f"{PLAIN}@{job['visual']}"]]
        row = {"method": name, "kept": kept, "seconds": summary(list(first)), "step_seconds": summary(list(step))}
        row["over_plain"] = summary([a / b for a, b in zip(first, plain, strict=True)])
        del prompt.cache  # or what it held would count as given back
        peak = peak_bytes(lambda n=name, k=kept: next(prompt.read(n, k)), torch.device("cpu"))
        rows.append(row | {"kv_bytes": held[0], "peak_bytes": peak})
    return rows


def load(folder: str) -> Any:
    """The model, in float32, of weights by the names of a later transformers, where the tower is one level less."""
    model = LlavaForConditionalGeneration(AutoConfig.from_pretrained(folder, attn_implementation="sdpa"))
    tower, later = "model.vision_tower.vision_model.", "model.vision_tower."
    state = load_file(Path(folder) / "weights.safetensors")
    model.load_state_dict({name.replace(later, tower): part for name, part in state.items()})
    return model.float().eval()


def main() -> None:
    """Both, as far as the job says."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    logging.getLogger("kvpress").setLevel(logging.ERROR)  # it says each time that it was not tested on LLaVA
    with torch.no_grad():
        for name, part in (("answers", answers), ("times", times)):
            job = json.loads((folder / "job.json").read_text(encoding="utf-8")).get(name)
            if job:
                (folder / f"{name}.json").write_text(json.dumps(part(job, folder)), encoding="utf-8")


if __name__ == "__main__":
    main()
