"""How much faster our multiple choice is than lm-evaluation-harness's: the same items, model, dtype and batch size, side by side.

Needs lm-evaluation-harness, as ``scripts/lm_eval_parity.py`` does. From the top of a checkout:

    python -m scripts.lm_eval_speed SOURCE --data FOLDER/ai2_arc

Both are timed from texts to log-likelihoods, tokenizing included, in one process and in turns, by the clock and in processor time, which
others on the machine change less. A batch of ours is so many questions, one of the harness so many questions with one choice each; so ours
is timed at a quarter of the batch too. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median, stdev
from time import perf_counter, process_time

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from scipy import stats
from scripts.lm_eval_parity import harness_task, load
from tabulate import tabulate

from bitzones.data import tasks
from bitzones.evaluation.likelihood import choice_log_likelihoods
from bitzones.schema import environment

CHOICES = 4
GOAL = 2.0
HEADER = ["", "items/s, median (range)", "ratio (95% interval)", "items per processor second", "ratio (95% interval)"]


def harness(source: HFLM, folder: Path, count: int) -> Callable[[], object]:
    """The harness's own requests for the first items, ready to be answered."""
    task = TaskManager().load([harness_task(folder)])["tasks"]["arc_easy"]
    task.build_all_requests(limit=count)
    return lambda: source.loglikelihood(task.instances, disable_tqdm=True)


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """How long one call takes, by the clock and in processor time."""
    started, used = perf_counter(), process_time()
    work()
    return perf_counter() - started, process_time() - used


def ratio(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, float, float]:
    """Geometric mean of the rounds' ratios and its 95% interval by Student's t on their logarithms, rounds paired."""
    logs = [math.log(a / b) for a, b in zip(slow, fast, strict=True)]
    half = float(stats.t.ppf(0.975, len(logs) - 1)) * stdev(logs) / math.sqrt(len(logs))
    return math.exp(fmean(logs)), math.exp(fmean(logs) - half), math.exp(fmean(logs) + half)


def row(slow: Sequence[tuple[float, float]], rounds: Sequence[tuple[float, float]], items: int) -> list[str]:
    """Items per second and ratio, by the clock and by processor time."""
    cells = []
    for clock in (0, 1):
        rates = [items / one[clock] for one in rounds]
        mean, low, high = ratio([one[clock] for one in slow], [one[clock] for one in rounds])
        cells.append(f"{median(rates):.2f} ({min(rates):.2f} to {max(rates):.2f})")
        cells.append("1" if rounds is slow else f"{mean:.2f} ({low:.2f} to {high:.2f})")
    return cells


def main() -> None:
    """Time in turns and print."""
    parser = argparse.ArgumentParser(description="Time our ARC-Easy and lm-evaluation-harness's, side by side.")
    parser.add_argument("source", help="a model as in a profile, such as a .gguf file")
    parser.add_argument("--data", type=Path, required=True, help="a folder with ai2_arc in the hub's layout")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    loaded = load(given.source)
    items = tasks.load("arc_easy", limit=given.limit, path=given.data).items
    quarter = max(1, given.batch // CHOICES)
    theirs = harness(HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=given.batch), given.data, given.limit)
    named: dict[str, Callable[[], object]] = {
        f"harness, batch {given.batch}": theirs,
        f"bitzones, batch {given.batch}": lambda: choice_log_likelihoods(loaded.model, loaded.tokenizer, items, given.batch),
        f"bitzones, batch {quarter}": lambda: choice_log_likelihoods(loaded.model, loaded.tokenizer, items, quarter),
    }
    choice_log_likelihoods(loaded.model, loaded.tokenizer, items[:quarter], quarter)  # warm-up: the first product of a process is slow
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in named}
    for _ in range(given.rounds):
        for name, work in named.items():
            took[name].append(seconds(work))
    slow = next(iter(took.values()))
    print(
        tabulate(
            [[name, *row(slow, rounds, len(items))] for name, rounds in took.items()], HEADER, tablefmt="github", disable_numparse=True
        )
    )
    print(
        f"\n{len(items)} items of ARC-Easy, {given.rounds} rounds in turns, float32, threads: {torch.get_num_threads()}, "
        f"{environment.cpu_name()}, lm-eval {version('lm_eval')}, torch {torch.__version__}. Goal: {GOAL:g}x."
    )


if __name__ == "__main__":
    main()
