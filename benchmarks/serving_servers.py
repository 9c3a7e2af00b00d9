"""Servers in processes of their own, with the same model from the same folder: ours, and transformers' own."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import openai
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import LlavaProcessor, TokenizersBackend

import vtokens
from benchmarks.shapes import build
from vtokens.scenes.embedded import embedded_models

_START = 180
"""Seconds in which a server has to answer."""


def saved(name: str, folder: Path) -> Path:
    """The folder that both servers load: an embedded model, or one of `benchmarks.shapes` with a processor of its own.

    Args:
        name: of the model.
        folder: where to write it.
    """
    where = folder / name
    if name in embedded_models():
        model, processor = vtokens.load(name)
    else:
        model = build(name, torch.device("cpu"), torch.float32)
        processor = _processor(model.config)
    model.save_pretrained(where)
    processor.save_pretrained(where)
    return where


def _processor(config: Any) -> LlavaProcessor:
    """A processor for a LLaVA of any size: a word for each token, pictures as large as its tower takes them."""
    like: Any = vtokens.load("scenes-llava")[1]
    words = {f"w{number}": number for number in range(config.text_config.vocab_size)}
    image = "<image>"
    special = {"unk_token": 0, "bos_token": 1, "eos_token": 2, "pad_token": 3, image: config.image_token_id}
    by_place = {place: name if name == image else f"<{name.split('_')[0]}>" for name, place in special.items()}
    vocabulary = {by_place.get(number, word): number for word, number in words.items()}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in by_place.values()])
    names = {name: by_place[place] for name, place in special.items() if name != image}
    tokenizer = TokenizersBackend(tokenizer_object=made, padding_side="left", **names)
    size = config.vision_config.image_size
    square = {"height": size, "width": size}
    return LlavaProcessor(
        type(like.image_processor)(size=square, crop_size=square),
        tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=1,
        image_token=image,
        chat_template=like.chat_template,
    )


@contextlib.contextmanager
def ours(folder: Path, presets: Mapping[str, str], threads: int) -> Iterator[openai.OpenAI]:
    """A client of `vtokens serve`."""
    port = _free()
    named = [part for name, spec in presets.items() for part in ("--preset", f"{name}={spec}")]
    command = [sys.executable, "-m", "vtokens", "serve", str(folder), *named, "--port", str(port), "--filter", "none"]
    with _running(command, port, threads) as client:
        yield client


@contextlib.contextmanager
def theirs(folder: Path, threads: int) -> Iterator[openai.OpenAI]:
    """A client of `transformers serve`."""
    port = _free()
    program = str(Path(sys.executable).with_name("transformers"))
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--log-level", "error"]
    with _running([program, "serve", str(folder), *options], port, threads) as client:
        yield client


@contextlib.contextmanager
def _running(command: Sequence[str], port: int, threads: int) -> Iterator[openai.OpenAI]:
    """A client of a server that runs inside of the block."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            until = time.monotonic() + _START
            while not _answers(address):
                if process.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    raise RuntimeError(f"{' '.join(command)} does not answer:\n{log.read()[-4000:]}")
                time.sleep(0.2)
            with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=600) as client:
                yield client
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _free() -> int:
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        return int(there.getsockname()[1])
