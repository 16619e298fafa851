"""Tasks of lm-evaluation-harness, with its own data, prompts, filters and metrics: what is asked, and how it is judged.

`evaluation.harness_scoring` asks them. The package ``lm_eval`` is an extra, and is imported only where a profile names such a task.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import io
import json
import logging
import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from bitzones.data import harness_files, readers
from bitzones.data.task_items import Item
from bitzones.schema import task_settings
from bitzones.schema.errors import BitzonesError, TaskError
from bitzones.schema.quality_cells import Harness
from bitzones.schema.requirements import needs

__all__ = ["FEWSHOT_SEED", "ROLLING", "HarnessTask", "ask", "is_right_or_wrong", "load", "quiet", "require_known"]

ROLLING = "loglikelihood_rolling"

FEWSHOT_SEED = 1234
"""The harness's own default, so that it draws the same solved examples."""

NO_FILTER = "none"
"""What the harness calls the answers as they are."""

MESSAGE_LENGTH = 250
"""Characters of an error of the harness that a line keeps."""

SHOWN = 5
"""Names that a line lists."""


@dataclass(frozen=True)
class HarnessTask:
    """The scored items of a task of the harness.

    ``task`` is the harness's own object, and ``chosen`` the places of the scored items in its split. An item is judged by ``metric`` on
    the answers that ``filter`` leaves; a task of ``loglikelihood_rolling`` by perplexity. ``prompts`` are the questions without the solved
    examples. ``sha256`` covers what is asked, without a chat template's text.
    """

    name: str
    task: Any = field(repr=False)
    chosen: tuple[int, ...] = field(repr=False)
    ids: tuple[str, ...] = field(repr=False)
    metric: str
    filter: str
    fewshot: int
    chat_template: bool
    origin: str
    harness: Harness
    prompts: frozenset[str] = field(repr=False)
    sha256: str
    trusted: bool = False
    kind: ClassVar[str] = "lm_eval"
    version: ClassVar[int] = 1

    @property
    def cell_kind(self) -> str:
        """The kind of cell that a variant's answers become."""
        return "perplexity" if self.harness.output_type == ROLLING else "accuracy"

    @property
    def selection(self) -> dict[str, Any]:
        """The items, as the harness is told of them."""
        first = self.chosen == tuple(range(len(self.chosen)))
        return {"limit": len(self.chosen)} if first else {"samples": {self.harness.task: list(self.chosen)}}

    @property
    def has_training(self) -> bool:
        """Whether there is a train split of questions: whole documents are text, and sets take them from sources of text."""
        return bool(self.task.has_training_docs()) and self.harness.output_type != ROLLING

    def training(self) -> Iterator[Item]:
        """The items of the train split, with their answers."""
        return (_item(self.task, doc) for doc in self.task.training_docs())


def load(settings: task_settings.Task, seed: int = 0) -> HarnessTask:
    """The scored items of a profile's task that names one of the harness.

    Raises:
        MissingPackageError: lm_eval is not installed.
        TaskError: the task is unknown, a group or malformed, its data cannot be had, or nothing in it says right or wrong item by item.
    """
    with needs("lm-eval"):
        import lm_eval.tasks  # noqa: F401, PLC0415 (an extra)
    _sandbox_templates()
    task = _built(settings)
    _require_supported(task, settings)
    if settings.fewshot is not None:
        task.set_config(key="num_fewshot", value=settings.fewshot)
    docs = _docs(task, settings)
    chosen = _chosen(len(docs), settings, seed)
    ids = tuple(f"{place}-{_hash(docs[place])[:12]}" for place in chosen)
    output_type, name = task.config.output_type, task.config.task
    harness = Harness(
        lm_eval=version("lm_eval"), task=name, version=str(task.VERSION), output_type=output_type, config_sha256=_config_hash(task)
    )
    found = HarnessTask(
        name=settings.name,
        task=task,
        chosen=chosen,
        ids=ids,
        metric="",
        filter=NO_FILTER,
        fewshot=task.config.num_fewshot or 0,
        chat_template=settings.chat_template and output_type != ROLLING,
        origin=f"lm_eval: {' '.join(filter(None, (task.DATASET_PATH, task.DATASET_NAME))) or name}",
        harness=harness,
        prompts=frozenset(_item(task, docs[place]).prompt for place in chosen),
        sha256="",
        trusted=settings.trust_remote_code,
    )
    return _judged(found, settings)


def ask(found: HarnessTask) -> list[Any]:
    """The harness's requests (``lm_eval.api.instance.Instance``) for the scored items, without a chat template.

    Raises:
        TaskError: the harness cannot write them.
    """
    samples = found.selection.get("samples")
    chosen = {"samples": samples[found.harness.task]} if samples else found.selection
    with _said(f"task {found.name!r}: lm_eval cannot write its prompts"), quiet():
        found.task.set_fewshot_seed(seed=FEWSHOT_SEED)
        found.task.build_all_requests(**chosen)
        return list(found.task.instances)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, log lines or warnings of the harness: what matters of them is raised."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with readers.quiet(), redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


