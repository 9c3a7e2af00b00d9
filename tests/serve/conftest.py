"""What all tests of the server share."""

from __future__ import annotations

import pytest
from PIL import ImageFile


@pytest.fixture(autouse=True)
def whole_pictures_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some tasks of lmms-eval have Pillow show what is left of cut files, in the whole process."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
