"""A model as lm-evaluation-harness asks for one: our likelihoods and our generation behind its interface, with its conventions.

The harness's own ``hf`` model (lm_eval 0.4) is the source of every convention: what is cut where a text is too long, what an empty context
is, where a document is split, and how a generated text ends. Only closing tokens differ: a tokenizer's own are never scored
(`data.special_tokens`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text, resolve_max_length
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria

from bitzones.data import encoding
from bitzones.data.encoding import Encoded
from bitzones.data.special_tokens import tokens
from bitzones.evaluation import generation, likelihood
from bitzones.evaluation.prefix_scoring import with_misses
from bitzones.models import text_config
from bitzones.schema.errors import TaskError
from bitzones.schema.progress import Progress, silent

__all__ = ["HarnessModel"]

LOGITS_BYTES, FLOAT_BYTES = 1 << 28, 4
"""Of the logits of one batch of a document's windows: they are as long as the model reads."""

MOST_NEW_TOKENS = 256
"""Generated where a task does not say how many: the harness's default."""

LOOK_BACK = 2
"""Tokens by which the search for a stop sequence goes back further than it is long: it may be written with other tokens."""

Pair: TypeAlias = tuple[tuple[str, str] | None, list[int], list[int]]
"""A request with the tokens of its context and of its continuation."""