@contextmanager
def _said(what: str) -> Iterator[None]:
    """Any error of the harness, or of code that it runs, as one line."""
    try:
        yield
    except BitzonesError:
        raise
    except Exception as error:
        raise TaskError(f"{what}: {type(error).__name__}: {' '.join(str(error).split())[:MESSAGE_LENGTH]}") from error


def _sandbox_templates() -> None:
    """Let the harness write its prompts in a sandbox: what a task file has between braces could reach any Python otherwise."""
    from jinja2.sandbox import SandboxedEnvironment  # noqa: PLC0415 (with the extra only)
    from lm_eval import utils  # noqa: PLC0415 (an extra)

    if isinstance(utils.env, SandboxedEnvironment):
        return
    sandbox = SandboxedEnvironment(undefined=utils.env.undefined, keep_trailing_newline=utils.env.keep_trailing_newline)
    sandbox.filters.update(utils.env.filters)
    utils.env = sandbox


def _built(settings: task_settings.Task) -> Any:
    """The harness's task object, with its data."""
    from lm_eval.tasks import TaskManager  # noqa: PLC0415 (an extra)

    asked = str(settings.lm_eval)
    if task_settings.is_task_file(asked):
        config = harness_files.read(Path(asked).expanduser(), trusted=settings.trust_remote_code)
        what, spec, manager = f"{asked}: lm_eval cannot make a task of it", config, TaskManager(include_defaults=False)
    else:
        with quiet():
            manager = TaskManager()
        require_known(manager, asked)
        # In a group, a known task keeps what is not said anew.
        local = {} if settings.path is None else {"dataset_path": str(Path(settings.path).expanduser())}
        what = f"task {asked!r} of lm_eval cannot be had (path = FOLDER names a local copy of its data)"
        spec = {"group": "asked", "task": [{"task": asked, **local}]}
    with _said(what), quiet():
        made = manager.load([spec])["tasks"]
    return next(iter(made.values()))


