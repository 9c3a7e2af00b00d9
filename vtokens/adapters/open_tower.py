"""Families whose tower can be shown less of a picture, and whose projector works row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from vtokens.adapters.base import Adapter


class OpenTower(Adapter):
    """A family that can say how its tower is shown less (`TowerSpec.fewer`) and what its projector puts out."""

    def check_pixels(self, modality: str, inputs: Mapping[str, Any], fewer: str) -> None:
        """Raise `ValueError` if the tower cannot be shown less of the pictures of a call (`TowerSpec.fewer`)."""

    def shown(self, modality: str, inputs: Mapping[str, Any]) -> list[Tensor]:
        """(T, C, H, W) of each picture of a call: the pixels that the tower is given of it, as `PixelGrid.values`.

        This and the next two are asked where a tower can be shown less in the arguments of the feature call
        (`TowerSpec.fewer`); `inputs` as in `pictures`.
        """
        raise NotImplementedError

    def resized(self, modality: str, inputs: Mapping[str, Any], shown: Sequence[Tensor]) -> dict[str, Any]:
        """The arguments of a feature call with other pictures (T, C, H, W), whose sides are whole tokens."""
        raise NotImplementedError

    def without_repeats(self, modality: str, inputs: Mapping[str, Any], shown: Tensor) -> dict[str, Any]:
        """The arguments of a feature call for some tokens at their places.

        Args:
            shown: bool (tokens of all pictures,), which of them; some of each frame.
        """
        raise NotImplementedError

    def projected_to_tokens(self, modality: str, scores: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        """Bring scores of what the projector put out (`TowerSpec.projector`) into the order of the features.

        Args:
            modality, inputs: as in `to_tokens`.
            scores: float32 (rows of the projector's output,), in the order it worked.

        Returns:
            As `to_tokens`.
        """
        return self.to_tokens(modality, scores, inputs)
