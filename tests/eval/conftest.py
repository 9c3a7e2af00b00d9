"""What tests of the evaluation share: the embedded model, and a few documents of each scenes task."""

from pathlib import Path
from typing import Any

import pytest

import vtokens


@pytest.fixture(scope="session")
def shipped() -> tuple[Any, Any]:
    """The embedded model and its processor; a test leaves nothing attached."""
    return vtokens.load("scenes-llava", strategy="none")


@pytest.fixture(scope="session")
def scenes_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scenes tasks with 8 documents each."""
    from vtokens.eval.tasks import build

    return build(tmp_path_factory.mktemp("tasks") / "scenes", 8, seed=5)
