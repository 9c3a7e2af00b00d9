"""The server at work: overload, clients that leave, signals, and the command line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.serve.common import questions
from tests.serve.served import client, metrics, serving, user
from vtokens.serve.keys import Keys
from vtokens.serve.limits import Limits
from vtokens.serve.server import listen, serve
from vtokens.serve.settings import Settings

NAME = "scenes-llava"
HI = {"model": NAME, "messages": [{"role": "user", "content": "is there a red circle?"}], "temperature": 0}


@contextmanager
def busy(app: Any) -> Iterator[None]:
    """The model's thread held by something else."""
    begun, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        let_go.wait(60)

    held = app.state.batcher.alone(hold)
    assert begun.wait(30)
    try:
        yield
    finally:
        let_go.set()
        held.result(30)


def until(true: Any, seconds: float = 30) -> None:
    """Wait for something to be so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def send(address: str, body: dict[str, Any]) -> socket.socket:
    """A chat's request on a connection of its own, of which nothing has been read."""
    host, port = address.removeprefix("http://").split(":")
    data = json.dumps(body).encode()
    there = socket.create_connection((host, int(port)))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
    there.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return there


def test_a_full_queue_refuses_and_loses_nothing() -> None:
    with serving(Settings(queue=3, page=False)) as (address, app):
        answers: list[Any] = []

        def ask() -> None:
            answers.append(client(address).chat.completions.create(**HI))

        with busy(app):
            waiting = [threading.Thread(target=ask) for _ in range(3)]
            for one in waiting:
                one.start()
            until(lambda: app.state.batcher.queued == 3)
            with pytest.raises(openai.RateLimitError, match="3 requests are waiting") as full:
                client(address).chat.completions.create(**HI)
            assert int(full.value.response.headers["retry-after"]) >= 1
            assert full.value.code == "queue_full"
        for one in waiting:
            one.join(30)
        with pytest.raises(openai.BadRequestError, match="n=4: this server lets 3"):  # to wait would not help
            client(address).chat.completions.create(**HI, n=4)
        assert len(answers) == 3
        assert len({answer.choices[0].message.content for answer in answers}) == 1
        counted = metrics(address)
        assert counted["vtokens_refusals_total{reason=queue_full}"] == 1
        assert counted["vtokens_http_responses_total{route=/v1/chat/completions,status=429}"] == 1


def test_clients_that_leave_free_their_rows() -> None:
    with serving(Settings(most=2, page=False)) as (address, app):
        served = app.state.served
        head, end = served.model.get_output_embeddings(), served.model.generation_config.eos_token_id

        def slow(module: Any, args: Any, logits: Any) -> Any:
            time.sleep(0.02)
            logits[..., end] = -1e9  # it goes on until it may not
            return logits

        image = questions()[0].images[0]
        long = {**HI, "messages": [user("describe the scene", image)], "max_tokens": 800}
        hook = head.register_forward_hook(slow)
        for stream in (True, False):
            there = send(address, {**long, "stream": stream})
            sent = b""
            while stream and b'"content":"' not in sent.replace(b'"content":""', b""):
                sent += there.recv(65536)
            until(lambda: app.state.batcher.running == 1)
            there.close()
            left = time.monotonic()
            until(lambda: app.state.batcher.running == 0)
            assert time.monotonic() - left < 5  # and not the 16 seconds that it would have taken
        filtered = {**long, "vtokens": {"filter": {"action": "flag", "threshold": 0.5}}}
        there = send(address, filtered)
        until(lambda: app.state.batcher.running == 1)
        there.close()
        until(lambda: app.state.batcher.running == 0)
        hook.remove()
        with busy(app):  # one that still waits is never begun
            there = send(address, long)
            until(lambda: app.state.batcher.queued == 1)
            there.close()
            time.sleep(0.2)
        assert client(address).chat.completions.create(**HI).choices[0].message.content
        counted = metrics(address)
        assert counted["vtokens_answers_total{finish_reason=stop,strategy=none}"] == 1
        assert counted["vtokens_http_responses_total{route=/v1/chat/completions,status=499}"] == 3


def test_what_waits_too_long_ends() -> None:
    limits = Limits(seconds=0.3)
    with serving(Settings(limits=limits, page=False)) as (address, app), busy(app):
        for more in ({}, {"stream": True}):
            with pytest.raises(openai.InternalServerError, match="longer than it may") as late:
                client(address).chat.completions.create(**HI, **more)
            assert (late.value.status_code, late.value.code) == (504, "deadline_exceeded")


