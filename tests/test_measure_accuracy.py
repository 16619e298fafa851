"""Scores against the slow and plain way: one item at a time, one whole sequence at a time, one token at a time."""

from __future__ import annotations

import math

import pytest
import tiny_models
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, PreTrainedModel

from bitzones.errors import NonFiniteError
from bitzones.measure import accuracy
from bitzones.measure.tasks import Item, TaskSet

TOKENIZER = tiny_models.tokenizer()
END = 0
ITEMS = (
    Item("a", "Question: Which?\nAnswer:", " mammal", (" fish", " mammal", " a very long bird", " x")),
    Item("b", "Question: A longer question, is it?\nAnswer:", " yes", (" yes", " no")),
    Item("c", "Q:", " one", (" one", " three", " fifteen", " twenty")),
    Item("d", "Question: What follows from all of this, in short?\nAnswer:", " no", (" maybe", " no")),
    Item("e", "Question: single tokens?\nAnswer:", "a", ("a", "b", "c")),
)
PROMPTS = ["Question: 3 and 4?\nAnswer:", "Q:", "Question: Mary had 12 apples and bought 30 more. How many?\nAnswer:"]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny_models.llama()


def plain_likelihood(model: PreTrainedModel, item: Item, choice: str) -> float:
    context, whole = TOKENIZER(item.prompt)["input_ids"], TOKENIZER(item.prompt + choice)["input_ids"]
    log_p = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
    return sum(float(log_p[n - 1, whole[n]]) for n in range(len(context), len(whole)))


def plain_greedy(model: PreTrainedModel, prompt: str, most: int = accuracy.MAX_NEW_TOKENS) -> list[int]:
    ids = TOKENIZER(prompt)["input_ids"]
    written: list[int] = []
    while len(written) < most and (not written or written[-1] != END):
        written.append(int(model(torch.tensor([ids + written])).logits[0, -1].argmax()))
    return written


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_likelihoods_are_those_of_whole_sequences(model: LlamaForCausalLM, batch: int) -> None:
    found = accuracy.choice_log_likelihoods(model, TOKENIZER, ITEMS, batch)
    for item, (likelihoods, tokens) in zip(ITEMS, found, strict=True):
        assert likelihoods == pytest.approx([plain_likelihood(model, item, choice) for choice in item.choices], abs=1e-3, rel=1e-4)
        letters = sum(map(len, item.choices))
        assert tokens == 1 + len(item.prompt) + letters - len(item.choices)  # one token a letter; the last of a choice is never read


