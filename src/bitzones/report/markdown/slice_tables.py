"""The section on plans by task or text domain: what each gains on its own and costs on the others, and layers whose zone depends on it."""

from __future__ import annotations

from collections.abc import Iterator

from bitzones.analysis.plan import LayerZone
from bitzones.analysis.results import Analysis
from bitzones.analysis.slice_figures import Crossed, CrossedAccuracy, LayerBySlice, SliceOutcome, SliceReading, SlicesReading
from bitzones.analysis.zones import ranges
from bitzones.report.charts.places import width_of
from bitzones.report.markdown.tables import ABSENT, bits, fold, markdown, more_nats, nats, p_value, percent, plain, points, ratio, table
from bitzones.schema.slices import file_name
from bitzones.stats.intervals import Estimate

__all__ = ["bits_of", "by_slice", "details_of", "folded", "lines", "short"]

OUTCOMES: dict[SliceOutcome, str] = {
    "gains": "**a plan of its own**: better on its own text",
    "for all": "better on all text together: a better plan for all, not a special one",
    "not told": "the plan for all: no gain told",
    "loses": "the plan for all: its own is worse",
    "same": "the plan for all: its own is the same",
    "not measured": "not measured",
}


def short(found: SlicesReading) -> str:
    """Whether one plan serves all, in a few words."""
    if not any(item.outcome != "not measured" for item in found.slices):
        return "Not measured"
    return f"No: {_and(found.recommended)} gains by its own" if found.recommended else "Yes: one plan serves all"


def lines(analysis: Analysis) -> Iterator[str]:
    """Plain lines for the headline: what is recommended and why, and the layers that depend on the task."""
    found = analysis.slices
    if found is None:
        return
    yield f"Plans by {found.by}: {_verdict(found)}. {'; '.join(_own(found, item) for item in found.slices)}"
    yield _layers_line(found)


def details_of(found: SlicesReading) -> Iterator[str]:
    """The same as sentences of the first screen."""
    for item in found.slices:
        yield f"{_own(found, item)}."
    yield f"{_layers_line(found)}."


def _verdict(found: SlicesReading) -> str:
    measured = [item for item in found.slices if item.outcome != "not measured"]
    if not measured:
        return "not measured on held-out sequences"
    if not found.recommended:
        better = [plain(item.name, 24) for item in found.slices if item.outcome == "for all"]
        more = f", and that of {_and(tuple(better))} measured better on all text together" if better else ""
        return f"one plan serves all: on no {found.by} is a special plan's gain told at equal bytes{more}"
    others = tuple(item.name for item in found.slices if item.outcome != "gains")
    rest = f"; the plan for all serves {_and(others)}" if others else ""
    return f"a plan of its own is recommended for {_and(found.recommended)}{rest}"


def _and(names: tuple[str, ...]) -> str:
    shown = [plain(name, 24) for name in names]
    return " and ".join(shown) if len(shown) < 3 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _own(found: SlicesReading, item: SliceReading) -> str:
    """What a slice's plan gains on its own text."""
    own, base, name = found.crossing(item.name, item.name), found.crossing(None, item.name), plain(item.name, 24)
    if own is None or base is None or own.against is None:
        return f"{name}: not measured"
    if own.against.word == "same":
        return f"{name}: its plan is the plan for all"
    corrected = f" after Holm for {own.against.tests}" if own.against.tests > 1 else ""
    p = "" if own.against.p_adjusted is None else f", {p_value(own.against.p_adjusted)}{corrected}"
    return (
        f"{name}: KL {_ends(own.kl)} with its own plan, {_ends(base.kl)} with that for all, difference {_ends(own.against.difference)} "
        f"nats/token{p}, {own.against.word}, n = {item.held_out_sequences} held-out sequences"
    )


def _ends(estimate: Estimate) -> str:
    ends = "" if estimate.low is None or estimate.high is None else f" ({estimate.low:.3g} to {estimate.high:.3g})"
    return f"{estimate.value:.3g}{ends}"


def _layers_line(found: SlicesReading) -> str:
    told = sum(any(share.told for share in layer.shares) for layer in found.layers)
    which = f"layers whose zone depends on it: {ranges(found.depending)}" if found.depending else "no layer's zone depends on it"
    return (
        f"Zones by {found.by}: {which}; the share of sensitivity is told apart in {told} of {len(found.layers)} layers "
        f"(5% after Holm for {found.tests})"
    )


def by_slice(analysis: Analysis) -> str:
    """The section; empty where no plan was made by task or domain."""
    found = analysis.slices
    if found is None:
        return ""
    head = f"## Plans by {found.by}"
    verdict = _verdict(found)
    said = f"**{markdown(verdict[0].upper() + verdict[1:], 10**3)}.**"
    return "\n\n".join((head, said, *_plans(found), *_crossed(found), *_accuracy(found), *_map(analysis, found)))


def _plans(found: SlicesReading) -> Iterator[str]:
    yield (
        f"A plan for each {found.by}, searched on its own sensitivity sequences within the budget of the plan for all, which is "
        f"`{markdown(found.for_all)}` of the measured plans. A plan of its own is recommended where it measures better than the plan for "
        "all on held-out sequences of its own, after Holm's correction for the number of plans, and not worse in accuracy on its own task."
    )
    head = (found.by, "sensitivity sequences", "tokens", "held-out sequences", "tokens", "bits", "stored bytes", "recommended", "file")
    yield table(head, (_plan_row(item) for item in found.slices), text=(0, 7, 8))


