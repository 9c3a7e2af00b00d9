"""What is documented, as a caller with a type checker writes it: neither mypy nor pyright has anything to say."""

from typing import Any

import torch
from PIL import Image
from torch import nn
from transformers import BitsAndBytesConfig

import vtokens
from vtokens import kernels, scenes, video
from vtokens.adapters import Adapter, Anatomy, TowerSpec, register_adapter
from vtokens.recipes import AnswerScorer, Opera, crop, opera, search_frames, zoom
from vtokens.strategies import Facts, Needs, ScorePruner, Spec, Strategy, Visuals, parse

model, processor = vtokens.load("scenes-llava", strategy="todre", keep=0.1)
example = scenes.examples("test", n=1, kinds=["where"])[0]
inputs = processor(images=example.image, text=scenes.prompt(processor, example.question), return_tensors="pt")
tokens = model.generate(**inputs, max_new_tokens=8)
print(processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True), model.config.model_type)

# Transformers' own arguments, fields of strategies of every kind, and what only the model's config knows.
vtokens.load("folder", dtype=torch.bfloat16, device_map="auto", attn_implementation="sdpa", revision="main", token=None)
vtokens.load("folder", quantization_config=BitsAndBytesConfig(load_in_8bit=True), max_memory={0: "10GiB"})
vtokens.load("folder", strategy="fastv(keep=0.25, layer=2)", local_files_only=True, trust_remote_code=False)
vtokens.load("folder", strategy="var", sinks="sinks.json", layers=[0, 1])
config: dict[str, Any] = {"vision_feature_layer": -2}
vtokens.load("folder", **config)

specs: list[Spec] = ["cls+fastv", None, "none", {"name": "cls", "keep": 64}, parse("cls"), [*parse("vcd", alpha=0.5)]]
for spec in specs:
    with vtokens.attach(model, spec) as handle:
        print(handle.report().samples[0].average_tokens, handle.strategy)
whole: nn.Module = torch.nn.DataParallel(model)
vtokens.attach(whole, "todre", keep=64, exit_threshold=None, exit_depth=0.5, positions="compact")
found = vtokens.attachment(whole)
if found is not None:
    found.detach()
vtokens.detach(whole)

names: list[str] = vtokens.strategies("fast*", stage="layer", needs=["attention"], family="llava")
print(vtokens.describe(names[0]).summary, vtokens.models(), vtokens.__version__)
saved: tuple[Strategy, ...] = vtokens.from_pretrained(vtokens.save_pretrained("cls", "folder").parent, revision="main")


@vtokens.register("middle")
class Middle(ScorePruner):
    """Keeps tokens whose states are large."""

    def needs(self, facts: Facts) -> Needs:
        return Needs()

    def score(self, visuals: Visuals) -> torch.Tensor:
        return visuals.hidden.float().norm(dim=-1)


vtokens.attach(model, Middle(keep=0.5))

hf = vtokens.HallucinationFilter.from_pretrained("scenes-llava", strategy="cls", keep=0.1, dtype="float32")
outcome = hf.generate(example.image, "Describe the image.", action="redact", threshold=0.5, max_new_tokens=64)
print(outcome.text, outcome.report, vtokens.Risk())
for event in hf.stream(example.image, "Describe the image.", threshold=0.5, do_sample=False):
    print(event)

looked = crop(model, processor, example.image, example.question, method="gradient", max_new_tokens=8)
print(looked.text, zoom(model, processor, str, example.image, share=0.5, max_new_tokens=8).box)
opera(model, inputs, Opera(candidates=3), num_beams=4, max_new_tokens=8)
chosen = search_frames("clip.mp4", "rain", AnswerScorer(model, processor), count=8, method="aks", threshold=0.7)
clip = video.read("clip.mp4", frames=8)
print(chosen.clip.seconds, clip.metadata, kernels.farthest_point, Image.Image)
print(Adapter, Anatomy, TowerSpec, register_adapter)
