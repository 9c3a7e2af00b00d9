"""Small lmms-eval tasks written for a test: pictures or none, samples or none, metrics that come out as no number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vtokens.scenes import examples

UTILS = """
def visuals(doc):
    return [doc["image"]] if "image" in doc else []


def text(doc):
    return doc["question"]


def score(doc, results):
    right = float(results[0].strip() == doc["answer"])
    return {"right": right, "half": right / 2, "doubled": {"right": right}, "undefined": float("nan")}


def broken(doc, results):
    raise KeyError("nothing of the kind")


def doubled(records):
    return 2 * sum(record["right"] for record in records) / len(records)


def mean(values):
    return sum(values) / len(values)
"""
YAML = """
task: {name}
dataset_path: {data}
dataset_kwargs: {{load_from_disk: true}}
test_split: test
output_type: {kind}
doc_to_visual: !function utils.visuals
doc_to_text: !function utils.text
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 8, temperature: 0, do_sample: false}}
process_results: !function utils.{score}
metric_list:
  - {{metric: right, aggregation: mean, higher_is_better: true}}
  - {{metric: half, aggregation: mean, higher_is_better: true}}
  - {{metric: doubled, aggregation: !function utils.doubled, higher_is_better: true}}
  - {{metric: undefined, aggregation: !function utils.mean, higher_is_better: true}}
"""


def tasks(folder: Path, **wanted: dict[str, Any]) -> Path:
    """Write tasks, by name: `n` samples, whether they show `pictures`, and of which `sizes` in turn, their `kind`, and
    which function is to `score`.

    Returns the folder to `include`.
    """
    import datasets

    (folder / "tasks").mkdir(parents=True)
    (folder / "tasks" / "utils.py").write_text(UTILS)
    for name, options in wanted.items():
        n, pictures = options.get("n", 6), options.get("pictures", True)
        kinds: dict[str, Any] = {"question": datasets.Value("string"), "answer": datasets.Value("string")}
        kinds |= {"image": datasets.Image()} if pictures else {}
        drawn = examples("test", max(n, 1), seed=0)[:n]
        columns = {name: [getattr(example, name) for example in drawn] for name in kinds}
        if sizes := options.get("sizes"):
            columns["image"] = [one.resize(size) for one, size in zip(columns["image"], sizes, strict=True)]
        made = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
        datasets.DatasetDict({"test": made}).save_to_disk(str(folder / name))
        (folder / "tasks" / f"{name}.yaml").write_text(
            YAML.format(name=name, data=folder / name, **({"kind": "generate_until", "score": "score"} | options))
        )
    return folder / "tasks"
