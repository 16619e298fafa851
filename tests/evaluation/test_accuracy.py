"""Scores against the slow and plain way: one item at a time, one whole sequence at a time, one token at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import tiny_models
import torch
from transformers import (
    BloomConfig,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.bloom import BloomForCausalLM

from bitzones.backends import quantizing
from bitzones.data.task_items import Item
from bitzones.data.tasks import TaskSet
from bitzones.evaluation import accuracy, generation, likelihood, prefix_scoring, scoring
from bitzones.models import structure
from bitzones.schema.errors import NonFiniteError, TaskError

TOKENIZER = tiny_models.tokenizer()
END = 0
ITEMS = (
    Item("a", "Question: Which?\nAnswer:", " mammal", (" fish", " mammal", " a very long bird", " x")),
    Item("b", "Question: A longer question, is it?\nAnswer:", " yes", (" yes", " no")),
    Item("c", "Q:", " one", (" one", " three", " fifteen", " twenty")),
    Item("d", "Question: What follows from all of this, in short?\nAnswer:", " no", (" maybe", " no")),
    Item("e", "Question: single tokens?\nAnswer:", "a", ("a", "b", "c")),
)
NUMBERS = (
    Item("a", "Question: 3 and 4?\nAnswer:", " 7"),
    Item("b", "Q:", " -12.5"),
    Item("c", "Question: Mary had 12 apples and bought 30 more. How many?\nAnswer:", "4"),
)
SHAPE = {
    "vocab_size": 257, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 16,
    "num_key_value_heads": 2, "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None,
    "max_position_embeddings": 256,
}  # fmt: skip
WITHOUT_HEADS = {name: value for name, value in SHAPE.items() if name != "head_dim"}
WINDOW = 8
"""A sliding window shorter than any prompt but one."""


def opt() -> OPTForCausalLM:
    """Learned positions, counted from the mask where nobody says them."""
    config = OPTConfig(
        vocab_size=257, hidden_size=64, ffn_dim=96, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=256,
        word_embed_proj_dim=64, init_std=0.2, bos_token_id=0, eos_token_id=0, pad_token_id=1, dropout=0.0,
    )  # fmt: skip
    return OPTForCausalLM(config)


def gpt2() -> GPT2LMHeadModel:
    """A vector for every place."""
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=257, n_embd=32, n_layer=2, n_head=2, n_positions=256, bos_token_id=0, eos_token_id=0, initializer_range=0.3)
    )


def bloom() -> BloomForCausalLM:
    """Takes no positions: it makes them from the mask."""
    return BloomForCausalLM(
        BloomConfig(vocab_size=257, hidden_size=64, n_layer=2, n_head=4, initializer_range=0.2, bos_token_id=0, eos_token_id=0)
    )


def mamba() -> MambaForCausalLM:
    """Has a state and no keys or values."""
    config = MambaConfig(
        vocab_size=257, hidden_size=32, num_hidden_layers=2, state_size=8, initializer_range=0.5, bos_token_id=0, eos_token_id=0
    )
    return MambaForCausalLM(config)


ARCHITECTURES: dict[str, tuple[Callable[[], PreTrainedModel], bool]] = {
    "llama": (tiny_models.llama, True),
    "qwen3": (lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE)), True),
    "mistral with a window": (lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=WINDOW)), True),
    "gemma 3, windows and whole": (
        lambda: Gemma3ForCausalLM(
            Gemma3TextConfig(**SHAPE, sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention", "sliding_attention"])
        ),
        True,
    ),
    "opt": (opt, True),
    "gpt2": (gpt2, True),
    "lfm2, convolutions and whole": (
        lambda: Lfm2ForCausalLM(Lfm2Config(**WITHOUT_HEADS, layer_types=["conv", "full_attention", "conv"])),
        False,
    ),
    "bloom": (bloom, False),
    "mamba": (mamba, False),
}
"""Name -> how it is made, and whether its cache is shared."""


def made(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return ARCHITECTURES[name][0]().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny_models.llama()


@torch.no_grad()
def plain_likelihood(model: PreTrainedModel, item: Item, choice: str) -> float:
    context, whole = TOKENIZER(item.prompt)["input_ids"], TOKENIZER(item.prompt + choice)["input_ids"]
    log_p = model(torch.tensor([whole]), use_cache=False).logits[0].double().log_softmax(-1)
    return sum(float(log_p[n - 1, whole[n]]) for n in range(len(context), len(whole)))


@torch.no_grad()
def plain_greedy(model: PreTrainedModel, prompt: str, most: int = scoring.MAX_NEW_TOKENS) -> list[int]:
    ids = TOKENIZER(prompt)["input_ids"]
    written: list[int] = []
    while len(written) < most and (not written or written[-1] != END):
        written.append(int(model(torch.tensor([ids + written]), use_cache=False).logits[0, -1].argmax()))
    return written


def check_choices(model: PreTrainedModel, batch: int) -> None:
    for item, found in zip(ITEMS, likelihood.choice_log_likelihoods(model, TOKENIZER, ITEMS, batch), strict=True):
        plain = [plain_likelihood(model, item, choice) for choice in item.choices]
        assert found.log_likelihoods == pytest.approx(plain, abs=1e-3, rel=1e-4)
        assert found.lengths == tuple(map(len, item.choices))  # one token a letter
        assert found.tokens == 1 + len(item.prompt) + sum(found.lengths) - len(item.choices)  # the last of a choice is never read


def check_numbers(model: PreTrainedModel, batch: int) -> None:
    for item, found in zip(NUMBERS, generation.answers(model, TOKENIZER, NUMBERS, batch), strict=True):
        written = plain_greedy(model, item.prompt)
        assert found.text == TOKENIZER.decode(written, skip_special_tokens=True)
        assert found.gold_log_likelihood == pytest.approx(plain_likelihood(model, item, item.answer), abs=1e-3, rel=1e-4)
        assert found.gold_tokens == len(item.answer)
        assert found.tokens == 1 + len(item.prompt) + len(item.answer) - 1 + len(written)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_likelihoods_and_texts_are_those_of_whole_sequences_at_any_batch(model: LlamaForCausalLM, batch: int) -> None:
    check_choices(model, batch)
    check_numbers(model, batch)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_kind_of_cache_gives_what_whole_sequences_give(name: str) -> None:
    model = made(name)
    assert (prefix_scoring.read(model, [TOKENIZER("Q: and a little longer")["input_ids"]]) is not None) == ARCHITECTURES[name][1]
    check_choices(model, 5)
    check_numbers(model, 3)


def test_a_context_can_be_continued_again_and_stays_as_it_was() -> None:
    for name in ("llama", "gemma 3, windows and whole"):
        context = prefix_scoring.read(made(name), [[0, 5, 6], [0, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]])
        assert context is not None
        follow = [prefix_scoring.Continuation(n, [3, 4], [4, 9]) for n in (1, 0, 1)]
        first, again = (prefix_scoring.continued(made(name), context, follow) for _ in range(2))
        assert torch.equal(first, again)
        assert float(first[0]) == pytest.approx(float(first[2]), rel=1e-5)  # of one batch, rows may round differently
        assert float(first[0]) != pytest.approx(float(first[1]), rel=1e-3)
        assert context.cache.get_seq_length() == 11


def test_a_quantized_model_reads_in_the_same_way() -> None:
    model = tiny_models.llama()
    quantizing.quantize(model, dict.fromkeys(structure.quantizable_modules(model), "qint4"))
    check_choices(model, 5)
    check_numbers(model, 3)


def test_rows_that_are_much_longer_get_a_pass_of_their_own() -> None:
    """One row of 40 tokens would pad ten of one token to 400."""
    passes: list[torch.Size] = []
    model = tiny_models.llama()
    model.register_forward_pre_hook(lambda module, args, given: passes.append(given["input_ids"].shape), with_kwargs=True)
    item = Item("a", "Question: short and long?\nAnswer:", "xy", (*(f"{n}y" for n in range(10)), "xy", "z" * 41))
    likelihood.choice_log_likelihoods(model, TOKENIZER, [item], 4)
    assert passes == [(1, 1 + len(item.prompt)), (11, 1), (1, 40)]


def test_a_prompt_is_read_once_for_its_likelihood_and_its_text() -> None:
    passes: list[torch.Size] = []
    model = tiny_models.llama()
    model.register_forward_pre_hook(lambda module, args, given: passes.append(given["input_ids"].shape), with_kwargs=True)
    generation.answers(model, TOKENIZER, NUMBERS[:1], 1)
    prompt = 1 + len(NUMBERS[0].prompt)
    assert passes[:3] == [(1, prompt - 1), (1, len(NUMBERS[0].answer)), (1, 1)]
    assert all(shape == (1, 1) for shape in passes[3:])


def test_no_more_than_a_window_of_items_is_tokens_at_a_time(monkeypatch: pytest.MonkeyPatch, model: LlamaForCausalLM) -> None:
    monkeypatch.setattr("bitzones.data.encoding.WINDOW_BATCHES", 2)
    sizes: list[int] = []

    class Counted:
        bos_token_id = TOKENIZER.bos_token_id

        def __call__(self, texts: str | list[str], **options: bool) -> object:
            sizes.extend([len(texts)] if isinstance(texts, list) else [])
            return TOKENIZER(texts, **options)

    items = [replace(ITEMS[n % 5], id=str(n)) for n in range(9)]
    found = likelihood.choice_log_likelihoods(model, Counted(), items, 2)  # type: ignore[arg-type]
    assert sizes[::2] == [4, 4, 1]
    for n, item in enumerate(found):
        assert item.log_likelihoods == pytest.approx(found[n % 5].log_likelihoods, abs=1e-3), "items are not in their places"


def test_white_space_that_ends_a_prompt_is_scored_with_the_choices(model: LlamaForCausalLM) -> None:
    """As lm-evaluation-harness does it: chat templates end in a line break."""
    item = Item("a", "user: which?\nanswer:\n\n", "fish", ("fish", "bird"))
    (found,) = likelihood.choice_log_likelihoods(model, TOKENIZER, [item], 1)
    moved = Item("a", "user: which?\nanswer:", "", ("\n\nfish", "\n\nbird"))
    assert found.log_likelihoods == pytest.approx([plain_likelihood(model, moved, choice) for choice in moved.choices], abs=1e-3)
    assert found.lengths == (6, 6)


def test_special_tokens_are_left_out_where_the_prompt_brings_its_own(model: LlamaForCausalLM) -> None:
    item = Item("a", "<|end|>which?", "fish", ("fish", "bird"))
    (plain,) = likelihood.choice_log_likelihoods(model, TOKENIZER, [replace(item, prompt="which?")], 1)
    (found,) = likelihood.choice_log_likelihoods(model, TOKENIZER, [item], 1)
    assert found == plain
    chat = accuracy.measure(model, TOKENIZER, TaskSet("some", 1, "choice", (item,), chat_template=True), "bf16", 1)
    assert (chat.tokens, chat.chat_template) == (plain.tokens, True)
    number = replace(item, choices=())
    (written,) = generation.answers(model, TOKENIZER, [number], 1)
    assert written == generation.answers(model, TOKENIZER, [replace(number, prompt="which?")], 1)[0]


def test_what_does_not_fit_the_model_is_said_and_not_cut() -> None:
    model = tiny_models.llama()
    model.config.max_position_embeddings = 40
    fits = Item("fits", "x" * 37, "ab", ("ab", "b"))
    likelihood.choice_log_likelihoods(model, TOKENIZER, [fits], 1)
    with pytest.raises(TaskError, match="item 'long' takes 41 tokens and the model has 40 positions"):
        likelihood.choice_log_likelihoods(model, TOKENIZER, [fits, Item("long", "x" * 37, "ab", ("abc", "b"))], 1)
    with pytest.raises(TaskError, match="item 'fits' takes 54 tokens and the model has 40 positions"):
        generation.answers(model, TOKENIZER, [fits], 1)


def test_an_answer_without_a_token_is_said(model: LlamaForCausalLM) -> None:
    with pytest.raises(TaskError, match="item 'a': an answer has no token of its own"):
        likelihood.choice_log_likelihoods(model, TOKENIZER, [Item("a", "x", "", ("", "b"))], 1)


def test_the_choice_of_the_cell_is_the_likeliest(model: LlamaForCausalLM) -> None:
    said: list[float] = []
    task = TaskSet("some", 3, "choice", ITEMS, dropped=2, origin="a file", shots=ITEMS[:2])
    cell = accuracy.measure(model, TOKENIZER, task, "w4", 2, said.append)
    best = [max(item.choices, key=lambda choice, item=item: plain_likelihood(model, item, choice)) for item in ITEMS]
    assert cell.predictions == tuple(choice.strip() for choice in best)
    assert cell.correct == tuple(choice == item.answer for choice, item in zip(best, ITEMS, strict=True))
    assert cell.item_ids == tuple("abcde")
    assert cell.chance == pytest.approx((1 / 4, 1 / 2, 1 / 4, 1 / 2, 1 / 3))
    assert (cell.variant, cell.task, cell.task_version, cell.metric, cell.dropped) == ("w4", "some", 3, "acc", 2)
    assert (cell.origin, cell.fewshot, cell.chat_template, cell.task_sha256) == ("a file", 2, False, task.sha256)
    assert cell.tokens == sum(found.tokens for found in likelihood.choice_log_likelihoods(model, TOKENIZER, ITEMS, 5))
    gold = [-plain_likelihood(model, item, item.answer) for item in ITEMS]
    assert cell.gold_nll_nats == pytest.approx(gold, abs=1e-3, rel=1e-4)
    assert cell.gold_tokens == tuple(len(item.answer) for item in ITEMS)
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


def test_the_normalized_choice_is_the_likeliest_by_character(model: LlamaForCausalLM) -> None:
    cell = accuracy.measure(model, TOKENIZER, TaskSet("some", 1, "choice", ITEMS), "bf16", 5)
    best = [max(i.choices, key=lambda choice, i=i: plain_likelihood(model, i, choice) / len(choice.removeprefix(" "))) for i in ITEMS]
    assert cell.predictions_normalized == tuple(choice.strip() for choice in best)
    assert cell.correct_normalized == tuple(choice == item.answer for choice, item in zip(best, ITEMS, strict=True))
    assert cell.predictions_normalized != cell.predictions, "no item here tells the two apart"


def test_the_space_before_a_choice_is_no_character_and_the_first_of_equals_is_chosen() -> None:
    assert scoring.best([-3.0, -2.0, -2.0]) == 1
    assert scoring.best_by_character([-2.0, -4.0], [" a", " ab"]) == 0
    assert scoring.best_by_character([-2.0, -3.9], [" a", " ab"]) == 1
    assert scoring.best_by_character([-2.9, -2.0], ["  a", " a"]) == 0  # only one space is taken off


def test_generation_is_greedy_whatever_the_model_is_configured_to_do() -> None:
    model = tiny_models.llama()
    plain = generation.answers(model, TOKENIZER, NUMBERS, 3)
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.suppress_tokens = [5]
    assert generation.answers(model, TOKENIZER, NUMBERS, 3) == plain
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
    items = [Item("a", "Q:", " 42"), Item("b", "Question: a longer one\nAnswer:", " 7")]
    found = generation.answers(model, TOKENIZER, items, 2)
    assert [answer.text for answer in found] == [" 42", " 42"]
    assert [answer.tokens for answer in found] == [1 + len(item.prompt) + len(item.answer) - 1 + 4 for item in items]


def test_a_model_without_an_end_token_writes_to_the_end() -> None:
    model = scripted(" 42")
    model.generation_config.eos_token_id = None
    tokenizer = tiny_models.tokenizer()
    tokenizer.eos_token = None
    (found,) = generation.answers(model, tokenizer, [Item("a", "Q:", " 42")], 2)
    assert (found.text, found.tokens) == (" 42", 3 + 2 + scoring.MAX_NEW_TOKENS)


def test_the_cell_of_generated_answers() -> None:
    model = scripted(" 42 or 7".replace(" or ", "x"))
    items = tuple(Item(name, "Q:", answer) for name, answer in (("right", " 42"), ("wrong", " 7"), ("sign", " -42")))
    cell = accuracy.measure(model, TOKENIZER, TaskSet("numbers", 1, "number", items), "bf16", 2)
    assert cell.predictions == ("42x7",) * 3
    assert cell.correct == (True, False, False)
    assert cell.chance == (0.0, 0.0, 0.0)
    assert cell.metric == "exact_match"
    assert cell.tokens == 3 * (3 + 6) + 2 + 1 + 3
    assert (cell.correct_normalized, cell.predictions_normalized) == (None, None)
    assert cell.gold_tokens == (3, 2, 4)
    assert cell.gold_nll_nats[0] < min(cell.gold_nll_nats[1:])


def test_after_reasoning_the_last_number_counts() -> None:
    said = " 6-2=4"
    items = tuple(Item(name, "Q:", answer) for name, answer in (("first", " 6"), ("last", " 4")))
    task = TaskSet("numbers", 1, "number", items)
    assert accuracy.measure(scripted(said), TOKENIZER, task, "bf16", 2).correct == (True, False)
    reasoned = accuracy.measure(scripted(said), TOKENIZER, replace(task, reasoning_tokens=8), "bf16", 2)
    assert reasoned.correct == (False, True)
    assert reasoned.predictions == (said.strip(),) * 2


def test_reasoning_has_tokens_of_its_own() -> None:
    model = scripted(" 42")
    model.generation_config.eos_token_id = None
    tokenizer = tiny_models.tokenizer()
    tokenizer.eos_token = None
    cell = accuracy.measure(model, tokenizer, TaskSet("n", 1, "number", (Item("a", "Q:", " 42"),), reasoning_tokens=8), "bf16", 2)
    assert cell.tokens == 3 + 2 + scoring.MAX_NEW_TOKENS + 8


def test_an_answer_without_a_number_is_wrong() -> None:
    cell = accuracy.measure(scripted(" no"), TOKENIZER, TaskSet("numbers", 1, "number", (Item("a", "Q:", " 0"),)), "bf16", 2)
    assert (cell.predictions, cell.correct) == (("no",), (False,))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_an_error_and_not_a_wrong_answer(bad: float) -> None:
    model = tiny_models.llama()
    model.model.norm.weight[0] = bad
    with pytest.raises(NonFiniteError, match="log-likelihood"):
        accuracy.measure(model, TOKENIZER, TaskSet("some", 1, "choice", ITEMS), "bf16", 2)
    with pytest.raises(NonFiniteError, match="log-likelihood"):
        accuracy.measure(model, TOKENIZER, TaskSet("some", 1, "number", (Item("a", "Q:", " 1"),)), "bf16", 2)


def test_logits_that_stop_being_finite_while_writing_are_an_error() -> None:
    model = scripted(" 42")
    model.model.embed_tokens.weight[TOKENIZER("2")["input_ids"][1]] = math.nan  # read only once the model has written it
    with pytest.raises(NonFiniteError, match="generated token"):
        generation.answers(model, TOKENIZER, [Item("a", "Q:", " 1")], 2)
