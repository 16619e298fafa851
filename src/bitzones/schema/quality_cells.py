"""Cells that say how well a variant answers: accuracy and perplexity item by item, and the KL of its next-token distributions."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from bitzones.schema.record import Count, Measured, NonNegative, Positive, Record, Share

__all__ = ["AccuracyCell", "DivergenceCell", "Harness", "PerplexityCell", "SpecialTokens"]


class SpecialTokens(Record):
    """The special tokens that a tokenizer adds to a text, and where those of a task's prompts come from.

    ``opening`` are the tokens before a text. A prompt that already starts with them, as from a chat template, does not get them twice;
    ``opened`` says who added them. ``closing`` are the tokens after a text; they are left out and not scored with an answer.
    """

    opening: tuple[str, ...] = ()
    opened: Literal["by the tokenizer", "by the prompt", "by either", "not at all"]
    closing: tuple[str, ...] = ()


class Harness(Record):
    """How lm-evaluation-harness asked a task: the release ``lm_eval``, its name of the task and the task's ``version``, the kind of its
    requests, and the hash of the task's settings, without where its files lie."""

    lm_eval: str
    task: str
    version: str
    output_type: Literal["loglikelihood", "multiple_choice", "generate_until", "loglikelihood_rolling"]
    config_sha256: str


class AccuracyCell(Measured):
    """Accuracy of a variant on a task, item by item, so that variants and runs can be paired.

    ``metric`` is ``acc``, ``exact_match`` or another one of lm-evaluation-harness, with the filter of its answers (``exact_match,strict``).
    For multiple choice, ``correct`` and ``predictions`` follow lm-evaluation-harness's ``acc`` (the most likely choice), and the
    ``_normalized`` fields its ``acc_norm`` (log-likelihood per character); these are null for generated answers. ``gold_nll_nats`` is the
    negative log-likelihood of the correct answer after the prompt, summed over its ``gold_tokens``; both are null where the task has no one
    correct answer to read. ``harness`` is null for a task of bitzones itself. ``origin`` is the source of the items,
    with a revision if there is one. ``dropped`` counts malformed rows of the data set. ``passed_over`` has the IDs of items that this
    tokenizer cannot score, because an answer merges with the end of its prompt. ``special_tokens`` is null in older run files.
    ``seconds_s`` says nothing of kernels: packed weights may be unpacked once for the whole task.
    """

    kind: Literal["accuracy"] = "accuracy"
    task: str
    task_version: int
    task_sha256: str
    origin: str
    fewshot: Count = 0
    chat_template: bool = False
    harness: Harness | None = None
    metric: str = Field(min_length=1)
    item_ids: tuple[str, ...]
    correct: tuple[bool, ...]
    predictions: tuple[str, ...]
    correct_normalized: tuple[bool, ...] | None = None
    predictions_normalized: tuple[str, ...] | None = None
    gold_nll_nats: tuple[NonNegative, ...] | None = None
    gold_tokens: tuple[Count, ...] | None = None
    chance: tuple[Share, ...]
    dropped: Count = 0
    passed_over: tuple[str, ...] = ()
    special_tokens: SpecialTokens | None = None
    tokens: Count
    seconds_s: NonNegative

    @property
    def _detail(self) -> str:
        return self.task

    @model_validator(mode="after")
    def _same_items(self) -> AccuracyCell:
        if not self.item_ids:
            raise ValueError("no items")
        columns = {
            name: values
            for name in ("correct", "predictions", "chance", "gold_nll_nats", "gold_tokens", "correct_normalized", "predictions_normalized")
            if (values := getattr(self, name)) is not None
        }
        if wrong := [name for name, values in columns.items() if len(values) != len(self.item_ids)]:
            raise ValueError(f"{' and '.join(wrong)} and item_ids differ in length")
        if (self.gold_nll_nats is None) != (self.gold_tokens is None):
            raise ValueError("gold_nll_nats and gold_tokens are null together")
        if self.gold_tokens is not None and not sum(self.gold_tokens):
            raise ValueError("no answer has a token")
        if len(set(self.item_ids)) != len(self.item_ids):
            raise ValueError("an item id occurs twice")
        return self


class PerplexityCell(Measured):
    """Log-likelihood of whole documents under a variant, as ``loglikelihood_rolling`` of lm-evaluation-harness defines it.

    ``nll_nats`` is the negative log-likelihood of each document; ``tokens``, ``words`` and ``utf8_bytes`` are its sizes. Perplexities
    follow: exp of all nats by all words (``word_perplexity``) or all bytes (``byte_perplexity``), and nats by bytes and ln 2
    (``bits_per_byte``). The other fields are those of `AccuracyCell`.
    """

    kind: Literal["perplexity"] = "perplexity"
    task: str
    task_version: int
    task_sha256: str
    origin: str
    chat_template: bool = False
    harness: Harness
    item_ids: tuple[str, ...] = Field(min_length=1)
    nll_nats: tuple[NonNegative, ...]
    tokens: tuple[Positive, ...]
    words: tuple[Positive, ...]
    utf8_bytes: tuple[Positive, ...]
    special_tokens: SpecialTokens | None = None
    seconds_s: NonNegative

    @property
    def _detail(self) -> str:
        return self.task

    @model_validator(mode="after")
    def _same_documents(self) -> PerplexityCell:
        for name in ("nll_nats", "tokens", "words", "utf8_bytes"):
            if len(getattr(self, name)) != len(self.item_ids):
                raise ValueError(f"{name} and item_ids differ in length")
        if len(set(self.item_ids)) != len(self.item_ids):
            raise ValueError("an item id occurs twice")
        return self


class DivergenceCell(Measured):
    """KL(reference || variant) of a whole variant on the sensitivity set; the separate sensitivities do not add up to it."""

    kind: Literal["divergence"] = "divergence"
    sequences_sha256: str
    sequence_tokens: tuple[Count, ...] = Field(min_length=1)
    kl_nats: tuple[NonNegative, ...]

    @model_validator(mode="after")
    def _same_sequences(self) -> DivergenceCell:
        if len(self.kl_nats) != len(self.sequence_tokens):
            raise ValueError("kl_nats and sequence_tokens differ in length")
        return self
