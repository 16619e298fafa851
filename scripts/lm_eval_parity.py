"""Whether our accuracies on ARC-Easy are those of EleutherAI's lm-evaluation-harness: item by item, on the same model in memory.

Needs lm-evaluation-harness, which bitzones does not: in an environment with bitzones, ``pip install lm-eval``. From the top of a checkout:

    python -m scripts.lm_eval_parity SOURCE --data FOLDER/ai2_arc

SOURCE is a model as in a profile (a ``.gguf`` file, a folder, a hub id). Prints a table in Markdown; fails below 99% agreement.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from tabulate import tabulate

from bitzones.data import tasks
from bitzones.data.task_items import Item
from bitzones.evaluation.likelihood import choice_log_likelihoods
from bitzones.evaluation.scoring import best, best_by_character
from bitzones.models import loading
from bitzones.models.loading import Loaded
from bitzones.schema import environment, profile_sections

LEAST_AGREEMENT = 0.99


@dataclass(frozen=True)
class Compared:
    """One item: log-likelihoods of its choices in nats, by us and by the harness, and which it chose by each metric."""

    item: Item
    ours: Sequence[float]
    theirs: Sequence[float]

    def choices(self, metric: str) -> tuple[int, int]:
        """Our choice and the harness's."""
        if metric == "acc":
            return best(self.ours), best(self.theirs)
        return best_by_character(self.ours, self.item.choices), best_by_character(self.theirs, self.item.choices)


def load(source: str) -> Loaded:
    """The model in float32."""
    return loading.load(profile_sections.Model(source=source, dtype="float32"), torch.device("cpu"))


def harness_task(folder: Path) -> dict[str, Any]:
    """The harness's own arc_easy, with its data from a local folder."""
    local = {"task": "arc_easy", "dataset_path": str(folder), "validation_split": None}
    return {"group": "local", "task": [local]}  # in a group, a known task keeps what is not said anew


def harness_samples(loaded: Loaded, folder: Path, count: int, batch: int) -> list[dict[str, Any]]:
    """What the harness logs of the first items, in their order."""
    lm = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=batch)
    found = simple_evaluate(model=lm, tasks=[harness_task(folder)], limit=count, bootstrap_iters=0, log_samples=True)
    return sorted(found["samples"]["arc_easy"], key=lambda sample: int(sample["doc_id"]))


def compare(loaded: Loaded, folder: Path, count: int, batch: int) -> list[Compared]:
    """Both on the first items. That the harness's accuracies follow from its likelihoods as ours do from ours is checked here."""
    items = tasks.load("arc_easy", limit=count, path=folder).items
    ours = choice_log_likelihoods(loaded.model, loaded.tokenizer, items, batch)
    compared = []
    for item, mine, sample in zip(items, ours, harness_samples(loaded, folder, count, batch), strict=True):
        assert sample["doc"]["id"] == item.id, f"the harness asked {sample['doc']['id']} where we asked {item.id}"
        one = Compared(item, mine.log_likelihoods, [float(response[0]) for response in sample["filtered_resps"]])
        for metric in ("acc", "acc_norm"):
            assert sample[metric] == float(one.choices(metric)[1] == item.gold), f"{metric} of {item.id} is defined in another way"
        compared.append(one)
    return compared


def report(compared: Sequence[Compared]) -> float:
    """Print the tables and give the lower of the two agreements."""
    rows, disagreements, shares = [], [], []
    for metric in ("acc", "acc_norm"):
        pairs = [(one, *one.choices(metric)) for one in compared]
        differing = [pair for pair in pairs if pair[1] != pair[2]]
        shares.append(1 - len(differing) / len(pairs))
        ours, theirs = (sum(pair[side] == pair[0].item.gold for pair in pairs) / len(pairs) for side in (1, 2))
        rows.append([metric, len(pairs), len(pairs) - len(differing), f"{shares[-1]:.2%}", f"{ours:.2%}", f"{theirs:.2%}"])
        disagreements += [[metric, one.item.id, *(f"{mine - its:+.2g}" for mine, its in zip(one.ours, one.theirs, strict=True))]
                          for one, _, _ in differing]  # fmt: skip
    print(tabulate(rows, ["metric", "n", "same choice", "agreement", "ours", "harness"], tablefmt="github"))
    largest = max(abs(mine - its) for one in compared for mine, its in zip(one.ours, one.theirs, strict=True))
    print(f"\nLargest difference of a choice's log-likelihood: {largest:.2g} nats. Items chosen differently: {len(disagreements)}.")
    if disagreements:
        print("\n" + tabulate(disagreements, ["metric", "item", "difference of the log-likelihoods, nats"], tablefmt="github"))
    return min(shares)


def main() -> None:
    """Compare, print, and exit 1 where the two do not agree."""
    parser = argparse.ArgumentParser(description="Compare our ARC-Easy with lm-evaluation-harness's, item by item.")
    parser.add_argument("source", help="a model as in a profile, such as a .gguf file")
    parser.add_argument("--data", type=Path, required=True, help="a folder with ai2_arc in the hub's layout")
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--batch", type=int, default=16)
    given = parser.parse_args()
    loaded = load(given.source)
    agreement = report(compare(loaded, given.data, given.limit, given.batch))
    versions = ", ".join(f"{package} {version(package)}" for package in ("lm_eval", "torch", "transformers"))
    print(f"\n{versions}, float32 on {environment.cpu_name()}")
    if agreement < LEAST_AGREEMENT:
        raise SystemExit(f"agreement {agreement:.2%} is below {LEAST_AGREEMENT:.0%}")


if __name__ == "__main__":
    main()
