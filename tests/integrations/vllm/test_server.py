"""vLLM's own OpenAI server, and budgets a request over HTTP."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integrations.vllm.engines import FOLDER, Asked, picture, reference

pytest.importorskip("vllm")
pytestmark = pytest.mark.vllm
openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def client(tmp_path_factory: Any) -> Iterator[Any]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(FOLDER / "scenes-llava"),
        "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager", "--max-model-len", "1024",
        "--gpu-memory-utilization", "0.2", "--max-num-seqs", "8", "--trust-request-mm-kwargs",
        "--served-model-name", "scenes", "--mm-processor-kwargs", '{"vtokens": {"strategy": "divprune", "keep": 0.25}}',
    ]  # fmt: skip
    log = Path(tmp_path_factory.mktemp("server")) / "log"
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ})
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                time.sleep(1)
        yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=120)
    finally:
        process.terminate()
        process.wait(60)


def ask(client: Any, seed: int, own: Any) -> Any:
    data = io.BytesIO()
    picture(96, 96, seed).save(data, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "what is in the picture ?"},
    ]
    extra = {} if own is None else {"mm_processor_kwargs": {"vtokens": own}}
    return client.chat.completions.create(
        model="scenes", messages=[{"role": "user", "content": content}], temperature=0, max_tokens=8,
        extra_body={**extra, "min_tokens": 8, "return_token_ids": True},
    )  # fmt: skip


def test_each_request_has_its_budget(client: Any) -> None:
    text = "<bos>USER: <image>\nwhat is in the picture ? ASSISTANT:"
    for own, spec, kept in (
        (None, "divprune(keep=0.25, positions=compact)", 36),
        ({"keep": 0.5}, "divprune(keep=0.5, positions=compact)", 72),
        ({"strategy": "cls(keep=0.1)"}, "cls(keep=0.1, positions=compact)", 14),
        ({"strategy": "none"}, "none", 144),
        ({"keep": 0.5}, "divprune(keep=0.5, positions=compact)", 72),
    ):
        found = ask(client, 5, own)
        expected = reference("scenes-llava", Asked(text, [picture(96, 96, 5)]), spec)
        assert list(found.choices[0].token_ids) == expected.tokens
        assert found.usage.prompt_tokens == expected.fed
        assert found.usage.prompt_tokens - kept == 9


def test_what_cannot_run_is_a_400_with_the_reason(client: Any) -> None:
    for own, part in (
        ("fastv", "drops tokens inside the decoder"),
        ("clss", "Did you mean 'cls'"),
        ({"keep": 1000}, "asks for more than the 144 visual tokens"),
    ):
        with pytest.raises(openai.BadRequestError) as error:
            ask(client, 5, own)
        assert part in json.dumps(error.value.body)
    assert ask(client, 5, None).usage.prompt_tokens == 45
