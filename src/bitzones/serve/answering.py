"""One request answered by a model in memory: every prompt of it under one plan, in turn, as pieces of text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from bitzones.serve.decoding import Sampling, Step, end_tokens, prompt_steps, write
from bitzones.serve.pieces import Piece, Writing, placed_prompt
from bitzones.serve.served_model import ServedModel

__all__ = ["Ask", "Event", "Finished", "Prompt", "Wrote", "answer"]

Reason: TypeAlias = Literal["stop", "length"]


@dataclass(frozen=True)
class Prompt:
    """A prompt as tokens and as text, and how many tokens may follow."""

    ids: tuple[int, ...]
    text: str
    new_tokens: int


@dataclass(frozen=True)
class Ask:
    """What is asked of the model. ``top`` is the number of alternatives per token, None for no log-probabilities; with ``echo`` the answer
    starts with the prompt."""

    prompts: tuple[Prompt, ...]
    task: str
    sampling: Sampling
    stops: tuple[str, ...] = ()
    top: int | None = None
    echo: bool = False


@dataclass(frozen=True)
class Wrote:
    """A piece of the answer to the prompt of this index."""

    index: int
    piece: Piece


@dataclass(frozen=True)
class Finished:
    """The answer to the prompt of this index is whole, after as many ``tokens``."""

    index: int
    reason: Reason
    tokens: int


Event: TypeAlias = Wrote | Finished


def answer(served: ServedModel, ask: Ask, out: Callable[[Event], None], cancelled: Callable[[], bool]) -> None:
    """Answer every prompt, unless it is ``cancelled`` in between, which is asked before every token.

    Raises:
        NonFiniteError: the model's logits are NaN or infinite.
    """
    with served.precision(ask.task):
        for index, prompt in enumerate(ask.prompts):
            if cancelled():
                return
            _one(served, ask, index, prompt, out, cancelled)


def _one(served: ServedModel, ask: Ask, index: int, prompt: Prompt, out: Callable[[Event], None], cancelled: Callable[[], bool]) -> None:
    model, tokenizer = served.model, served.tokenizer
    if ask.echo:
        steps = [] if ask.top is None else prompt_steps(model, prompt.ids, ask.top)
        out(Wrote(index, Piece(prompt.text, placed_prompt(tokenizer, steps))))
    ends = end_tokens(model, tokenizer)
    writing = Writing(tokenizer, prompt.ids, ask.stops, ends, lambda piece: out(Wrote(index, piece)), len(prompt.text) if ask.echo else 0)

    def emit(step: Step) -> bool:
        return writing.add(step, last=writing.count + 1 == prompt.new_tokens) or cancelled()

    if prompt.new_tokens:
        write(model, prompt.ids, prompt.new_tokens, ends, emit, ask.sampling, ask.top or 0)
    out(Finished(index, "stop" if writing.ended else "length", writing.count))
