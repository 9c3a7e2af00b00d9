"""`vtokens serve`: a model behind OpenAI's interface, with a strategy for each request."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from vtokens.cli.options import above_zero, add_placement, keep_value, path, seconds, whole
from vtokens.cli.output import note
from vtokens.core.errors import shorten
from vtokens.core.reading import MEBIBYTE

_EXAMPLES = """examples:
  vtokens serve
  vtokens serve llava-hf/llava-1.5-7b-hf --device cuda --dtype bfloat16 --preset fast="cls(keep=0.25)"
  vtokens serve llava-hf/llava-1.5-7b-hf --preset fast="cls(keep=0.25)" --preset faster="cls(keep=0.1)" --strategy none
  vtokens serve --trust-request-strategy --port 8080
  vtokens serve llava-hf/llava-1.5-7b-hf --filter llava-filter.json --action redact --risk 0.1
  vtokens serve --host 0.0.0.0 --keys keys.txt --allow-host images.example.org

  curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' -d '{"model": "scenes-llava",
    "messages": [{"role": "user", "content": "is there a red circle?"}]}'

A client of OpenAI's takes base_url="http://127.0.0.1:8000/v1" and, where --keys asks for one, its key as api_key. The
page at / asks about a picture under several strategies side by side. Ctrl-C, or SIGTERM, answers what was accepted and
ends.
"""


def add_to(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "serve",
        help="serve a model over HTTP, as OpenAI's clients ask",
        description="Serve a model: OpenAI's chat completions, with a strategy, and a filter, for each request.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "model", nargs="?", default="scenes-llava", help="embedded model, folder or hub id (%(default)s)"
    )
    command.add_argument("--name", metavar="ID", help="what requests call it (as it is given; of a folder its name)")
    command.add_argument("--strategy", help='what runs where a request says nothing, e.g. "cls(keep=0.25)" (none)')
    command.add_argument("--keep", type=keep_value, help="a share such as 0.25, or a count such as 64")
    command.add_argument(
        "--preset", action="append", default=[], metavar="NAME=STRATEGY",
        help='what requests get whose model is ID:NAME, e.g. fast="cls(keep=0.25)"; may be given several times',
    )  # fmt: skip
    command.add_argument(
        "--trust-request-strategy", action="store_true", help="let requests name any strategy, not presets alone"
    )
    _add_filter(command)
    _add_network(command)
    _add_bounds(command)
    command.add_argument("--no-page", action="store_true", help="no page at /")
    command.add_argument("--log", action="store_true", help="a line on stderr for each chat")
    add_placement(command)
    command.set_defaults(run=_run)


def _add_filter(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--filter", metavar="FILE", default="auto", help="a calibrated filter that was saved, or none (the model's own)"
    )
    command.add_argument(
        "--action", metavar="A", help="filter every answer about pictures: flag, redact, regenerate or abstain"
    )
    limit = command.add_mutually_exclusive_group()
    limit.add_argument("--threshold", type=float, metavar="P", help="of --action: act above this probability")
    limit.add_argument("--risk", type=float, metavar="ALPHA", help="of --action: act so much that this risk is kept")


def _add_network(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; others than %(default)s need --keys"
    )
    command.add_argument("--port", type=whole(0, 65535), default=8000, help="0 takes a free one (%(default)s)")
    command.add_argument(
        "--keys", "--key-file", type=path, metavar="FILE",
        help="lines `name: key`; requests need one. Without it the variable VTOKENS_API_KEYS, with commas",
    )  # fmt: skip
    command.add_argument("--open-metrics", action="store_true", help="/metrics needs no key")
    command.add_argument(
        "--allow-host", action="append", default=[], metavar="HOST",
        help="fetch pictures from this host, by https; may be given several times (none: data URLs only)",
    )  # fmt: skip
    command.add_argument("--private-urls", action="store_true", help="also where it is of the own machine or network")
    command.add_argument(
        "--server-name", action="append", default=[], metavar="NAME", help="a name by which clients call this server"
    )
    command.add_argument(
        "--allow-origin", action="append", default=[], metavar="URL", help="let pages of this site ask from browsers"
    )


def _add_bounds(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--max-batch", type=whole(1, 1024), default=8, metavar="N", help="prompts in a pass (%(default)s)"
    )
    command.add_argument(
        "--wait", type=seconds, default=0.01, metavar="S", help="for others on their way to join, at most (%(default)s)"
    )
    command.add_argument("--queue", type=whole(), default=64, metavar="N", help="chats that may wait (%(default)s)")
    command.add_argument("--drain", type=seconds, default=30.0, metavar="S", help="for the last answers (%(default)s)")
    for name, what in _BOUNDS.items():
        kind = above_zero if name == "max-seconds" else whole(1, 2**31)
        command.add_argument(f"--{name}", type=kind, metavar="S" if name == "max-seconds" else "N", help=what)


_BOUNDS = {
    "max-body": "MiB of a request (32)",
    "max-pictures": "of a request (16)",
    "max-pixels": "of a picture (50,000,000)",
    "max-frames": "taken of a video (32)",
    "max-prompt-tokens": "of a chat with its pictures (32,768)",
    "max-new-tokens": "of an answer (4096)",
    "max-seconds": "that a chat may wait and take (300)",
}


def _run(options: argparse.Namespace) -> None:
    from vtokens.serve.keys import check_address, read_keys
    from vtokens.serve.settings import Settings

    keys = read_keys(options.keys)
    check_address(options.host, keys)
    settings = Settings(
        model=options.model, name=options.name, strategy=options.strategy, keep=options.keep,
        presets=_presets(options.preset), trust=options.trust_request_strategy, filter=options.filter,
        action=options.action, risk=options.risk, threshold=options.threshold, device=options.device,
        dtype=options.dtype, most=options.max_batch, wait=options.wait, queue=options.queue, drain=options.drain,
        hosts=tuple(options.allow_host), private_urls=options.private_urls, limits=_limits(options),
        page=not options.no_page,
    )  # fmt: skip
    from vtokens.serve.server import listen, serve

    if options.log:
        logging.basicConfig(stream=sys.stderr, format="vtokens: %(message)s")
        logging.getLogger("vtokens.serve").setLevel(logging.INFO)
    with listen(options.host, options.port) as there:
        serve(
            settings, keys, there, names=options.server_name, origins=options.allow_origin,
            open_metrics=options.open_metrics, ready=lambda address: _say(settings, address),
        )  # fmt: skip


def _presets(given: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in given:
        name, mark, spec = one.partition("=")
        if not mark or not name.strip() or not spec.strip():
            raise ValueError(f'--preset {shorten(one)} is not allowed: NAME=STRATEGY is, as in fast="cls(keep=0.25)"')
        if name in found:
            raise ValueError(f"--preset {name} is there twice")
        found[name.strip()] = spec.strip()
    return found


def _limits(options: argparse.Namespace) -> Any:
    from vtokens.serve.limits import Limits

    given = {name: getattr(options, name.replace("-", "_")) for name in _BOUNDS}
    known = {name.removeprefix("max-").replace("-", "_"): value for name, value in given.items() if value is not None}
    if "body" in known:
        known["body"] *= MEBIBYTE
    return Limits(**known)


def _say(settings: Any, address: str) -> None:
    from vtokens.scenes import embedded_models

    presets = "".join(f", {settings.shown}:{name}" for name in settings.presets)
    note(f"{settings.shown}{presets} at {address}/v1" + (f", and a page at {address}" if settings.page else ""))
    if settings.model in embedded_models():
        note(f"{Path(settings.model).name} knows drawn scenes only: `vtokens serve MODEL` serves another")
