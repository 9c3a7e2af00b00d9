"""What extractors find: names, kinds, order, denials, answers to questions; spans that are right in any script."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtokens.filter.mentions import KINDS, Mention, extractors, get_extractor
from vtokens.filter.mentions.answers import asked_for
from vtokens.filter.mentions.base import Found, arrange
from vtokens.filter.mentions.lexicon import parse, read_vocabulary
from vtokens.filter.mentions.words import plurals, singular
from vtokens.filter.sentences import split

COCO, CHUNKS = get_extractor("coco"), get_extractor("chunks")
NAMES = ("chunks", "coco", "scenes")
WILD = st.text(st.sampled_from("a dog,cats. no red circle ß日本é👍🏽🇫🇷👩‍👩‍👧\"'?!-1\n\u202e\u00a0"), max_size=40)


def names(extractor, text, prompt="", kind=None):
    return [m.name for m in extractor(text, prompt) if kind in (None, m.kind)]


def test_the_eighty_objects_of_coco():
    assert len(COCO.names) == 80
    for name in COCO.names:
        assert names(COCO, f"There is a {name}.") == [name]
        assert names(COCO, f"Two {min(plurals(name))} here") in ([name], [])  # "scissorses" is nobody's plural


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Two puppies and an orange cat near the traffic lights.", ["dog", "cat", "traffic light"]),
        ("An orange and an apple, with three oranges.", ["orange", "apple", "orange"]),
        ("A hot-dog stand beside hot dogs and a dog.", ["hot dog", "dog"]),
        ("The dog's T.V. stands on the table's edge", ["dog", "tv", "dining table"]),
        ("firemen, a policewoman and children", ["person"] * 3),
        ("a glass of wine, a glass vase, a glass on the table", ["wine glass", "vase", "cup", "dining table"]),
        ("a couple of dogs in the train station by the bus stop", ["dog"]),
        ("a ski. Lift", ["skis"]),  # a full stop parts the phrase "ski lift"
        ("oranges in the doghouse, catfish", ["orange"]),
        ("KNIVES, mice & teddy   bears", ["knife", "mouse", "teddy bear"]),
        ("", []),
        ("日本の犬 и собака 👍", []),
    ],
)
def test_coco_mentions(text, found):
    assert names(COCO, text) == found


@pytest.mark.parametrize(
    ("text", "negated"),
    [
        ("There is no dog.", True),
        ("There are no visible dogs", True),
        ("not a single dog", True),
        ("a street without any dogs", True),
        ("no other dogs", False),
        ("not only a dog", False),
        ("No, a dog", False),
        ("a dog with no leash", False),
    ],
)
def test_what_is_denied(text, negated):
    assert [m.negated for m in COCO(text) if m.name == "dog"] == [negated]


@pytest.mark.parametrize("question", ["Is there a puppy in the image?", "Do you see any puppies?"])
@pytest.mark.parametrize("name", ["coco", "chunks"])
def test_yes_and_no_claim_what_was_asked(name, question):
    what = "dog" if name == "coco" else "puppy"
    prompt = f"USER: <image>\n{question}\nAnswer with one word. ASSISTANT:"
    for answer, no in (("Yes", False), ("no.", True), ("Yes, of course!", False)):
        found = get_extractor(name)(answer, prompt)
        assert [(m.text, m.kind, m.name, m.negated, m.start) for m in found] == [
            (answer[: 2 + (not no)], "object", what, no, 0)
        ]
    assert get_extractor(name)("Yes") == []
    assert [(m.kind, m.name) for m in get_extractor(name)("Yes", "Is the man wearing a hat?")] == [
        ("relation", "is the man wearing a hat")
    ]


def test_a_denied_object_after_no_is_the_same_claim():
    first, second = COCO("No, there is no dog.", "Is there a dog in the photo?")
    assert (first.name, first.negated, first.repeat) == ("dog", True, False)
    assert (second.name, second.negated, second.repeat) == ("dog", True, True)


@pytest.mark.parametrize(
    ("prompt", "what"),
    [
        ("Is there a red car in the image?", "red car"),
        ("are there any people on the picture ?", "people"),
        ("Does the image contain a stop sign?", "stop sign"),
        ("Can you see the clock in this photo?", "clock"),
        ("Describe the image.", None),
        ("Is the car red?", None),
        ("USER: Is there a dog? ASSISTANT: yes USER: Do you see a cat? ASSISTANT:", "cat"),
        ("", None),
    ],
)
def test_what_a_question_asks_for(prompt, what):
    assert asked_for(prompt) == what


def test_chunks_of_a_description():
    text = (
        "The image shows a large brown dog sitting on a wooden bench near a red fire hydrant. "
        "In the background, there are two people walking along the street with umbrellas."
    )
    found = CHUNKS(text)
    assert [m.name for m in found if m.kind == "object"] == [
        "dog", "bench", "fire hydrant", "people", "street", "umbrella",
    ]  # fmt: skip
    assert [m.name for m in found if m.kind == "attribute"] == [
        "large dog", "brown dog", "wooden bench", "red fire hydrant",
    ]  # fmt: skip
    assert [(m.text, m.name) for m in found if m.kind == "count"] == [("two", "two people")]
    assert [m.name for m in found if m.kind == "relation"] == [
        "dog sitting on bench", "bench near fire hydrant", "people walking along street",
    ]  # fmt: skip
    assert [m.sentence for m in found] == [0] * 9 + [1] * 5


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("A group of people standing around cars, buses and trucks.", ["people", "car", "bus", "truck"]),
        ("Dogs are playing. A dog runs.", ["dog", "dog"]),
        ("The man is wearing a hat and holding a cell phone, creating a sense of calm.", ["man", "hat", "cell phone"]),
        ("There is no microwave in the kitchen.", ["microwave", "kitchen"]),
        ("The sky is clear, there is water and there are birds.", ["sky", "water", "bird"]),
        (
            "A woman is crossing the road while her friends watch, and people carry umbrellas.",
            ["woman", "road", "friend", "people", "umbrella"],
        ),
        ("In this picture we can see a table on which there are plates.", ["table", "plate"]),
        ("Overall, the scene is very beautiful.", []),
        ("Собака бежит. 犬が走っている。 👍🏽", []),
        ("", []),
    ],
)
def test_objects_of_chunks(text, objects):
    assert names(CHUNKS, text, kind="object") == objects


def test_adjectives_that_share_a_noun():
    assert [m.name for m in CHUNKS("a red and white bus")] == ["red bus", "white bus", "bus"]
    assert [m.name for m in CHUNKS("a red bus and white cars")] == ["red bus", "bus", "white car", "car"]


def test_words_in_quotation_marks_are_text():
    found = CHUNKS('The sign says "Big Dogs Only" in white letters.')
    assert [(m.text, m.kind) for m in found] == [
        ("sign", "object"), ("Big Dogs Only", "text"), ("white", "attribute"), ("letters", "object"),
    ]  # fmt: skip
    assert [m.text for m in CHUNKS('?" " "!" « Arrêt  ici » “a\nb”') if m.kind == "text"] == ["Arrêt  ici"]


@pytest.mark.parametrize(
    ("prompt", "answer", "kind", "text"),
    [
        ("What color is the bus?", "Red.", "attribute", "Red"),
        ("How many dogs are there?", "3", "count", "3"),
        ("What is written on the shirt?", "coca cola", "text", "coca cola"),
        ("Was ist das?", "Ein Hund 👍", "object", "Ein Hund 👍"),
    ],
)
def test_a_short_answer_is_one_mention(prompt, answer, kind, text):
    assert [(m.kind, m.text) for m in CHUNKS(answer, prompt)] == [(kind, text)]
    assert CHUNKS(answer, "Describe the image.") == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.fuzz
@given(text=WILD, prompt=st.sampled_from(["", "Is there a dog in the image?", "How many red objects are there?"]))
def test_mentions_are_whole_and_in_order_whatever_the_text(name, text, prompt):
    extractor = get_extractor(name)
    found, spans = extractor(text, prompt), extractor.sentences(text)
    assert [m.start for m in found] == sorted(m.start for m in found)
    for number, m in enumerate(found):
        assert text[m.start : m.end] == m.text
        assert m.kind in KINDS
        assert spans[m.sentence][0] <= m.start < spans[m.sentence][1]
        before = found[:number]
        assert m.order == sum(b.kind == m.kind for b in before)
        assert m.repeat == any((b.kind, b.name, b.negated) == (m.kind, m.name, m.negated) for b in before)


def test_tokens_that_overlap_a_mention():
    mention = arrange("red circle", [Found(4, 10, "object", "circle")], split("red circle"))[0]
    assert mention.tokens == ()
    spans = [(0, 3), (3, 6), (6, 6), (6, 9), (9, 10), (10, 10)]
    assert mention.with_tokens(spans).tokens == (1, 3, 4)


def test_a_mention_as_json_and_back():
    mention = CHUNKS("two dogs")[0].with_tokens([(0, 3)])
    assert Mention.from_dict(mention.to_dict()) == mention
    with pytest.raises(ValueError, match=r"unknown field of a mention 'stat'\. Did you mean 'start'"):
        Mention.from_dict({**mention.to_dict(), "stat": 1})
    with pytest.raises(ValueError, match="kind missing"):
        Mention.from_dict({"start": 0, "end": 1, "text": "a", "name": "a"})


def test_mentions_that_cannot_be():
    with pytest.raises(ValueError, match=r"unknown kind of mention 'objects'\. Did you mean 'object'"):
        Mention(0, 1, "a", "objects", "a")
    for span in ((0, 0), (2, 1), (-1, 0), (0, 2)):
        with pytest.raises(ValueError, match="cannot span"):
            Mention(*span, "a", "object", "a")


def test_a_vocabulary_of_ones_own(tmp_path):
    (tmp_path / "tools.txt").write_text(
        "# tools\nhammer: mallet, claw hammer\nsaw*: handsaw\n!hammer head\n", encoding="utf-8"
    )
    tools = get_extractor(f"lexicon:{tmp_path / 'tools.txt'}", sentences="clauses")
    assert tools.name == f"lexicon:{tmp_path / 'tools.txt'}@clauses"
    assert get_extractor(tools.name) == tools
    assert tools.names == ["hammer", "saw"]
    assert names(tools, "Mallets, a hammer head; he saw two saws and handsaws") == ["hammer", "saw", "saw"]
    assert [m.sentence for m in tools("mallet, saws")] == [0, 1]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["dog: pup", "seal: pup"], "line 2: 'pup' is given to 'dog' and to 'seal'"),
        (["!dog: pup"], "line 1: '!dog: pup' is neither"),
        ([": pup"], "line 1: ': pup' is neither"),
        (["# nothing"], "names no object"),
        ([], "names no object"),
    ],
)
def test_vocabularies_that_cannot_be(lines, says):
    with pytest.raises(ValueError, match=says):
        parse(lines)


def test_the_name_says_what_is_redacted_as_one():
    assert get_extractor("coco@clauses") == get_extractor("coco", sentences="clauses") != COCO
    assert get_extractor("coco@sentences") == COCO == get_extractor("coco", sentences=split)
    assert get_extractor("scenes", sentences="sentences").name == "scenes@sentences"
    assert get_extractor("scenes@clauses").name == "scenes"
    with pytest.raises(ValueError, match="unknown extractor 'coco@words'"):
        get_extractor("coco@words")


def test_extractors_by_name(tmp_path):
    assert get_extractor(COCO) is COCO
    assert {"chunks", "coco", "scenes"} <= set(extractors())
    with pytest.raises(ValueError, match="Did you mean 'coco'"):
        get_extractor("cocoa")
    with pytest.raises(TypeError, match="a name or an extractor"):
        get_extractor(3)
    with pytest.raises(TypeError, match="sentences"):
        get_extractor(COCO, sentences="clauses")
    with pytest.raises(OSError, match=r"none\.txt"):
        get_extractor(f"lexicon:{tmp_path / 'none.txt'}")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="it is not UTF-8"):
        read_vocabulary(tmp_path / "bytes.txt")


@pytest.mark.parametrize(
    ("one", "many"),
    [("dog", "dogs"), ("bus", "buses"), ("knife", "knives"), ("child", "children"), ("fireman", "firemen"),
     ("berry", "berries"), ("box", "boxes"), ("potato", "potatoes"), ("sheep", "sheep"), ("horse", "horses"),
     ("fire hydrant", "fire hydrants"), ("couch", "couches"), ("glass", "glasses"), ("tie", "ties")],
)  # fmt: skip
def test_singular_and_plural(one, many):
    assert many in plurals(one)
    assert singular(many) == one or many == "glasses"  # which are a thing of their own
    assert singular(one) == one
