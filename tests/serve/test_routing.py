"""Where requests go: rules in order, the classifier as scikit-learn computes it, the base where nothing is sure."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from bitzones.data import tasks
from bitzones.schema import profile_files
from bitzones.schema.errors import PlanError, TaskError
from bitzones.serve import classifier
from bitzones.serve.bundle_request import check_router
from bitzones.serve.router_record import Classifier, Router, Rule
from bitzones.serve.routing import ByRecord, Routes, read_router, read_routes
from bitzones.serve.served_model import Routed
from bitzones.stats.intervals import wilson_interval

RULES = (
    Rule(task="sums", prompt="(?i)how many|how much"),
    Rule(task="tools", role="tool"),
    Rule(task="code", system="programmer", prompt=r"def \w+"),
    Rule(task="base", system="^never"),
    Rule(task="code", system="programmer"),
)


@pytest.mark.parametrize(
    ("prompt", "system", "role", "task", "by"),
    [
        ("HOW MANY dogs", None, None, "sums", "rule"),
        ("how many", "programmer", "tool", "sums", "rule"),  # the first that holds
        ("def f", "a programmer", "user", "code", "rule"),
        ("x", "a programmer", "user", "code", "rule"),
        ("def f", None, "user", "base", "base"),  # a system prompt that is not there matches nothing
        ("x", None, "tool", "tools", "rule"),
        ("x", "never a programmer", None, "base", "rule"),
        ("", None, None, "base", "base"),
    ],
)
def test_the_first_rule_whose_conditions_all_hold_decides(prompt: str, system: str | None, role: str | None, task: str, by: str) -> None:
    assert ByRecord(Router(rules=RULES)).route(prompt, system=system, role=role) == Routed(task, by)  # type: ignore[arg-type]


TEXTS = {
    "fruit": ["an apple a day", "pears and apples", "the plum, the pear", "ripe figs; a fig tree"],
    "metal": ["iron and copper", "a copper wire", "molten iron flows", "tin or lead?"],
    "sky": ["clouds and rain", "the rain falls", "a star over clouds", "wind, then rain"],
}


@cache
def fitted(count: int) -> tuple[Classifier, TfidfVectorizer, LogisticRegression]:
    chosen = dict(list(TEXTS.items())[:count])
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=classifier.MOST_TERMS)
    labels = [name for name, texts in chosen.items() for _ in texts]
    features = vectorizer.fit_transform([text for texts in chosen.values() for text in texts])
    regression = LogisticRegression(class_weight="balanced", random_state=0, max_iter=1000).fit(features, labels)
    return classifier._fitted(chosen, 0.5), vectorizer, regression


WORDS = ["apple", "IRON", "rain", "the", "of", "a", "plum,", "copper wire", "é", "ſ", "İron", "\n", "9"]


@settings(max_examples=50)
@given(st.sampled_from([2, 3]), st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join) | st.text(max_size=60))
def test_probabilities_are_those_of_scikit_learn(count: int, text: str) -> None:
    made, vectorizer, regression = fitted(count)
    found = ByRecord(Router(classifier=made)).probabilities(text)
    expected = regression.predict_proba(vectorizer.transform([text]))[0]
    assert list(regression.classes_) == list(made.tasks)
    assert np.abs(found - expected).max() < 1e-12


def test_a_record_survives_its_file_exactly() -> None:
    made, _, _ = fitted(3)
    again = read_router(Router(rules=RULES, classifier=made).model_dump_json(by_alias=True).encode(), Path("router.json"))
    assert again == Router(rules=RULES, classifier=made)


def test_below_the_confidence_the_base_answers_and_says_how_unsure_it_was() -> None:
    made, _, _ = fitted(2)
    sure, unsure = ByRecord(Router(classifier=made)), ByRecord(Router(classifier=made.model_copy(update={"confidence": 0.99})))
    first = sure.route("apples and pears", system=None, role=None)
    assert (first.task, first.by) == ("fruit", "classifier")
    second = unsure.route("apples and pears", system=None, role=None)
    assert (second.task, second.by, second.confidence) == ("base", "base", first.confidence)
    nothing = sure.route("zebra", system=None, role=None)  # no known word: the intercepts alone
    assert nothing.confidence == pytest.approx(0.5, abs=0.2)


def test_the_embedded_tasks_are_told_apart_on_prompts_that_were_not_trained_on() -> None:
    profile = profile_files.load("tiny").resolved(None, 60)
    router = classifier.router(read_routes_of(""), profile, ["science_mini", "word_problems_mini"])
    assert router is not None
    assert router.classifier is not None
    found = router.classifier.held_out
    assert found is not None
    assert (found.n, sum(map(sum, found.confusion)) + sum(found.below)) == (120, 120)
    loaded = tasks.of_profile(profile)
    by_record = ByRecord(router)
    pairs = [(name, by_record.probabilities(prompt)) for name, task in loaded.items() for prompt in task.prompts]
    right = sum(router.classifier.tasks[int(shares.argmax())] == name for name, shares in pairs)
    assert found.share == wilson_interval(right, 120)
    assert right > 114
    scored = {prompt for task in loaded.values() for prompt in task.prompts}
    trained = {item.prompt for task in loaded.values() for item in task.training()} - scored
    assert sum(router.classifier.trained_on.values()) == len(trained)


def read_routes_of(text: str, place: Path | None = None) -> Routes:
    if place is None:
        return Routes()
    place.write_text(text, encoding="utf-8")
    return read_routes(place)


@pytest.mark.parametrize(
    ("names", "said"),
    [([], "none of the bundle's plans"), (["science_mini"], "only 'science_mini' is"), (["x"], "none of the bundle's plans")],
)
def test_a_classifier_needs_two_tasks_of_the_run(names: list[str], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        classifier.router(read_routes_of(""), profile_files.load("tiny"), names)


def test_a_task_whose_items_are_all_scored_has_nothing_to_train_on(tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text('{"ID": "1", "Body": "Two dogs.", "Question": "How many?", "Answer": "2"}\n', encoding="utf-8")
    loaded = {"own": tasks.load("own", path=own), "other": tasks.load("science_mini", limit=5)}
    with pytest.raises(PlanError, match="'own' has no prompts but those that are scored"):
        classifier.train(loaded, 0.8)
    with pytest.raises(TaskError):
        tasks.load("own", path=tmp_path / "gone.jsonl")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rules = 1", "rules"),
        ("[[rules]]\nprompt = 'x'", r"rules\.0\.task"),
        ("[[rules]]\ntask = 'a'", "needs a condition"),
        ("[[rules]]\ntask = 'a'\nprompt = '('", "not a regular expression"),
        ("[[rules]]\ntask = 'a'\nprompt = '(?=x)'", "no lookaround and no backreferences: invalid perl operator"),
        ("[[rules]]\ntask = 'a'\nprompt = '(x)\\1'", "no lookaround and no backreferences: invalid escape"),
        ("[[rules]]\ntask = 'a'\nprompt = ''", "prompt"),
        ("[[rules]]\ntask = '../a'\nprompt = 'x'", "task"),
        ("[[rules]]\ntask = 'a'\nprompt = 'x'\nuser = 'x'", "user"),
        ("[[rules]]\ntask = 'a'\nprompt = 3", "prompt"),
        (f"[[rules]]\ntask = 'a'\nprompt = '{'x' * 1001}'", "prompt"),
        ("[classifier]\nconfidence = 2.0", "confidence"),
        ("[classifier]\nconfidence = 'high'", "confidence"),
        ("[[rules]", "not TOML"),
        ("[unknown]", "unknown"),
    ],
)
def test_a_wrong_routes_file_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=said) as told:
        read_routes_of(text, tmp_path / "routes.toml")
    assert "\n" not in str(told.value)


def test_no_pattern_takes_forever() -> None:
    """Python's own `re` takes 2^50 steps for this."""
    router = ByRecord(Router(rules=(Rule(task="code", prompt="(a+)+$"),)))
    assert router.route("a" * 50 + "b", system=None, role=None).task == "base"
    assert router.route("b" + "a" * 50, system=None, role=None).task == "code"


def test_a_routes_file_that_is_not_there_or_leads_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot be read"):
        read_routes(tmp_path / "gone.toml")
    with pytest.raises(PlanError, match=r"leads to 'sums'.*tasks: base, code"):
        check_router(Router(rules=RULES), ["code"])
    check_router(Router(rules=RULES), ["code", "sums", "tools"])


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"format": "x"}', b'{"classifier": {"tasks": ["a", "b"]}}', b"\xff"])
def test_a_wrong_router_file_is_one_line(data: bytes) -> None:
    with pytest.raises(PlanError, match=r"router\.json"):
        read_router(data, Path("router.json"))
