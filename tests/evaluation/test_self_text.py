"""What a model writes by itself: seeded, from its start token, ended by its end token."""

from __future__ import annotations

from itertools import islice

import pytest
import tiny_models
import torch

from bitzones.evaluation import self_text
from bitzones.schema.errors import NonFiniteError, TaskError

TOKENIZER = tiny_models.tokenizer()


def rows(count: int = 6, seed: int = 0, model: torch.nn.Module | None = None) -> list[tuple[int, ...]]:
    writer = self_text.sequences(model or tiny_models.llama(), TOKENIZER, 12, 4, seed)  # type: ignore[arg-type]
    return [row.ids for row in islice(writer, count)]


def test_the_same_seed_writes_the_same_and_another_does_not() -> None:
    model = tiny_models.llama()
    before = torch.random.get_rng_state()
    assert rows(model=model) == rows(model=model)
    assert rows(seed=1, model=model) != rows(model=model)
    assert torch.equal(before, torch.random.get_rng_state())


def test_texts_begin_with_the_start_token_and_have_no_end_token() -> None:
    written = rows(20)
    assert all(row[0] == 0 and 0 not in row[1:] and self_text.SHORTEST <= len(row) <= 12 for row in written)
    assert len(set(written)) == 20


def test_tokens_are_drawn_from_the_whole_distribution() -> None:
    model = tiny_models.llama()
    model.generation_config.temperature = 0.01
    model.generation_config.do_sample = False
    assert rows(model=model) == rows()
    assert model.generation_config.temperature == 0.01


def test_a_model_that_ends_every_text_at_once_is_said_to() -> None:
    model = tiny_models.llama(tied=False)
    model.lm_head = torch.nn.Linear(tiny_models.WIDTH, 257)
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.bias.zero_()
        model.lm_head.bias[0] = 100.0
    with pytest.raises(TaskError, match="of 80 texts in turn the model wrote none of 8 tokens or more"):
        rows(model=model)


def test_logits_that_are_not_finite_are_an_error() -> None:
    model = tiny_models.llama(tied=False)
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError):
        rows(model=model)
