"""The extractor on spaCy: a genuine pipeline, taught the parse of a few sentences; and what is said without one."""

import importlib.util

import pytest

from vtokens.filter.mentions import get_extractor

# word, part of speech, dependency, head
SENTENCES = [
    [
        ("Two", "NUM", "nummod", 2), ("brown", "ADJ", "amod", 2), ("dogs", "NOUN", "nsubj", 3),
        ("sit", "VERB", "ROOT", 3), ("near", "ADP", "prep", 3), ("a", "DET", "det", 8), ("red", "ADJ", "amod", 8),
        ("fire", "NOUN", "compound", 8), ("hydrant", "NOUN", "pobj", 4), (".", "PUNCT", "punct", 3),
    ],
    [
        ("There", "PRON", "expl", 1), ("is", "VERB", "ROOT", 1), ("no", "DET", "det", 3), ("cat", "NOUN", "attr", 1),
        ("in", "ADP", "prep", 1), ("the", "DET", "det", 6), ("background", "NOUN", "pobj", 4),
        (".", "PUNCT", "punct", 1),
    ],
]  # fmt: skip


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A folder with a spaCy pipeline, trained until it parses these sentences as they are annotated."""
    spacy = pytest.importorskip("spacy")
    from spacy.training import Example

    nlp = spacy.blank("en")
    nlp.add_pipe("morphologizer")
    nlp.add_pipe("parser", config={"min_action_freq": 1})
    examples = []
    for sentence in SENTENCES:
        words, tags, deps, heads = (list(column) for column in zip(*sentence, strict=True))
        doc = nlp.make_doc(" ".join(words[:-1]) + words[-1])
        examples.append(Example.from_dict(doc, {"words": words, "pos": tags, "deps": deps, "heads": heads}))
    spacy.util.fix_random_seed(0)
    optimizer = nlp.initialize(lambda: examples)
    for _ in range(60):
        nlp.update(examples, sgd=optimizer, drop=0.0)
    folder = tmp_path_factory.mktemp("spacy") / "tiny"
    nlp.to_disk(folder)
    return folder


def test_noun_phrases_become_mentions(pipeline):
    extractor = get_extractor(f"spacy:{pipeline}", sentences="sentences")
    text = "Two brown dogs sit near a red fire hydrant. There is no cat in the background."
    assert [(m.text, m.kind, m.name, m.negated) for m in extractor(text)] == [
        ("Two", "count", "two dogs", False),
        ("brown", "attribute", "brown dogs", False),  # this pipeline gives no lemmas
        ("dogs", "object", "dogs", False),
        ("sit near", "relation", "dogs sit near fire hydrant", False),
        ("red", "attribute", "red fire hydrant", False),
        ("fire hydrant", "object", "fire hydrant", False),
        ("cat", "object", "cat", True),
    ]
    assert extractor("") == []
    assert extractor("👍 犬") == []
    assert [(m.text, m.name) for m in extractor("Yes", "Is there a dog in the image?")] == [("Yes", "dog")]


def test_a_pipeline_that_is_not_installed():
    pytest.importorskip("spacy")
    with pytest.raises(ImportError, match="python -m spacy download no_such_pipeline"):
        get_extractor("spacy:no_such_pipeline")


def test_spacy_that_is_not_installed(monkeypatch):
    """As Python finds it where the extra is missing."""
    if importlib.util.find_spec("spacy") is not None:
        monkeypatch.setitem(__import__("sys").modules, "spacy", None)
    with pytest.raises(ImportError, match=r"pip install 'vtokens\[nlp\]'"):
        get_extractor("spacy:some_pipeline")
