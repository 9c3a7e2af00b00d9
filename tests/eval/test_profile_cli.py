"""`vtokens profile` as a user meets it."""

import json
import sys

import pandas
import pytest

from vtokens.cli import main
from vtokens.eval.presets import preset
from vtokens.eval.shapes import resize

SMALL = ["--preset", "llava-1.5-7b", "--scale", "16", "--layers", "2"]
QUICK = ["--prompt", "6", "--new-tokens", "3", "--rounds", "1"]


def answer(capsys, *arguments):
    """What `vtokens profile arguments --json` prints."""
    main(["profile", *arguments, *QUICK, "--json"])
    return json.loads(capsys.readouterr().out)


def failure(capsys, *arguments):
    """The one line that `vtokens profile arguments` leaves on stderr."""
    with pytest.raises(SystemExit) as stop:
        main(["profile", *arguments])
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert out == ""
    assert err.strip().count("\n") == 0
    assert err.startswith("vtokens: error: ")
    return err


def test_a_preset_as_json(capsys, monkeypatch):
    """Every cell at every batch size, with what it was measured under; pandas reads the rows."""
    monkeypatch.setattr(sys, "argv", ["vtokens", "profile", "--strategy", "none,fastv(layer=1)"])
    result = answer(capsys, *SMALL, "--strategy", "none,fastv(layer=1)", "--keep", "0.1,64", "--batch", "1,2")
    assert [(row["batch"], row["name"], row["keep"]) for row in result["rows"]] == [
        (batch, name, keep)
        for batch in (1, 2)
        for name, keep in [("none", None), ("fastv(layer=1)", 0.1), ("fastv(layer=1)", 64)]
    ]
    (model,) = result["models"]
    assert model["name"] == "llava-1.5-7b (widths / 16, 2 of 32 layers)"
    assert (model["family"], model["weights"], model["layers"], model["dtype"]) == ("llava", "random", 2, "float32")
    assert model["weights_bytes"] == 4 * model["parameters"]
    about = result["conditions"]
    assert about["commands"] == ["vtokens profile --strategy 'none,fastv(layer=1)'"]
    assert {"torch", "transformers", "vtokens"} <= set(about["versions"])
    assert about["hardware"]["cpu"]
    assert (about["text"], about["new_tokens"], about["rounds"], about["attention"]) == (6, 3, 1, "sdpa")
    table = pandas.json_normalize(result["rows"])
    assert (table["visual_tokens"] == 576).all()
    assert table["kept_tokens"].tolist()[:3] == [576, (576 + 58) / 2, (576 + 64) / 2]
    assert (table["seconds.pruned.request.median"] > 0).all()


def test_tables_for_people(capsys):
    main(["profile", *SMALL, *QUICK, "--strategy", "cls", "--keep", "0.1", "--batch", "1,3000000"])
    out = capsys.readouterr().out
    assert "llava-1.5-7b (widths / 16, 2 of 32 layers)" in out
    assert "576 -> 58" in out
    assert "of ideal" in out
    assert "failed: " in out  # the batch that no machine holds
    assert "out of memory" in out


def test_the_embedded_model_with_its_weights(capsys):
    result = answer(capsys, "scenes-llava", "--strategy", "todre", "--keep", "0.25")
    assert result["models"][0]["weights"] == "trained"
    assert result["models"][0]["name"] == "scenes-llava"
    assert result["rows"][0]["visual_tokens"] == 144


def test_any_configuration_with_random_weights(capsys, tmp_path):
    config, _ = resize(preset("qwen2.5-vl-3b"), 2, 2)
    config.text_config.vocab_size = 1000
    config.image_token_id, config.video_token_id = 990, 991
    config.vision_start_token_id, config.vision_end_token_id = 992, 993
    config.save_pretrained(tmp_path)
    path = str(tmp_path / "config.json")
    result = answer(
        capsys, path, "--random-weights", "--image", "112x56", "--strategy", "fastv(layer=1)", "--keep", "2"
    )
    assert result["models"][0]["family"] == "qwen2_5_vl"
    assert result["rows"][0]["visual_tokens"] == 8
    assert result["rows"][0]["kept_tokens"] == 5  # 8 in the first layer, 2 in the second


def test_rows_are_kept_and_gone_on_with(capsys, tmp_path):
    """A second call measures only what is missing, and other conditions are not mixed in."""
    out = tmp_path / "rows.json"
    first = answer(capsys, *SMALL, "--strategy", "none", "--out", str(out))
    assert json.loads(out.read_text()) == first
    both = answer(capsys, *SMALL, "--strategy", "none,uniform", "--keep", "0.5", "--out", str(out))
    assert both["rows"][0] == first["rows"][0]
    assert [row["name"] for row in both["rows"]] == ["none", "uniform"]
    assert json.loads(out.read_text()) == both
    says = failure(capsys, *SMALL, "--rounds", "3", "--out", str(out))
    assert "measured under other conditions" in says
    out.write_text('{"rows": 1}')
    assert "is no profile, so it is left alone" in failure(capsys, *SMALL, *QUICK, "--out", str(out))
    assert out.read_text() == '{"rows": 1}'


