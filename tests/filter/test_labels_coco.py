"""CHAIR-style labels from a small file in COCO's own format, written out by hand."""

import json

import pytest

from vtokens.eval.metrics import chair
from vtokens.filter.calibrators.labels import CocoLabels
from vtokens.filter.mentions import get_extractor

CATEGORIES = list(enumerate(get_extractor("coco").names, 1))
NUMBER = {name: number for number, name in CATEGORIES}
INSTANCES = {
    "info": {"description": "four pictures", "version": "1.0", "year": 2014},
    "licenses": [{"id": 1, "name": "Attribution License", "url": "http://creativecommons.org/licenses/by/2.0/"}],
    "images": [
        {"id": number, "file_name": f"COCO_val2014_{number:012d}.jpg", "height": 480, "width": 640, "license": 1}
        for number in (42, 73, 74, 133)
    ],
    "annotations": [
        {
            "id": 900 + i,
            "image_id": image,
            "category_id": NUMBER[category],
            "bbox": [73.5, 41.2, 120.0, 85.9],
            "area": 7421.3,
            "iscrowd": 0,
            "segmentation": [[73.5, 41.2, 193.5, 41.2, 193.5, 127.1]],
        }
        for i, (image, category) in enumerate(
            [(42, "dog"), (42, "person"), (73, "bicycle"), (73, "bicycle"), (74, "dog")]
        )
    ],
    "categories": [{"id": i, "name": name, "supercategory": "thing"} for i, name in CATEGORIES],
}
CAPTIONS = {
    "annotations": [
        {"image_id": 42, "id": 1, "caption": "A puppy sits beside a man on a wooden chair."},
        {"image_id": 42, "id": 2, "caption": "There is no cat, only a dog."},
        {"image_id": 133, "id": 3, "caption": "A bed in a small room"},
    ]
}


@pytest.fixture
def files(tmp_path):
    (tmp_path / "instances_val2014.json").write_text(json.dumps(INSTANCES))
    (tmp_path / "captions_val2014.json").write_text(json.dumps(CAPTIONS))
    return tmp_path / "instances_val2014.json", tmp_path / "captions_val2014.json"


def test_instances_and_captions_are_both_true(files):
    labels = CocoLabels(files[0])
    assert labels.images == [42, 73, 74, 133]
    assert [labels.objects(i) for i in labels.images] == [{"dog", "person"}, {"bicycle"}, {"dog"}, set()]
    labels = CocoLabels(*files)
    assert labels.objects(42) == {"dog", "person", "chair"}  # and no cat: the caption denies it
    assert (
        labels.objects("COCO_val2014_000000000133.jpg")
        == {"bed"}
        == labels.objects("/data/COCO_val2014_000000000133.jpg")
    )
    assert labels.extractor.name == "coco"


def test_a_caption_is_labelled_mention_by_mention(files):
    labels = CocoLabels(*files)
    said = "Two dogs and a kitten next to a man. The dog has no bike; there are no people."
    found = labels.extractor(said)
    assert [(m.text, wrong) for m, wrong in zip(found, labels(42, found), strict=True)] == [
        ("dogs", False),
        ("kitten", True),
        ("man", False),
        ("dog", False),
        ("bike", False),  # denied, and not there
        ("people", True),  # denied, but there is one
    ]


def test_the_share_of_bad_labels_is_chair_i(files):
    labels = CocoLabels(*files)
    captions = {42: "A dog on a chair near a bicycle.", 73: "A man rides a bike, a bike and a car.", 74: "Nothing."}
    found = {image: labels.extractor(text) for image, text in captions.items()}
    bad = [wrong for image in captions for wrong in labels(image, found[image])]
    scores = chair([[m.name for m in found[i]] for i in captions], [labels.objects(i) for i in captions])
    assert sum(bad) / len(bad) == scores.chair_i.value == 3 / 7


def test_yes_and_no_to_questions_of_pope(files):
    labels = CocoLabels(files[0])
    for what, answer, wrong in (
        ("puppy", "yes", False),
        ("puppy", "no", True),
        ("cat", "Yes", True),
        ("cat", "No", False),
    ):
        mentions = labels.extractor(answer, f"Is there a {what} in the image?")
        assert labels(42, mentions) == [wrong]


def test_some_of_the_categories_of_coco():
    named = {"dog", "person", "bicycle"}
    labels = CocoLabels({**INSTANCES, "categories": [c for c in INSTANCES["categories"] if c["name"] in named]})
    found = labels.extractor("a puppy, a motorbike, a hot dog and a cyclist")  # whose hot dog is still no dog
    assert [m.name for m in found] == ["dog", "person"]
    assert labels(74, found) == [False, True]


def test_other_categories_than_those_of_coco():
    labels = CocoLabels(
        {
            "images": [{"id": 1, "file_name": "a.png"}],
            "annotations": [{"image_id": 1, "category_id": 5, "bbox": [0, 0, 1, 1]}],
            "categories": [{"id": 5, "name": "Forklift"}, {"id": 6, "name": "pallet, wooden"}],
        }
    )
    found = labels.extractor("Two forklifts beside a pallet wooden and a dog")
    assert labels.extractor.name == "categories"
    assert [m.name for m in found] == ["forklift", "pallet, wooden"]
    assert labels("a.png", found) == [False, True]


def test_what_cannot_be_labelled(files):
    labels = CocoLabels(files[0])
    with pytest.raises(ValueError, match=r"unknown image 'COCO_val2014_000000000041\.jpg'\. Did you mean"):
        labels.objects("COCO_val2014_000000000041.jpg")
    with pytest.raises(ValueError, match="the object 'tree' is not among the annotated categories"):
        labels(42, get_extractor("chunks")("a tree"))


@pytest.mark.parametrize(
    ("part", "row", "says"),
    [
        ("images", 3, r"images\[0\] should be an object, got 3"),
        ("images", {"id": None}, r"images\[0\]\.id"),
        ("annotations", {"image_id": [1], "category_id": 1}, r"annotations\[0\]\.image_id"),
        ("annotations", {"image_id": 42}, r"annotations\[0\]\.category_id is missing"),
        ("categories", {"id": 1, "name": None}, r"categories\[0\]\.name should be a valid string, got None"),
    ],
)
def test_rows_of_another_format(part, row, says):
    with pytest.raises(ValueError, match=f"the annotation has no instances in COCO's format: {says}"):
        CocoLabels({**INSTANCES, part: [row]})


def test_files_of_another_format(tmp_path, files):
    with pytest.raises(ValueError, match=r"no instances in COCO's format: images, categories missing"):
        CocoLabels(files[1])
    with pytest.raises(ValueError, match="no captions in COCO's format: annotations missing"):
        CocoLabels(files[0], {"images": []})
    (tmp_path / "cut.json").write_text(json.dumps(INSTANCES)[:100])
    with pytest.raises(ValueError, match=r"cut\.json is no JSON file"):
        CocoLabels(tmp_path / "cut.json")
    with pytest.raises(OSError, match=r"none\.json"):
        CocoLabels(tmp_path / "none.json")
    with pytest.raises(ValueError, match="unknown category 999"):
        CocoLabels({**INSTANCES, "annotations": [{"image_id": 42, "category_id": 999}]})
    with pytest.raises(ValueError, match="has no categories"):
        CocoLabels({**INSTANCES, "categories": []})
    with pytest.raises(ValueError, match=r"annotations\[0\]\.caption is missing"):
        CocoLabels(INSTANCES, {"annotations": [{"image_id": 42}]})
