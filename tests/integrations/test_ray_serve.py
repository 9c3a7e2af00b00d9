"""The server on Ray Serve: the same answers through Ray's proxy, keys, the page; and the code of docs/deploy.md."""

from __future__ import annotations

import os
import re
import socket
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from vtokens import scenes
from vtokens.integrations.ray_serve import application
from vtokens.serve.keys import Keys
from vtokens.serve.settings import Settings

KEY = "a-key-of-twenty-letters"
BLOCKS = re.findall(
    r"^```python\n(.*?)^```",
    (Path(__file__).parents[2] / "docs" / "deploy.md").read_text(encoding="utf-8"),
    re.DOTALL | re.MULTILINE,
)
pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::UserWarning"
)


def test_the_application_of_the_page_is_made_without_a_cluster() -> None:
    """Ray gets as many requests for a replica as its batch and queue hold, and no queue of its own beside them."""
    names: dict[str, Any] = {}
    exec(compile(BLOCKS[0], "docs/deploy.md", "exec"), names)
    made = names["app"]._bound_deployment
    assert (made.num_replicas, made.max_ongoing_requests, made.max_queued_requests) == (2, 72, 64)
    assert made.ray_actor_options["num_cpus"] == 1
    scaled: Any = application(Settings(), autoscaling_config={"min_replicas": 1, "max_replicas": 3})
    assert scaled._bound_deployment._deployment_config.autoscaling_config.max_replicas == 3


def test_a_public_address_needs_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VTOKENS_API_KEYS", raising=False)
    with pytest.raises(ValueError, match="no key is asked of them"):
        application(Settings(), loopback=False)
    application(Settings(), Keys([("me", KEY)]), loopback=False)


@pytest.fixture(scope="module")
def address(cluster: Any) -> Iterator[str]:
    from ray import serve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    settings = Settings(presets={"fast": "cls(keep=0.25)"})
    serve.run(application(settings, Keys([("me", KEY)]), cpus=0.5), name="vtokens", route_prefix="/")
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()


@pytest.mark.slow
@pytest.mark.ray_smoke
def test_answers_come_through_the_proxy_as_they_are_alone(address: str) -> None:
    """Eight at once, whole and streamed, by OpenAI's client: what `generate` says under the strategy."""
    import openai
    import torch

    import vtokens
    from tests.serve.served import client, user
    from vtokens.core.prompts import encode_prompts, question_prompt

    examples = scenes.examples("test", n=8, seed=6)
    model: Any
    model, processor = vtokens.load("scenes-llava", "cls(keep=0.25)")
    alone = []
    for one in examples:
        batch = encode_prompts(processor, [question_prompt(processor, one.question)], [[one.image]])
        with torch.no_grad():
            tokens = model.generate(**batch, do_sample=False, max_new_tokens=64)[0, batch["input_ids"].shape[1] :]
        alone.append(processor.decode(tokens, skip_special_tokens=True).strip())
    asking = client(address, KEY)

    def ask(number: int) -> tuple[str, int]:
        messages: Any = [user(examples[number].question, examples[number].image)]
        more: Any = {"model": "scenes-llava:fast", "messages": messages, "temperature": 0}
        if number % 2:
            answer: Any = asking.chat.completions.create(**more)
            return answer.choices[0].message.content.strip(), answer.vtokens["kept"]
        chunks: list[Any] = [*asking.chat.completions.create(**more, stream=True)]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        [told] = [chunk.vtokens for chunk in chunks if getattr(chunk, "vtokens", None)]
        return text.strip(), told["kept"]

    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(ask, range(8))] == [(text, 36) for text in alone]
    with pytest.raises(openai.AuthenticationError):
        client(address, "wrong-key-of-twenty-letters").models.list()
    for path, kind in (("/", "text/html"), ("/page/page.js", "text/javascript")):
        with urllib.request.urlopen(address + path) as page:
            assert page.headers["content-type"].startswith(kind)
            assert "default-src 'none'" in page.headers["content-security-policy"]


@pytest.mark.slow
@pytest.mark.ray_smoke
def test_a_file_is_answered_as_the_page_says(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    [example] = scenes.examples("test", n=1, seed=6)
    (tmp_path / "photos").mkdir()
    example.image.save(tmp_path / "photos" / "a.png")
    (tmp_path / "questions.jsonl").write_text(f'{{"image": "a.png", "prompt": "{example.question}"}}\n')
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[1], "docs/deploy.md", "exec"), {})
    assert capsys.readouterr().out.strip().endswith("1 answered, 0 not")
    assert os.path.getsize("answers.jsonl") > 0
