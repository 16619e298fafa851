"""Whether tasks of lm-evaluation-harness come out as the harness itself has them: item by item, on the same model in memory.

Needs the extra ``lm-eval``. From the top of a checkout:

    python -m scripts.lm_eval_tasks_parity embedded:tiny --data FOLDER

FOLDER has ``ai2_arc``, ``svamp`` and ``text`` (the hub's layout; text files). Task files of every kind of request are written beside each
other in a temporary folder and run twice: by ``lm_eval.simple_evaluate`` with its own ``hf`` model, and as a profile's task by bitzones.
Prints a table in Markdown; fails below 99% agreement.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from scripts.lm_eval_parity import LEAST_AGREEMENT, load
from scripts.tokenizer_families import FAMILIES
from tabulate import tabulate

from bitzones.data import harness_tasks
from bitzones.evaluation import harness_scoring
from bitzones.evaluation.harness_model import HarnessModel
from bitzones.models.loading import Loaded
from bitzones.schema import environment
from bitzones.schema.task_settings import Task

SAME_NATS = 1e-4
"""Relative difference of two log-likelihoods of a document that is taken for the order of float32 sums."""

DOCUMENT_CHARACTERS = 600
"""Of the shortest paragraph of the text that is a document here."""

SETTINGS: Mapping[str, dict[str, Any]] = {
    "multiple_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{choices.label.index(answerKey)}}",
        "doc_to_choice": "{{choices.text}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "generate_until": {
        "output_type": "generate_until",
        "doc_to_text": "Question: {{Body}} {{Question}}\nAnswer:",
        "doc_to_target": "{{Answer | float | int}}",
        "generation_kwargs": {"until": ["\n", "Question:"], "max_gen_toks": 24},
        "filter_list": [{"name": "number", "filter": [{"function": "regex", "regex_pattern": r"(-?\d+)"}, {"function": "take_first"}]}],
        "metric_list": [{"metric": "exact_match"}],
    },
    "loglikelihood_rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{page}}",
        "metric_list": [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    },
    "loglikelihood": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{page.split(' ')[:40] | join(' ')}}",
        "doc_to_target": "{{' ' + page.split(' ')[40]}}",
        "metric_list": [{"metric": "acc"}],
    },
}
"""Kind of request -> what its task file says; the data is added."""

ASKED = (("multiple_choice", 0), ("multiple_choice", 3), ("generate_until", 3), ("loglikelihood", 0), ("loglikelihood_rolling", 0))
"""Kinds of requests, and solved examples before each."""


def written(folder: Path, data: Path, kind: str, **more: Any) -> Path:
    """A task file of a kind of request over the local data."""
    settings: dict[str, Any] = {"task": kind, **SETTINGS[kind], **more, "test_split": "test", "metadata": {"version": 1.0}}
    if kind.startswith("loglikelihood"):
        text = (data / "text" / "wikitext2-test.txt").read_text(encoding="utf-8")
        pages = [page for page in re.split(r"\n\s*\n", text) if len(page) > DOCUMENT_CHARACTERS]
        (folder / "pages.jsonl").write_text("".join(f"{json.dumps({'page': page})}\n" for page in pages), encoding="utf-8")
        settings |= {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "pages.jsonl")}}}
    else:
        source = data / "ai2_arc" / "ARC-Easy" if kind == "multiple_choice" else data / "svamp" / "data"
        files = {split: str(source / f"{split}-00000-of-00001.parquet") for split in ("train", "test")}
        settings |= {"dataset_path": "parquet", "dataset_kwargs": {"data_files": files}, "training_split": "train"}
    place = folder / f"{kind}.yaml"
    place.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return place


def compared(loaded: Loaded, place: Path, limit: int, *, chat: bool = False) -> list[str]:
    """A row of the table: items, how many came out alike, and the largest differences."""
    with harness_tasks.quiet():
        lm = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=8)
        found = simple_evaluate(
            model=lm, tasks=[str(place)], limit=limit, bootstrap_iters=0, apply_chat_template=chat, fewshot_as_multiturn=chat
        )
    theirs = sorted(found["samples"][place.stem], key=lambda sample: int(sample["doc_id"]))
    task = harness_tasks.load(Task.model_validate({"lm_eval": str(place), "limit": limit, "chat_template": chat}))
    ours = harness_scoring.samples(HarnessModel(loaded.model, loaded.tokenizer, 8), task)
    alike = [_alike(task, mine, its) for mine, its in zip(ours, theirs, strict=True)]
    figure = "bits_per_byte" if task.cell_kind == "perplexity" else task.metric
    score = found["results"][place.stem][f"{figure},{task.filter}"]
    return [
        task.harness.output_type, str(task.fewshot), "yes" if chat else "no", str(len(alike)), f"{sum(alike) / len(alike):.2%}",
        f"{figure} {score:.4f}", _difference(ours, theirs),
    ]  # fmt: skip


def _alike(task: harness_tasks.HarnessTask, mine: Mapping[str, Any], its: Mapping[str, Any]) -> bool:
    """Whether an item was asked and answered alike, and judged alike by every metric."""
    assert mine["arguments"] == its["arguments"], f"item {its['doc_id']} was asked in another way"
    if task.cell_kind == "perplexity":
        ours, theirs = float(mine["filtered_resps"][0]), float(its["filtered_resps"][0])
        return abs(ours - theirs) <= SAME_NATS * abs(theirs)
    judged = all(mine[name] == its[name] for name in its["metrics"])
    return judged and (task.harness.output_type != "generate_until" or mine["resps"] == its["resps"])


def _difference(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> str:
    pairs = [
        pair for mine, its in zip(ours, theirs, strict=True) for pair in zip(mine["filtered_resps"], its["filtered_resps"], strict=True)
    ]
    nats = [
        [float(value[0] if isinstance(value, tuple | list) else value) for value in pair] for pair in pairs if not isinstance(pair[0], str)
    ]
    return f"{max(abs(a - b) for a, b in nats):.2g}" if nats else "-"


def main() -> None:
    """Compare every kind of request, print, and exit 1 where one does not agree."""
    parser = argparse.ArgumentParser(description="Run tasks of lm-evaluation-harness by the harness and by bitzones, item by item.")
    parser.add_argument("source", help="a model as in a profile, such as embedded:tiny")
    parser.add_argument("--data", type=Path, required=True, help="a folder with ai2_arc, svamp and text")
    parser.add_argument("--limit", type=int, default=200, help="items of every task")
    parser.add_argument("--documents", type=int, default=50, help="documents that are read whole")
    given = parser.parse_args()
    loaded, rows = load(given.source), []
    with tempfile.TemporaryDirectory() as scratch:
        for kind, shots in ASKED:
            place = written(Path(scratch), given.data, kind, num_fewshot=shots)
            rows.append(compared(loaded, place, given.documents if kind == "loglikelihood_rolling" else given.limit))
            print(*rows[-1], file=sys.stderr, flush=True)
        talking = replace(loaded, own_tokenizer=FAMILIES["chat template"].make()) if given.source == "embedded:tiny" else loaded
        for kind in ("multiple_choice", "generate_until"):
            place = written(Path(scratch), given.data, kind, num_fewshot=2)
            rows.append(compared(talking, place, given.limit, chat=True))
    heads = ["requests", "solved examples", "chat template", "n", "alike", "harness's figure", "largest difference, nats"]
    print(tabulate(rows, heads, tablefmt="github"))
    print(f"\n{', '.join(f'{name} {version(name)}' for name in ('lm_eval', 'torch', 'transformers'))}, float32 on {environment.cpu_name()}")
    if any(float(row[4].rstrip("%")) < 100 * LEAST_AGREEMENT for row in rows):
        raise SystemExit(f"agreement is below {LEAST_AGREEMENT:.0%}")


if __name__ == "__main__":
    main()
