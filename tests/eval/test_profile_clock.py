"""The phase clock: hooks of the test move the clock's hands inside known modules, so every figure is known."""

import pytest
import torch

import vtokens
from tests.families import FAMILIES, build, image, inputs
from vtokens.adapters import adapter_for
from vtokens.core.compat import as_cache, returned_cache
from vtokens.eval.clock import PhaseClock

TOWER, DECODER, HEAD = 100.0, 10.0, 1.0


class Hands:
    """A clock that moves on while the tower, the decoder and the vocabulary head run."""

    def __init__(self, model):
        self.time = 0.0
        multimodal = adapter_for(model).multimodal
        tower = getattr(multimodal, "vision_tower", None) or multimodal.visual
        for module, seconds in ((tower, TOWER), (multimodal.language_model, DECODER), (model.lm_head, HEAD)):
            # First among the hooks, so that the time passes inside what the clock sees.
            module.register_forward_hook(lambda *_, by=seconds: self.move(by), prepend=True)

    def move(self, seconds):
        self.time += seconds

    def __call__(self):
        return self.time


@pytest.fixture(params=FAMILIES)
def timed(request):
    model, processor = build(request.param)
    return model, processor, Hands(model)


def ask(processor, **size):
    return inputs(processor, ["Is there a cat?", "hi"], [[image(84, 112, seed=1)], [image(60, 60, seed=2)]], **size)


def generate(model, batch, tokens):
    return model.generate(**batch, min_new_tokens=tokens, max_new_tokens=tokens, do_sample=False)


@torch.no_grad()
def test_each_phase_gets_the_time_of_its_modules(timed):
    model, processor, hands = timed
    with PhaseClock(model, hands) as clock:
        generate(model, ask(processor), 5)
    phases = clock.phases()
    assert (phases.encode, phases.prefill, phases.decode) == (TOWER, DECODER + HEAD, 4 * (DECODER + HEAD))
    assert phases.tokens == 4
    assert phases.select == 0
    assert phases.first_token == TOWER + DECODER + HEAD


@torch.no_grad()
def test_a_plain_forward_pass_is_encoding_and_prefill(timed):
    model, processor, hands = timed
    with PhaseClock(model, hands) as clock:
        model(**ask(processor))
    phases = clock.phases()
    assert (phases.encode, phases.prefill, phases.decode, phases.tokens) == (TOWER, DECODER + HEAD, 0, 0)


@torch.no_grad()
def test_calls_in_one_block_add_up_and_a_block_starts_anew(timed):
    model, processor, hands = timed
    batch, text = ask(processor), inputs(processor, ["hello there"])
    with PhaseClock(model, hands) as clock:
        generate(model, batch, 3)
        hands.move(1000)  # between the calls: nobody's time
        generate(model, text, 2)
    phases = clock.phases()
    assert (phases.encode, phases.prefill) == (TOWER, 2 * (DECODER + HEAD))
    assert (phases.decode, phases.tokens) == (3 * (DECODER + HEAD), 3)
    with clock:
        generate(model, text, 1)
    assert clock.phases().encode == 0
    assert clock.phases().tokens == 0


@torch.no_grad()
def test_a_picture_in_a_later_turn_is_prefill_again():
    """The cache is filled, but a picture was encoded for the pass."""
    model, processor = build("llava")
    hands = Hands(model)
    first, second = (inputs(processor, ["x"], [[image(56, 56, seed=seed)]]) for seed in (0, 1))
    cache = returned_cache(model(**first, use_cache=True))
    with PhaseClock(model, hands) as clock:
        model(**first, use_cache=True, **as_cache(model, cache))
        model(**second, use_cache=True, **as_cache(model, cache))
    assert clock.phases().encode == 2 * TOWER
    assert clock.phases().tokens == 0


@torch.no_grad()
def test_selection_is_what_the_report_says():
    model, processor = build("llava")
    batch = ask(processor)
    with vtokens.attach(model, "fastv(keep=0.25, layer=2)") as handle, PhaseClock(model) as clock:
        generate(model, batch, 2)
        once = handle.report().select_seconds
        assert clock.phases().select == once > 0
        generate(model, inputs(processor, ["no picture"]), 2)
        assert clock.phases().select == once  # the old record is not counted again
        generate(model, batch, 2)
        assert clock.phases().select == once + handle.report().select_seconds
    assert clock.phases().select > once  # readable after detaching
    assert clock.phases().select < clock.phases().prefill


@torch.no_grad()
def test_hooks_are_gone_whatever_happens(timed):
    model, _, hands = timed

    def hooks():
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]

    before = hooks()
    with PhaseClock(model, hands):
        assert hooks() != before
    assert hooks() == before
    with pytest.raises(ZeroDivisionError), PhaseClock(model, hands):
        raise ZeroDivisionError
    assert hooks() == before


@torch.no_grad()
def test_a_failed_call_leaves_the_next_one_right():
    model, _ = build("llava")
    hands, batch = Hands(model), ask("llava")
    broken = model.model.language_model.layers[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with PhaseClock(model, hands) as clock:
        with pytest.raises(ZeroDivisionError):
            generate(model, batch, 2)
        broken.remove()
        generate(model, batch, 2)
    phases = clock.phases()
    assert (phases.prefill, phases.decode) == (DECODER + HEAD, DECODER + HEAD)


@torch.no_grad()
def test_the_phases_add_up_to_the_call():
    """On the real clock: no more than the call took, and most of it."""
    import time

    model, processor = build("llava")
    batch = ask(processor)
    generate(model, batch, 2)
    begin = time.perf_counter()
    with PhaseClock(model) as clock:
        generate(model, batch, 40)
    took, phases = time.perf_counter() - begin, clock.phases()
    assert 0.5 * took < phases.first_token + phases.decode < took


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="not a transformers model"):
        PhaseClock("llava")


@pytest.mark.gpu
@torch.no_grad()
def test_events_agree_with_the_wall_clock():
    """On CUDA the phases are device time between events; with the device synchronised they cannot exceed the call."""
    import time

    model, processor = build("llava")
    model, batch = model.cuda(), ask(processor).to("cuda")
    generate(model, batch, 2)
    torch.cuda.synchronize()
    begin = time.perf_counter()
    with PhaseClock(model) as clock:
        generate(model, batch, 40)
        phases = clock.phases()
    took = time.perf_counter() - begin
    assert min(phases.encode, phases.prefill, phases.decode) > 0
    assert 0.5 * took < phases.first_token + phases.decode < took
