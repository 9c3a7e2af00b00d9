"""Processors of models that see videos too, on machines where transformers cannot prepare videos.

transformers prepares videos with torchvision alone and refuses the whole processor where it is missing, although
pictures need nothing but Pillow. `load` gives the genuine processor where torchvision imports, and the genuine one
without its video part where it does not.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import warnings
from typing import Any

from transformers import PROCESSOR_MAPPING, AutoProcessor, PreTrainedConfig, ProcessorMixin
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils import is_torchvision_available
from transformers.video_processing_utils import BaseVideoProcessor

from vtokens.core.versions import torchvision_command
from vtokens.loading.paired import paired_frames


def load(source: str, config: PreTrainedConfig, **hub: Any) -> Any:
    """The processor of a model.

    Args:
        source: a local folder or a hub id.
        config: the model's configuration, which says of what family it is.
        hub: as in `from_pretrained`: `revision`, `cache_dir`, ...

    Returns:
        The genuine processor. Without torchvision, that of a model which sees videos takes pictures and text only, and
        raises `ImportError` for a video; a warning says so, once for a class. Of Qwen2-VL and Qwen2.5-VL it takes
        videos whose frames need not be resized (`vtokens.loading.paired`).

    Raises:
        OSError: a file of the processor is missing.
        ImportError: a part of it could not be built.
    """
    genuine: Any = PROCESSOR_MAPPING.get(type(config), None)
    if genuine is not None and not is_torchvision_available() and any(map(_is_video, genuine.get_attributes())):
        processor = pictures_only(genuine).from_pretrained(source, **hub)
        with contextlib.suppress(OSError):  # saved without a video part
            processor.laid_aside, _ = BaseVideoProcessor.get_video_processor_dict(source, **hub)
        if not getattr(getattr(processor, "video_processor", None), "fixed_size", False):
            _warn_once(genuine)
        return processor
    processor = AutoProcessor.from_pretrained(source, **hub)
    if isinstance(processor, PreTrainedTokenizerBase):  # transformers' silent answer to a processor it cannot build
        raise ImportError(
            f"the processor of {source!r} came back as a bare tokenizer: a part of it could not be built. "
            "`vtokens doctor` says which packages are missing or broken"
        )
    return processor


class PicturesOnly(ProcessorMixin):
    """The base class of processors whose video part was taken out; `pictures_only` makes them.

    It stands between a genuine processor and transformers' base class. Processors read their parts off the signature of
    `__init__` and hand them on by position, each in an order of its own.

    Attributes:
        laid_aside: the settings of the video part, saved with the others; None where none were read.
    """

    laid_aside: dict[str, Any] | None = None
    image_processor: Any

    @property
    def video_processor(self) -> Any:
        """What prepares videos without torchvision, where frames need not be resized.

        Raises:
            AttributeError: nothing does, for this processor.
        """
        found = paired_frames(self.image_processor, self.laid_aside, _remedy())
        if found is None:
            raise AttributeError(f"{type(self).__name__} has no video part")
        return found

    def __init__(self, *parts: Any, **named: Any) -> None:
        given = dict(zip(super().get_attributes(), parts, strict=False)) | named
        super().__init__(**{name: part for name, part in given.items() if not _is_video(name)})

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The names of the parts, the tokenizer among them, but for the video part."""
        return [name for name in super().get_attributes() if not _is_video(name)]

    @classmethod
    def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As transformers' own, with nothing at the place of the video part."""
        parts = dict(zip(cls.get_attributes(), args, strict=True))
        placed = [parts.get(name) for name in super().get_attributes()]
        return super().from_args_and_dict(placed, processor_dict, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """What is saved: the settings of all parts but the tokenizer."""
        settings = super().to_dict()
        settings.pop("laid_aside", None)
        return settings | ({"video_processor": self.laid_aside} if self.laid_aside else {})


@functools.cache
def pictures_only(genuine: type[ProcessorMixin]) -> type[Any]:
    """A subclass of a genuine processor without its video part.

    It has the name of the genuine one, by which a saved processor is found: loaded where torchvision is, it has all
    parts.
    """
    signature = inspect.signature(genuine.__call__)

    @functools.wraps(genuine.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if signature.bind(self, *args, **kwargs).arguments.get("videos") is not None:
            refuse_videos(self)
        return genuine.__call__(self, *args, **kwargs)

    def reduce(self: Any) -> Any:  # the class is made in this function, where pickle cannot find it by its name
        return _blank, (genuine,), self.__dict__

    body = {"__call__": call, "__reduce__": reduce, "__doc__": genuine.__doc__, "__module__": __name__}
    return type(genuine.__name__, (genuine, PicturesOnly), body)


def refuse_videos(processor: Any) -> None:
    """Raise `ImportError` for a processor whose video part was taken out; frames as pictures are another prompt."""
    if isinstance(processor, PicturesOnly) and not hasattr(processor, "video_processor"):
        raise ImportError(f"{type(processor).__name__} {_remedy()}")


def _is_video(part: str) -> bool:
    return "video" in part


def _blank(genuine: Any) -> Any:
    made: Any = pictures_only(genuine)
    return made.__new__(made)


@functools.cache
def _warn_once(genuine: type[ProcessorMixin]) -> None:
    warnings.warn(f"pictures only: {genuine.__name__} {_remedy()}", stacklevel=4)


def _remedy() -> str:
    return f"prepares videos with torchvision, which is missing or does not import: {torchvision_command()}"
