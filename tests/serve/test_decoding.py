"""Tokens and log-probabilities against transformers' own generate and a plain forward pass."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_served import tiny

from bitzones.schema.errors import NonFiniteError
from bitzones.serve.decoding import GREEDY, Sampling, Step, end_tokens, prompt_steps, write

PROMPT = tiny().tokenizer("Tom has 3 apples. He buys 4 more.")["input_ids"]
NEVER = frozenset[int]()


def written(prompt: list[int], new_tokens: int, ends: frozenset[int] = NEVER, sampling: Sampling = GREEDY, top: int = 0) -> list[Step]:
    steps: list[Step] = []

    def emit(step: Step) -> bool:
        steps.append(step)
        return False

    write(tiny().model, prompt, new_tokens, ends, emit, sampling, top)
    return steps


def tokens(steps: list[Step]) -> list[int]:
    return [step.token for step in steps]


@torch.no_grad()
def logprobs(ids: list[int]) -> torch.Tensor:
    """Log-probabilities of what follows each token, shape (tokens, vocabulary)."""
    return tiny().model(torch.tensor([ids])).logits[0].float().log_softmax(-1)


@settings(max_examples=4)
@given(st.lists(st.integers(1, 767), min_size=1, max_size=20))
def test_greedy_tokens_are_those_of_generate(prompt: list[int]) -> None:
    ids = torch.tensor([prompt])
    expected = tiny().model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, pad_token_id=0)
    found = tokens(written(prompt, 8, end_tokens(tiny().model, tiny().tokenizer)))
    assert found == expected[0, len(prompt) :].tolist()


def test_logprobs_are_those_of_a_forward_pass_whatever_the_temperature() -> None:
    for sampling in (Sampling(), Sampling(1.5, 0.8, seed=3)):
        steps = written(PROMPT, 6, sampling=sampling, top=5)
        expected = logprobs([*PROMPT, *tokens(steps)])[len(PROMPT) - 1 : -1]
        for step, row in zip(steps, expected, strict=True):
            best = row.topk(5)
            assert step.logprob == pytest.approx(float(row[step.token]), abs=1e-4)
            assert [candidate.logprob for candidate in step.top] == pytest.approx(best.values.tolist(), abs=1e-4)
            assert [candidate.token for candidate in step.top] == best.indices.tolist()


def test_a_prompts_own_logprobs_are_those_of_a_forward_pass() -> None:
    prompt = (PROMPT * 20)[:300]  # more than are scored at a time
    steps, expected = prompt_steps(tiny().model, prompt, top=2), logprobs(prompt)
    assert tokens(steps) == prompt
    assert steps[0] == Step(prompt[0], None)
    for place, step in enumerate(steps[1:], 1):
        assert step.logprob == pytest.approx(float(expected[place - 1, prompt[place]]), abs=1e-4)
        assert step.top[0].logprob == pytest.approx(float(expected[place - 1].max()), abs=1e-4)
    assert prompt_steps(tiny().model, [5]) == [Step(5, None)]


def test_a_seed_repeats_itself_whatever_else_draws_numbers() -> None:
    hot = Sampling(temperature=1.0, seed=11)
    first = tokens(written(PROMPT, 8, sampling=hot))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert tokens(written(PROMPT, 8, sampling=hot)) == first
    assert torch.equal(torch.get_rng_state(), state)
    others = {tuple(tokens(written(PROMPT, 8, sampling=Sampling(temperature=1.0, seed=seed)))) for seed in range(3)}
    assert len(others) == 3


def test_tokens_are_drawn_from_the_tempered_nucleus() -> None:
    """Of 400 draws of one token: none outside the nucleus, and its most likely token as often as its share says, within 4 deviations."""
    temperature, top_p, draws = 1.3, 0.7, 400
    probabilities = (tiny().model(torch.tensor([PROMPT])).logits[0, -1].detach().float() / temperature).softmax(-1)
    order = probabilities.argsort(descending=True).tolist()
    before, nucleus = 0.0, []
    for token in order:
        if before >= top_p:
            break
        nucleus.append(token)
        before += float(probabilities[token])
    assert len(nucleus) > 2
    found = _drawn(Sampling(temperature, top_p, seed=5), draws)
    share = float(probabilities[nucleus[0]]) / before
    assert set(found) <= set(nucleus)
    assert abs(found.count(nucleus[0]) - draws * share) < 4 * math.sqrt(draws * share * (1 - share))


def _drawn(sampling: Sampling, draws: int) -> list[int]:
    """Tokens that one generator draws in a row from the distribution after the prompt, by the chooser itself."""
    from bitzones.serve.decoding import _Chooser

    chooser = _Chooser(sampling, 0)
    ids = torch.tensor([PROMPT])
    scores = tiny().model(ids).logits[:, -1].detach().float()
    return [int(chooser(ids, scores.clone()).argmax()) for _ in range(draws)]


@pytest.mark.parametrize("sampling", [Sampling(1e-9, seed=1), Sampling(1.0, 0.0, seed=1)])
def test_a_cold_or_empty_nucleus_is_greedy(sampling: Sampling) -> None:
    assert tokens(written(PROMPT, 6, sampling=sampling)) == tokens(written(PROMPT, 6))


def test_it_ends_where_it_is_told_to() -> None:
    greedy = tokens(written(PROMPT, 6))
    seen: list[int] = []

    def third(step: Step) -> bool:
        seen.append(step.token)
        return len(seen) == 3

    write(tiny().model, PROMPT, 6, NEVER, third)
    assert seen == greedy[:3]
    assert tokens(written(PROMPT, 6, frozenset({greedy[1]}))) == greedy[: greedy.index(greedy[1]) + 1]


def test_the_models_own_generation_configuration_stays_and_does_not_apply() -> None:
    model = tiny().model
    own, greedy = model.generation_config, tokens(written(PROMPT, 4))
    own.suppress_tokens = greedy
    try:
        assert tokens(written(PROMPT, 4)) == greedy
        assert model.generation_config is own
    finally:
        own.suppress_tokens = None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0, seed=1)])
def test_logits_that_are_no_numbers_are_an_error(bad: float, sampling: Sampling) -> None:
    norm = tiny().model.model.norm
    hook = norm.register_forward_hook(lambda module, given, out: out * bad)
    try:
        with pytest.raises(NonFiniteError, match="NaN or infinite"):
            written(PROMPT, 2, sampling=sampling)
        with pytest.raises(NonFiniteError, match="NaN or infinite"):
            prompt_steps(tiny().model, PROMPT)
    finally:
        hook.remove()
