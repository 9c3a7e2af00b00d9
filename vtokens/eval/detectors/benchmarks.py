"""Published benchmarks as questions with labels, read from local copies: POPE with RePOPE's labels, and AMBER.

Layouts: POPE's output/coco/coco_pope_*.json (github.com/AoiDragon/POPE at 7ef3026), RePOPE's annotations of the same
form (github.com/YanNeu/RePOPE at 1080bdf), AMBER's data folder (github.com/junyangwang0410/AMBER at 5e1fd52).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtokens.core.errors import unknown
from vtokens.core.jsonlines import read_lines
from vtokens.core.reading import MEBIBYTE, parse_json, read_json, read_text
from vtokens.filter.mentions import Extractor, Mention
from vtokens.filter.mentions.lexicon import from_names
from vtokens.filter.mentions.words import singular

_LINE = MEBIBYTE
_MOST = 64 * MEBIBYTE


@dataclass(frozen=True)
class Case:
    """A question about a picture, and which claims of an answer are unsupported.

    Attributes:
        image: the picture's path.
        question: what is asked.
        part: which part of the benchmark it belongs to.
        wrong: says of a mention whether the picture does not support it; None where the benchmark does not say.
        response: the answer, where it is the benchmark's own.
        claim: where the answer is one claim, whether the picture does not support it as a whole; `wrong` is not asked.
        position: which of the claims of its answer it is, from 0.
    """

    image: Path
    question: str
    part: str
    wrong: Callable[[Mention], bool | None]
    response: str | None = None
    claim: bool | None = None
    position: int = 0


def pope(questions: str | Path, images: str | Path, labels: str | Path | None = None) -> list[Case]:
    """POPE's questions; what an answer claims is wrong where it is not the label.

    Args:
        questions: lines {"question_id", "image", "text", "label": "yes" or "no"}.
        images: the folder of the pictures (COCO's val2014).
        labels: a file of the same form whose labels hold in place of these, such as RePOPE's; questions that it leaves
            out are ambiguous, and left out.

    Raises:
        OSError: a file that cannot be read.
        ValueError: a line in another form, by its number; labels that belong to other questions.
    """
    rows = [_question(row) for row in _lines(questions)]
    if labels is not None:
        other = {(image, text): label for image, text, label in (_question(row) for row in _lines(labels))}
        kept = [(image, text, other[image, text]) for image, text, _ in rows if (image, text) in other]
        if not kept:
            raise ValueError(f"{labels} has labels of none of the questions in {questions}")
        rows = kept
    name = Path(questions).stem
    return [Case(Path(images) / image, text, name, _answer(label)) for image, text, label in rows]


def amber(folder: str | Path, images: str | Path, parts: Sequence[str] = ("generative",)) -> list[Case]:
    """AMBER's questions: captions to be judged noun by noun ("generative"), and questions to be answered yes or no.

    A noun of AMBER's vocabulary is supported if it is annotated, or associated with what is; of its safe words nothing
    is said. AMBER also takes nouns for annotated ones by the similarity of word vectors, which is not done here: words
    that are alike count as unsupported.

    Args:
        folder: AMBER's data folder: annotations.json, relation.json, safe_words.txt, query/query_all.json.
        images: the folder of AMBER_1.jpg and the others.
        parts: beginnings of annotation types: "generative", "discriminative-attribute", "discriminative-hallucination".

    Raises:
        OSError: a file that cannot be read.
        ValueError: files in another form, or a part that is none.
    """
    folder = Path(folder)
    queries: Any = read_json(folder / "query" / "query_all.json", _MOST)
    truths: Any = read_json(folder / "annotations.json", _MOST)
    relation: Any = read_json(folder / "relation.json", _MOST)
    safe = {line.strip() for line in read_text(folder / "safe_words.txt", _MOST).splitlines() if line.strip()}
    try:
        by_id = {int(row["id"]): row for row in truths}
        types = sorted({str(row["type"]) for row in truths})
        for part in parts:
            if not any(one.startswith(part) for one in types):
                raise unknown("part of AMBER", part, types)
        found = []
        for row in queries:
            about = by_id[int(row["id"])]
            if not any(about["type"].startswith(part) for part in parts):
                continue
            wrong = _answer(about["truth"]) if about["type"] != "generative" else _nouns(about["truth"], relation, safe)
            found.append(Case(Path(images) / row["image"], row["query"], about["type"], wrong))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder} is not in AMBER's layout: {error!r}") from error
    return found


def amber_words(folder: str | Path) -> Extractor:
    """The extractor of AMBER's vocabulary: the words of relation.json and those associated with them."""
    relation: Any = read_json(Path(folder) / "relation.json", _MOST)
    return from_names(sorted({*relation, *(word for row in relation.values() for word in row)}), "amber")


def _nouns(truth: Iterable[str], relation: dict[str, list[str]], safe: set[str]) -> Callable[[Mention], bool | None]:
    there = {word for one in truth for word in (one, *relation.get(one, ()))}

    def wrong(mention: Mention) -> bool | None:
        name = singular(mention.name)
        if name in safe or mention.name in safe:
            return None
        return ((name in there) or (mention.name in there)) == mention.negated

    return wrong


def _answer(label: str) -> Callable[[Mention], bool | None]:
    if label not in ("yes", "no"):
        raise ValueError(f"a label is 'yes' or 'no', got {label!r}")

    def wrong(mention: Mention) -> bool | None:
        """A claim stands where the answer does: "no" where it is negated. What else is said, nobody labelled."""
        if mention.order or mention.start > 1:
            return None
        return mention.negated != (label == "no")

    return wrong


def _question(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["image"], row["text"], row["label"]


def _lines(path: str | Path) -> list[dict[str, Any]]:
    def row(text: str) -> dict[str, Any]:
        content = parse_json(text)
        if not isinstance(content, dict) or not all(
            isinstance(content.get(n), str) for n in ("image", "text", "label")
        ):
            raise ValueError("'image', 'text' and 'label' are needed")
        if content["label"] not in ("yes", "no"):
            raise ValueError(f"a label is 'yes' or 'no', got {content['label']!r}")
        return content

    return list(read_lines(path, _LINE, row, "is no question of POPE's: {}", cut_off=False))
