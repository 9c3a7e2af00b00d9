"""The lmms-eval model `vtokens`: any supported model under any strategy, in batches, with its costs."""

from __future__ import annotations

import gc
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from tqdm import tqdm

from vtokens.core.budget import Keep
from vtokens.core.extras import check
from vtokens.engine import Handle, attach
from vtokens.eval.journal import Answer, Journal
from vtokens.eval.lmms import asked as requested
from vtokens.eval.lmms import scoring
from vtokens.eval.lmms.answering import answers
from vtokens.eval.lmms.loading import load, seeded, whole
from vtokens.eval.lmms.looking import recipe_answers
from vtokens.eval.lmms.prompts import media_prompt
from vtokens.eval.lmms.throughput import throughput
from vtokens.recipes import Recipe, parse_recipe
from vtokens.strategies import Spec, Strategy, parse

M = TypeVar("M", bound="VTokens")


class VTokens(lmms):
    """Chat interface; `VTokensSimple` is the same for tasks and flags that need the simple one.

    Args (lmms-eval's `--model_args`, `--batch_size` and `--device`):
        pretrained: hub id, folder, or the name of an embedded model.
        strategy: as in `vtokens.attach`; "none" only measures. Without it, the one saved beside the model, if any.
        keep: share or count of visual tokens.
        device: by default the process's GPU, or the CPU where there is none.
        dtype: auto, float32, bfloat16 or float16.
        attn_implementation, revision, device_map: as in `from_pretrained`.
        max_new_tokens: for tasks that set no limit.
        max_frames_num: the most frames taken from a video.
        seed: of sampling, and of strategies that draw.
        batch_size: requests answered together.
        max_batch_size: not used; lmms-eval gives it to every model.
        recipe: asks about each picture in several passes, as crop does (docs/recipes.md); one request at a time.
        options: fields of the strategy.

    Raises:
        TypeError, ValueError: what is wrong and what is allowed.
        OSError: no such folder or hub id, or a hub that cannot be reached.
        ImportError: something is installed that is known to break lmms-eval.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        strategy: str | None = None,
        keep: Keep | None = None,
        device: str | None = None,
        dtype: str = "auto",
        attn_implementation: str | None = None,
        revision: str | None = None,
        device_map: str | None = None,
        max_new_tokens: int = 1024,
        max_frames_num: int = 32,
        seed: int = 0,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        recipe: str | None = None,
        **options: Any,
    ) -> None:
        check("eval-light", "lmms-eval with the model vtokens")
        size = whole("batch_size", batch_size)
        model, processor, strategies = load(
            str(pretrained),
            strategy,
            keep,
            options,
            device=device,
            dtype=dtype,
            attn_implementation=attn_implementation,
            revision=revision,
            device_map=device_map,
        )
        self._settle(model, processor, strategies, size, max_new_tokens, max_frames_num, seed, recipe)
        self._own = True

    @classmethod
    def of(
        cls: type[M],
        model: Any,
        processor: Any,
        *,
        strategy: Spec = None,
        keep: Keep | None = None,
        batch_size: int = 1,
        journal: Journal | None = None,
        seed: int = 0,
        max_new_tokens: int = 1024,
        max_frames_num: int = 32,
        progress: bool = True,
        recipe: str | None = None,
    ) -> M:
        """A plugin model around a loaded one, which stays the caller's and has nothing attached between calls.

        Args:
            journal: answers found there are not asked for again; new ones are put there after each batch.
            progress: whether to show a bar.
            model, processor, strategy, keep, batch_size, seed, max_new_tokens, max_frames_num, recipe: as in the class.
        """
        self = cls.__new__(cls)
        limits = (max_new_tokens, max_frames_num, seed, recipe)
        self._settle(model, processor, parse(strategy, keep), batch_size, *limits)
        self._journal, self._progress = journal, progress
        return self

    def _settle(
        self,
        model: Any,
        processor: Any,
        strategies: Sequence[Strategy],
        batch_size: int,
        max_new_tokens: int,
        max_frames_num: int,
        seed: int,
        recipe: str | None,
    ) -> None:
        super().__init__()
        self.batch_size = whole("batch_size", batch_size)
        self.max_new_tokens = whole("max_new_tokens", max_new_tokens)
        self.max_frames_num = whole("max_frames_num", max_frames_num)
        self.seed = whole("seed", seed, least=0)
        self.strategies = seeded(strategies, self.seed)
        self._model, self.processor = model.eval(), processor
        self._journal: Journal | None = None
        self._progress, self._own = True, False
        attach(model, self.strategies).detach()  # what cannot work says so now, not after the first batch
        self.recipe: Recipe | None = None if recipe in (None, "none") else parse_recipe(str(recipe))
        if self.recipe is not None:
            self.recipe.check(model)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import Accelerator

            self.accelerator = Accelerator(cpu=self.device.type == "cpu")

    @property
    def device(self) -> torch.device:
        """Where the model takes its inputs."""
        return torch.device(self._model.device)

    def clean(self) -> None:
        """Free a model that this object loaded; one that was handed in is left alone."""
        if self._own:
            self._model = self.processor = None
            gc.collect()
            torch.cuda.empty_cache()

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """Answer the requests; results are in their order, with token counts."""
        if self._journal is not None and any((request.metadata or {}).get("repeats", 1) > 1 for request in requests):
            raise ValueError("a journal holds one answer a document: run with --repeats 1, or without a journal")
        asked = requested.read_requests(requests, self.task_dict, self.is_simple, self.max_new_tokens)
        found: list[Answer | None] = [None] * len(asked)
        with self._attached() as handle, self._bar(len(asked)) as bar:
            for batch in requested.batches(asked, self.batch_size):
                for i, answer in zip(batch, self._answer(handle, [asked[i] for i in batch]), strict=True):
                    found[i] = answer
                bar.update(len(batch))
        done = [answer for answer in found if answer is not None]
        if done:
            log_metrics(**throughput(done))
        return [GenerationResult(a.text, TokenCounts(a.prompt_tokens, a.output_tokens)) for a in done]

    def loglikelihood(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """Score given answers; each result's text is (negative log-likelihood, whether greedy decoding gives it).

        lmms-eval chooses the smallest, so it is a loss; and it would turn a pair that is no result into a string. Under
        `--use_cache` it could not give a stored pair back either, so scores are never stored.
        """
        with self._attached(), self._bar(len(requests)) as bar:
            where = (self._model, self.processor, self.task_dict, self.max_frames_num, self.batch_size)
            return [GenerationResult(pair) for pair in scoring.score(requests, *where, done=bar.update)]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not supported."""
        raise NotImplementedError("tasks of several rounds are not supported by the vtokens model")

    def _answer(self, handle: Handle, asked: list[requested.Asked]) -> list[Answer]:
        """Answer one batch, unless the journal has all of it.

        What it has in part is a batch that was cut off: it is asked again as a whole, so that nothing depends on the
        interruption.
        """
        journal = self._journal
        known = [journal.get(one.task, one.doc) if journal is not None else None for one in asked]
        if all(answer is not None for answer in known):
            return [answer for answer in known if answer is not None]
        first = asked[0]
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(zlib.crc32(f"{self.seed}/{first.task}/{first.doc}/{first.repeat}".encode()))
            found = self._found(handle, asked)
        if journal is not None:
            fresh = {(a.task, a.doc): a for a in found if journal.get(a.task, a.doc) is None}
            journal.put(*fresh.values())
        return found

    def _found(self, handle: Handle, asked: list[requested.Asked]) -> list[Answer]:
        if self.recipe is not None:
            return recipe_answers(self._model, self.processor, asked, self.recipe)
        prompts = [media_prompt(self.processor, one.messages(), self.max_frames_num) for one in asked]
        return answers(self._model, self.processor, handle, asked, prompts)

    @contextmanager
    def _attached(self) -> Iterator[Handle]:
        if self._model is None:
            raise RuntimeError("lmms-eval has freed this model after its run: build another object")
        with attach(self._model, self.strategies) as handle:
            yield handle

    def _bar(self, total: int) -> Any:
        return tqdm(total=total, desc="vtokens", disable=not self._progress or self.rank != 0)


class VTokensSimple(VTokens):
    """The same model behind lmms-eval's simple interface, which scored choices (`loglikelihood`) need."""

    is_simple = True
