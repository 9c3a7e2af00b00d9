"""Videos through the server: what `generate` says of the same frames, with the tokens of each that were kept."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from tests.serve.running import run as wait_for
from tests.serve.served import client, serving
from tests.video.files import write
from vtokens.core.prompts import chat_text
from vtokens.loading.media import MediaPrompt, batch_inputs, place_clip
from vtokens.scenes import clips as scene_clips
from vtokens.serve.settings import Settings

pytest.importorskip("av")


def test_a_video_is_answered_as_generate_answers(tmp_path: Path) -> None:
    [example] = scene_clips.examples("test", n=1)
    data = base64.b64encode(Path(write(tmp_path / "a.mp4", list(example.video.frames))).read_bytes()).decode()
    question = example.question
    messages: list[Any] = [
        {
            "role": "user",
            "content": [
                {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{data}"}},
                {"type": "text", "text": question},
            ],
        }
    ]
    with serving(Settings(model="scenes-qwen", presets={"fast": "evs(keep=0.5)"}, page=False)) as (address, app):
        served = app.state.served
        [turn] = wait_for(app.state.media.load(messages))
        clip = turn["content"][0]["clip"]
        clips: list[Any] = []
        parts = [*place_clip(served.processor, clip, [], clips), {"type": "text", "text": question}]
        text = chat_text(served.processor, [{"role": "user", "content": parts}])
        inputs = batch_inputs(served.processor, [MediaPrompt(text, [], clips)])

        def run() -> Any:
            with served.handle.using("evs(keep=0.5)"):
                rows = served.model.generate(**inputs, max_new_tokens=40, do_sample=False)
            return rows[0, inputs["input_ids"].shape[1] :].tolist(), served.handle.report()

        ids, report = app.state.batcher.alone(run).result(60)
        answer = client(address).chat.completions.create(
            model="scenes-qwen:fast", messages=messages, temperature=0, extra_body={"vtokens": {"kept": True}}
        )
        assert answer.choices[0].message.content == served.processor.tokenizer.decode(ids, skip_special_tokens=True)
        [kept] = report.samples[0].pictures
        assert answer.vtokens["image_tokens"] == kept.picture.tokens
        assert answer.vtokens["kept"] == round(report.samples[0].average_tokens) < kept.picture.tokens
        light = kept.brightness()
        shown = answer.vtokens["pictures"]
        assert [one["frame"] for one in shown] == list(range(len(light)))
        for one, frame in zip(shown, light, strict=True):
            assert one["grid"] == list(frame.shape)
            assert one["light"] == pytest.approx(frame, abs=0.006)