def _plan_row(item: SliceReading) -> tuple[str, ...]:
    achieved = item.decision.plan.achieved
    return (
        markdown(item.name),
        f"{item.sequences:,}",
        f"{item.tokens:,}",
        f"{item.held_out_sequences:,}",
        f"{item.held_out_tokens:,}",
        bits(achieved.average_bits),
        f"{achieved.stored_bytes:,}",
        OUTCOMES[item.outcome],
        f"`plans/{markdown(file_name(item.name))}`",
    )


def _crossed(found: SlicesReading) -> Iterator[str]:
    """Plans by the text that they were measured on."""
    if not found.crossed:
        return
    columns = [*(item.name for item in found.slices), None]
    yield (
        f"KL(reference || plan) on held-out sequences, nats per token [95%]: a row for the {found.by} that a plan was made for, a column "
        "for the one that it was measured on. After it the difference to the plan for all on the same sequences, paired: below 0 the plan "
        "is better. A word needs p below 5% after Holm's correction, over gains on own text (**bold**), over costs on the text of others, "
        "and over all text together."
    )
    yield table(
        ("plan made for", *(markdown(name) if name else "together" for name in columns)),
        (
            (_made_for(made_for), *(_crossed_words(found.crossing(made_for, on)) for on in columns))
            for made_for in dict.fromkeys(made.made_for for made in found.crossed)
        ),
    )


def _made_for(name: str | None) -> str:
    return "all" if name is None else markdown(name)


def _crossed_words(made: Crossed | None) -> str:
    if made is None:
        return ABSENT
    if made.against is None:
        return nats(made.kl)
    said = "same plan" if made.against.word == "same" else f"{more_nats(made.against.difference)} {made.against.word}"
    return f"{nats(made.kl)}; {f'**{said}**' if made.made_for == made.measured_on else said}"


def _accuracy(found: SlicesReading) -> Iterator[str]:
    if not found.accuracy:
        return
    tasks = list(dict.fromkeys(made.task for made in found.accuracy))
    size = {made.task: made.n for made in found.accuracy}
    yield (
        "Accuracy of the same plans [95%], and points against the plan for all on the same items with the verdict of McNemar's exact test "
        f"after Holm's correction.{'' if any(made.made_for is None for made in found.accuracy) else ' The plan for all answered no task.'}"
    )
    made_for = list(dict.fromkeys(made.made_for for made in found.accuracy))
    rows = {(made.made_for, made.task): made for made in found.accuracy}
    yield table(
        ("plan made for", *(f"{markdown(task)}, n = {size[task]}" for task in tasks)),
        ((_made_for(name), *(_accuracy_words(rows.get((name, task))) for task in tasks)) for name in made_for),
    )


def _accuracy_words(made: CrossedAccuracy | None) -> str:
    if made is None:
        return ABSENT
    share = f"{percent(made.share.value)} [{percent(made.share.low)}, {percent(made.share.high)}]"
    if made.difference is None or made.verdict is None:
        return share
    said = f"{points(made.difference)} {made.verdict}"
    return f"{share}; {f'**{said}**' if made.made_for == made.task else said}"


def _map(analysis: Analysis, found: SlicesReading) -> Iterator[str]:
    """Layers by tasks."""
    if analysis.decision is None:
        return
    yield (
        f"Zone of every layer and its bits in the plan, for all and by {found.by}. **Depends**: the layer's share of the sensitivity of "
        f"one {found.by} is told from its share of the others (p below 5% after Holm's correction for {found.tests} contrasts), and "
        "their zones differ."
    )
    for_all = {zone.layer: zone for zone in analysis.decision.layer_zones}
    zones = {item.name: {zone.layer: zone for zone in item.decision.layer_zones} for item in found.slices}
    head = ("layer", "all", *map(markdown, zones), "depends")
    rows = [
        (
            str(layer.layer),
            *(_zone_words(of.get(layer.layer)) for of in (for_all, *zones.values())),
            "**yes**" if layer.depends else "no",
        )
        for layer in found.layers
    ]
    yield fold("Layers", len(rows), table(head, rows, text=range(len(head))))


def bits_of(zone: LayerZone) -> str:
    """Bits of a layer's units in a plan: ``2``, or ``2/4`` where they differ."""
    return "/".join(sorted({width_of(name) for name in zone.formats}, key=int))


def _zone_words(zone: LayerZone | None) -> str:
    return ABSENT if zone is None else f"{zone.zone}, {bits_of(zone)} bits"


def folded(analysis: Analysis) -> tuple[tuple[str, str], ...]:
    """The contrasts behind the layers that depend: a title and a table."""
    found = analysis.slices
    rows = [row for layer in found.layers for row in _share_rows(layer)] if found else []
    if found is None or not rows:
        return ()
    head = ("layer", found.by, "share of its sensitivity", "share / share of the others [95%]", "p", "p after Holm", "told")
    return ((f"Share of the sensitivity by layer and {found.by}", table(head, rows, text=(0, 1, 6))),)


def _share_rows(layer: LayerBySlice) -> Iterator[tuple[str, ...]]:
    for item in layer.shares:
        yield (
            str(layer.layer),
            markdown(item.slice),
            percent(item.share),
            ratio(item.ratio),
            ABSENT if item.p_value is None else p_value(item.p_value),
            ABSENT if item.p_adjusted is None else p_value(item.p_adjusted),
            "yes" if item.told else "no",
        )
