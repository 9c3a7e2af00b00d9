"""A genuine server on a free port of this machine, what clients ask of it, and what plain `generate` says."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import torch
import uvicorn
from PIL import Image

from vtokens.core.prompts import chat_text, encode_prompts
from vtokens.serve.app import make_app
from vtokens.serve.connection import server_options
from vtokens.serve.front import Front
from vtokens.serve.guard import guarded
from vtokens.serve.keys import Keys
from vtokens.serve.server import ROUTES, listen
from vtokens.serve.settings import Settings


@contextmanager
def serving(settings: Settings, keys: Keys = Keys()) -> Iterator[tuple[str, Any]]:  # noqa: B008 (it holds nothing)
    """The address of a server under these settings, and its application."""
    app = make_app(settings)
    front: Any = Front(guarded(app, settings.limits, keys), app.state.metrics, ROUTES)
    config = uvicorn.Config(front, log_level="error", lifespan="on", **server_options(settings.limits))
    with listen("127.0.0.1", 0) as there:
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [there]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
            assert thread.is_alive()
        yield f"http://127.0.0.1:{there.getsockname()[1]}", app
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def client(address: str, key: str = "none", **more: Any) -> openai.OpenAI:
    """OpenAI's client, which tries nothing twice."""
    return openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0, timeout=60, **more)


def data_url(image: Image.Image) -> str:
    """A picture inside of a URL."""
    held = io.BytesIO()
    image.save(held, "PNG")
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"


def user(text: str, *images: Image.Image) -> dict[str, Any]:
    """A message of a user."""
    parts: list[Any] = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def said(
    app: Any, turns: list[Any], images: list[Image.Image], strategy: str = "none", seed: int = 0, **settings: Any
) -> Any:
    """What `generate` writes in one pass by itself under a strategy: ids, text, and the handle's report."""
    served = app.state.served
    text = chat_text(served.processor, turns)
    inputs = encode_prompts(served.processor, [text], [images] if images else ())

    def run() -> Any:
        with served.handle.using(strategy), torch.random.fork_rng():
            torch.manual_seed(seed)
            rows = served.model.generate(**inputs, max_new_tokens=40, **{"do_sample": False, **settings})
        return rows[0, inputs["input_ids"].shape[1] :].tolist(), served.handle.report() if images else None

    ids, report = app.state.batcher.alone(run).result(60)
    return ids, served.processor.tokenizer.decode(ids, skip_special_tokens=True), report


def asked(text: str, pictures: int = 1) -> list[dict[str, Any]]:
    """The same as `user`, as chat templates take it."""
    return [{"role": "user", "content": [*[{"type": "image"}] * pictures, {"type": "text", "text": text}]}]


def metrics(address: str) -> dict[str, float]:
    """Every sample of /metrics by name and labels."""
    import urllib.request

    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(f"{address}/metrics") as answer:
        text = answer.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(one.labels.items()))
            found[f"{one.name}{{{labels}}}" if labels else one.name] = one.value
    return found