@contextmanager
def started(held: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`vtokens serve` as a process whose temporary files are in a folder, and its address."""
    command = [sys.executable, "-m", "vtokens", "serve", "--port", "0", "--no-page", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(held)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    lines = []
    try:
        for line in process.stderr:
            lines.append(line)
            if " at http" in line:
                yield line.split(" at ")[1].split("/v1")[0], process
                break
        else:
            raise AssertionError("".join(lines))
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_killed_and_started_again_the_command_serves_and_drains(tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("alice: 0123456789abcdef0123\nbob: fedcba98765432100123\n")
    options = ["--preset", "fast=cls(keep=0.25)", "--keys", str(keys), "--open-metrics", "--max-batch", "1"]
    image = questions()[0].images[0]
    asking = {**HI, "messages": [user("describe the scene", image)]}
    held = tmp_path / "held"
    held.mkdir()
    with started(held, *options) as (address, process):
        alice = client(address, "0123456789abcdef0123")
        told = alice.chat.completions.create(**asking).choices[0].message.content
        there = send(address, asking)
        process.kill()
        process.wait(30)
        there.close()
    assert list(held.rglob("*")) == []
    with started(held, *options) as (address, process):
        with pytest.raises(openai.AuthenticationError):
            client(address, "wrong").models.list()
        alice = client(address, "0123456789abcdef0123")
        assert [model.id for model in alice.models.list().data] == [NAME, f"{NAME}:fast"]
        assert alice.chat.completions.create(**asking).choices[0].message.content == told
        with pytest.raises(openai.BadRequestError, match="presets"):
            alice.chat.completions.create(**asking, extra_body={"vtokens": {"strategy": "cls"}})
        assert metrics(address)["vtokens_refusals_total{reason=invalid_api_key}"] == 1
        answers: list[Any] = []
        threads = [threading.Thread(target=_try, args=(alice, asking, answers)) for _ in range(6)]
        for thread in threads:
            thread.start()
        until(lambda: metrics(address)["vtokens_queued"] >= 2)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        assert process.wait(30) == 0
        assert answers.count(told) >= 2
        assert set(answers) <= {told, 503}


def _try(there: openai.OpenAI, asking: dict[str, Any], answers: list[Any]) -> None:
    try:
        answers.append(there.chat.completions.create(**asking).choices[0].message.content)
    except openai.APIStatusError as error:
        answers.append(error.status_code)


def test_what_drains_takes_no_more_and_says_so() -> None:
    with serving(Settings(page=False)) as (address, app):
        answers: list[Any] = []
        with busy(app):
            asking = threading.Thread(target=_try, args=(client(address), HI, answers))
            asking.start()
            until(lambda: app.state.batcher.queued == 1)
            draining = threading.Thread(target=app.state.drain)
            draining.start()
            until(lambda: app.state.batcher.draining)
            with pytest.raises(openai.InternalServerError, match="shutting down") as late:
                client(address).chat.completions.create(**HI)
            assert (late.value.status_code, late.value.code) == (503, "draining")
            assert late.value.response.headers["retry-after"]
            with pytest.raises(urllib.error.HTTPError) as unfit:
                urllib.request.urlopen(f"{address}/health")
            assert (unfit.value.code, json.loads(unfit.value.read())) == (503, {"status": "draining"})
        asking.join(30)
        draining.join(30)
        assert isinstance(answers[0], str)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--preset", "fast"], "NAME=STRATEGY"),
        (["--preset", "fast=clss"], "Did you mean 'cls'"),
        (["--strategy", "fastv(layer=99)"], "layer"),
        (["--host", "0.0.0.0"], "--keys"),
        (["--risk", "0.1"], "are of an action"),
        (["--action", "flagg"], "Did you mean 'flag'"),
        (["nosuchmodel"], "nosuchmodel"),
    ],
)
def test_wrong_options_are_told_on_one_line(options: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    from vtokens.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["serve", "--port", "0", *options])
    assert ended.value.code == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert says in told[0]


def test_a_taken_port_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    from vtokens.cli import main

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit):
        main(["serve", "--port", str(taken.getsockname()[1])])
    assert "cannot listen" in capsys.readouterr().err


def test_of_two_that_begin_on_one_port_the_second_says_so() -> None:
    """Both have bound it while they load their models, which Linux allows as long as none listens."""

    def ready(address: str) -> None:
        raise AssertionError(address)

    with listen("127.0.0.1", 0) as first:
        try:
            second = listen("127.0.0.1", first.getsockname()[1])
        except OSError:  # other systems refuse at once
            return
        first.listen()
        with second, pytest.raises(OSError, match="cannot listen on --host"):
            serve(Settings(page=False, filter="none"), Keys(), second, ready=ready)
