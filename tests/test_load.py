"""What `vtokens.load` makes of its arguments: strategy options, misspelt ones, mistyped folders, broken checkpoints."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, BlipConfig, PreTrainedModel

import vtokens
from tests.families import build
from vtokens.loading.options import from_pretrained_names, split


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    """A model with four decoder layers."""
    path: Path = tmp_path_factory.mktemp("models") / "llava"
    model, processor = build("llava")
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def attached(*args: Any, **options: Any) -> str:
    handle = vtokens.attachment(vtokens.load(*args, **options)[0])
    assert handle is not None
    return handle.strategy


def test_options_of_the_strategy_are_taken_as_attach_takes_them(folder: Path) -> None:
    assert attached(folder, "fastv", keep=0.25, layer=3) == "fastv(keep=0.25, layer=3)"
    assert attached(folder, "fastv", layer=1, pool="sample", dtype=torch.bfloat16) == "fastv(layer=1, pool='sample')"
    with pytest.raises(ValueError, match=r"options \['layer'\] need a single strategy, got 2"):
        vtokens.load(folder, "cls(keep=0.5)+fastv", layer=3)
    with pytest.raises(TypeError, match="layer='x' is not allowed: a whole number is"):
        vtokens.load(folder, "fastv", layer="x")
    with pytest.raises(ValueError, match=r"unknown option 'layer' .*it has none"):
        vtokens.load(folder, layer=3)


def test_options_go_before_those_saved_beside_the_model(folder: Path, tmp_path: Path) -> None:
    model, processor = build("llava")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    vtokens.save_pretrained("fastv(keep=0.5, layer=3)", tmp_path)
    assert attached(tmp_path, layer=2, keep=0.25) == "fastv(keep=0.25)"


def test_transformers_own_arguments_and_config_fields_still_pass(folder: Path) -> None:
    model, _ = vtokens.load(folder, "fastv", attn_implementation="eager", vision_feature_layer=-1, torch_dtype="auto")
    assert model.config._attn_implementation == "eager"
    assert model.config.vision_feature_layer == -1


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("low_cpu_mem_usage", True), ("from_tf", False), ("mirror", None), ("_fast_init", True)),
        *(("output_attentions", False), ("num_labels", 2), ("pad_token_id", 1)),
    ],
)
def test_what_transformers_accepts_and_no_config_holds_by_default_passes(option: str, value: object) -> None:
    """What it takes and no longer reads, a config's properties, and fields that this checkpoint's config has."""
    model, _ = vtokens.load("scenes-llava", "cls", **{option: value})
    assert getattr(model.config, option, value) == value


@pytest.mark.parametrize(
    ("strategy", "option", "says"),
    [
        (
            "fastv",
            "layr",
            r"unknown option 'layr' of vtokens.load. Did you mean 'layer'\? Allowed: .*\(budget, keep, layer, of, po",
        ),
        ("fastv", "dtyp", "Did you mean 'dtype'"),
        ("none", "layer", r"unknown option 'layer' .* strategy \(it has none\)"),
        (None, "layr", "Did you mean 'layer'"),
        ("cls", "vision_feature_layr", "Did you mean 'vision_feature_layer'"),
        ("cls", "output_loading_info", "unknown option 'output_loading_info'"),
    ],
)
def test_misspelt_options_are_refused_before_anything_is_asked_for(strategy: Any, option: str, says: str) -> None:
    """The model is on no disk and on no hub: nobody looked."""
    with pytest.raises(ValueError, match=says):
        vtokens.load("no-one/no-such-model", strategy, **{option: 3})


def test_a_field_of_another_family_is_no_field_of_this_one(folder: Path) -> None:
    config = build("llava")[0].config
    assert split("cls", {"image_grid_pinpoints": [[56, 56]]})[1]  # some family has it
    with pytest.raises(ValueError, match="unknown option 'image_grid_pinpoints'"):
        split("cls", {"image_grid_pinpoints": [[56, 56]]}, config)
    with pytest.raises(ValueError, match="unknown option 'image_grid_pinpoints'"):
        vtokens.load(folder, "cls", image_grid_pinpoints=[[56, 56]])


def test_every_argument_that_from_pretrained_reads_is_known() -> None:
    """Those it takes out of **kwargs have no signature: they are read off the source here."""
    auto = vars(AutoModelForImageTextToText.__mro__[1])["from_pretrained"].__func__
    source = inspect.getsource(PreTrainedModel.from_pretrained) + inspect.getsource(auto)
    read = set(re.findall(r'kwargs\.(?:pop|get|setdefault)\(\s*"(\w+)"', source)) - {"output_loading_info"}
    assert {"dtype", "device_map", "quantization_config"} <= read
    [dropped] = re.findall(r"for name in (\[[^]]*\]):\s+_ = kwargs\.pop\(name", source)
    read |= set(re.findall(r'"(\w+)"', dropped))
    assert "low_cpu_mem_usage" in read
    assert read - {"_from_auto", "_from_pipeline"} <= from_pretrained_names()


@pytest.mark.parametrize("written", ["{0}/llavaa", "./nowhere/llava", "~/no_such_folder_of_mine", "../a/b/c"])
def test_a_mistyped_folder_is_no_hub_id(folder: Path, written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    name = written.format(folder.parent)
    for call in (vtokens.load, vtokens.from_pretrained):
        with pytest.raises(FileNotFoundError, match="there is no folder") as error:
            call(name)
        assert name in str(error.value)
        assert ("Did you mean 'llava'?" in str(error.value)) is name.endswith("llavaa")


def test_a_name_in_a_folder_that_is_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent.parent)
    with pytest.raises(
        FileNotFoundError, match=r"no folder 'models.*/lava'.* Did you mean 'llava'\? It holds llava\. If"
    ):
        vtokens.load(f"{folder.parent.name}/lava")
    with pytest.raises(FileNotFoundError, match="there is no folder 'lava'"):
        vtokens.load(Path("lava"))
    with pytest.raises(NotADirectoryError, match=r"config.json' is a file: give the folder"):
        vtokens.load(folder / "config.json")
    assert attached(f"{folder.parent.name}/llava", "cls") == "cls"


def test_a_family_gets_no_near_match(tmp_path: Path) -> None:
    BlipConfig().save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"no adapter .*'blip' .*supported are .*llava, .*docs/add-a-model.md"
    ) as error:
        vtokens.load(tmp_path, "cls")
    assert "Did you mean" not in str(error.value)


def test_a_checkpoint_without_some_of_its_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    model, processor = build("llava")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    few = dict(list(weights.items())[:7])
    save_file(few, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=rf"^{len(weights) - 7} of the weights .* are missing .*\(.*, \.\.\.\): answers"
    ):
        vtokens.load(tmp_path, "cls")


def test_tied_weights_are_not_missing(tmp_path: Path) -> None:
    model, processor = build("llava", tie_word_embeddings=True, text_config={"tie_word_embeddings": True})
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert not [name for name in load_file(tmp_path / "model.safetensors") if "lm_head" in name]
    assert attached(tmp_path, "cls") == "cls"
