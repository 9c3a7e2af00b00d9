"""Jobs of mixed strategies and settings through the batcher: each answers as it does alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import vtokens
from tests.limits import close_pass
from tests.serve.common import Heard, alone, answers, greedy, held, job, loaded, prompt, questions, sampled
from vtokens.core.prompts import encode_prompts, question_prompt
from vtokens.scenes import clips
from vtokens.serve.batcher import Batcher
from vtokens.serve.jobs import Job
from vtokens.strategies import format_spec
from vtokens.video.clip import arguments

STRATEGIES = (
    "none", "cls(keep=0.25)", "fastv(keep=0.5, layer=2)+vhr", "todre(keep=0.2)", "vcd",
    "dymu(thresholds=(0.5, 0.5, 0.5))", "divprune(keep=0.3, positions='compact')",
)  # fmt: skip
SETTINGS = (
    greedy(5), greedy(2), greedy(4, repetition_penalty=1.5, min_new_tokens=4), sampled(3, temperature=1.5),
    sampled(4, top_p=0.8, min_new_tokens=4), sampled(3, top_k=0, temperature=2.0, sequence_bias={(7,): 4.0}),
    greedy(5, no_repeat_ngram_size=2, min_new_tokens=5, bad_words_ids=[[36], [41, 2]]),
)  # fmt: skip


def alone_or_error(model: Any, handle: Any, one: Job) -> list[int] | None:
    """None where plain `generate` fails: contrasts leave few tokens, and settings may forbid those."""
    try:
        return alone(model, handle, one)
    except RuntimeError:
        return None


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Any, Any, Any, Batcher]]:
    model, processor = loaded()
    with vtokens.attach(model, "none") as handle, Batcher(model, processor, handle, queue=256) as batcher:
        yield model, processor, handle, batcher


def test_two_hundred_drawn_jobs_answer_as_alone(served: Any) -> None:
    """One to sixteen at once, strategies and settings drawn, some without a picture."""
    model, processor, handle, batcher = served
    draw = random.Random(0)
    pool = []
    for number in range(30):
        one = draw.choice(questions())
        pictures = one.images if number % 9 else []
        inputs = prompt(processor, one.question, pictures)
        pool.append(job(inputs, draw.choice(STRATEGIES), draw.choice(SETTINGS), seed=number, owner=draw.choice("abc")))
    expected = [alone_or_error(model, handle, one) for one in pool]
    for number in [number for number, ids in enumerate(expected) if ids is None][::-1]:
        del pool[number], expected[number]
    assert len(pool) > 20
    left, shared = 200, 0
    while left > 0:
        which = [draw.randrange(len(pool)) for _ in range(min(left, draw.randint(1, 16)))]
        left -= len(which)
        for number, heard in zip(which, answers(batcher, [pool[number] for number in which]), strict=True):
            shared += heard.began.rows > 1
            assert list(heard.end.ids) == expected[number], pool[number].program
            assert heard.text == processor.tokenizer.decode(expected[number], skip_special_tokens=True)
    assert shared > 100


def test_jobs_that_can_share_a_pass_do_and_others_do_not(served: Any) -> None:
    """Programs that the engine does not run beside each other have passes of their own, those of one kind together."""
    _, processor, _, batcher = served
    inputs = prompt(processor, questions()[0].question, questions()[0].images)
    names = ["none", "cls(keep=0.2)", "vcd", "m3id", STRATEGIES[5], "m3id", STRATEGIES[5], "todre(keep=0.3)"]
    with held(batcher):
        heard = [Heard() for _ in names]
        waiting = [batcher.submit(job(inputs, name), on) for name, on in zip(names, heard, strict=True)]
    assert all(one.wait(60) for one in waiting)
    assert [one.began.rows for one in heard] == [4, 4, 4, 2, 2, 2, 2, 4]


def test_a_count_of_one_is_not_the_share_of_all(served: Any) -> None:
    _, processor, _, batcher = served
    inputs = prompt(processor, questions()[0].question, questions()[0].images)
    for names in (["cls(keep=1)", "cls(keep=1.0)"], ["cls(keep=1.0)", "cls(keep=1)"]):
        found = answers(batcher, [job(inputs, name) for name in names])
        assert [heard.end.did.kept for heard in found] == [1 if name == "cls(keep=1)" else 144 for name in names]


def test_a_seed_gives_the_same_answer_in_any_company(served: Any) -> None:
    _, processor, _, batcher = served
    inputs = prompt(processor, questions()[1].question, questions()[1].images)
    one = job(inputs, "none", sampled(8, temperature=3.0, min_new_tokens=8, top_k=0), seed=11)
    others = [job(inputs, "none", sampled(9, temperature=2.0, min_new_tokens=9), seed=seed) for seed in range(6)]
    apart = answers(batcher, [one])[0].end.ids
    for place in (0, 4):
        mixed = [*others[:place], one, *others[place:]]
        found = answers(batcher, mixed)
        assert found[place].end.ids == apart
        assert len({heard.end.ids for heard in found}) == len(mixed)
    unseeded = Job(one.inputs, one.settings)
    assert len({heard.end.ids for heard in answers(batcher, [unseeded] * 4)}) == 4


def test_nothing_of_a_picture_reaches_another_row(served: Any) -> None:
    """Bit for bit: what a job gets does not change with the picture or words of its neighbours."""
    _, processor, _, batcher = served
    first, *others = questions()
    text = first.question

    def told(neighbour: Any, question: str) -> Any:
        mine = job(prompt(processor, text, first.images), "cls(keep=0.5)", greedy(4, min_new_tokens=4), logprobs=20)
        theirs = job(prompt(processor, question, neighbour.images), "none", greedy(4, min_new_tokens=4))
        with held(batcher):
            heard = [Heard(), Heard()]
            both = [batcher.submit(one, on) for one, on in zip((theirs, mine), heard, strict=True)]
        assert all(one.wait(60) for one in both)
        assert heard[1].began.rows == 2
        return heard[1].tokens

    expected = told(others[0], text)
    assert len(expected) == 4
    assert len(expected[0].top) == 20
    for other in others[1:5]:
        assert told(other, text) == expected
    pads = told(others[1], text + " " + text)  # longer: padding comes in front of ours
    close_pass(torch.tensor([t.logprob for t in pads]), torch.tensor([t.logprob for t in expected]))


def test_what_the_model_sets_by_itself_holds_for_rows_that_do_not_say_otherwise(served: Any) -> None:
    model, processor, handle, batcher = served
    inputs = prompt(processor, questions()[2].question, questions()[2].images)
    before = model.generation_config.to_dict()
    model.generation_config.update(repetition_penalty=2.5, suppress_tokens=[7, 8, 9], min_new_tokens=6)
    try:
        jobs = [
            job(inputs, "none", greedy(8)),
            job(inputs, "none", greedy(8, repetition_penalty=1.0, min_new_tokens=0)),
        ]
        jobs.append(job(inputs, "none", greedy(8, suppress_tokens=[60])))
        expected = [alone(model, handle, one) for one in jobs]
        assert [list(heard.end.ids) for heard in answers(batcher, jobs)] == expected
        assert len(set(map(tuple, expected))) > 1
    finally:
        model.generation_config = type(model.generation_config)(**before)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"num_beams": 2}, "beam_search"),
        ({"num_beams": 2, "num_return_sequences": 2}, "beam_search"),
        ({"guidance_scale": 1.5}, "guidance_scale=1.5"),
        ({"prompt_lookup_num_tokens": 3}, "assisted"),
        ({"output_scores": True, "return_dict_in_generate": True}, "output_scores=True"),
        ({"max_new_tokens": None}, "max_new_tokens=128"),
        ({"max_time": 3.0}, "a deadline does the like"),
        ({"stop_strings": ["a", ""]}, "an empty one"),
    ],
)
def test_settings_that_cannot_hold_for_one_row_are_refused(served: Any, settings: dict[str, Any], says: str) -> None:
    _, processor, _, batcher = served
    config = greedy(4)
    config.update(**settings)
    with pytest.raises(ValueError, match=says):
        batcher.submit(job(prompt(processor, "Is it red?"), "none", config), Heard())


def test_strategies_that_the_model_cannot_run_are_refused_at_the_door(served: Any) -> None:
    _, processor, _, batcher = served
    with pytest.raises(ValueError, match="layer"):
        batcher.submit(job(prompt(processor, "Is it red?"), "fastv(layer=99)"), Heard())
    two = encode_prompts(processor, ["a", "b"])
    with pytest.raises(ValueError, match=r"one prompt, \(1, N\)"):
        batcher.submit(job(dict(two)), Heard())
    with pytest.raises(TypeError, match="input_ids"):
        batcher.submit(job({}), Heard())


def test_what_was_done_to_a_row_is_what_is_done_to_it_alone(served: Any) -> None:
    model, processor, handle, batcher = served
    names = ["cls(keep=0.25)", "none", "fastv(keep=0.5, layer=2)", "none"]
    jobs = [
        job(prompt(processor, one.question, one.images), name) for one, name in zip(questions(), names, strict=False)
    ]
    jobs[3] = job(prompt(processor, "Is it red?"))
    for one, name, heard in zip(jobs, names, answers(batcher, jobs), strict=True):
        did, length = heard.began.did, one.inputs["input_ids"].shape[1]
        assert did == heard.end.did
        assert did.strategy == format_spec(one.program)
        assert did.prompt_tokens == length
        if "pixel_values" not in one.inputs:
            assert (did.image_tokens, did.kept, did.fed, did.pictures, did.flops_saved) == (0, 0, length, (), 0)
            continue
        with handle.using(name):
            model.generate(**one.inputs, generation_config=one.settings)
            report = handle.report()
        assert (did.flops, did.flops_full) == (report.flops, report.flops_full)
        assert (did.image_tokens, did.kept) == (144, round(report.samples[0].average_tokens))
        assert did.fed == round(sum(map(len, report.samples[0].positions)) / len(report.samples[0].positions))
        assert (did.pictures[0].brightness() == report.samples[0].pictures[0].brightness()).all()


def test_videos_and_pictures_and_text_share_a_pass() -> None:
    model, processor = loaded("scenes-qwen")
    sample = clips.examples("test", n=3, frames=8)
    inputs = [
        dict(encode_prompts(processor, [question_prompt(processor, one.question, ["video"])], **arguments([one.video])))
        for one in sample
    ]
    picture = questions()[0]
    inputs += [prompt(processor, picture.question, picture.images), prompt(processor, "Is it red?")]
    names = ["none", "uniform(keep=0.5)", "cdpruner(keep=0.3)", "divprune(keep=0.2)", "none"]
    with vtokens.attach(model, "none") as handle, Batcher(model, processor, handle, wait=5, most=5) as batcher:
        jobs = [job(one, name, greedy(6)) for one, name in zip(inputs, names, strict=True)]
        found = answers(batcher, jobs)
        assert [heard.began.rows for heard in found] == [5] * 5
        assert [list(heard.end.ids) for heard in found] == [alone(model, handle, one) for one in jobs]