def test_rows_of_other_weights_or_another_dtype_are_not_gone_on_with(capsys, tmp_path):
    """The model has the same name each time, and may have all that is asked for."""
    out, trained = ["--out", str(tmp_path / "rows.json")], ["scenes-llava", "--strategy", "none"]
    first = answer(capsys, *trained, *out)
    assert answer(capsys, *trained, "--dtype", "float32", *out)["rows"] == first["rows"]
    for other, says in (
        (["--dtype", "bfloat16"], "trained weights in float32, and trained weights in bfloat16 are asked for"),
        (["--random-weights"], "trained weights in float32, and random weights in float32 are asked for"),
    ):
        assert says in failure(capsys, *trained, *other, *QUICK, *out)
        assert json.loads((tmp_path / "rows.json").read_text())["rows"] == first["rows"]


def test_rows_that_failed_are_tried_again(capsys, tmp_path):
    out = tmp_path / "rows.json"
    first = answer(capsys, *SMALL, "--batch", "1", "--out", str(out))
    first["rows"][0]["failed"] = {"all": "out of memory"}
    out.write_text(json.dumps(first))
    again = answer(capsys, *SMALL, "--batch", "1", "--out", str(out))
    assert [row["failed"] for row in again["rows"]] == [{}]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--preset", "llava-15-7b"], "Did you mean 'llava-1.5-7b'?"),
        (["scenes-lava"], "Did you mean 'scenes-llava'?"),
        (["nobody/nothing"], "nobody/nothing"),
        (["nobody/nothing", "--random-weights"], "nobody/nothing"),
        ([], "give either a model or --preset"),
        (["scenes-llava", "--preset", "llava-1.5-7b"], "give either a model or --preset"),
        (["scenes-llava", "--layers", "2"], "which trained weights do not fit"),
        ([*SMALL, "--strategy", "fastw"], "Did you mean 'fastv'?"),
        ([*SMALL, "--strategy", "cls,,fastv"], "cannot read the strategies"),
        ([*SMALL, "--strategy", "cls", "--keep", "0"], "keep=0 keeps nothing"),
        ([*SMALL, "--strategy", "cls", "--keep", "1.5"], "keep=1.5 is out of range"),
        ([*SMALL, "--strategy", "cls", "--keep", "600"], "more than the 576 visual tokens"),
        ([*SMALL, "--strategy", "cls", "--keep", "half"], "'half' is not a number"),
        ([*SMALL, "--keep", "0.5"], "keep=0.5 has no strategy to take it"),
        ([*SMALL, "--strategy", "cls", "--keep", ""], "'' has an empty part"),
        ([*SMALL, "--strategy", "fastv(layer=5, keep=0.1)"], "out of range for a model with 2 layers"),
        ([*SMALL, "--batch", "0"], "'0' is not allowed: a whole number from 1 to 10,000,000"),
        ([*SMALL, "--batch", "1,many"], "'many' is not allowed: a whole number"),
        ([*SMALL, "--image", "100x100"], "it sees 336x336 only"),
        ([*SMALL, "--image", "big"], "no size such as 672x672"),
        ([*SMALL, "--new-tokens", "0"], "'0' is not allowed: a whole number from 1"),
        ([*SMALL, "--threads", "0"], "'0' is not allowed: a whole number from 1 to 1,024"),
        ([*SMALL, "--new-tokens", "99999999999"], "'99999999999' is not allowed"),
        ([*SMALL, "--image", "0x336"], "no size such as 672x672"),
        ([*SMALL, "--dtype", "float8"], "Did you mean 'float32'?"),
        ([*SMALL, "--device", "cuda:99"], "device 'cuda:99' is not to be had: torch"),
        ([*SMALL, "--attention", "nosuch"], "nosuch"),
        ([*SMALL, "--device", "tpu9"], "tpu9"),
        ([*SMALL, "--scale", "5"], "scale=5 does not divide the heads"),
        ([*SMALL, "--layers", "0"], "'0' is not allowed"),
    ],
)
def test_what_cannot_be_profiled_is_one_line(capsys, arguments, says):
    assert says in failure(capsys, *arguments)


def test_a_folder_that_cannot_be_written(capsys, tmp_path):
    assert "missing" in failure(capsys, *SMALL, *QUICK, "--out", str(tmp_path / "missing" / "rows.json"))


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["profile", "--help"])
    assert stop.value.code == 0
    assert "vtokens profile" in capsys.readouterr().out.split("examples:")[1]
