"""What an untouched model of Llama 4 has to be given for beams: transformers repeats rows for them, but no features."""

from typing import Any

import torch

import vtokens


def with_copies(target: Any, batch: dict[str, Any], copies: int) -> dict[str, Any]:
    """A batch for `generate`, with features of all copies of a row where an untouched model would miss them."""
    kind = type(target).__name__
    if copies == 1 or kind != "Llama4ForConditionalGeneration" or "pixel_values" not in batch:
        return batch
    if vtokens.attachment(target) is not None:
        return batch
    output = target.get_image_features(batch["pixel_values"], return_dict=True)
    features, tokens = output.last_hidden_state, output.last_hidden_state.shape[1]
    counts = ((batch["input_ids"] == target.config.image_token_id).sum(1) // tokens).tolist()
    rows = [part.repeat(copies, 1, 1) for part in features.split(counts)]
    output.last_hidden_state = torch.cat(rows)
    text = {name: value for name, value in batch.items() if name != "pixel_values"}
    return {**text, "mm_encoder_outputs": {"image": output}}
