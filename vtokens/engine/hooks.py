"""What the hooks on a model do: they find the phase of the caller's call, and hand it to a stage.

A call of the model, in the order of its hooks; a hook that meets another phase than it expects does nothing:

    module           hook       method               phase before -> after
    model            before     on_model             none             -> Outer
    model.model      before     on_start             Outer or none    -> Request
    feature call     in place   on_features          Request             (a run of the tower is noted)
    language_model   before     on_language_model    Request          -> Pass
    layers[i]        before     on_layer             Pass                (tokens are dropped, the mask is cut)
    self_attn        inside     on_attention         Pass
    mlp              after      after_mlp            Pass                (steered)
    layers[i]        after      after_layer          Pass                (steered; the text lane follows)
    language_model   after      on_output            Pass                (cache layers, states at full length)
    model.model      after      on_end               Pass             -> Ended if logits are changed, else none
    output layer     both       before_, after_head  Ended               (a joint pass only)
    model            after      on_logits            Ended            -> none

A negative prompt is prefilled inside `on_logits`: NegativePrefill, then Pass, for one call of language_model.
So is a rehearsal, inside `on_language_model`, before the Pass of its prompt.
"""

from __future__ import annotations

from vtokens.engine.callbacks.decoder import DecoderHooks
from vtokens.engine.callbacks.model import ModelHooks


class Hooks(ModelHooks, DecoderHooks):
    """All hooks on one model."""
