"""The recipe's fast passes compute what transformers computes, and the whole chain runs."""

import json

import pytest
import torch

from vtokens.scenes.kinds import KINDS
from vtokens.scenes.lots import draw_scene
from vtokens.scenes.model import build_model, build_tokenizer
from vtokens.scenes.questions import exist_question
from vtokens.scenes.render import BACKGROUND, render
from vtokens.scenes.train import packed
from vtokens.scenes.train.data import LENGTH, make_batch, pack, tokens
from vtokens.scenes.train.losses import positions_for, word_sum
from vtokens.scenes.train.optim import Masters
from vtokens.scenes.train.pretraining import features, thin
from vtokens.scenes.train.progress import load
from vtokens.scenes.train.stages import STAGES
from vtokens.scenes.train.vision import normalised, vision_states


@pytest.fixture(scope="module")
def batch():
    """Four scenes with six questions each."""
    return make_batch(7, 0, 4, count=6, pixels=True, annotated=False)


@torch.no_grad()
def test_packed_questions_equal_single_ones(batch):
    llama = build_model(0).model.language_model
    prefix, where = 0.3 * torch.randn(4, 20, 128), (torch.arange(20) * 0.6).long().expand(4, -1)
    found = packed.hidden_states(llama, prefix, where, [(batch.ids, 13), (batch.caption_ids, 13)])
    for ids, states in zip((batch.ids, batch.caption_ids), found, strict=True):
        for row in range(4):
            for number in range(ids.shape[1]):
                x = torch.cat((prefix[row], llama.embed_tokens(ids[row, number])))[None]
                positions = torch.cat((where[row], 13 + torch.arange(ids.shape[2])))[None]
                # The mask is given: repeated positions would be taken for several sequences packed into one.
                mask = torch.full((x.shape[1],) * 2, float("-inf")).triu(1)[None, None]
                wanted = llama(inputs_embeds=x, position_ids=positions, attention_mask=mask).last_hidden_state
                torch.testing.assert_close(states[row, number], wanted[0, 20:], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_vision_pass_equals_transformers(batch):
    model = build_model(0)
    pixels = normalised(batch.pixels, torch.float32)
    wanted = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    for mine, theirs in zip(vision_states(model.model.vision_tower, batch.pixels), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    images = model.get_image_features(pixel_values=pixels).pooler_output
    torch.testing.assert_close(features(model, batch.pixels), torch.stack(tuple(images)), atol=1e-5, rtol=1e-4)


def test_quick_tokens_equal_the_tokenizer():
    tokenizer = build_tokenizer()
    for text in (exist_question(3), "yellow ring, red square", "What is at row4 column1?"):
        assert tokens(text) == tuple(tokenizer(text).input_ids)


def test_labels_are_the_answer_and_the_end():
    tokenizer = build_tokenizer()
    ids, labels = pack([("What shape is red?", "circle"), ("Describe the image.", "red circle, " * 5)], LENGTH)
    assert tokenizer.decode(ids[0, :7]) == "what shape is red ? ASSISTANT: circle"
    assert [(i, tokenizer.decode([t])) for i, t in enumerate(labels[0]) if t >= 0] == [(5, "circle"), (6, "<eos>")]
    assert (labels[1] == -100).all()


def test_answer_loss_counts_whole_answers(batch):
    head = torch.nn.Linear(71, 71, bias=False)
    torch.nn.init.eye_(head.weight)
    states = 50 * torch.nn.functional.one_hot(batch.labels.clamp_min(0), 71).float()
    first = (batch.labels[1, 2] != -100).nonzero()[0]
    states[1, 2, first] = 50 * torch.nn.functional.one_hot(torch.tensor(3), 71).float()
    loss, (right,) = packed.answer_loss(head, [states], [batch.labels])
    assert (~right).nonzero().tolist() == [[1, 2]]
    assert loss.item() == pytest.approx(50 / (batch.labels != -100).sum().item(), rel=1e-3)


def test_thinning_keeps_every_object(batch):
    kept = thin(batch.patches, 36, torch.Generator().manual_seed(0))
    assert kept.shape == (4, 36)
    assert (kept.diff(dim=1) > 0).all()
    for row in range(4):
        assert set(batch.patches[row].tolist()) - {BACKGROUND} <= set(batch.patches[row, kept[row]].tolist())


def test_word_sums_name_what_is_there(batch):
    words, blank = torch.eye(71), torch.full((71,), 0.5)
    sums = word_sum(words, blank, batch.patches)
    tokenizer = build_tokenizer()
    patch = int((batch.patches[0] < 36).nonzero()[0])
    names = {tokenizer.decode([int(i)]) for i in sums[0, patch].nonzero()}
    assert {f"row{patch // 12 // 3 + 1}", f"column{patch % 12 // 3 + 1}"} < names
    assert torch.equal(sums[batch.patches == BACKGROUND].unique(), torch.tensor([0.5]))


def test_squeezed_positions_start_at_zero_and_do_not_decrease():
    where, end = positions_for(144, 2, torch.device("cpu"), 0.25)
    assert (where[0, 0], where[1, -1], end) == (0, 35, 36)
    assert (where.diff() >= 0).all()
    assert positions_for(144, 2, torch.device("cpu"), None)[1] == 144


def test_masters_learn_and_leave_the_rest(batch):
    model = build_model(0)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    masters = Masters(model, ["model.language_model", "lm_head"], 3e-3)
    losses = []
    for _ in range(6):
        prefix, where = masters.work.get_input_embeddings()(torch.full((4, 3), 5)), torch.arange(3).expand(4, -1)
        states = packed.hidden_states(masters.work.model.language_model, prefix, where, [(batch.ids, 3)])
        loss, _ = packed.answer_loss(masters.work.lm_head, states, [batch.labels])
        losses.append(loss.item())
        masters.step(loss, 1.0)
    assert losses[-1] < 0.8 * losses[0]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith(("model.vision", "model.multi")), name


def test_training_and_evaluation_scenes_never_meet():
    mine = make_batch(7, 0, 8, count=1, pixels=True, annotated=False).pixels
    for split in ("test", "calibration"):
        theirs = torch.from_numpy(render([draw_scene(split, 7, i) for i in range(8)]))
        assert not (mine[:, None] == theirs[None]).flatten(2).all(-1).any()


@pytest.mark.slow
def test_chain_runs_stage_by_stage(tmp_path, capsys):
    for name, stage in STAGES.items():
        stage(tmp_path, 0, 2, torch.device("cpu"))
        assert (tmp_path / f"{name}.safetensors").exists()
        assert name in capsys.readouterr().out
    build_model(0).load_state_dict(load(tmp_path / "partners.safetensors"))


def test_a_seed_gives_the_same_weights_again(tmp_path):
    found = []
    for name in ("first", "again"):
        torch.manual_seed(0)
        (tmp_path / name).mkdir()
        STAGES["vision"](tmp_path / name, 0, 3, torch.device("cpu"))
        assert json.loads((tmp_path / name / "vision.json").read_text())["steps"] == 3
        found.append(load(tmp_path / name / "vision.safetensors"))
    for name, value in found[0].items():
        assert torch.equal(found[1][name], value), name


def test_a_missing_stage_is_named(tmp_path):
    with pytest.raises(ValueError, match="run the stage 'joint' first"):
        STAGES["dose"](tmp_path, 0, 1, torch.device("cpu"))


def test_batches_hold_every_kind():
    batch = make_batch(7, 0, 16, count=20, pixels=False, annotated=True)
    assert set(batch.kinds.flatten().tolist()) == set(range(len(KINDS) - 1))
    assert batch.pixels.shape == (16, 0)
