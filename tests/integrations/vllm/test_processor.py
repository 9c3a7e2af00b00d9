"""vLLM's processors with ours in front, without an engine."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integrations.vllm.engines import FOLDER, picture, question

pytest.importorskip("vllm")
pytestmark = pytest.mark.vllm


def processor(name: str, default: Any, **options: Any) -> Any:
    """vLLM's processor of a model, as a server that was started so makes it; None: without us."""
    from vllm.config import ModelConfig
    from vllm.multimodal import MULTIMODAL_REGISTRY
    from vllm.plugins import load_general_plugins
    from vllm.tokenizers import cached_tokenizer_from_config

    load_general_plugins()
    kwargs = None if default is None else {"vtokens": default}
    config = ModelConfig(str(FOLDER / name), dtype="float32", mm_processor_kwargs=kwargs, **options)
    return MULTIMODAL_REGISTRY.create_processor(config, tokenizer=cached_tokenizer_from_config(config))


def fed(made: Any, name: str, own: Any = None) -> tuple[int, str]:
    """Placeholders of one picture, and its hash."""
    from vllm.multimodal.processing import ProcessorInputs, TimingContext

    items = made.info.parse_mm_data({"image": [picture(96, 96, 0)]})
    prompt = made.info.get_tokenizer().encode(question(name), add_special_tokens=False)
    inputs = ProcessorInputs(prompt, items, hf_processor_mm_kwargs={} if own is None else {"vtokens": own})
    result = made.apply(inputs, TimingContext(enabled=False))
    return result["mm_placeholders"]["image"][0].length, result["mm_hashes"]["image"][0]


@pytest.mark.parametrize(("name", "whole"), [("scenes-llava", 144), ("scenes-qwen", 64)])
def test_room_follows_from_tokens_and_budget(name: str, whole: int) -> None:
    made = processor(name, {"strategy": "divprune", "keep": 0.25})
    asked = (None, {"keep": 0.5}, {"keep": 7}, "cls(keep=0.1)", {"strategy": "none"}, "divprune(keep=0.5)")
    found = [fed(made, name, own) for own in asked]
    assert [count for count, _ in found] == [whole // 4, whole // 2, 7, round(whole / 10), whole, whole // 2]
    assert len({key for _, key in found}) == len(found)  # each is another picture to the caches
    dummy = made.get_dummy_mm_inputs({"image": 1})
    assert dummy["mm_placeholders"]["image"][0].length >= whole  # memory is reserved for all of it


@pytest.mark.parametrize("name", ["scenes-llava", "scenes-qwen"])
def test_without_us_at_the_start_nothing_changes(name: str) -> None:
    made = processor(name, None)
    assert fed(made, name)[0] == (144 if name == "scenes-llava" else 64)
    with pytest.raises(ValueError, match="this server was started without it"):
        fed(made, name, "cls")


@pytest.mark.parametrize(
    ("default", "match"),
    [
        ({"strategy": "fastv"}, "drops tokens inside the decoder"),
        ({"strategy": "divprun"}, "Did you mean 'divprune'"),
        ({"strategy": "divprune", "keeep": 0.5}, "Did you mean 'keep'"),
    ],
)
def test_a_default_that_cannot_run_is_refused_at_the_start(default: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        processor("scenes-llava", default)


def test_spread_towers_are_refused_to_those_that_read_them() -> None:
    made = processor("scenes-qwen", {"strategy": "none"}, mm_encoder_tp_mode="data")
    assert fed(made, "scenes-qwen", "divprune(keep=0.5)")[0] == 32
    with pytest.raises(ValueError, match="mm_encoder_tp_mode='data' spreads pictures"):
        fed(made, "scenes-qwen", "cls(keep=0.5)")
