"""Cells that say how well a variant answers: accuracy item by item, and the KL of its next-token distributions."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from bitzones.schema.record import Count, Measured, NonNegative, Record, Share

__all__ = ["AccuracyCell", "DivergenceCell", "SpecialTokens"]


class SpecialTokens(Record):
    """What a tokenizer puts around a text, and what of it the prompts of a task were given.

    ``opening`` are the tokens that it opens a text with: a prompt that begins with them itself (a chat template's) gets no second ones, and
    ``opened`` says whose they are. ``closing`` are those that it closes a text with: they are left out, and not scored with an answer.
    """

    opening: tuple[str, ...] = ()
    opened: Literal["by the tokenizer", "by the prompt", "by either", "not at all"]
    closing: tuple[str, ...] = ()


class AccuracyCell(Measured):
    """Right and wrong, item by item, so that two variants or two runs can be paired later.

    For multiple choice, ``correct`` and ``predictions`` are those of lm-evaluation-harness's ``acc`` (the most likely choice), the
    ``_normalized`` ones those of its ``acc_norm`` (log-likelihood by characters of the choice); null for generated answers.
    ``gold_nll_nats`` is the negative log-likelihood of the right answer after the prompt, summed over its ``gold_tokens``. ``origin``
    says where the items came from, with a revision where there is one. ``dropped`` counts malformed rows of the data set, ``passed_over``
    are the ids of items that this tokenizer cannot score, because an answer merges with the end of its prompt; ``special_tokens`` is null
    in older run files.
    """

    kind: Literal["accuracy"] = "accuracy"
    task: str
    task_version: int
    task_sha256: str
    origin: str
    fewshot: Count = 0
    chat_template: bool = False
    metric: Literal["acc", "exact_match"]
    item_ids: tuple[str, ...]
    correct: tuple[bool, ...]
    predictions: tuple[str, ...]
    correct_normalized: tuple[bool, ...] | None = None
    predictions_normalized: tuple[str, ...] | None = None
    gold_nll_nats: tuple[NonNegative, ...]
    gold_tokens: tuple[Count, ...]
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
        if not sum(self.gold_tokens):
            raise ValueError("no answer has a token")
        if len(set(self.item_ids)) != len(self.item_ids):
            raise ValueError("an item id stands twice")
        return self


class DivergenceCell(Measured):
    """KL(reference || variant) of a whole variant on the sensitivity set: what the separate sensitivities do not add up to."""

    kind: Literal["divergence"] = "divergence"
    sequences_sha256: str
    sequence_tokens: tuple[Count, ...] = Field(min_length=1)
    kl_nats: tuple[NonNegative, ...]

    @model_validator(mode="after")
    def _same_sequences(self) -> DivergenceCell:
        if len(self.kl_nats) != len(self.sequence_tokens):
            raise ValueError("kl_nats and sequence_tokens differ in length")
        return self
