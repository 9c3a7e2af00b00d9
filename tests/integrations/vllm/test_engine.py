"""vLLM with the plugin answers what transformers answers with the same strategy attached.

Token by token, and with the same log-probabilities: each is of all that was fed and where it stood.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.integrations.vllm.engines import Asked, answers, engine, picture, question, reference

pytest.importorskip("vllm")
pytestmark = pytest.mark.vllm

DEFAULT = {"strategy": "divprune", "keep": 0.25}
SPECS = (
    "divprune(keep=0.1)", "divprune(keep=0.5)", "random(keep=0.3)", "apet(keep=0.3, layer=0)", "cls(keep=0.25)",
    "visionzip(keep=20)", "vispruner(keep=0.3)", "hiprune(keep=0.3)", "scope(keep=0.2)", "prunesid(keep=0.2)",
    "idselection(keep=0.2)", "scans(keep=0.3)", "random(keep=0.5)+cls(keep=0.5, of=original)", "cls(keep=1)",
)  # fmt: skip
MODELS = ("scenes-llava", "scenes-qwen", "tiny-qwen3")
SIZES = {
    "scenes-llava": ((96, 96), (96, 96)),
    "scenes-qwen": ((96, 96), (144, 72)),
    "tiny-qwen3": ((168, 168), (196, 112)),
}


@pytest.fixture(scope="module", params=MODELS)
def served(request: Any) -> Iterator[tuple[str, Any]]:
    """A model, and vLLM that serves it."""
    with engine(request.param, DEFAULT) as llm:
        yield request.param, llm


def attached(name: str, spec: str) -> str:
    """What `attach` is told: vLLM numbers the tokens of LLaVA one after the other."""
    if name != "scenes-llava" or spec == "none":
        return spec
    return "+".join(f"{one[:-1]}, positions=compact)" for one in spec.split("+"))


def same(got: Any, expected: Any) -> None:
    assert (got.tokens, got.fed) == (expected.tokens, expected.fed)
    assert got.likely == pytest.approx(expected.likely, abs=2e-4)


def test_budgets_and_strategies_of_one_batch(served: tuple[str, Any]) -> None:
    """Each as alone, one picture or two, and prompts without any beside them."""
    name, llm = served
    one, two = (picture(*size, seed) for seed, size in enumerate(SIZES[name]))
    asked = [Asked(question(name), [one]), Asked(question(name), [two], {"keep": 0.5}), Asked(question(name, 0))]
    specs = ["divprune(keep=0.25)", "divprune(keep=0.5)", "none"]
    asked += [Asked(question(name), [one], {"strategy": "none"}), Asked(question(name, 2), [one, two])]
    specs += ["none", "divprune(keep=0.25)"]
    for number, spec in enumerate(SPECS):
        pictures = [[one], [two], [two, one]][number % 3]
        asked.append(Asked(question(name, len(pictures)), pictures, spec))
        specs.append(spec)
    for case, spec, got in zip(asked, specs, answers(llm, asked), strict=True):
        same(got, reference(name, case, attached(name, spec)))


def test_caches_know_budgets_apart(served: tuple[str, Any]) -> None:
    """The same picture under another budget is not what is cached of the first; under the same one it is."""
    name, llm = served
    seen = picture(*SIZES[name][0], 7)
    found = {}
    for keep in (0.75, 0.5, 0.75):
        (got,) = answers(llm, [Asked(question(name), [seen], {"strategy": "divprune", "keep": keep})])
        same(got, reference(name, Asked(question(name), [seen]), attached(name, f"divprune(keep={keep})")))
        assert (got.cached > 16) == (keep in found)
        found[keep] = got
    assert found[0.75].fed > found[0.5].fed


def test_what_cannot_run_is_refused_and_the_engine_goes_on(served: tuple[str, Any]) -> None:
    name, llm = served
    shown = [picture(*SIZES[name][0], 3)]
    for strategy, match in (
        ("fastv", "drops tokens inside the decoder"),
        ({"strategy": "cdpruner"}, "before the prompt is known"),
        ({"strategy": "clss"}, "Did you mean 'cls'"),
        ({"strategi": "cls"}, "Did you mean 'strategy'"),
        ({"keep": 1000}, "keep=1000 asks for more than the"),
        ({"keep": 0.0}, "keep=0.0 is out of range"),
    ):
        with pytest.raises((ValueError, TypeError), match=match):
            answers(llm, [Asked(question(name), shown, strategy)])
    (got,) = answers(llm, [Asked(question(name), shown)])
    same(got, reference(name, Asked(question(name), shown), attached(name, "divprune(keep=0.25)")))
