"""How lmms-eval finds the plugin, what its model arguments mean, and what wrong ones are told."""

from importlib.metadata import entry_points

import huggingface_hub
import pytest

import vtokens
from vtokens.eval.lmms.model import VTokens, VTokensSimple

pytestmark = pytest.mark.filterwarnings("default::FutureWarning", "default::DeprecationWarning")


def made(arguments, **more):
    return VTokens.create_from_arg_string(f"pretrained=scenes-llava,device=cpu,{arguments}", more)


def test_lmms_eval_finds_both_classes_by_the_entry_point():
    from lmms_eval.models import get_model, get_model_manifest

    [entry] = entry_points(group="lmms_eval.models", name="vtokens")
    assert entry.value == "vtokens.eval.lmms:manifests"
    assert get_model_manifest("vtokens") == entry.load()()[0]
    assert get_model("vtokens") is VTokens
    assert get_model("vtokens", force_simple=True) is VTokensSimple


@pytest.mark.parametrize(
    ("arguments", "strategy"),
    [
        ("strategy=none", ""),
        ("strategy=fastv,keep=0.25,layer=3", "fastv(keep=0.25, layer=3)"),
        ("strategy=cls,keep=64", "cls(keep=64)"),
        ("strategy='fastv(keep=0.5, layer=3)+cls'", "fastv(keep=0.5, layer=3)+cls"),
        ('strategy="fastv(keep=0.5,layer=3)"', "fastv(keep=0.5, layer=3)"),
        ("strategy=random,keep=0.5,seed=7", "random(keep=0.5, seed=7)"),
        ("strategy='random(seed=3)',seed=7", "random(seed=3)"),
    ],
)
def test_strategies_and_their_options(arguments, strategy):
    from vtokens.strategies import parse

    assert made(arguments).strategies == parse(strategy or "none")


def test_a_strategy_saved_beside_the_model_is_found(tmp_path):
    model, processor = vtokens.load("scenes-llava", strategy="none")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    vtokens.save_pretrained("cls(keep=0.5)", tmp_path)
    for more, wanted in (("", "cls(keep=0.5)"), (",keep=0.1", "cls(keep=0.1)"), (",strategy=none", "none")):
        found = VTokens.create_from_arg_string(f"pretrained={tmp_path}{more}")
        assert found.strategies == vtokens.strategies.parse(wanted)
        assert vtokens.attachment(found._model) is None


def test_a_model_it_loaded_is_freed_and_one_handed_in_is_not(shipped):
    own = made("strategy=cls", batch_size="4")
    assert own.batch_size == 4
    own.clean()
    with pytest.raises(RuntimeError, match="lmms-eval has freed this model"):
        own.generate_until([])
    lent = VTokens.of(*shipped, progress=False)
    lent.clean()
    assert lent.generate_until([]) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("strategy=fastvv", r"unknown strategy 'fastvv'. Did you mean 'fastv'"),
        ("strategy=fastv,kep=0.5", r"unknown field of strategy 'fastv': 'kep'. Did you mean 'keep'"),
        ("strategy=fastv,keep=1.5", r"keep=1.5 is out of range"),
        ("strategy=fastv,layer=-1", r"layer=-1"),
        ("strategy=fastv(keep=0.5,layer=3)", r"lmms-eval splits model arguments at commas"),
        ("batchsize=4", r"unknown model argument .*'batchsize'. Did you mean 'batch_size'"),
        ("strategy=none,dtyp=float32", r"unknown model argument .*'dtyp'. Did you mean 'dtype'"),
        ("dtype=float", r"unknown dtype 'float'. Did you mean 'float32'"),
        ("batch_size=auto", r"batch_size='auto' is not allowed: an int of at least 1"),
        ("batch_size=0", r"batch_size=0 is not allowed"),
        ("max_new_tokens=1.5", r"max_new_tokens=1.5 is not allowed"),
        ("seed=-1", r"seed=-1.0 is not allowed: an int of at least 0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        made(arguments)


def test_what_a_model_cannot_do_is_said_before_the_first_batch():
    from tests.families import build

    with pytest.raises(ValueError, match="layer=9"):
        VTokens.of(*build("llava"), strategy="fastv(layer=9)")


def test_a_name_that_is_nothing():
    with pytest.raises(ValueError, match=r"'scene-llava'. Did you mean 'scenes-llava'"):
        VTokens(pretrained="scene-llava")


def test_a_hub_that_cannot_be_reached_is_named_at_once(monkeypatch, caplog):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # the port where nothing answers
    with pytest.raises(OSError, match=r"cannot load the model 'some/model'.*http://127.0.0.1:9 cannot be reached"):
        VTokens(pretrained="some/model")
    assert "Retrying" not in caplog.text
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="cannot load the model 'some/model'"):
        VTokens(pretrained="some/model")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    assert VTokens(pretrained="scenes-llava").batch_size == 1  # needs no hub
