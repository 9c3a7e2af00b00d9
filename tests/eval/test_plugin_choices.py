"""Scored answers: likelihoods are right, in batches and under pruning, and lmms-eval chooses by them."""

import json

import pytest
import torch

import vtokens
from tests.eval.lmms import ask, evaluate, scored_request, simple_request
from vtokens.eval.lmms import scoring
from vtokens.eval.lmms.model import VTokensSimple
from vtokens.scenes import examples, prompt

pytestmark = pytest.mark.filterwarnings("default::FutureWarning", "default::DeprecationWarning")

SAMPLE = examples("test", 6, seed=31, kinds=["where", "exist", "colour_of"])


def score(shipped, requests, **options):
    model = VTokensSimple.of(*shipped, progress=False, **options)
    model.task_dict = {"made": {"test": list(range(100))}}
    return [result.text for result in model.loglikelihood(requests)]


def by_hand(shipped, example, answer):
    """The same sum token by token, each from a forward pass over what comes before it."""
    model, processor = shipped
    text = prompt(processor, example.question)
    total, greedy = 0.0, True
    ids = processor.tokenizer(answer)["input_ids"]
    for i, token in enumerate(ids):
        before = text + " ".join(["", *processor.tokenizer.convert_ids_to_tokens(ids[:i])])
        inputs = processor(images=example.image, text=before, return_tensors="pt")
        with torch.no_grad():
            found = model(**inputs).logits[0, -1].log_softmax(-1)
        total -= float(found[token])
        greedy &= int(found.argmax()) == token
    return total, greedy


def test_losses_are_sums_over_the_answer(shipped, monkeypatch):
    monkeypatch.setattr(scoring, "_WINDOW", 2)  # several windows in a few requests
    requests, wanted = [], []
    for doc, example in enumerate(SAMPLE):
        for answer in (f" {example.answer}", " row1 column1", " no"):
            requests.append(scored_request([example.image], example.question, answer, doc))
            wanted.append(by_hand(shipped, example, answer))
    for size in (1, 4):
        found = score(shipped, requests, batch_size=size)
        assert [loss for loss, _ in found] == pytest.approx([loss for loss, _ in wanted], abs=1e-4)
        assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]
    assert {greedy for _, greedy in wanted} == {True, False}


@pytest.mark.parametrize("strategy", ["fastv(keep=0.1)", "cls(keep=0.1)"])
def test_pruning_sees_the_prompt_as_in_generation(shipped, strategy):
    """What the pruned model says of itself is what it finds most likely, and what it was asked of does not matter."""
    model = VTokensSimple.of(*shipped, strategy=strategy, progress=False)
    said = ask(model, [simple_request([e.image], e.question, doc) for doc, e in enumerate(SAMPLE)])
    requests = [
        scored_request([e.image], e.question, f" {s}", d) for d, (e, s) in enumerate(zip(SAMPLE, said, strict=True))
    ]
    found = score(shipped, requests, strategy=strategy, batch_size=4)
    assert [greedy for _, greedy in found] == [True] * len(SAMPLE)
    assert vtokens.attachment(shipped[0]) is None


@pytest.fixture(scope="module")
def choices(scenes_tasks, tmp_path_factory):
    """A folder with a task "choice" of scored answers."""
    folder = tmp_path_factory.mktemp("choice")
    (folder / "utils.py").write_text("def look(doc):\n    return [doc['image']]\n")
    documents = json.dumps(str(scenes_tasks / "documents" / "scenes_pope_random"))
    (folder / "choice.yaml").write_text(
        f"task: choice\ndataset_path: {documents}\ndataset_kwargs: {{load_from_disk: true}}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_visual: !function utils.look\ndoc_to_text: question\n"
        "doc_to_target: answer\ndoc_to_choice: ['yes', 'no']\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    return folder


def test_lmms_eval_chooses_the_likeliest(shipped, scenes_tasks, choices):
    model = VTokensSimple.of(*shipped, batch_size=4, progress=False)
    chosen = evaluate(model, ["choice"], choices)
    written = evaluate(model, ["scenes_pope_random"], scenes_tasks)
    right = [sample["acc"] for sample in chosen["samples"]["choice"]]
    assert right == [sample["accuracy"] for sample in written["samples"]["scenes_pope_random"]]
    assert chosen["results"]["choice"]["acc,none"] == sum(right) / len(right) > 0.8


def test_choices_are_the_same_with_a_cache(shipped, choices, tmp_path):
    """Whether the cache is new or filled, every choice is scored and scored alike."""
    found = []
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        model = VTokensSimple.of(*shipped, strategy="fastv(keep=0.25)", batch_size=4, progress=False)
        results = evaluate(model, ["choice"], choices, use_cache=None if cache is None else str(cache), limit=8)
        found.append((results["results"]["choice"]["acc,none"], [s["resps"] for s in results["samples"]["choice"]]))
    assert found[0] == found[1] == found[2]
    assert len(found[0][1]) == 8
    assert all(len({loss for [(loss, _)] in sample}) == 2 for sample in found[0][1])


def test_nothing_to_score(shipped):
    assert score(shipped, []) == []
    with pytest.raises(ValueError, match="the answer '' adds no token"):
        score(shipped, [scored_request([SAMPLE[0].image], SAMPLE[0].question, "")])
