"""Tasks of lm-evaluation-harness on a tiny model, beside the slow and plain way and beside the harness's own model."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import tiny_harness
import tiny_models
import torch
from tiny_harness import CHOICE, CLOZE, PAGES, QUESTIONS, ROLLING, WRITTEN
from transformers import MambaConfig, MambaForCausalLM, PreTrainedModel

from bitzones.data import harness_tasks
from bitzones.evaluation import accuracy
from bitzones.schema.errors import NonFiniteError, TaskError
from bitzones.schema.quality_cells import AccuracyCell, PerplexityCell
from bitzones.schema.task_settings import Task

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

TOKENIZER = tiny_models.tokenizer()
CHAT = copy.deepcopy(TOKENIZER)
CHAT.chat_template = tiny_models.CHATML
ASKED = QUESTIONS[4:]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny_models.llama()


def measured(model: PreTrainedModel, place: Path, tokenizer: Any = TOKENIZER, batch: int = 3, **more: Any) -> Any:
    task = harness_tasks.load(Task.model_validate({"lm_eval": str(place), **more}))
    shares: list[float] = []
    cell = accuracy.measure(model, tokenizer, task, "bf16", batch, shares.append)
    assert shares[-1] == 1.0
    return cell


@torch.no_grad()
def plain(model: PreTrainedModel, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """Log-likelihood of a continuation, and whether it is the greedy one, from the whole text at once."""
    log_p = model(torch.tensor([[*context, *continuation]]), use_cache=False).logits[0].double().log_softmax(-1)
    rows = log_p[len(context) - 1 : -1]
    return sum(float(row[token]) for row, token in zip(rows, continuation, strict=True)), rows.argmax(-1).tolist() == continuation


def ids_of(text: str) -> list[int]:
    return list(TOKENIZER(text)["input_ids"])


def test_multiple_choice(model: PreTrainedModel, tmp_path: Path) -> None:
    cell = measured(model, tiny_harness.written(tmp_path, CHOICE))
    assert isinstance(cell, AccuracyCell)
    for n, row in enumerate(ASKED):
        context = ids_of(f"Question: {row['question']}\nAnswer:")
        nats = [plain(model, context, ids_of(f" {option}")[1:])[0] for option in row["options"]]
        by_character = [total / len(option) for total, option in zip(nats, row["options"], strict=True)]
        assert cell.predictions[n] == row["options"][nats.index(max(nats))]
        assert cell.correct[n] == (nats.index(max(nats)) == 0)
        assert cell.predictions_normalized is not None
        assert cell.predictions_normalized[n] == row["options"][by_character.index(max(by_character))]
        assert cell.gold_nll_nats is not None
        assert cell.gold_nll_nats[n] == pytest.approx(-nats[0], rel=1e-4)
    assert cell.gold_tokens == tuple(len(row["options"][0]) + 1 for row in ASKED)
    assert cell.chance == (1 / 3,) * 8
    assert (cell.metric, cell.harness.output_type if cell.harness else "") == ("acc", "multiple_choice")


def test_the_metric_that_is_asked_for(model: PreTrainedModel, tmp_path: Path) -> None:
    both = measured(model, tiny_harness.written(tmp_path, CHOICE))
    second = measured(model, tiny_harness.written(tmp_path, CHOICE), metric="acc_norm")
    assert second.metric == "acc_norm,none"
    assert second.correct == both.correct_normalized
    assert second.correct_normalized is None


def test_a_continuation_is_right_where_greedy_decoding_writes_it(model: PreTrainedModel, tmp_path: Path) -> None:
    greedy = TOKENIZER.decode([int(model(torch.tensor([ids_of("Say it")])).logits[0, -1].argmax())])
    rows = [{"question": "Say it", "options": [text]} for text in (greedy, "never this")] * 2
    settings = CLOZE | {"doc_to_target": "{{options[0]}}"}
    cell = measured(model, tiny_harness.written(tmp_path, settings, rows=[*QUESTIONS[:4], *rows]))
    assert cell.correct == (True, False, True, False)
    expected = [plain(model, ids_of("Say it"), ids_of(text)[1:])[0] for text in (greedy, "never this")] * 2
    assert cell.gold_nll_nats == pytest.approx([-value for value in expected], rel=1e-4)
    assert cell.gold_tokens == (1, 10, 1, 10)


@pytest.mark.parametrize("positions", [512, 40])
def test_documents_are_read_in_windows_that_score_every_token_once(model: PreTrainedModel, tmp_path: Path, positions: int) -> None:
    short = copy.deepcopy(model)
    short.config.max_position_embeddings = positions
    cell = measured(short, tiny_harness.written(tmp_path, ROLLING))
    assert isinstance(cell, PerplexityCell)
    for page, nats, tokens in zip(PAGES, cell.nll_nats, cell.tokens, strict=True):
        ids = ids_of(page["page"])
        before, total = [TOKENIZER.bos_token_id, *ids], 0.0
        for start in range(0, len(ids), positions):
            end = min(start + positions, len(ids))
            first = start if end - start == positions else max(0, end - positions)
            total += plain(short, before[first : start + 1], ids[start:end])[0]
        assert nats == pytest.approx(-total, rel=1e-4)
        assert tokens == len(ids)
    assert cell.words == tuple(len(page["page"].split()) + 1 for page in PAGES)  # as the harness counts what a space ends
    assert cell.utf8_bytes == tuple(len(page["page"]) for page in PAGES)


def plain_text(model: PreTrainedModel, prompt: str, most: int = 12) -> str:
    ids, text = ids_of(prompt), ""
    for _ in range(most):
        token = int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        if token == TOKENIZER.eos_token_id:
            break
        ids.append(token)
        text = TOKENIZER.decode(ids[len(ids_of(prompt)) :], skip_special_tokens=True)
        if "\n" in text:
            return text.split("\n")[0]
    return text


def test_generated_answers_end_at_a_stop_sequence(model: PreTrainedModel, tmp_path: Path) -> None:
    texts = [plain_text(model, f"Question: {row['question']}\nAnswer:") for row in ASKED]
    rows = [row | {"options": [text.strip() if n % 2 else "none"]} for n, (row, text) in enumerate(zip(ASKED, texts, strict=True))]
    settings = WRITTEN | {"metric_list": [{"metric": "exact_match", "ignore_punctuation": False}]}
    cell = measured(model, tiny_harness.written(tmp_path, settings, rows=[*QUESTIONS[:4], *rows]))
    assert cell.predictions == tuple(text.strip() for text in texts)
    assert cell.correct == tuple(text == row["options"][0] for text, row in zip(texts, rows, strict=True))
    assert (cell.metric, cell.gold_nll_nats) == ("exact_match,raw", None)


def test_a_filter_takes_the_answer_out_of_the_text(model: PreTrainedModel, tmp_path: Path) -> None:
    cell = measured(model, tiny_harness.written(tmp_path, WRITTEN), metric="exact_match,digit")
    assert cell.metric == "exact_match,digit"
    assert all(found.isdigit() or found == "[invalid]" for found in cell.predictions)


def test_a_context_that_is_too_long_loses_its_beginning(model: PreTrainedModel, tmp_path: Path) -> None:
    short = copy.deepcopy(model)
    short.config.max_position_embeddings = 24
    cell = measured(short, tiny_harness.written(tmp_path, CHOICE))
    for row, nats in zip(ASKED, cell.gold_nll_nats, strict=True):
        answer = ids_of(f" {row['options'][0]}")[1:]
        context = ids_of(f"Question: {row['question']}\nAnswer:")[-(24 + 1 - len(answer)) :]
        assert nats == pytest.approx(-plain(short, context, answer)[0], rel=1e-4)
    assert measured(short, tiny_harness.written(tmp_path, WRITTEN)).predictions
    with pytest.raises(TaskError, match="generates up to 300 tokens"):
        measured(short, tiny_harness.written(tmp_path, WRITTEN | {"generation_kwargs": {"until": ["\n"], "max_gen_toks": 300}}))


@pytest.mark.parametrize("made", [CHOICE, WRITTEN, CLOZE, ROLLING], ids=lambda made: made["output_type"])
def test_the_harness_with_its_own_model_finds_the_same(model: PreTrainedModel, tmp_path: Path, made: dict[str, Any]) -> None:
    from lm_eval.models.huggingface import HFLM

    from bitzones.evaluation import harness_scoring
    from bitzones.evaluation.harness_model import HarnessModel

    more = {} if made is ROLLING else {"training_split": "train", "num_fewshot": 2}
    for tokenizer, chat in ((TOKENIZER, False), (CHAT, made is not ROLLING)):
        task = harness_tasks.load(
            Task.model_validate({"lm_eval": str(tiny_harness.written(tmp_path, made, **more)), "chat_template": chat})
        )
        with harness_tasks.quiet():
            its = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=3)
        ours, theirs = (harness_scoring.samples(lm, task) for lm in (HarnessModel(model, tokenizer, 3), its))
        for mine, other in zip(ours, theirs, strict=True):
            assert mine["arguments"] == other["arguments"]
            for one, two in zip(mine["filtered_resps"], other["filtered_resps"], strict=True):
                assert one == (two if isinstance(two, str) else pytest.approx(two, rel=1e-4))


def test_a_model_whose_cache_is_not_shared(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=257, hidden_size=32, num_hidden_layers=2, state_size=8, bos_token_id=0, eos_token_id=0)
    mamba = MambaForCausalLM(config).eval().requires_grad_(False)
    cell = measured(mamba, tiny_harness.written(tmp_path, CHOICE))
    answer = ids_of(f" {ASKED[0]['options'][0]}")[1:]
    expected = plain(mamba, ids_of(f"Question: {ASKED[0]['question']}\nAnswer:"), answer)[0]
    assert cell.gold_nll_nats[0] == pytest.approx(-expected, rel=1e-4)
    assert len(measured(mamba, tiny_harness.written(tmp_path, WRITTEN)).predictions) == len(ASKED)


def test_a_broken_model_is_no_score(model: PreTrainedModel, tmp_path: Path) -> None:
    broken = copy.deepcopy(model)
    broken.model.norm.weight.fill_(math.nan)
    for made in (CHOICE, WRITTEN, ROLLING):
        with pytest.raises(NonFiniteError):
            measured(broken, tiny_harness.written(tmp_path, made))


def test_a_metric_that_turns_out_to_be_no_right_or_wrong(model: PreTrainedModel, tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text("def judge(doc, results):\n    return {'share': 0.25 if results[0] else 1.0}\n")
    made = WRITTEN | {"metric_list": [{"metric": "share", "aggregation": "mean", "higher_is_better": True}]}
    place = tiny_harness.written(tmp_path, made)
    place.write_text(place.read_text()[:-1] + ', "process_results": !function judge.judge}')
    with pytest.raises(TaskError, match=r"share of item 0 is 0\.25"):
        measured(model, place, trust_remote_code=True)
