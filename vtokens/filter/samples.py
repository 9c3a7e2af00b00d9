"""One sample or a batch of them, as users give them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

from vtokens.core.errors import shorten
from vtokens.core.images import as_image
from vtokens.loading.media import Medium
from vtokens.video import Clip


def samples(images: Any, prompt: Any) -> tuple[bool, list[list[Medium]], list[str]]:
    """Sort out what was given.

    Args:
        images: a picture or a list of them for a single prompt; for a batch, a list with one of these a prompt. A
            picture is what `vtokens.core.images.as_image` takes, or a `vtokens.video.Clip`.
        prompt: text, or a list of texts for a batch.

    Returns:
        (single, images, prompts): whether it is a single sample, the pictures of each, upright and RGB, and the prompt
        of each.

    Raises:
        TypeError: a prompt that is no text, or pictures that are none.
        ValueError: pictures for another number of samples than there are prompts, or an array that is no picture.
        OSError: a file that cannot be read.
    """
    single = isinstance(prompt, str)
    if not isinstance(prompt, Iterable):
        raise TypeError(f"a prompt is text, got {shorten(prompt)}")
    prompts: list[str] = [str(prompt)] if single else list(prompt)
    for one in prompts:
        if not isinstance(one, str):
            raise TypeError(f"a prompt is text, got {shorten(one)}")
        _check_text("the prompt", one)
    groups = [images] if single else grouped(images, len(prompts))
    return single, [_opened(number, group) for number, group in enumerate(groups)], prompts


def grouped(images: Any, count: int) -> list[Any]:
    """What is shown with each of `count` prompts of a batch, as given; ValueError if it is for another number."""
    groups = list(images) if several(images) else [images]
    if len(groups) != count:
        raise ValueError(f"got pictures for {len(groups)} samples and {count} prompts: equal numbers are needed")
    return groups


def several(images: Any) -> bool:
    """Whether these are several pictures, or those of several samples, and not one."""
    return isinstance(images, Sequence) and not isinstance(images, str)


def responses(given: Any, single: bool, count: int, vocabulary: int) -> list[str | list[int]]:
    """Sort out responses that are there already.

    Args:
        given: text or token ids, as a list, an array or a tensor; for a batch, a list of these.
        single: whether it is one sample.
        count: how many samples there are.
        vocabulary: how many token ids the model has.

    Raises:
        TypeError: neither text nor token ids.
        ValueError: another number of responses than of samples, or an id that the model has not.
    """
    if not single and (isinstance(given, str | bytes) or not isinstance(given, Iterable)):
        raise TypeError(f"the responses to {count} prompts are {shorten(given)}: a list with one a prompt is needed")
    found = [_response(number, one, vocabulary) for number, one in enumerate([given] if single else given)]
    if len(found) != count:
        raise ValueError(f"got {len(found)} responses for {count} prompts: one a prompt is needed")
    return found


def _response(number: int, given: Any, vocabulary: int) -> str | list[int]:
    if isinstance(given, str):
        _check_text(f"responses[{number}]", given)
        return given
    ids = given.tolist() if hasattr(given, "tolist") else given
    if not isinstance(ids, Sequence) or isinstance(ids, bytes):
        raise TypeError(f"responses[{number}]={shorten(given)} is neither text nor a list of token ids")
    other = [one for one in ids if not isinstance(one, Integral) or isinstance(one, bool)]
    if other:
        raise TypeError(f"responses[{number}] is neither text nor a list of token ids: it holds {shorten(other[0])}")
    found = [int(one) for one in ids]
    if found and not 0 <= min(found) <= max(found) < vocabulary:
        wrong = next(one for one in found if not 0 <= one < vocabulary)
        raise ValueError(f"responses[{number}] holds token {wrong}: ids from 0 to {vocabulary - 1} are allowed")
    return found


def _check_text(what: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise ValueError(f"{what} holds {half}, half of a surrogate pair, which is no character") from error


def _opened(number: int, group: Any) -> list[Medium]:
    if group is None or (several(group) and not group):
        raise ValueError(f"images[{number}]={group!r} shows nothing: a picture is needed, or a list of them")
    return [one if isinstance(one, Clip) else as_image(one) for one in (group if several(group) else [group])]
