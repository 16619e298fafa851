"""Text that a model writes by itself, sampled from its own distribution: calibration text that needs no data (Williams and Aletras 2024,
arXiv:2410.17170)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from bitzones.data.sequences import TokenSequence
from bitzones.models import text_config
from bitzones.schema.errors import NonFiniteError, TaskError

__all__ = ["sequences", "start_token"]

SHORTEST = 8
"""Tokens of the shortest text that is kept, as for what is cut from documents."""

MOST_EMPTY = 20
"""Batches without one text that is long enough, after which a model is said to write nothing."""


def start_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that a text of the model begins with: its begin token, else its end token, after which a text begins in training.

    Raises:
        TaskError: it has neither.
    """
    for found in (tokenizer.bos_token_id, getattr(text_config.of(model), "bos_token_id", None), tokenizer.eos_token_id):
        if isinstance(found, int):
            return found
    raise TaskError("text source generated: the model has neither a begin token nor an end token to start from")


@torch.no_grad()
def sequences(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, length: int, batch: int, seed: int) -> Iterator[TokenSequence]:
    """Texts that the model writes after its start token, without end; the same seed gives the same ones on the same device.

    Tokens are drawn from the whole distribution at temperature 1; a text ends at the model's end token, which is left out, or at
    ``length`` tokens.

    Args:
        model: writes.
        tokenizer: the model's own.
        length: tokens of the longest text, the start token included.
        batch: how many are written at a time.
        seed: of what is drawn.

    Raises:
        NonFiniteError: a logit is NaN or infinite.
        TaskError: the model ends nearly every text at once, or has no token to start from.
    """
    start, ends = start_token(model, tokenizer), _ends(model, tokenizer)
    config = GenerationConfig(
        max_new_tokens=length - 1, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, eos_token_id=ends or None, pad_token_id=start
    )
    number, empty = 0, 0
    while empty < MOST_EMPTY:
        rows = [_until(row, ends) for row in _written(model, torch.full((batch, 1), start, device=model.device), config, seed + number)]
        kept = [row for row in rows if len(row) >= SHORTEST]
        number, empty = number + 1, 0 if kept else empty + 1
        yield from (TokenSequence(tuple(row), len(row) - 1, ()) for row in kept)
    raise TaskError(f"text source generated: of {MOST_EMPTY * batch} texts in turn the model wrote none of {SHORTEST} tokens or more")


def _written(model: PreTrainedModel, ids: torch.Tensor, config: GenerationConfig, seed: int) -> list[list[int]]:
    own, model.generation_config = model.generation_config, config
    try:
        with torch.random.fork_rng(devices=[ids.device] if ids.device.type == "cuda" else []):
            torch.manual_seed(seed)
            out: torch.Tensor = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)  # type: ignore[operator]
    except RuntimeError as error:  # what sampling from NaN or infinity raises
        if "probability tensor" in str(error):
            raise NonFiniteError("the logits of a generated token are NaN or infinite") from error
        raise
    finally:
        model.generation_config = own
    return [list(map(int, row)) for row in out.tolist()]


def _until(row: list[int], ends: list[int]) -> list[int]:
    """The start token and what follows it up to the end token."""
    return next((row[:place] for place, token in enumerate(row) if place and token in ends), row)


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    own = model.generation_config.eos_token_id
    found = tokenizer.eos_token_id if own is None else own
    return list(found) if isinstance(found, list) else [] if found is None else [int(found)]
