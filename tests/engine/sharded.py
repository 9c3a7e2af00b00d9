"""Run by test_sharded.py in a process of its own: models in shards, in a process group of one.

With one process a shard holds everything, but parameters are DTensors all the same, and what cannot read those fails.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import vtokens
from tests.engine.cases import model as whole_model
from tests.engine.compare import one
from tests.families import build
from tests.limits import close_pass
from vtokens.adapters import adapter_for
from vtokens.filter.guarantees.setting import fingerprint
from vtokens.tables.thresholds import Table, TargetThresholds

SPECS = ("none", "random(keep=0.5)", "cls(keep=0.5)+fastv(keep=0.5, layer=1)", "todre(keep=0.5)", "vhr", "vcd")


def by_layer(model: Any, parts: tuple[str, ...] = ()) -> None:
    """As accelerate's FSDP2 does: each decoder layer, its parts if asked for, then the rest."""
    mesh = init_device_mesh("cpu", (1,))
    for layer in model.model.language_model.layers:
        for part in parts:
            fully_shard(getattr(layer, part), mesh=mesh)
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def in_parallel(model: Any) -> None:
    """Tensor parallel: columns of the first matrices, rows of the last ones; the patch embedding in shards too."""
    mesh = init_device_mesh("cpu", (1,))
    for layer in model.model.language_model.layers:
        plan = {name: ColwiseParallel() for name in ("q_proj", "k_proj", "v_proj")}
        parallelize_module(layer.self_attn, mesh, {**plan, "o_proj": RowwiseParallel()})
    fully_shard(adapter_for(model).tower.module.embeddings, mesh=mesh)


def main(folder: Path) -> None:
    plain, batch = whole_model("llava", "plain"), one("llava")
    facts = adapter_for(plain).facts
    table = folder / "thresholds.json"
    Table(facts.tower, facts.tower_sample, "made up", (TargetThresholds(0.5, 0.5, (0.25,), (0.4, 0.4)),)).save(table)
    ways = (by_layer, partial(by_layer, parts=("self_attn", "mlp")), in_parallel)
    for shard, attention in zip(ways, ("sdpa", "eager", "sdpa"), strict=True):
        model = build("llava", attn_implementation=attention)[0]
        shard(model)
        assert any(isinstance(parameter, DTensor) for parameter in model.parameters())
        for spec in (*SPECS, f"dymu(thresholds={str(table)!r})"):
            with torch.no_grad(), vtokens.attach(model, spec):
                got = model(**batch).logits
            with torch.no_grad(), vtokens.attach(plain, spec):
                expected = plain(**batch).logits
            close_pass(got, expected)
        with pytest.raises(ValueError, match="its weights are in shards"):
            vtokens.attach(model, "only")
        assert fingerprint(model) == fingerprint(plain)
        other = Table(
            facts.tower,
            tuple(value + 1 for value in facts.tower_sample),
            "another",
            (TargetThresholds(0.5, 0.5, (0.2,), (0.4,)),),
        )
        other.save(folder / "other.json")
        with pytest.raises(ValueError, match="other weights than this one's"):
            vtokens.attach(model, f"dymu(thresholds={str(folder / 'other.json')!r})")


if __name__ == "__main__":
    where = Path(sys.argv[1])
    dist.init_process_group("gloo", store=dist.FileStore(str(where / "store"), 1), rank=0, world_size=1)
    main(where)
    dist.destroy_process_group()
    print("all right")
