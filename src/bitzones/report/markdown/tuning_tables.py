"""The section on tuning: what it bought on text of every kind, beside nearest, HQQ and GPTQ rounding, and where it harms."""

from __future__ import annotations

from collections.abc import Iterator

from bitzones.analysis.results import Analysis
from bitzones.analysis.tuning_figures import TuningGain, TuningReading
from bitzones.report.markdown.tables import ABSENT, bits, markdown, more_nats, nats, plain, table
from bitzones.schema.formats import Format
from bitzones.schema.profile import PLAN, TUNED

__all__ = ["in_short", "tuning"]

ROUNDED = {"": "nearest", "max": "nearest", "absmax": "nearest", "hqq": "HQQ", "gptq": "GPTQ"}
"""Method of a format -> how its integers are rounded."""


def in_short(found: TuningReading) -> str:
    """What tuning bought on unseen text, or that no such text was measured, in one line of plain text."""
    if found.weights.best_step == 0:
        return "Tuning: no step lowered the KL on the validation split, so the tuned plan is the plan as it was"
    unseen = found.on_unseen
    if not unseen:
        gains = [item for item in found.gains if item.text == "held out"]
        said = "; ".join(map(_gain, gains)) or "not measured"
        return f"Tuning: no unseen domain was measured; {said}"
    warned = "; it harms unseen text and helps text of the kinds that it was tuned on" if found.one_sided else ""
    return f"Tuning on unseen text: {'; '.join(map(_gain, unseen))}{warned}"


def _gain(item: TuningGain) -> str:
    ends = item.difference.interval
    interval = f", paired {ends.low:+.3g} to {ends.high:+.3g}" if ends else ""
    return (
        f"{plain(item.text)} KL from {item.before.value:.3g} to {item.after.value:.3g} nats/token ({item.share:+.0%}{interval}, "
        f"n = {item.n}): {item.word}"
    )


def tuning(analysis: Analysis) -> str:
    """The section; empty where no plan was tuned."""
    found = analysis.tuning
    if found is None:
        return ""
    return "\n\n".join(("## Tuning", *_intro(found), _gains(found), *_beside(analysis)))


def _intro(found: TuningReading) -> Iterator[str]:
    made = found.weights
    yield f"{markdown(in_short(found), 10**4)}."
    if found.one_sided:
        yield (
            "**Tuning helps on text of the kinds that it was tuned on, and harms on an unseen kind.** Tune on more kinds of text, or with "
            "fewer passes."
        )
    norms = ", and of normalization layers" if made.norms else ""
    yield (
        f"{found.parameters:,} scales and shifts{norms} were trained on {made.tokens:,} tokens; integers and stored bytes are the plan's. "
        f"The weights are of step {made.best_step:,} of {made.steps:,}, the best on {made.validation_tokens:,} tokens kept aside "
        f"({_gain(found.validation)}, a figure that chose the step and so flatters it)."
    )


def _gains(found: TuningReading) -> str:
    head = ("text", "seen by", "n", "KL before [95%]", "KL tuned [95%]", "tuned minus before [95%]", "change", "tuned plan is")
    rows = (
        (
            markdown(item.text),
            _seen(item),
            f"{item.n:,}",
            nats(item.before),
            nats(item.after),
            more_nats(item.difference),
            f"{item.share:+.0%}",
            f"**{item.word}**",
        )
        for item in found.gains
    )
    return table(head, rows, text=(0, 1, 7))


def _seen(item: TuningGain) -> str:
    if item.text == "held out":
        return "no set but its own; its sources are tuned on"
    return "**unseen**: in no set" if item.unseen else "its source is tuned on" if item.tuned_on else "another set's source"


def _beside(analysis: Analysis) -> Iterator[str]:
    """KL by domain of every variant that the plan can be compared with."""
    if analysis.domains is None:
        return
    domains = analysis.domains.domains
    size = {item.name: item.average_bits for item in analysis.plans.plans} if analysis.plans else {}
    rows = [
        (
            markdown(variant),
            _how(analysis, variant),
            bits(size.get(name)) if (name := _plan_name(analysis, variant)) in size else ABSENT,
            *(nats(figures.kl) if (figures := item.of(variant)) else ABSENT for item in domains),
        )
        for variant in dict.fromkeys(figures.variant for item in domains for figures in item.figures)
    ]
    yield "KL(reference || variant) in nats per token [95%], by how it was rounded:"
    head = ("variant", "rounding", "bits", *(f"{markdown(item.name)}{', unseen' if item.unseen else ''}" for item in domains))
    yield table(head, rows, text=(0, 1))


def _plan_name(analysis: Analysis, variant: str) -> str:
    return variant if variant in (PLAN, TUNED) else f"uniform {analysis.variants.get(variant, variant)}"


def _how(analysis: Analysis, variant: str) -> str:
    if variant == TUNED:
        return "the plan's, then tuned"
    name = analysis.variants.get(variant, variant)
    return ROUNDED.get(Format.of(name).method, markdown(name)) if name in analysis.formats else ABSENT
