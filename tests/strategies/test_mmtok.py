"""`mmtok` against its definition in float64, the worked example, and its limits."""

import numpy as np
import pytest
import torch

import vtokens
from tests.families import image, inputs
from tests.strategies import invariants
from tests.strategies.helpers import pair
from tests.strategies.invariants import Shown, drawn, numbers, phi, picks


def spread(rows: np.ndarray, temperature: float) -> np.ndarray:
    out = np.exp((rows - rows.max(1, keepdims=True)) / temperature)
    return out / out.sum(1, keepdims=True)


def naive(picture: Shown, count: int, alpha: float = 0.5, states: np.ndarray | None = None) -> list[int]:
    """Greedy maximum coverage by loops over rows and candidates; tokens are compared by `states`, or as they are."""
    unit, text = numbers(picture)[0], picture.text.double().numpy()
    text = text / np.linalg.norm(text, axis=1, keepdims=True)
    own = unit if states is None else states / np.linalg.norm(states, axis=1, keepdims=True)
    share = [*(spread(text @ unit.T, 0.02) / len(text)), *(alpha * spread(own @ own.T, 0.2) / len(unit))]
    chosen: list[int] = []
    while len(chosen) < count:
        rest = [one for one in range(len(unit)) if one not in chosen]
        covered = {one: sum(max(row[other] for other in [*chosen, one]) for row in share) for one in rest}
        chosen.append(max(rest, key=covered.__getitem__))
    return chosen


def test_the_worked_example() -> None:
    """Phi with one word at 85 degrees: 2, which is as like the word as 3 and earlier, then 5, then 0."""
    orders = [set(picks(f"mmtok(keep={count})", phi())[0]) for count in (2, 3)]
    assert orders[1] == {2, 5, 0}
    assert orders[0] == {2, 5}


@pytest.mark.parametrize("alpha", [0.0, 0.5, 3.0])
def test_it_is_the_greedy_loop(alpha: float) -> None:
    for seed in range(3):
        picture = drawn(seed, 21)
        assert picks(f"mmtok(keep=4, alpha={alpha})", picture) == [sorted(naive(picture, 4, alpha))]


@torch.no_grad()
def test_tokens_are_compared_as_the_tower_has_them() -> None:
    """`features=tower`: by the rows that LLaVA's projector is given, which are not what it makes of them."""
    model, processor = pair("llava")
    batch = inputs(processor, ["<image> what is this?", "a <image> b"], [[image(56, 56, seed=s)] for s in (3, 4)])
    given: list[torch.Tensor] = []
    hook = model.model.multi_modal_projector.register_forward_pre_hook(lambda m, args: given.append(args[0]))
    with vtokens.attach(model, "mmtok(keep=5, features=tower)") as handle:
        model(**batch)
        kept = [row.pictures[0].kept[0].tolist() for row in handle.report().samples]
    hook.remove()
    features = model.model.get_image_features(batch["pixel_values"], return_dict=True).pooler_output
    embeds, token, differs = model.get_input_embeddings()(batch["input_ids"]), model.config.image_token_id, 0
    for row, (states, tokens) in enumerate(zip(given[0], features, strict=True)):
        place = int((batch["input_ids"][row] == token).nonzero()[-1])
        picture = Shown(tokens, text=embeds[row, place + 1 :])
        assert kept[row] == sorted(naive(picture, 5, states=states.double().numpy()))
        differs += kept[row] != sorted(naive(picture, 5))
    assert differs


def test_the_words_alone_pick_what_they_mean() -> None:
    """alpha=0 and one word: its nearest token, by cosine."""
    picture = drawn(7, 30)
    one = Shown(picture.tokens, text=picture.text[:1])
    nearest = int(torch.cosine_similarity(picture.tokens, picture.text[:1], dim=-1).argmax())
    assert picks("mmtok(keep=1, alpha=0.0)", one) == [[nearest]]


@pytest.mark.parametrize("setting", ["alpha=-1.0", "text_temperature=0.0", "visual_temperature=-2.0"])
def test_settings_that_make_no_sense_are_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=setting.partition("=")[0]):
        vtokens.attach(pair("llava")[0], f"mmtok({setting})")


def test_invariants() -> None:
    invariants.hold("mmtok(keep=5)")
    invariants.keeps_all("mmtok")
