"""The recipe `dyfo`: a tree worked by hand, answers' probabilities of a plain forward, and the passes it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import vtokens
from tests.recipes.looking import QUESTION, answered, made, picture, prompted
from vtokens.recipes import dyfo
from vtokens.recipes.looking.dyfo import Node, grown, marks, search, vote

ROOT, A, B, A1, B1 = (0, 0, 8, 8), (0, 0, 4, 4), (4, 4, 8, 8), (0, 0, 2, 2), (4, 4, 6, 6)
TREE = {ROOT: [A, B], A: [A1], B: [B1], A1: [], B1: []}
SAID = {ROOT: ("no", 0.5), A: ("yes", 0.4), B: ("Yes", 0.6), A1: ("no", 0.2), B1: ("maybe", 0.7)}


def test_a_tree_worked_by_hand() -> None:
    """Rollouts: A; B; then UCT without exploring takes B (0.6 over 0.4), so B1; B again, whose B1 ends the way; ...

    With explore=0 after B1 (0.7) B has (0.6 + 0.7) / 2 = 0.65; the way ends at B1, 0.7 once more. A is never opened.
    """
    visited = search(ROOT, lambda box: TREE[box], lambda box: SAID[box], 4, 0.0)
    assert [one.box for one in visited] == [ROOT, A, B, B1]
    root, a, b, b1 = visited
    assert (a.visits, a.total, b.visits, b1.visits, root.visits) == (1, 0.4, 3, 2, 5)
    assert b.total == pytest.approx(0.6 + 0.7 + 0.7)
    assert root.total == pytest.approx(0.5 + 0.4 + 0.6 + 0.7 + 0.7)
    # "yes" and "Yes" add up to 1.0, "no" has 0.5 and "maybe" 0.7; the surer of both is shown.
    assert vote(visited).box == B
    # Exploring much, what was visited less comes first: behind A and B either has its child opened.
    curious = search(ROOT, lambda box: TREE[box], lambda box: SAID[box], 4, 10.0)
    assert {one.box for one in curious} == {*TREE}
    assert root.worth(b, 0.3) == pytest.approx(2.0 / 3 + 0.3 * math.sqrt(math.log(5) / 3))


def test_a_cutting_that_two_nodes_propose_is_asked_about_once() -> None:
    """A and B both mark the same window: it has one vote, and none goes to the root or to a cutting known before."""
    both = (2, 2, 6, 6)
    tree = {ROOT: [A, B, A], A: [both, ROOT], B: [both, A], both: [B]}
    asked: list[tuple[int, int, int, int]] = []

    def judge(box: tuple[int, int, int, int]) -> tuple[str, float]:
        asked.append(box)
        return "yes", 0.5

    visited = search(ROOT, lambda box: tree[box], judge, 8, 10.0)
    assert sorted(asked) == sorted({*tree})
    assert [one.box for one in visited] == asked


def test_a_vote_of_one_and_of_equals() -> None:
    assert vote([Node(ROOT, "a", 0.3)]).text == "a"
    assert vote([Node(ROOT, "a", 0.3), Node(A, "b", 0.3)]).text == "a"


def test_windows_are_marked_where_most_is_left() -> None:
    attention = np.zeros((6, 6))
    attention[0, 0], attention[5, 5], attention[5, 0] = 5.0, 3.0, 1.0
    assert marks(attention, 0.5, 3) == [(0, 0, 3, 3), (3, 3, 6, 6), (0, 3, 3, 6)]
    assert marks(np.ones((1, 5)), 0.5, 1) == [(0, 0, 2, 1)]
    assert grown((4, 4, 8, 8), (0, 0, 9, 20)) == (3, 3, 9, 9)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_it_asks_as_often_as_it_says_and_is_as_sure_as_a_forward(family: str) -> None:
    """One pass for the picture, one a rollout, two for each cutting that was looked into; no more than promised."""
    model, processor = made(family)
    shown = picture()
    got = answered(dyfo, model, processor, shown, rollouts=3, width=1, max_new_tokens=3)
    assert got.passes <= 1 + 3 * 3
    assert len(got.notes["votes"]) == 4
    assert len({box for box, _, _ in got.notes["votes"]}) == 4
    for box, text, reward in got.notes["votes"]:
        whole = box == got.notes["votes"][0][0]
        inputs = prompted(processor, QUESTION, *([shown] if whole else [shown, shown.crop(box)]))
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=3)
        start = inputs["input_ids"].shape[1]
        fed = {**inputs, "input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        if "mm_token_type_ids" in fed:
            fed["mm_token_type_ids"] = torch.nn.functional.pad(fed["mm_token_type_ids"], (0, tokens.shape[1] - start))
        with torch.no_grad():
            logs = model(**fed).logits[0, start - 1 : -1].double().log_softmax(-1)
        expected = logs.gather(1, tokens[0, start:, None]).mean().exp().item()
        assert reward == pytest.approx(expected, rel=1e-4)
        assert processor.tokenizer.decode(tokens[0, start:], skip_special_tokens=True).strip() == text
    sums: dict[str, float] = {}
    for _, text, reward in got.notes["votes"]:
        sums[text.casefold()] = sums.get(text.casefold(), 0) + reward
    assert sums[got.text.casefold()] == max(sums.values())


def test_a_pruner_acts_in_answers_alone() -> None:
    model, processor = made("llava")
    plain = dyfo(model, processor, picture(), QUESTION, rollouts=1, max_new_tokens=2)
    with vtokens.attach(model, "cls(keep=0.25)"):
        got = dyfo(model, processor, picture(), QUESTION, rollouts=1, max_new_tokens=2)
    assert [one[0] for one in got.notes["votes"]] == [one[0] for one in plain.notes["votes"]]
    assert got.flops < got.flops_full == plain.flops


def test_what_is_out_of_range_is_said() -> None:
    model, processor = made("llava")
    for more, says in (({"rollouts": 0}, "at least 1"), ({"zoom": 2.0}, r"\[0, 1\]"), ({"layer": 7}, "nearest")):
        with pytest.raises(ValueError, match=says):
            dyfo(model, processor, picture(), QUESTION, **more)
