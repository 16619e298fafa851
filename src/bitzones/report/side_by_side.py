"""The report of several runs: what each recommends and costs, and which layers matter in one run and not in another.

Each run also has its own report in a subfolder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bitzones.analysis.cross_run import Pair, pairs
from bitzones.analysis.results import Analysis, LayerRank
from bitzones.report.charts.layer_map import View, runs_map
from bitzones.report.html.page import Chart, Section, render
from bitzones.report.markdown.headline import Answer, answers
from bitzones.report.markdown.tables import ABSENT, fold, markdown, nats, plain, ratio, table
from bitzones.stats.correlation import MIN_PAIRS

__all__ = ["Named", "compared_page", "compared_summary", "names_of"]


@dataclass(frozen=True)
class Named:
    """A run and its name in this report, which is also its subfolder's."""

    name: str
    analysis: Analysis


def names_of(paths: Sequence[Path]) -> list[str]:
    """A unique folder name for each run file: its stem, with the parent folder's name in front or a number behind where needed.

    >>> names_of([Path("a/run.json"), Path("b/run.json")]), names_of([Path("arc.json"), Path("svamp.json")])
    (['a-run', 'b-run'], ['arc', 'svamp'])
    """
    stems = [path.stem for path in paths]
    if len(set(stems)) < len(stems):
        stems = [f"{path.resolve().parent.name}-{path.stem}" for path in paths]
    names: list[str] = []
    for stem in stems:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip(".-") or "run"
        number = 2
        found = name
        while found in names:
            found, number = f"{name}-{number}", number + 1
        names.append(found)
    return names


def compared_summary(runs: Iterable[Named]) -> str:
    """The whole of summary.md of several runs."""
    runs = tuple(runs)
    links = " · ".join(f"[{markdown(run.name)}]({run.name}/summary.md)" for run in runs)
    return "\n\n".join((f"# bitzones: {len(runs)} runs side by side", f"Each run on its own: {links}", *_sections(runs))) + "\n"


def compared_page(runs: Iterable[Named]) -> str:
    """The whole of report.html of several runs."""
    runs = tuple(runs)
    chart = runs_map([(run.name, run.analysis) for run in runs])
    found = pairs(tuple(run.analysis for run in runs))
    views = () if chart is None else (View("Layers by runs", chart),)
    one, two, *_ = _sections(runs)
    body = (
        Section(
            "map",
            "Layer by run",
            (Chart("map", "Sensitivity by layer and run; the tables hold every number.", views),) if views else (),
            (two,),
        ),
        Section("answers", "Results of each run", open=(one,)),
    )
    facts = ["", *(f"{run.name}: {_model(run.analysis)}" for run in runs)]
    return render(f"{len(runs)} runs side by side", facts, _answers(runs, found), body)


def _model(analysis: Analysis) -> str:
    tasks = ", ".join(plain(task.name, 24) for task in analysis.profile.tasks)
    return f"{plain(analysis.model.source if analysis.model else 'model not recorded')}, on {tasks}"


def _sections(runs: tuple[Named, ...]) -> tuple[str, str]:
    found = pairs(tuple(run.analysis for run in runs))
    return _what_each_says(runs), "\n\n".join(
        ("## Do the same layers matter?", _method(), _pair_table(runs, found), *_shifts(runs, found), _ranks(runs))
    )


def _what_each_says(runs: tuple[Named, ...]) -> str:
    rows = [
        (
            markdown(run.name),
            markdown(_model(run.analysis)),
            *(f"**{markdown(item.answer, 400)}** {_details(item)}" for item in _three(run.analysis)),
        )
        for run in runs
    ]
    head = ("run", "model and tasks", "layers at 4 bits or more", "saved", "accuracy")
    return "## Results of each run\n\n" + table(head, rows, text=range(5))


