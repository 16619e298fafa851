"""Tasks of lm-evaluation-harness as a profile names them: what is asked, how it is judged, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_harness
from tiny_harness import CHOICE, CLOZE, QUESTIONS, ROLLING, WRITTEN

from bitzones.data import harness_tasks
from bitzones.data.harness_tasks import HarnessTask
from bitzones.schema.errors import MissingPackageError, TaskError
from bitzones.schema.task_settings import Task


def settings(place: Path | str, **more: Any) -> Task:
    return Task.model_validate({"lm_eval": str(place), **more})


def test_a_profile_that_names_such_a_task_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingPackageError, match=r"bitzones\[lm-eval\]"):
        harness_tasks.load(settings("hellaswag"))


class TestWithTheHarness:
    """What needs the package."""

    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

    def test_what_is_asked(self, tmp_path: Path) -> None:
        task = harness_tasks.load(settings(tiny_harness.written(tmp_path, CHOICE), limit=3))
        requests = harness_tasks.ask(task)
        assert requests[0].args == ("Question: How much is 4 and 4?\nAnswer:", " 8")
        assert len(requests) == 9
        assert (task.name, task.metric, task.filter, task.fewshot, task.cell_kind) == ("mine", "acc", "none", 0, "accuracy")
        assert task.prompts == {f"Question: How much is {n} and {n}?\nAnswer:" for n in (4, 5, 6)}
        assert task.harness.output_type == "multiple_choice"

    def test_the_train_split_gives_solved_examples_and_sequences(self, tmp_path: Path) -> None:
        place = tiny_harness.written(tmp_path, CHOICE, training_split="train", num_fewshot=1)
        task = harness_tasks.load(settings(place))
        prompts = [request.args[0] for request in harness_tasks.ask(task)]
        assert prompts == [request.args[0] for request in harness_tasks.ask(task)]  # drawn alike for every variant
        assert all(prompt.count("Question:") == 2 for prompt in prompts)
        assert harness_tasks.load(settings(place, fewshot=0)).fewshot == 0
        assert task.has_training
        assert [(item.prompt, item.answer) for item in task.training()][1] == ("Question: How much is 1 and 1?\nAnswer:", " 2")
        assert not harness_tasks.load(settings(tiny_harness.written(tmp_path, CHOICE))).has_training
        assert not harness_tasks.load(settings(tiny_harness.written(tmp_path, ROLLING, training_split="train"))).has_training

    def test_a_sample_is_seeded_and_in_order(self, tmp_path: Path) -> None:
        place = tiny_harness.written(tmp_path, CHOICE)
        first, again, other = (harness_tasks.load(settings(place, limit=4, take="sample"), seed) for seed in (1, 1, 2))
        assert first.chosen == again.chosen != other.chosen
        assert list(first.chosen) == sorted(first.chosen)
        assert [request.doc["id"] for request in harness_tasks.ask(first)[::3]] == [QUESTIONS[4 + place]["id"] for place in first.chosen]

    def test_hashes_follow_what_is_asked_and_not_where_it_lies(self, tmp_path: Path) -> None:
        def loaded(folder: str, settings_of: dict[str, Any] = CHOICE, rows: Any = None) -> HarnessTask:
            (tmp_path / folder).mkdir(exist_ok=True)
            return harness_tasks.load(settings(tiny_harness.written(tmp_path / folder, settings_of, rows=rows)))

        one, moved = loaded("a"), loaded("b")
        assert (one.sha256, one.ids, one.harness) == (moved.sha256, moved.ids, moved.harness)
        worded = loaded("c", CHOICE | {"doc_to_text": "Q: {{question}}\nA:"})
        assert worded.harness.config_sha256 != one.harness.config_sha256
        assert worded.ids == one.ids  # of the same items
        changed = loaded("d", rows=[*QUESTIONS[:-1], QUESTIONS[-1] | {"question": "Another?"}])
        assert changed.harness == one.harness
        assert changed.ids[:-1] == one.ids[:-1]
        assert changed.ids[-1] != one.ids[-1]
        assert changed.sha256 != one.sha256

    @pytest.mark.parametrize(
        ("made", "asked", "judged"),
        [
            (CHOICE, None, ("acc", "none")),
            (CHOICE, "acc_norm", ("acc_norm", "none")),
            (CLOZE, None, ("acc", "none")),
            (WRITTEN, None, ("exact_match", "raw")),
            (WRITTEN, "exact_match,digit", ("exact_match", "digit")),
        ],
    )
    def test_the_metric(self, tmp_path: Path, made: dict[str, Any], asked: str | None, judged: tuple[str, str]) -> None:
        task = harness_tasks.load(settings(tiny_harness.written(tmp_path, made), metric=asked))
        assert (task.metric, task.filter) == judged

    @pytest.mark.parametrize(
        ("made", "more", "reason"),
        [
            (CHOICE, {"metric": "f2"}, "acc, acc_norm"),
            (CLOZE, {"metric": "perplexity"}, "these may: acc"),
            (WRITTEN, {"metric": "exact_match,none"}, "raw, digit"),
            (ROLLING, {"metric": "acc"}, "leave it out"),
            (WRITTEN | {"metric_list": [{"metric": "bleu"}]}, {}, "do not say right or wrong"),
            (CHOICE | {"metric_list": [{"metric": "brier_score"}]}, {}, "do not say right or wrong"),
            (WRITTEN | {"generation_kwargs": {"do_sample": True, "temperature": 0.8, "until": ["\n"]}}, {}, "samples"),
            (WRITTEN | {"generation_kwargs": {"num_beams": 4, "until": ["\n"]}}, {}, "beams"),
            (WRITTEN | {"unsafe_code": True}, {}, "runs code that the model writes"),
            (CHOICE | {"doc_to_image": "question"}, {}, "images"),
            (CHOICE | {"output_type": "chat"}, {}, "output_type"),
            (CHOICE | {"test_split": "dev"}, {}, "dev"),
            (CHOICE | {"doc_to_text": "{{nothing}}"}, {}, "nothing"),
            (CHOICE | {"doc_to_text": "{{''.__class__.__mro__[1].__subclasses__()}}"}, {}, "unsafe"),
            (CHOICE, {"fewshot": 500}, "cannot write its prompts"),
        ],
    )
    def test_what_cannot_be_asked_is_one_line(self, tmp_path: Path, made: dict[str, Any], more: dict[str, Any], reason: str) -> None:
        place = tiny_harness.written(tmp_path, made)
        with pytest.raises(TaskError, match=reason) as error:
            harness_tasks.load(settings(place, **more))
        assert "\n" not in str(error.value)

    def test_code_that_the_model_writes_runs_for_who_asks_for_it(self, tmp_path: Path) -> None:
        place = tiny_harness.written(tmp_path, WRITTEN | {"unsafe_code": True})
        assert harness_tasks.load(settings(place, trust_remote_code=True)).trusted

    def test_names_of_the_harness(self, tmp_path: Path) -> None:
        from lm_eval.tasks import TaskManager

        for name in ("one", "two"):
            tiny_harness.written(tmp_path, CHOICE, name)
        (tmp_path / "both.yaml").write_text("group: both\ntask: [one, two]\n")
        manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
        harness_tasks.require_known(manager, "one")
        with pytest.raises(TaskError, match=r"'both' is a group of tasks.*\(one, two\)"):
            harness_tasks.require_known(manager, "both")
        with pytest.raises(TaskError, match=r"no such task; did you mean two\?"):
            harness_tasks.require_known(manager, "twoo")
