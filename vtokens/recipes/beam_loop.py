"""The beam search of OPERA: beams that dwell on one token of their own lose, and go back to it where they all do.

step    beams -> their best candidates -> one pass over all of these -> penalties -> beams
later   if every beam has dwelt on one token for long: back to where it was said, and say something else there
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers.generation.utils import GenerateBeamDecoderOnlyOutput

from vtokens.core.compat import given_cache
from vtokens.core.prompts import POSITION_KINDS
from vtokens.recipes.overtrust import Dwelling, State, chosen, followed, mode, overtrust, penalised

PER_TOKEN = ("attention_mask", *POSITION_KINDS, "position_ids")
"""What `generate` hands on that has a column for each token."""


@dataclass(frozen=True)
class Opera:
    """What OPERA does in a beam search; the defaults are those of its release (github.com/shikiw/OPERA).

    Each step forwards the `candidates` best tokens of every beam. In the last layer with attention, the row of a new
    token (the most of all heads, made to sum to 1) says what it looks at. Among the first `warm` tokens, a candidate's
    logit gains `weight` times what it gives to the picture; later it loses `weight` times
    1e-7 max over j of the product over i >= j of `scale` w_ij, where w_ij is what the i-th new token gives to the j-th.
    Where the j that is the largest has been the same in all beams for more than `threshold` steps, the beams go back to
    where j was said, at most `candidates` times, and say something else there.

    Attributes:
        candidates, weight, scale, threshold, warm: as above.
    """

    candidates: int = 5
    weight: float = 1.0
    scale: float = 50.0
    threshold: int = 15
    warm: int = 10

    def __post_init__(self) -> None:
        least = {"candidates": 2, "weight": 0, "scale": 0, "threshold": 0, "warm": 0}
        for name, fewest in least.items():
            if getattr(self, name) < fewest:
                raise ValueError(f"{name}={getattr(self, name)!r} is out of range: {fewest} or more is allowed")


class BeamLoop:
    """A search under way."""

    def __init__(
        self, opera: Opera, model: Any, look: Dwelling, config: Any, input_ids: Tensor, prepared: Mapping[str, Any]
    ) -> None:
        self.opera, self.model, self.look, self.config, self.start = opera, model, look, config, input_ids.shape[1]
        self.kwargs = dict(prepared)
        ends = config.eos_token_id
        self.ends = {*(ends if isinstance(ends, list) else [] if ends is None else [ends])}
        self.beams = len(input_ids)
        scores = torch.full((self.beams,), -1e9, device=input_ids.device)
        scores[0] = 0
        none = torch.zeros(self.beams, 0, dtype=torch.float64)
        self.state = State(input_ids, scores, self._pass(input_ids, None), none)
        self.states: list[State] = []
        self.dwelt: list[tuple[int, ...]] = []
        self.times: Counter[int] = Counter()
        self.rejected: dict[int, set[tuple[int, int]]] = {}
        self.went_back: list[int] = []

    def run(self, process: Callable[[Tensor, Tensor], Tensor], stop: Callable[..., Any]) -> None:
        """Search until the beams are done."""
        opera = self.opera
        while self.state.sequences.shape[1] < self.config.max_length:
            self.states.append(self.state)
            tokens = self.state.logits.topk(opera.candidates).indices
            following, dwelt, shown = self._candidates(tokens)
            penalty, columns = overtrust(dwelt)
            self.dwelt.append(columns)
            left = self._back(columns)
            if left is None:
                early = len(self.states) <= opera.warm
                scores = penalised(self.state.logits, tokens, opera.weight * (-shown if early else penalty))
            else:
                self._go_back(left)
                scores = self._others(left)
            scores = process(self.state.sequences, scores.log_softmax(-1)) + self.state.scores[:, None]
            self._advance(chosen(scores, self.state, self.ends, self.start, self.config), (
                None if left is not None else (tokens, following, dwelt)
            ))  # fmt: skip
            if self._done() or bool(torch.as_tensor(stop(self.state.sequences, None)).all()):
                break

    def _done(self) -> bool:
        """Whether no open beam can be better than the worst answer that ended."""
        finished = self.state.finished
        if len(finished) < self.beams or self.config.early_stopping:
            return len(finished) >= self.beams
        said = self.state.sequences.shape[1] - self.start
        best = float(self.state.scores.max()) / said ** (self.config.length_penalty or 0)
        return min(score for score, _ in finished) >= best

    def _candidates(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (beams, C, V) behind candidates (beams, C), their `State.dwelt`, and what they give to pictures."""
        beams, count = tokens.shape
        every = torch.arange(beams, device=tokens.device).repeat_interleave(count)
        self._reorder(every)
        logits = self._pass(torch.cat([self.state.sequences[every], tokens.reshape(-1, 1)], 1), 1)
        row, shown = self.look.last(self.state.dwelt.shape[1] + 1)
        dwelt = followed(self.state.dwelt[:, None], row.view(beams, count, -1), self.opera.scale)
        return logits.view(beams, count, -1), dwelt, shown.view(beams, count)

    def _back(self, columns: Sequence[int]) -> int | None:
        """How many tokens are left where the beams go back to; None if they go on."""
        column = mode(columns)
        often = [sum(one[beam] == column for one in self.dwelt) for beam in range(self.beams)]
        if column < self.opera.warm or min(often) <= self.opera.threshold or column + 3 > len(self.states):
            return None
        for left in (column + 1, column):
            if self.times[left] < self.opera.candidates:
                self.times[left] += 1
                return left
        return None

    def _go_back(self, left: int) -> None:
        """Go back to where `left` tokens had been said, and note what was said there."""
        after = self.states[left + 1]
        said = {*zip(after.origin, after.sequences[:, -1].tolist(), strict=True)}
        self.rejected = {one: there for one, there in self.rejected.items() if one <= left}
        self.rejected[left] = self.rejected.get(left, set()) | said
        del self.states[left + 1 :], self.dwelt[left + 1 :]
        self.state = self.states[left]
        self.went_back.append(left)
        self._reorder(torch.arange(self.beams, device=self.state.sequences.device))
        self._crop(self.start, left)
        if left:
            self._pass(self.state.sequences, left)

    def _others(self, left: int) -> Tensor:
        """Logits (beams, V) in which what was said there before is least likely."""
        given = self.state.logits
        # Tokens that the model itself has at -inf stay there.
        least = given.masked_fill(given.isinf(), torch.inf).amin(-1, keepdim=True)
        logits = given - 999 - least
        beams, tokens = zip(*self.rejected[left], strict=True)
        logits[[*beams], [*tokens]] = -999.0
        return logits

    def _advance(self, beams: tuple[list[int], list[int], Tensor, Any], passed: tuple[Tensor, ...] | None) -> None:
        """Go on with the chosen tokens; those that were no candidates are forwarded now."""
        origin, new, total, finished = beams
        device = self.state.sequences.device
        index, tokens = torch.tensor(origin, device=device), torch.tensor(new, device=device)[:, None]
        sequences, before = torch.cat([self.state.sequences[index], tokens], 1), self.state.dwelt[origin]
        where = None if passed is None else passed[0][index] == tokens
        if passed is not None and where is not None and bool(where.any(1).all()):
            place = where.long().argmax(1)
            self._reorder(index * where.shape[1] + place)
            logits, dwelt = passed[1][index, place], passed[2][index.cpu(), place.cpu()]
        else:
            if passed is not None:  # what the candidates were fed is taken off again
                self._crop(self.state.sequences.shape[1], 0)
                index = index * passed[0].shape[1]
            self._reorder(index)
            logits = self._pass(sequences, 1)
            dwelt = followed(before, self.look.last(before.shape[1] + 1)[0], self.opera.scale)
        self.state = State(sequences, total, logits, dwelt, finished, tuple(origin))

    def _pass(self, sequences: Tensor, new: int | None) -> Tensor:
        """float32 (rows, V): logits behind sequences of which the last `new` tokens are fed; all of them if None."""
        inputs = self.model.prepare_inputs_for_generation(
            sequences, next_sequence_length=new, is_first_iteration=new is None, **self.kwargs
        )
        # As many logits as tokens of the answer: that tells the engine that these are one, and no further question.
        output = self.model(**{**inputs, "logits_to_keep": new or 1}, return_dict=True)
        self.kwargs = self.model._update_model_kwargs_for_generation(output, self.kwargs)
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def _crop(self, cached: int, more: int) -> None:
        """Let the cache hold `cached` positions; the pass that follows feeds `more` tokens, or one if that is 0."""
        cache = given_cache(self.kwargs)
        cache.crop(cached - int(cache.get_seq_length()))
        for name in PER_TOKEN:
            if isinstance(self.kwargs.get(name), Tensor):
                self.kwargs[name] = self.kwargs[name][..., : cached + (more or 1)]

    def _reorder(self, index: Tensor) -> None:
        """Let each row be that of another, which may serve several."""
        given_cache(self.kwargs).reorder_cache(index)
        for name in PER_TOKEN:
            if isinstance(self.kwargs.get(name), Tensor):
                self.kwargs[name] = self.kwargs[name].index_select(-2, index.to(self.kwargs[name].device))

    def output(self) -> Any:
        """The best answers, longest ones whole and the others padded."""
        said = self.state.sequences.shape[1] - self.start
        power = self.config.length_penalty or 0
        beams = zip(self.state.scores.tolist(), self.state.sequences, strict=True)
        # As in any beam search, beams that are open count where the answers that ended do not settle it.
        still = [] if self._done() else [(score / said**power, row) for score, row in beams]
        ranked = sorted([*self.state.finished, *still], key=lambda one: -one[0])
        best = ranked[: self.config.num_return_sequences or 1]
        fill = self.config.pad_token_id
        fill = next(iter(self.ends), 0) if fill is None else fill
        sequences = torch.nn.utils.rnn.pad_sequence([row for _, row in best], batch_first=True, padding_value=int(fill))
        if not self.config.return_dict_in_generate:
            return sequences
        scores = torch.tensor([score for score, _ in best], device=sequences.device)
        output = GenerateBeamDecoderOnlyOutput(sequences=cast(Any, sequences), sequences_scores=scores)
        output.found = tuple(self.went_back)
        return output
