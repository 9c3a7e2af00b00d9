"""Run by test_sharded.py in each of two processes: a tensor-parallel model, of which each has half of the heads."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForImageTextToText
from transformers.distributed import DistributedConfig

import vtokens
from tests.engine.compare import one
from tests.families import build
from tests.limits import close_pass

WHOLE = (
    "none",
    "cls(keep=0.5)",
    "divprune(keep=0.5)",
    "census(keep=0.25)",
    "vcd",
    "dola",
    "vista",
    "divprune(keep=0.5)+vcd",
)
"""What chooses before the decoder, or looks at whole states and logits."""
BY_HEAD = ("fastv(keep=0.5, layer=1)", "vhr", "vaf", "dart(keep=0.5, layer=1)", "pyramiddrop(keep=0.5)")


def logits(model: Any, spec: str, batch: Any) -> torch.Tensor:
    with torch.no_grad(), vtokens.attach(model, spec):
        return model(**batch).logits


def main(folder: str) -> None:
    plain = AutoModelForImageTextToText.from_pretrained(folder)
    plan = DistributedConfig(tp_plan="auto")
    spread = AutoModelForImageTextToText.from_pretrained(folder, distributed_config=plan)
    heads = spread.model.language_model.layers[0].self_attn.q_proj.weight
    assert heads.to_local().shape[0] * 2 == plain.model.language_model.layers[0].self_attn.q_proj.weight.shape[0]
    batch = one("llava")
    for spec in WHOLE:
        close_pass(logits(spread, spec, batch), logits(plain, spec, batch))
    for spec in BY_HEAD:
        with pytest.raises(ValueError, match="looks at the decoder's heads, of which each of 2 processes has some"):
            vtokens.attach(spread, spec)
        assert vtokens.attachment(spread) is None
    with pytest.raises(ValueError, match="looks at the decoder's heads"), vtokens.attach(spread, "none") as handle:
        handle.check("fastv")
    with pytest.raises(ValueError, match="looks at the decoder's heads"):
        vtokens.HallucinationFilter.from_pretrained(spread, build("llava")[1], calibrator=None)


if __name__ == "__main__":
    main(sys.argv[1])
    dist.barrier()
    dist.destroy_process_group()
    print("all right")
