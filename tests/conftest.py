"""Settings that every test shares: no network, fixed seeds, deprecations as errors, and the profiles of hypothesis.

Environment variables read here: ``HYPOTHESIS_PROFILE`` (``ci``, ``fuzz`` or ``cpus``), ``FUZZ_EXAMPLES`` (examples a
property, under ``fuzz``), ``HF_HUB_OFFLINE`` (``0`` lets the tests marked ``hub`` run) and ``VTOKENS_TEST_THREADS``
(threads of torch, 1).
"""

import os
import zlib

# Read by transformers and tokenizers when they are imported, hence before anything else here.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")

import logging
import random
import re
from collections.abc import Iterator
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch

# Read by triton when it is imported, which transformers does: without a GPU its kernels run in Python.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# The models of the tests are so small that threads would spend their time waiting for one another; `pytest -n` is what
# makes use of more cores.
torch.set_num_threads(int(os.environ.get("VTOKENS_TEST_THREADS", "1")))


class DeprecationLogged(AssertionError):
    """transformers logged that something we call is deprecated."""


class RaiseOnDeprecation(logging.Handler):
    """Turn a logged deprecation into an error, raised where the deprecated thing is called.

    transformers announces some deprecations with ``logger.warning_once`` instead of a warning. Raising from the handler
    also keeps ``warning_once`` from remembering the message, so a second test meets it again.
    """

    pattern = re.compile(r"deprecat|will be removed", re.IGNORECASE)
    own = re.compile(r"arguments=\(\{'guidance_scale'\}\)")
    """What transformers says of itself: Janus' `generate` hands its settings to the usual one in two ways."""

    def emit(self, record: logging.LogRecord) -> None:
        """Raise `DeprecationLogged` if the message of ``record`` speaks of a deprecation."""
        message = record.getMessage()
        if self.pattern.search(message) and not self.own.search(message):
            raise DeprecationLogged(f"{record.name}: {message}")


class TorchRandom:
    """torch's generator in the shape that hypothesis asks of one.

    Hypothesis then puts torch in the same state before every example: a failure repeats, and noise that is to differ
    between examples needs a drawn seed.
    """

    seed = staticmethod(torch.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


TORCH_RANDOM = TorchRandom()  # hypothesis keeps a weak reference only
hypothesis.register_random(TORCH_RANDOM)

# A test leaves `max_examples` to the profile unless one case is costly: what it sets itself holds under both.
hypothesis.settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    max_examples=100,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "fuzz",
    deadline=None,
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "2000")),
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile("cpus", hypothesis.settings.get_profile("ci"), max_examples=20)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


NUMERIC = {"tests.limits", "tests.kernels.oracle", "check_tokens", "check_answers"}
"""What compares numbers up to rounding: modules, and functions of others."""


def numeric(module: object) -> bool:
    """Whether a test module imports something that does."""
    names = ((getattr(part, "__module__", None), getattr(part, "__name__", None)) for part in vars(module).values())
    return any(NUMERIC & {name for name in pair if isinstance(name, str)} for pair in names)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--slow`` and ``--share``."""
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well")
    parser.addoption("--share", default="0/1", help="I/N: run only one Nth of the tests, the Ith, drawn by their names")


def pytest_configure(config: pytest.Config) -> None:
    """Listen to the log of transformers from before the first test module is imported."""
    logging.getLogger("transformers").addHandler(RaiseOnDeprecation(level=logging.WARNING))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what this machine or this call cannot run, with the reason."""
    reasons = {}
    if not torch.cuda.is_available():
        reasons["gpu"] = "needs a CUDA device"
    if os.environ["HF_HUB_OFFLINE"].upper() in {"1", "ON", "YES", "TRUE"}:
        reasons["hub"] = "needs the network: set HF_HUB_OFFLINE=0"
    if not config.getoption("--slow"):
        reasons["slow"] = "takes long: give --slow"
    part, parts = map(int, config.getoption("--share").split("/"))
    drawn = {item: zlib.crc32(item.nodeid.encode()) % parts == part for item in items}
    config.hook.pytest_deselected(items=[item for item in items if not drawn[item]])
    items[:] = [item for item in items if drawn[item]]
    for item in items:
        if numeric(item.module):
            item.add_marker(pytest.mark.numeric)
        for marker, reason in reasons.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Seed every generator a test can draw from, so that a test does not depend on which ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def no_grad() -> Iterator[None]:
    """No gradients in a test; `pytestmark = pytest.mark.usefixtures("no_grad")` asks for it in a whole file."""
    with torch.no_grad():
        yield


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A real Chromium, one a session: playwright does not start a second one in a process whose first still runs."""
    from tests.eval.browser import chromium

    with chromium() as found:
        yield found
