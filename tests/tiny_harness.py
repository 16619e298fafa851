"""Task files of lm-evaluation-harness over a few items, one for each kind of request; nothing but their folder is read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

QUESTIONS = [
    {"id": f"q{n}", "question": f"How much is {n} and {n}?", "options": [str(2 * n), "none", "a lot"], "answer": 0} for n in range(12)
]
PAGES = [{"page": f"{n} and so on. " * (3 + 4 * n)} for n in range(4)]

CHOICE: dict[str, Any] = {
    "output_type": "multiple_choice",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_choice": "{{options}}",
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
WRITTEN: dict[str, Any] = {
    "output_type": "generate_until",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_target": "{{options[0]}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 12},
    "filter_list": [
        {"name": "raw", "filter": [{"function": "take_first"}]},
        {"name": "digit", "filter": [{"function": "regex", "regex_pattern": "([0-9])"}, {"function": "take_first"}]},
    ],
    "metric_list": [{"metric": "exact_match"}],
}
CLOZE: dict[str, Any] = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{' ' + options[0]}}",
    "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
}
ROLLING: dict[str, Any] = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{page}}",
    "metric_list": [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
}


def written(folder: Path, settings: dict[str, Any], name: str = "mine", rows: Sequence[dict[str, Any]] | None = None, **more: Any) -> Path:
    """A task file with its items beside it: the last eight are asked, the others are for training."""
    found = rows if rows is not None else PAGES if settings["output_type"] == "loglikelihood_rolling" else QUESTIONS
    cut = 0 if found is PAGES else 4
    for split, part in (("train", found[:cut] or found), ("test", found[cut:])):
        (folder / f"{name}-{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in part), encoding="utf-8")
    files = {split: f"{name}-{split}.jsonl" for split in ("train", "test")}
    task = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": files}, "test_split": "test", **settings, **more}
    place = folder / f"{name}.yaml"
    place.write_text(json.dumps(task), encoding="utf-8")  # JSON is YAML
    return place
