"""The code of docs/kernels.md runs, and the page names every function there is."""

import re
from pathlib import Path

import torch
from torch.nn.functional import scaled_dot_product_attention

from vtokens import kernels

PAGE = (Path(__file__).parents[2] / "docs" / "kernels.md").read_text(encoding="utf-8")


def test_the_examples_run_and_say_what_they_do() -> None:
    """Run as one script; each result is what its comment promises."""
    space: dict = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)), space)
    query, key, value = (space[name] for name in ("query", "key", "value"))
    torch.testing.assert_close(space["score"].sum(1), torch.tensor([64.0]), rtol=0, atol=1e-3)
    assert space["output"].shape == (1, 8, 64, 64)
    whole = scaled_dot_product_attention(query, key, value, enable_gqa=True)
    outputs, sums = space["outputs"], space["sums"]
    torch.testing.assert_close(kernels.reweigh(outputs, kernels.group_weights(sums)), whole, rtol=0, atol=5e-6)
    mask = space["visit"].repeat_interleave(64, 0).repeat_interleave(64, 1).tril()
    banded = scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(space["sparse"], banded, rtol=0, atol=5e-6)
    assert space["kept"].sum(1).tolist() == [57, 57, 57]
    assert space["new"].shape == (2, 8, 1, 64)


def test_the_table_names_functions_that_exist() -> None:
    """Nothing is named in the first table that the package does not have."""
    table = PAGE.split("Which version runs")[0]
    named = {name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert len(named) >= 12
    assert named <= set(kernels.__all__)
