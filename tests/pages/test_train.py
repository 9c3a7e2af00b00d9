"""What docs/train.md says of several processes: each prunes its own samples, and gradients are those of one process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import vtokens
from tests.families import build, image, inputs
from tests.limits import close_pass

SPEC = "divprune(keep=0.5)+fastv(keep=0.5, layer=1)"


def sample(number: int) -> dict[str, Any]:
    """A prompt with a picture, its last four tokens labelled."""
    processor = build("llava")[1]
    batch = dict(inputs(processor, ["what is <image> this here?"], [[image(84, 84, seed=number)]]))
    place = torch.arange(batch["input_ids"].shape[1])
    return {**batch, "labels": batch["input_ids"].masked_fill(place < len(place) - 4, -100)}


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", 2), rank=rank, world_size=2)
    wrapped = DistributedDataParallel(build("llava")[0].train(), find_unused_parameters=True)
    with vtokens.attach(wrapped, SPEC) as handle:
        wrapped(**sample(rank)).loss.backward()
        kept = handle.report().samples[0].positions[-1].tolist()
    grads = {name: part.grad for name, part in wrapped.module.named_parameters() if part.grad is not None}
    torch.save({"kept": kept, "grads": grads}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="gloo by a file")
def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    mp.spawn(worker, (str(tmp_path),), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert found[0]["kept"] != found[1]["kept"]  # other pictures, other tokens
    model = build("llava")[0].train()
    with vtokens.attach(model, SPEC) as handle:
        for rank in range(2):
            (model(**sample(rank)).loss / 2).backward()
            assert handle.report().samples[0].positions[-1].tolist() == found[rank]["kept"]
    reached = 0
    for name, part in model.named_parameters():
        if part.grad is None:
            continue
        for rank in range(2):
            close_pass(found[rank]["grads"][name], part.grad, passes=2, size=float(part.grad.abs().max()))
        reached += bool(part.grad.any())
    assert reached > 20
