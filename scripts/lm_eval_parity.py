"""Whether our accuracies on ARC-Easy are those of EleutherAI's lm-evaluation-harness: item by item, on the same model in memory.

Needs lm-evaluation-harness, which bitzones does not: in an environment with bitzones, ``pip install lm-eval``. From the top of a checkout:

    python -m scripts.lm_eval_parity SOURCE --data FOLDER/ai2_arc
    python -m scripts.lm_eval_parity embedded:tiny --families [--data FOLDER/ai2_arc]

SOURCE is a model as in a profile (a ``.gguf`` file, a folder, a hub id). Prints a table in Markdown; fails below 99% agreement. With
``--families`` the embedded model answers through the five tokenizers of ``scripts/tokenizer_families.py``; without data, the embedded
``science_mini``, which has ARC's columns.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from scripts.tokenizer_families import FAMILIES
from tabulate import tabulate

from bitzones import embedded
from bitzones.data import prompts, tasks
from bitzones.data.task_items import Item
from bitzones.evaluation.likelihood import choice_log_likelihoods
from bitzones.evaluation.scoring import best, best_by_character
from bitzones.models import loading
from bitzones.models.loading import Loaded
from bitzones.schema import environment, profile_sections

LEAST_AGREEMENT = 0.99
ARC, SCIENCE = "ARC-Easy", embedded.DATA / "science_mini"


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
    local: dict[str, Any] = {"task": "arc_easy", "dataset_path": str(folder), "validation_split": None}
    if not (folder / ARC).is_dir():  # one set of items
        local["dataset_name"] = None
    return {"group": "local", "task": [local]}  # in a group, a known task keeps what is not said anew


def harness_samples(
    loaded: Loaded, folder: Path, count: int, batch: int, *, chat: bool = False, add_bos_token: bool | None = None
) -> list[dict[str, Any]]:
    """What the harness logs of the first items, in their order; ``chat`` and ``add_bos_token`` as `tokenizer_families.Family` has them."""
    lm = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=batch, add_bos_token=add_bos_token)
    found = simple_evaluate(
        model=lm, tasks=[harness_task(folder)], limit=count, bootstrap_iters=0, log_samples=True, apply_chat_template=chat
    )
    return sorted(found["samples"]["arc_easy"], key=lambda sample: int(sample["doc_id"]))


def compare(
    loaded: Loaded, folder: Path, count: int, batch: int, *, chat: bool = False, add_bos_token: bool | None = None
) -> list[Compared]:
    """Both on the first items. That the harness's accuracies follow from its likelihoods as ours do from ours is checked here."""
    name, path = ("science_mini", None) if folder == SCIENCE else ("arc_easy", folder)
    items = prompts.asked(tasks.load(name, limit=count, path=path, chat_template=chat), loaded.tokenizer).items
    ours = choice_log_likelihoods(loaded.model, loaded.tokenizer, items, batch)
    compared = []
    theirs = harness_samples(loaded, folder, count, batch, chat=chat, add_bos_token=add_bos_token)
    for item, mine, sample in zip(items, ours, theirs, strict=True):
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


def compare_families(loaded: Loaded, folder: Path, count: int, batch: int) -> float:
    """Print a row for each family, and one for what the harness makes of a closing token at its default; gives the lowest agreement.

    That last row is not counted: the harness scores the token that closes a text there.
    """
    rows, shares = [], list[float]()
    for name, family in FAMILIES.items():
        asked = replace(loaded, own_tokenizer=family.make())
        compared = compare(asked, folder, count, batch, chat=family.chat, add_bos_token=family.add_bos_token)
        rows.append([name, *_row(compared)])
        shares += _shares(compared)
        if family.add_bos_token is not None:
            rows.append([f"{name}, harness at its default", *_row(compare(asked, folder, count, batch, chat=family.chat))])
    heads = ["tokenizer", "n", "acc: same choice", "acc_norm: same choice", "ours, acc", "harness, acc", "largest difference, nats"]
    print(tabulate(rows, heads, tablefmt="github"))
    return min(shares)


def _shares(compared: Sequence[Compared]) -> list[float]:
    """Share of items on which both choose the same, by metric."""
    pairs = [[one.choices(metric) for one in compared] for metric in ("acc", "acc_norm")]
    return [sum(mine == theirs for mine, theirs in found) / len(found) for found in pairs]


def _row(compared: Sequence[Compared]) -> list[object]:
    right = [[one.choices("acc")[side] == one.item.gold for one in compared] for side in (0, 1)]
    largest = max(abs(mine - its) for one in compared for mine, its in zip(one.ours, one.theirs, strict=True))
    return [
        len(compared),
        *(f"{share:.2%}" for share in _shares(compared)),
        *(f"{sum(found) / len(found):.2%}" for found in right),
        f"{largest:.2g}",
    ]


def main() -> None:
    """Compare, print, and exit 1 where the two do not agree."""
    parser = argparse.ArgumentParser(description="Compare our ARC-Easy with lm-evaluation-harness's, item by item.")
    parser.add_argument("source", help="a model as in a profile, such as a .gguf file")
    parser.add_argument("--data", type=Path, help="a folder with ai2_arc in the hub's layout, or with one set of items of its columns")
    parser.add_argument("--families", action="store_true", help="the embedded model, through five tokenizers over its vocabulary")
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--batch", type=int, default=16)
    given = parser.parse_args()
    if given.data is None and not given.families:
        parser.error("--data is needed, except with --families")
    loaded = load(given.source)
    if given.families:
        agreement = compare_families(loaded, given.data or SCIENCE, given.limit, given.batch)
    else:
        agreement = report(compare(loaded, given.data, given.limit, given.batch))
    versions = ", ".join(f"{package} {version(package)}" for package in ("lm_eval", "torch", "transformers"))
    print(f"\n{versions}, float32 on {environment.cpu_name()}")
    if agreement < LEAST_AGREEMENT:
        raise SystemExit(f"agreement {agreement:.2%} is below {LEAST_AGREEMENT:.0%}")


if __name__ == "__main__":
    main()