def require_known(manager: Any, asked: str) -> None:
    """Refuse a name that the harness (a `TaskManager`) does not have, or has for several tasks.

    Raises:
        TaskError: with near names, or with the members of the group.
    """
    if asked in manager.all_subtasks:
        return
    if asked in manager.all_groups or asked in manager.all_tags:
        entry = manager.task_index[asked]
        inside = (entry.cfg or {}).get("task", [])
        members = sorted(entry.tags) or [str(item.get("task", item)) if isinstance(item, Mapping) else str(item) for item in inside]
        shown = ", ".join(members[:SHOWN]) + (", ..." if len(members) > SHOWN else "")
        raise TaskError(f"lm_eval = {asked!r} is a group of tasks: name its members, one [[tasks]] each ({shown})")
    near = difflib.get_close_matches(asked, manager.all_subtasks, n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise TaskError(f"lm_eval = {asked!r}: lm_eval {version('lm_eval')} has no such task{hint} (a task file of your own ends in .yaml)")


def _require_supported(task: Any, settings: task_settings.Task) -> None:
    config, where = task.config, f"lm_eval = {settings.lm_eval!r}"
    if getattr(task, "MULTIMODAL", False):
        raise TaskError(f"{where}: it shows images or plays sound, and bitzones measures language models on text")
    if getattr(task, "UNSAFE_CODE", False) and not settings.trust_remote_code:
        raise TaskError(f"{where}: it runs code that the model writes, {harness_files.TRUST}")
    options = config.generation_kwargs or {}
    if options.get("do_sample") or (options.get("do_sample") is None and (options.get("temperature") or 0) > 0):
        raise TaskError(f"{where}: it samples its answers, and answers that are drawn at random cannot be paired between variants")
    if (options.get("num_beams") or 1) != 1:
        raise TaskError(f"{where}: it searches with {options['num_beams']} beams, and bitzones generates greedily")


def _docs(task: Any, settings: task_settings.Task) -> Any:
    with _said(f"lm_eval = {settings.lm_eval!r}: no items"), quiet():
        docs = task.eval_docs
        if not len(docs):
            raise TaskError(f"lm_eval = {settings.lm_eval!r}: its test split is empty")
        return docs


def _chosen(there: int, settings: task_settings.Task, seed: int) -> tuple[int, ...]:
    """Places of the scored items, in the data set's order."""
    count = min(there, settings.limit)
    return tuple(sorted(random.Random(seed).sample(range(there), count))) if settings.take == "sample" else tuple(range(count))


def _judged(found: HarnessTask, settings: task_settings.Task) -> HarnessTask:
    """With what is asked, and the metric that is asked for or the first one that says right or wrong for every item."""
    requests = ask(found)
    asked = hashlib.sha256(json.dumps([found.version, found.harness.config_sha256, found.chat_template, found.fewshot]).encode())
    for request in requests:
        asked.update(json.dumps(request.args, ensure_ascii=False, default=_plain).encode())
    changed = {**found.__dict__, "sha256": asked.hexdigest()}
    if found.harness.output_type == ROLLING:
        if settings.metric is not None:
            raise TaskError(f"task {found.name!r}: metric is for right and wrong answers, and the task has perplexities: leave it out")
        return HarnessTask(**changed)
    first = [request for request in requests if request.doc_id == requests[0].doc_id]
    metric, chosen = _metric(found, settings.metric, _tried(found.task, first))
    return HarnessTask(**{**changed, "metric": metric, "filter": chosen})


def _tried(task: Any, requests: list[Any]) -> dict[str, Any]:
    """Metric -> what it says of an arbitrary answer to one item; empty where the task cannot judge one."""
    answers = ["" if request.request_type == "generate_until" else (-1.5 - request.idx, False) for request in requests]
    try:
        with quiet():
            return dict(task.process_results(requests[0].doc, answers))
    except Exception:  # noqa: BLE001 (a task's own function may refuse an answer that no model gave)
        return {}


def _metric(found: HarnessTask, asked: str | None, tried: Mapping[str, Any]) -> tuple[str, str]:
    names = list(dict.fromkeys([*found.task.aggregation(), *tried]))
    filters = [entry["name"] for entry in found.task.config.filter_list or [{"name": NO_FILTER}]]
    usable = [name for name in names if name not in tried or is_right_or_wrong(tried[name])]
    listed = ", ".join(usable) or "none of them"
    if asked is None:
        if not usable:
            raise TaskError(
                f"task {found.name!r}: its metrics ({', '.join(names)}) do not say right or wrong for every item, which is what is paired "
                "between variants"
            )
        return "acc" if "acc" in usable else usable[0], filters[0]
    metric, _, chosen = asked.partition(",")
    if metric not in names:
        raise TaskError(f"task {found.name!r}: metric = {asked!r}: it has {', '.join(names)}")
    if metric not in usable:
        raise TaskError(f"task {found.name!r}: metric = {asked!r} does not say right or wrong for every item; these may: {listed}")
    if chosen and chosen not in filters:
        raise TaskError(f"task {found.name!r}: metric = {asked!r}: its filters are {', '.join(filters)}")
    return metric, chosen or filters[0]


def is_right_or_wrong(value: Any) -> bool:
    """Whether a metric's value of one item is 0 or 1.

    >>> is_right_or_wrong(1.0), is_right_or_wrong(True), is_right_or_wrong(0.5), is_right_or_wrong((1, 0))
    (True, True, False, False)
    """
    try:
        return float(value) in {0.0, 1.0}
    except (TypeError, ValueError):
        return False


def _item(task: Any, doc: Mapping[str, Any]) -> Item:
    """A document as one question with its answer, as the harness writes a solved example."""
    if task.config.output_type == ROLLING:
        return Item("", str(task.doc_to_target(doc)), "")
    question, answer = task.doc_to_text(doc), task.doc_to_target(doc)
    choices = task.doc_to_choice(doc) if task.config.doc_to_choice is not None else None
    if choices is not None and isinstance(question, int):  # the choices are the questions
        question, choices = choices[question], None
    if choices is not None and isinstance(answer, int):
        answer = choices[answer] if 0 <= answer < len(choices) else ""
    elif isinstance(answer, list):
        answer = choices[answer[0]] if choices is not None and answer and isinstance(answer[0], int) else next(iter(answer), "")
    return Item("", str(question), f"{task.config.target_delimiter}{answer}")


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False, sort_keys=True, default=_plain).encode()).hexdigest()


def _config_hash(task: Any) -> str:
    """Hash of everything that the task's file says, but for where files lie on this machine."""
    settings = task.dump_config()
    settings["metadata"] = {key: value for key, value in (settings.get("metadata") or {}).items() if key != "config_source"}
    if isinstance(data := settings.get("dataset_kwargs"), Mapping):
        settings["dataset_kwargs"] = {key: _names(value) if key == "data_files" else value for key, value in data.items()}
    if Path(str(settings.get("dataset_path"))).is_absolute():
        settings["dataset_path"] = Path(settings["dataset_path"]).name
    return _hash(settings)


def _names(files: Any) -> Any:
    if isinstance(files, Mapping):
        return {split: _names(found) for split, found in files.items()}
    return [_names(found) for found in files] if isinstance(files, list) else Path(files).name


def _plain(value: Any) -> str:
    """A value that JSON has no word for: the source of a function, so that the hash follows what it does."""
    if callable(value):
        try:
            return inspect.getsource(value)
        except (TypeError, OSError):
            return str(getattr(value, "__qualname__", type(value).__qualname__))
    return repr(value)
