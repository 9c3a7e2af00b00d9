"""The stages of a pass, in order: tower, prompt, layer, attend, output, logits."""
