"""The stages of a pass, in order: tower (pixels, encode), prompt, layer, rows, attend, states, output, logits."""