def test_padding_moves_no_position_of_a_model_that_counts_them() -> None:
    """A Llama sees only distances, so it would not notice; GPT-2 has a vector for every place."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=257, n_embd=32, n_layer=2, n_head=2, n_positions=256, bos_token_id=0, eos_token_id=0, initializer_range=0.3
    )
    counting = GPT2LMHeadModel(config).eval().requires_grad_(False)
    for item, (likelihoods, _) in zip(ITEMS, accuracy.choice_log_likelihoods(counting, TOKENIZER, ITEMS, 5), strict=True):
        assert likelihoods == pytest.approx([plain_likelihood(counting, item, choice) for choice in item.choices], abs=1e-3, rel=1e-4)
    for prompt, (text, _) in zip(PROMPTS, accuracy.generate(counting, TOKENIZER, PROMPTS, 3), strict=True):
        assert text == TOKENIZER.decode(plain_greedy(counting, prompt), skip_special_tokens=True)


def test_the_choice_of_the_cell_is_the_likeliest(model: LlamaForCausalLM) -> None:
    said: list[float] = []
    cell = accuracy.measure(model, TOKENIZER, TaskSet("some", 3, "choice", ITEMS, dropped=2), "w4", 2, said.append)
    best = [max(item.choices, key=lambda choice, item=item: plain_likelihood(model, item, choice)) for item in ITEMS]
    assert cell.predictions == tuple(choice.strip() for choice in best)
    assert cell.correct == tuple(choice == item.answer for choice, item in zip(best, ITEMS, strict=True))
    assert cell.item_ids == tuple("abcde")
    assert cell.chance == pytest.approx((1 / 4, 1 / 2, 1 / 4, 1 / 2, 1 / 3))
    assert (cell.variant, cell.task, cell.task_version, cell.metric, cell.dropped) == ("w4", "some", 3, "acc", 2)
    assert cell.tokens == sum(tokens for _, tokens in accuracy.choice_log_likelihoods(model, TOKENIZER, ITEMS, 5))
    assert cell.seconds_s > 0
    assert said[-1] == 1.0
    assert said == sorted(said)


def test_right_and_wrong_follow_the_gold_answer(model: LlamaForCausalLM) -> None:
    choices = (" fish", " mammal", " bird")
    prompt = "Question: Which?\nAnswer:"
    best = max(choices, key=lambda choice: plain_likelihood(model, Item("x", prompt, "", choices), choice))
    items = tuple(Item(choice, prompt, choice, choices) for choice in choices)
    cell = accuracy.measure(model, TOKENIZER, TaskSet("some", 1, "choice", items), "bf16", 3)
    assert cell.correct == tuple(choice == best for choice in choices)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_generation_is_the_plain_greedy_loop(model: LlamaForCausalLM, batch: int) -> None:
    found = accuracy.generate(model, TOKENIZER, PROMPTS, batch)
    for prompt, (text, tokens) in zip(PROMPTS, found, strict=True):
        written = plain_greedy(model, prompt)
        assert text == TOKENIZER.decode(written, skip_special_tokens=True)
        assert tokens == 1 + len(prompt) + len(written)


def test_generation_is_greedy_whatever_the_model_is_configured_to_do() -> None:
    model = tiny_models.llama()
    plain = accuracy.generate(model, TOKENIZER, PROMPTS, 3)
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.suppress_tokens = [5]
    assert accuracy.generate(model, TOKENIZER, PROMPTS, 3) == plain
    assert model.generation_config.repetition_penalty == 5.0


def scripted(text: str) -> LlamaForCausalLM:
    """A model that knows only the place it is at: after a token t it writes the next letter of ``text``, then the end token for ever."""
    model = tiny_models.llama(layers=1, tied=False)
    for parameter in model.parameters():
        parameter.zero_()
    model.model.norm.weight.fill_(1.0)
    ids = [*TOKENIZER(text)["input_ids"][1:], END]
    assert len(set(ids)) == len(ids)
    assert len(ids) < tiny_models.WIDTH
    follows = dict(zip([TOKENIZER(":")["input_ids"][1], *ids[:-1]], ids, strict=True))
    for place, (token, following) in enumerate(follows.items()):
        model.model.embed_tokens.weight[token, place] = 1.0
        model.lm_head.weight[following, place] = 1.0
    return model


def test_generation_stops_at_the_end_token_and_the_rest_is_not_counted() -> None:
    model = scripted(" 42")
    prompts = ["Q:", "Question: a longer one\nAnswer:"]
    assert accuracy.generate(model, TOKENIZER, prompts, 2) == [(" 42", 1 + len(prompt) + 4) for prompt in prompts]


def test_the_cell_of_generated_answers() -> None:
    model = scripted(" 42 or 7".replace(" or ", "x"))
    items = tuple(Item(name, "Q:", answer) for name, answer in (("right", " 42"), ("wrong", " 7"), ("sign", " -42")))
    cell = accuracy.measure(model, TOKENIZER, TaskSet("numbers", 1, "number", items), "bf16", 2)
    assert cell.predictions == ("42x7",) * 3
    assert cell.correct == (True, False, False)
    assert cell.chance == (0.0, 0.0, 0.0)
    assert cell.metric == "exact_match"
    assert cell.tokens == 3 * (3 + 6)


def test_an_answer_without_a_number_is_wrong() -> None:
    cell = accuracy.measure(scripted(" no"), TOKENIZER, TaskSet("numbers", 1, "number", (Item("a", "Q:", " 0"),)), "bf16", 2)
    assert (cell.predictions, cell.correct) == (("no",), (False,))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_an_error_and_not_a_wrong_answer(bad: float) -> None:
    model = tiny_models.llama()
    model.model.norm.weight[0] = bad
    with pytest.raises(NonFiniteError, match="log-likelihood"):
        accuracy.measure(model, TOKENIZER, TaskSet("some", 1, "choice", ITEMS), "bf16", 2)
    with pytest.raises(NonFiniteError, match="generated token"):
        accuracy.measure(model, TOKENIZER, TaskSet("some", 1, "number", (Item("a", "Q:", " 1"),)), "bf16", 2)
