"""One attention call of a decoder layer: tapping it, masking it, observing it, unmerging tokens in it."""
