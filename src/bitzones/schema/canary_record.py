"""canary.json: what a quantized model predicts after pinned prompts, so that whoever serves it can be asked whether it still does.

It also has what the run's sequences look like (`TrafficRecord`), which the requests that come in are compared with.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator

from bitzones.schema.errors import RunFileError
from bitzones.schema.record import Count, NonNegative, Positive, Record
from bitzones.schema.validation_errors import first_error

__all__ = ["CANARY_SCHEMA", "CanaryPrompt", "CanaryRecord", "Predicted", "TrafficRecord", "TrafficSequence", "read_canary"]

CANARY_SCHEMA: Literal[1] = 1

CANARY_FORMAT: Literal["bitzones-canary"] = "bitzones-canary"

LogProbability = Annotated[float, Field(ge=-1e4, le=1e-3, allow_inf_nan=False)]
"""Natural logarithm; a rounding may lift it a little above 0."""


class Predicted(Record):
    """The most likely next tokens, the likeliest first: their ids and log-probabilities. What is left to 1 is the tail."""

    token_ids: tuple[Count, ...] = Field(min_length=1)
    logprobs: tuple[LogProbability, ...]

    @model_validator(mode="after")
    def _of_one_length(self) -> Predicted:
        if len(self.token_ids) != len(self.logprobs):
            raise ValueError("token_ids and logprobs differ in length")
        if len(set(self.token_ids)) != len(self.token_ids):
            raise ValueError("a token occurs twice")
        return self


class CanaryPrompt(Record):
    """One pinned prompt: the first tokens of a held-out sequence.

    ``prompt_ids`` has the special tokens that open it; ``text`` does not, because a server that is given text adds them itself. ``plan`` is
    what the plan's model predicts, ``reference`` what the unquantized one does. ``noise_nats`` is how far the plan's model deviates from
    itself where the same weights are computed in another dtype.
    """

    prompt_ids: tuple[Count, ...] = Field(min_length=1)
    text: str
    plan: Predicted
    reference: Predicted
    noise_nats: NonNegative


class TrafficSequence(Record):
    """One sequence of the sensitivity set: where it comes from, its size, and the mean negative log-likelihood of its tokens and the mean
    entropy of the predictions under the reference, both in nats per token and without the first token."""

    domain: str
    characters: Positive
    tokens: Positive
    nll_nats: NonNegative
    entropy_nats: NonNegative


class TrafficRecord(Record):
    """What the run was measured on, to compare requests with."""

    sequences: tuple[TrafficSequence, ...] = Field(min_length=1)


class CanaryRecord(Record):
    """The whole of canary.json.

    ``served`` names what the record was made of: the run's plan, a plan.json, or a folder, and ``task`` which plan of a bundle; null where
    there is one plan only. ``dtype`` is that of the arithmetic of both models, ``noise_dtype`` the other one's. ``tokens`` maps a token id
    to how a server may write it: its text and its entry in the vocabulary. ``kl_nats`` is KL(reference || plan) per token, mean over the
    held-out sequences, and ``kl_high_nats`` the upper end of its interval, null below 20 sequences.
    """

    format: Literal["bitzones-canary"] = CANARY_FORMAT
    schema_number: Literal[1] = Field(default=CANARY_SCHEMA, alias="schema")
    bitzones: str
    made_at: str
    source: str
    model_sha256: str
    served: str
    task: str | None = None
    dtype: str
    noise_dtype: str
    top: Positive
    seed: Count
    prompts: tuple[CanaryPrompt, ...] = Field(min_length=1)
    tokens: dict[Annotated[str, Field(pattern=r"^\d+$")], tuple[str, ...]]
    kl_nats: NonNegative
    kl_high_nats: NonNegative | None
    traffic: TrafficRecord
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    @property
    def sha256(self) -> str:
        """Of the prompts and what the plan predicts after them, by which a state knows its record again."""
        predicted = [(prompt.prompt_ids, prompt.plan.token_ids, prompt.plan.logprobs) for prompt in self.prompts]
        return hashlib.sha256(repr(predicted).encode()).hexdigest()


def read_canary(path: Path) -> CanaryRecord:
    """Read and check a canary.json.

    Raises:
        RunFileError: it is missing, unreadable, truncated or something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunFileError(f"{path}: there is no such record: make it with 'bitzones canary RUN.json -o {path}'") from error
    except OSError as error:
        raise RunFileError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RunFileError(f"{path}: not JSON, or truncated") from error
    if not isinstance(data, dict) or data.get("format") != CANARY_FORMAT:
        raise RunFileError(f"{path}: JSON, but no record of bitzones canary")
    try:
        return CanaryRecord.model_validate(data)
    except ValidationError as error:
        first = first_error(error)
        raise RunFileError(f"{path}: key {first.path!r}: {first.clause}{first.more}") from error