def _three(analysis: Analysis) -> tuple[Answer, ...]:
    """One answer per column: a run without a plan has two."""
    found = answers(analysis)
    return found if len(found) == 3 else (found[0], Answer("", ABSENT, ()), found[1])


def _details(item: Answer) -> str:
    return markdown(" ".join(item.details), 2000)


def _method() -> str:
    return (
        "Sensitivity of whole layers at each run's lowest format. Spearman is 1 where two runs rank layers alike; its interval takes "
        f"layers as a sample and needs at least {MIN_PAIRS}. A layer is listed where the 95% intervals of its two ranks do not overlap."
    )


def _pair_table(runs: tuple[Named, ...], found: Iterable[Pair]) -> str:
    rows = [
        (
            f"{markdown(runs[pair.first].name)}, {markdown(runs[pair.second].name)}",
            str(pair.layers),
            ratio(pair.spearman) if pair.spearman else "inconclusive",
            str(len(pair.shifts)),
            _reason(pair) or ABSENT,
        )
        for pair in found
    ]
    return table(("runs", "layers", "Spearman [95%]", "layers whose rank differs", "why not compared"), rows, text=(0, 4))


def _shifts(runs: tuple[Named, ...], found: Iterable[Pair]) -> Iterator[str]:
    for pair in found:
        if pair.shifts:
            head = (
                "layer",
                f"rank in {markdown(runs[pair.first].name)}",
                f"rank in {markdown(runs[pair.second].name)}",
                "KL in the first",
                "KL in the second",
            )
            rows = [
                (str(item.layer), _rank(item.first), _rank(item.second), nats(item.first.kl), nats(item.second.kl)) for item in pair.shifts
            ]
            yield table(head, rows)


def _rank(item: LayerRank | None) -> str:
    if item is None:
        return ABSENT
    return f"{item.rank} (interval: inconclusive)" if item.best_rank is None else f"{item.rank} [{item.best_rank}, {item.worst_rank}]"


def _ranks(runs: tuple[Named, ...]) -> str:
    ranks = [{item.layer: item for item in run.analysis.ranking} for run in runs]
    layers = sorted({layer for of in ranks for layer in of})
    rows = [(str(layer), *(f"{_rank(of[layer])}: {nats(of[layer].kl)}" if layer in of else ABSENT for of in ranks)) for layer in layers]
    head = ("layer", *(f"{markdown(run.name)}: rank, KL in nats per token" for run in runs))
    return fold("Every layer", len(rows), table(head, rows)) if rows else ""


def _answers(runs: tuple[Named, ...], found: tuple[Pair, ...]) -> tuple[Answer, ...]:
    """The answers of every run in short, then whether the same layers matter."""
    each = [
        Answer(
            run.name,
            " · ".join(item.answer for item in answers(run.analysis)),
            tuple(item.details[0] for item in answers(run.analysis) if item.details),
        )
        for run in runs
    ]
    lines = tuple(_said(runs, pair) for pair in found)
    compared = [pair for pair in found if not pair.reason]
    shifted = sorted({item.layer for pair in compared for item in pair.shifts})
    short = "Inconclusive" if not compared else f"Not layers {', '.join(map(str, shifted))}" if shifted else "No layer's rank differs"
    return *each, Answer("Do the same layers matter?", short, lines)


def _reason(pair: Pair) -> str:
    """Why two runs are not compared; empty where they are."""
    if pair.reason == "depths":
        return f"the models have {pair.depths[0]} and {pair.depths[1]} layers, so layers cannot be matched"
    return "no layer was measured in both" if pair.reason else ""


def _said(runs: tuple[Named, ...], pair: Pair) -> str:
    names = f"{runs[pair.first].name} and {runs[pair.second].name}"
    if pair.reason:
        return f"{names}: {_reason(pair)}."
    rho = f"Spearman {ratio(pair.spearman)}" if pair.spearman else "Spearman: inconclusive"
    return f"{names}: {rho} over {pair.layers} layers; {len(pair.shifts)} layers differ in rank."
