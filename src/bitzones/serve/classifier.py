"""Trains the classifier of a bundle on the train splits of its tasks, and tries it on their test splits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice

import numpy as np

from bitzones.data import tasks
from bitzones.data.tasks import ScoredTask, TaskSet
from bitzones.schema.errors import PlanError
from bitzones.schema.profile import Profile
from bitzones.schema.requirements import needs
from bitzones.serve.router_record import Classifier, HeldOutPrompts, Router
from bitzones.serve.routing import ByRecord, Routes
from bitzones.stats.intervals import wilson_interval

__all__ = ["router", "train"]

MOST_PROMPTS = 5000
"""Of a train split, the first ones: training takes seconds then, and no task has so many more that it would drown the others."""

MOST_TERMS = 20_000
"""Of the vocabulary, the most frequent first: a megabyte of numbers a task."""

SEED = 0


def router(settings: Routes, profile: Profile | None, names: Collection[str]) -> Router | None:
    """The router of a bundle with tasks of these names; None where there are no rules and nothing to train on.

    Args:
        settings: of routes.toml.
        profile: of the run on whose tasks a classifier is trained; None for none.
        names: the bundle's tasks.

    Raises:
        PlanError: as `train`.
        TaskError: as `train`.
    """
    if profile is None:
        return Router(rules=settings.rules) if settings.rules else None
    chosen = profile.model_copy(update={"tasks": tuple(task for task in profile.tasks if task.name in names)})
    return Router(rules=settings.rules, classifier=train(tasks.of_profile(chosen), settings.classifier.confidence))


def train(given: Mapping[str, ScoredTask], confidence: float) -> Classifier:
    """Train on the prompts of the train splits, and count on those of the test splits, without any that is in both.

    Args:
        given: name -> task, of the bundle's tasks.
        confidence: least probability at which a task is taken.

    Raises:
        PlanError: there are fewer than two tasks, or one has no train split or no test prompt that is not in it.
        TaskError: a train split cannot be read.
        MissingPackageError: scikit-learn is not installed.
    """
    if len(given) < 2:
        known = f"only {next(iter(given))!r} is" if given else "none of the bundle's plans is named as"
        raise PlanError(f"a classifier chooses between tasks, and {known} a task of the run: route by rules, --routes, or by name")
    scored = {name: _scored(task) for name, task in given.items()}
    everywhere = {text for texts in scored.values() for text in texts}
    prompts = {name: _train_prompts(name, task, everywhere) for name, task in given.items()}
    fitted = _fitted(prompts, confidence)
    return fitted.model_copy(update={"held_out": _tried(fitted, scored)})


def _scored(task: ScoredTask) -> tuple[str, ...]:
    """Prompts that are scored, in an order that does not depend on the process."""
    return tuple(item.prompt for item in task.items) if isinstance(task, TaskSet) else tuple(sorted(task.prompts))


def _train_prompts(name: str, task: ScoredTask, scored: set[str]) -> list[str]:
    found = dict.fromkeys(item.prompt for item in islice(task.training(), MOST_PROMPTS)) if task.has_training else {}
    if not (kept := [prompt for prompt in found if prompt not in scored]):
        raise PlanError(f"task {name!r} has no prompts but those that are scored: there is nothing to train a classifier on; use --routes")
    return kept


def _fitted(prompts: Mapping[str, Sequence[str]], confidence: float) -> Classifier:
    with needs("serve"):
        from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=MOST_TERMS)
    labels = [name for name, texts in prompts.items() for _ in texts]
    features = vectorizer.fit_transform([text for texts in prompts.values() for text in texts])
    regression = LogisticRegression(class_weight="balanced", random_state=SEED, max_iter=1000).fit(features, labels)
    weights, intercepts = regression.coef_, regression.intercept_
    if len(weights) == 1:  # two tasks: one row, the logit of the second against the first
        weights, intercepts = np.vstack([np.zeros_like(weights), weights]), np.array([0.0, *intercepts])
    return Classifier(
        tasks=tuple(map(str, regression.classes_)),
        vocabulary=tuple(map(str, vectorizer.get_feature_names_out())),
        idf=tuple(vectorizer.idf_.tolist()),
        coefficients=tuple(tuple(row) for row in weights.tolist()),
        intercepts=tuple(intercepts.tolist()),
        confidence=confidence,
        trained_on={name: len(texts) for name, texts in prompts.items()},
    )


def _tried(classifier: Classifier, scored: Mapping[str, Iterable[str]]) -> HeldOutPrompts:
    places = {name: place for place, name in enumerate(classifier.tasks)}
    router = ByRecord(Router(classifier=classifier))
    confusion = np.zeros((len(places), len(places)), dtype=np.int64)
    below, right = np.zeros(len(places), dtype=np.int64), 0
    for name, texts in scored.items():
        for text in texts:
            routed = router.route(text, system=None, role=None)
            right += classifier.tasks[int(router.probabilities(text).argmax())] == name
            if routed.by == "classifier":
                confusion[places[name], places[routed.task]] += 1
            else:
                below[places[name]] += 1
    n = int(confusion.sum() + below.sum())
    return HeldOutPrompts(
        n=n,
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        below=tuple(below.tolist()),
        share=wilson_interval(right, n),
    )
