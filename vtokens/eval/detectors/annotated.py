"""Benchmarks of answers that are there already, with labels: HalLoc's spans and MHaluBench's claims.

Layouts: HalLoc's halloc_vqa.json, halloc_instruct.json and halloc_caption.json (huggingface.co/datasets/uunicee/HalLoc
at a562001, github.com/dbsltm/cvpr25_halloc), MHaluBench's MHaluBench_train.json (huggingface.co/datasets/openkg/
MHaluBench, described in github.com/zjunlp/EasyDetect at cde1823).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vtokens.core.errors import unknown
from vtokens.core.reading import MEBIBYTE, read_json
from vtokens.eval.detectors.benchmarks import Case
from vtokens.filter.mentions import Mention

_MOST = 1024 * MEBIBYTE
_TYPES = ("object", "attribute", "relationship", "scene", "other")
_LABELS = {"hallucination": True, "non-hallucination": False}
_FOLDERS = ("VG_100K", "VG_100K_2", "train2014", "val2014", "")


def halloc(file: str | Path, images: str | Path, types: Sequence[str] = _TYPES) -> list[Case]:
    """HalLoc's answers: what overlaps an annotated span is unsupported, and all else was taken from annotations.

    Args:
        file: a list of {"id", "image_id", "prompt", "hallucinated_text", "annotations"}, where annotations are lists by
            type of {...: {"name", "char_index": "51:56"}}: characters of the text.
        images: the folder that holds Visual Genome's VG_100K and VG_100K_2, COCO's train2014 and val2014, or pictures.
        types: of annotations; of what overlaps one of another type nothing is said.

    Raises:
        OSError: the file cannot be read, or there is no picture of a row.
        ValueError: a file in another form, or a type that is none.
    """
    for one in types:
        if one not in _TYPES:
            raise unknown("type of annotations in HalLoc", one, _TYPES)
    found = []
    for row in _rows(file, "HalLoc"):
        try:
            text, spans = str(row["hallucinated_text"]), list(_spans(row["annotations"]))
            picture = _picture(Path(images), str(row["image_id"]))
            prompt = str(row["prompt"]).replace("<image>", "").strip()
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{file} is not in HalLoc's layout: {error!r}") from error
        if any(not 0 <= start < end <= len(text) for _, start, end in spans):
            raise ValueError(f"{file} annotates characters that the text of {row.get('id')!r} has not")
        found.append(Case(picture, prompt, Path(file).stem, _overlaps(spans, types), text))
    return found


def mhalubench(file: str | Path, images: str | Path, question: str = "Describe the image.") -> list[Case]:
    """MHaluBench's claims, each judged as a whole: it is wrong if any of what it mentions is.

    Args:
        file: a list of {"id", "image_path", "claim_list": texts, "ref_claim_label": "hallucination" or
            "non-hallucination" of each}.
        images: the folder that paths of pictures are relative to, whatever they begin with.
        question: what a claim answers; the file does not say.

    Raises:
        OSError: the file cannot be read.
        ValueError: a file in another form.
    """
    found = []
    for row in _rows(file, "MHaluBench"):
        try:
            picture = Path(images) / str(row["image_path"]).lstrip("/")
            pairs = list(zip(map(str, row["claim_list"]), row["ref_claim_label"], strict=True))
            labels = [_LABELS[label] for _, label in pairs]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file} is not in MHaluBench's layout: {error!r}") from error
        for place, ((claim, _), wrong) in enumerate(zip(pairs, labels, strict=True)):
            part = Path(str(row["image_path"]).lstrip("/")).parts[0]
            found.append(Case(picture, question, part, _nothing, claim, wrong, place))
    return found


def _rows(file: str | Path, name: str) -> list[dict[str, Any]]:
    content: Any = read_json(file, _MOST)
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ValueError(f"{file} is not in {name}'s layout: a list of objects is needed")
    return content


def _spans(annotations: dict[str, list[dict[str, dict[str, str]]]]) -> Iterator[tuple[str, int, int]]:
    """(type, start, end) of each annotated span; a place by itself is one character."""
    for kind, entries in annotations.items():
        for entry in entries:
            for span in entry.values():
                start, _, end = str(span["char_index"]).partition(":")
                yield kind, int(start), int(end) if end else int(start) + 1


def _overlaps(spans: Sequence[tuple[str, int, int]], types: Sequence[str]) -> Callable[[Mention], bool | None]:
    def wrong(mention: Mention) -> bool | None:
        kinds = {kind for kind, start, end in spans if mention.start < end and start < mention.end}
        return True if kinds & {*types} else None if kinds else False

    return wrong


def _picture(images: Path, name: str) -> Path:
    """Where a picture lies: Visual Genome's are named by number."""
    names = [name] if Path(name).suffix else [f"{name}.jpg"]
    found = next((at for folder in _FOLDERS for one in names if (at := images / folder / one).exists()), None)
    if found is None:
        raise FileNotFoundError(f"there is no picture {name!r} in {images} or its {', '.join(_FOLDERS[:-1])}")
    return found


def _nothing(mention: Mention) -> None:
    """Nothing is said of a mention by itself."""
    return None