class HarnessModel(TemplateLM):  # type: ignore[misc]  # lm_eval is an extra, without types where it is not installed
    """A causal language model.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        batch: contexts per batch.
        progress: receives the share of the requests of one kind that is done.

    Attributes:
        read: tokens read and generated so far.
        lengths: (context, continuation), or the text of a document, -> tokens that were scored of it.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch: int, progress: Progress = silent) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.batch = batch
        self.progress = progress
        self.read = 0
        self.lengths: dict[tuple[str, ...], int] = {}

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id if self.tokenizer.eos_token_id is not None else self.prefix_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before an empty context and before a document.

        Raises:
            TaskError: the tokenizer has no token for it.
        """
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        raise TaskError("the tokenizer has no token that begins or ends a text, which this task's texts are read after")

    @property
    def max_length(self) -> int:
        """How many tokens the model reads at most."""
        return encoding.positions(self.model) or int(resolve_max_length(None, self.tokenizer))

    @property
    def tokenizer_name(self) -> str:
        """A name for caches of the harness, which are not used."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation in the words of the tokenizer's chat template."""
        rest = not add_generation_prompt
        made = self.tokenizer.apply_chat_template(
            chat_history, tokenize=False, add_generation_prompt=add_generation_prompt, continue_final_message=rest
        )
        return str(made)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """A text as tokens, opened as a text is unless ``add_special_tokens`` is False."""
        if add_special_tokens is False:
            return list(self.tokenizer.encode(string, add_special_tokens=False))
        return tokens(self.tokenizer, [string])[0].ids

    @torch.no_grad()
    def _loglikelihood_tokens(self, requests: Sequence[Pair], batch: int | None = None, **_: Any) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation in nats, and whether it is what greedy decoding would write.

        Requests with the same context are one row, so that the context is read once.
        """
        for name, _context, continuation in requests:
            if name is not None:
                self.lengths[name] = len(continuation)
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        rows, places = self._rows([(context, continuation) for _, context, continuation in requests])
        done = 0
        for some in encoding.in_runs(rows, batch or self.batch):
            scores = iter(likelihood.scored(self.model, some, with_misses).tolist())
            for row in some:
                for place in places[row.place]:
                    nats, misses = next(scores)
                    found[place] = (nats, misses == 0)
                self.read += len(row.context) + sum(len(answer) - 1 for answer in row.answers)
                done += len(row.answers)
            self.progress(done / len(requests))
        return found

    def _rows(self, pairs: Sequence[tuple[list[int], list[int]]]) -> tuple[list[Encoded], list[list[int]]]:
        """One row for each context, cut on its left where it is too long, and the places of its continuations among the pairs."""
        rows: dict[tuple[int, ...], Encoded] = {}
        places: list[list[int]] = []
        for place, (before, continuation) in enumerate(pairs):
            if not continuation:
                raise TaskError("an answer has no token of its own after its prompt in this model's tokenizer, and cannot be scored")
            if len(continuation) > self.max_length:
                raise TaskError(f"an answer takes {len(continuation)} tokens and the model has {self.max_length} positions")
            context = before[-(self.max_length + 1 - len(continuation)) :]
            row = rows.setdefault(tuple(context), Encoded(len(rows), context, []))
            if len(places) < len(rows):
                places.append([])
            row.answers.append(continuation)
            places[row.place].append(place)
        return list(rows.values()), places

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole documents in nats, each token predicted once, from as much before it as the model reads."""
        texts = [str(request.args[0]) for request in requests]
        windows = [list(self._windows(text)) for text in texts]
        longest = max((len(continuation) for document in windows for _, continuation in document), default=1)
        room = max(1, LOGITS_BYTES // (longest * text_config.vocabulary(self.model) * FLOAT_BYTES))
        flat: list[Pair] = [(None, *window) for document in windows for window in document]
        scored = iter(self._loglikelihood_tokens(flat, min(self.batch, room)))
        for text, document in zip(texts, windows, strict=True):
            self.lengths[(text,)] = sum(len(continuation) for _, continuation in document)
        return [sum(next(scored)[0] for _ in document) for document in windows]

    def _windows(self, text: str) -> Iterable[tuple[list[int], list[int]]]:
        ids = self.tok_encode(text)
        found = get_rolling_token_windows(token_list=ids, prefix_token=self.prefix_token_id, max_seq_len=self.max_length, context_len=1)
        return map(make_disjoint_window, found)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model writes greedily after each context until a stop sequence, without it."""
        found: dict[int, str] = {}
        kinds: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            kinds.setdefault(repr(request.args[1]), []).append(place)
        for places in kinds.values():
            options = normalize_gen_kwargs(requests[places[0]].args[1], MOST_NEW_TOKENS)
            stops = [stop for stop in handle_stop_sequences(options.pop("until"), self._end) if stop]
            rows = self._contexts(requests, places, options["max_gen_toks"])
            for batch in encoding.in_runs(rows, self.batch):
                contexts, config = [row.context for row in batch], self._config(options)
                written = generation.written(self.model, contexts, config, lambda: _Stops(self.tokenizer, stops))  # noqa: B023 (called here)
                for row, ids in zip(batch, written, strict=True):
                    text = self.tokenizer.decode(self._ended(ids), skip_special_tokens=True)
                    found[row.place] = postprocess_generated_text(str(text), stops, None)
                    self.read += len(row.context) + len(self._ended(ids))
                self.progress(len(found) / len(requests))
        return [found[place] for place in range(len(requests))]

    def _contexts(self, requests: Sequence[Instance], places: Sequence[int], new_tokens: int) -> list[Encoded]:
        """The contexts, cut on their left so that what is generated has room."""
        room = self.max_length - new_tokens
        if room < 1:
            raise TaskError(f"the task generates up to {new_tokens} tokens and the model has {self.max_length} positions")
        return [Encoded(place, self.tok_encode(str(requests[place].args[0]))[-room:], [[0]]) for place in places]

    @property
    def _end(self) -> str | None:
        """The text of the end token."""
        end = self.tokenizer.eos_token_id
        return None if end is None else str(self.tokenizer.decode([end]))

    @property
    def _ends(self) -> set[int]:
        end = self.model.generation_config.eos_token_id
        own = end if isinstance(end, list) else [end]
        return {token for token in (*own, self.tokenizer.eos_token_id) if token is not None}

    def _ended(self, ids: Sequence[int]) -> list[int]:
        """Generated tokens up to the first that ends a text; padding follows it."""
        return list(ids[: next((place + 1 for place, token in enumerate(ids) if token in self._ends), len(ids))])

    def _config(self, options: dict[str, Any]) -> GenerationConfig:
        """The model's own configuration, as the harness leaves it, decoding greedily."""
        config = copy.deepcopy(self.model.generation_config)
        ends = sorted(self._ends)
        config.update(max_new_tokens=options["max_gen_toks"], max_length=None, do_sample=False, temperature=None, top_p=None, top_k=None)
        config.update(eos_token_id=ends or None, pad_token_id=ends[0] if ends else 0)
        return config


class _Stops(StoppingCriteria):
    """A row is done when the end of what it has written holds a stop sequence."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self._length = LOOK_BACK + max((len(tokenizer.encode(stop, add_special_tokens=False)) for stop in stops), default=0)
        self._written = 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self._written += 1  # tokens, of which the prompt is none
        ends = self._tokenizer.batch_decode(input_ids[:, -min(self._written, self._length) :])
        return torch.tensor([any(stop in text for stop in self._stops) for text in ends], device=input_ids.device)
