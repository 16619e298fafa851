"""The caveats of an analysis in sentences, for the section "Limits"."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from bitzones.analysis.caveat_records import Caveat, CaveatCode
from bitzones.analysis.results import Analysis
from bitzones.analysis.zones import ranges
from bitzones.report.markdown.tables import plain
from bitzones.schema.run_record import SHARED_WEIGHTS
from bitzones.stats.intervals import MIN_SEQUENCES

__all__ = ["caveat_sentence", "layers_in_words"]

Words = Callable[[Caveat, Analysis], str]

KINDS = {"layers": "activation and attention statistics"}
"""Kinds of cell whose field in the analysis is no word for what they measure."""


def caveat_sentence(caveat: Caveat, analysis: Analysis) -> str:
    """One caveat as plain text. Names stand in it as the run file has them: escape it before it is shown."""
    return _WORDS[caveat.code](caveat, analysis)


def layers_in_words(layers: Iterable[int]) -> str:
    """Layers with their noun.

    >>> layers_in_words([1]), layers_in_words([0, 1, 2]), layers_in_words([])
    ('layer 1', 'layers 0-2', 'none')
    """
    found = tuple(layers)
    return f"layer {found[0]}" if len(found) == 1 else f"layers {ranges(found)}" if found else "none"


def _list(names: Iterable[str]) -> str:
    """Names joined by commas and a final "and"."""
    *first, last = (plain(name) for name in names)
    return f"{', '.join(first)} and {last}" if first else last


def _plural(count: int | None, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _no_plan(_: Caveat, analysis: Analysis) -> str:
    return f"Zones and plan: there is no plan, because {analysis.no_decision}."


def _not_swept(caveat: Caveat, analysis: Analysis) -> str:
    return (
        f"Sensitivity of {layers_in_words(caveat.layers)}: not measured. The plan leaves them at {analysis.reference}, and its bytes and "
        "bits do not count them."
    )


def _not_quantizable(caveat: Caveat, analysis: Analysis) -> str:
    if any(kind.endswith(SHARED_WEIGHTS) for kind in caveat.names):
        return (
            f"Sensitivity of {_list(caveat.names)}: several modules have these weights in common, and quantizing one would store a copy. "
            f"{_plural(caveat.count, 'parameter')} inside the decoder layers stay at {analysis.reference}."
        )
    return (
        f"Sensitivity of {_list(caveat.names)}: the backend cannot quantize this module class. Its {_plural(caveat.count, 'parameter')} "
        f"inside the decoder layers stay at {analysis.reference}."
    )


def _static_cache(caveat: Caveat, _: Analysis) -> str:
    return (
        f"Decoding on a static key-value cache: the model does not run on one ({'; '.join(map(plain, caveat.names))}). "
        "It was timed on a growing cache, where each step has another shape."
    )


def _modules_stay(caveat: Caveat, analysis: Analysis) -> str:
    format_, module, reason = map(plain, caveat.names)
    more = f" and {(caveat.count or 1) - 1} more" if caveat.count != 1 else ""
    return f"Sensitivity of {module}{more} at {format_}: kept at {analysis.reference}, because {reason}."


def _few_sensitivity(caveat: Caveat, _: Analysis) -> str:
    return (
        f"Zones and the ranking of layers: the sensitivity set has {_plural(caveat.n, 'sequence')}. Below {MIN_SEQUENCES}, a bootstrap "
        "understates the variance, so no interval is given."
    )


def _layer_order(caveat: Caveat, _: Analysis) -> str:
    return (
        f"The exact ranking of layers: {layers_in_words(caveat.layers)} cannot be told from the next less sensitive layer (the paired 95% "
        f"interval of the difference contains 0, n = {caveat.n} sequences)."
    )


def _not_measured(caveat: Caveat, _: Analysis) -> str:
    return (
        f"Sensitivity of {layers_in_words(caveat.layers)} at every format: at least one format could not be measured there, and the plan "
        "does not use it there."
    )


def _other_text(caveat: Caveat, _: Analysis) -> str:
    return (
        f"Sensitivity on other text: it was measured on {_plural(caveat.count, 'token')} in {_plural(caveat.n, 'sequence')} from the train "
        "splits of the tasks. The intervals cover sampling from this text only."
    )


def _not_told_apart(caveat: Caveat, _: Analysis) -> str:
    return (
        f"Whether the searched plan is better than {_list(caveat.names)}: the paired 95% interval of the difference contains 0 "
        f"(n = {caveat.n} held-out sequences)."
    )


def _sum_is_off(caveat: Caveat, _: Analysis) -> str:
    ratio = caveat.ratio
    assert ratio is not None
    known = "no interval" if ratio.low is None else f"95% interval {ratio.low:.2f} to {ratio.high:.2f}"
    return (
        f"How accurate sums of separate sensitivities are: for {_list(caveat.names)} the measured KL is {ratio.value:.2f} times the sum "
        f"({known}, n = {caveat.n} sequences)."
    )


def _random_plans(caveat: Caveat, _: Analysis) -> str:
    return f"How good a random plan can be: {_plural(caveat.count, 'random plan')} {'is' if caveat.count == 1 else 'are'} no bound."


def _accuracy_change(caveat: Caveat, _: Analysis) -> str:
    many, task = len(caveat.names) > 1, plain(caveat.task or "")
    what = f"Accuracy of {_list(caveat.names)} on {task} ({caveat.metric}): "
    if caveat.effect is None:
        return f"{what}{_plural(caveat.n, 'item')} can show no loss at 80% power."
    return (
        f"{what}{'their losses, if any, are' if many else 'its loss, if any, is'} too small for {_plural(caveat.n, 'item')}. The minimum "
        f"detectable effect is {caveat.effect:.1%} (80% power, first step of Holm's method)."
    )


def _at_chance(caveat: Caveat, _: Analysis) -> str:
    return (
        f"Losses on {plain(caveat.task or '')}: the reference itself ({caveat.right}/{caveat.n}) is not above chance ({caveat.chance:.1%})."
    )


def _likelihood_change(caveat: Caveat, _: Analysis) -> str:
    return (
        f"Whether {_list(caveat.names)} makes the right answers of {plain(caveat.task or '')} less likely: {_plural(caveat.n, 'item')} do "
        "not exclude a loss."
    )


def _families(caveat: Caveat, _: Analysis) -> str:
    return (
        f"All verdicts together: p-values are corrected within each of {caveat.count} families (a task and metric), and each family has a "
        "5% chance of a false alarm. 'Equivalent' and 'non-inferior' rely on their own intervals."
    )


def _kind(caveat: Caveat, _: Analysis) -> str:
    name = caveat.names[0]
    return f"{KINDS.get(name, name).capitalize()}: not measured in this run."


def _cells_failed(caveat: Caveat, _: Analysis) -> str:
    return f"{_plural(caveat.count, 'cell')} without a result: listed with reasons under Failed cells."


def _fixed(text: str) -> Words:
    return lambda _caveat, _analysis: text


_WORDS: Mapping[CaveatCode, Words] = {
    "no_plan": _no_plan,
    "layers_not_swept": _not_swept,
    "not_quantizable": _not_quantizable,
    "modules_stay": _modules_stay,
    "few_sensitivity_sequences": _few_sensitivity,
    "layer_order": _layer_order,
    "layers_not_measured": _not_measured,
    "other_text_sensitivity": _other_text,
    "plan_kl_not_measured": _fixed("The plan's KL: it is predicted as a sum of separate sensitivities and was not measured."),
    "plan_accuracy_not_measured": _fixed("The plan's accuracy: the model quantized by the plan was not evaluated on any task."),
    "plan_not_measured": _fixed(
        "The plan's KL and accuracy: its KL is predicted as a sum of separate sensitivities, and neither was measured."
    ),
    "safe_layers_not_tested": _fixed("Whether SAFE layers lose accuracy: the plan was not evaluated on any task."),
    "safe_layers_tested_together": _fixed("Whether a single SAFE layer loses accuracy: only the whole plan was evaluated."),
    "sum_is_off": _sum_is_off,
    "sum_not_checked": _fixed("How accurate sums of separate sensitivities are: no whole variant was measured beside its units."),
    "search_not_held_out": _fixed("Whether the search improved the plan: it was measured only on the sequences that the search used."),
    "few_held_out_sequences": lambda caveat, _: (
        f"Which plan is better: with {_plural(caveat.n, 'held-out sequence')}, fewer than {MIN_SEQUENCES}, no interval is given and no two "
        "plans are told apart."
    ),
    "plans_not_told_apart": _not_told_apart,
    "other_text_held_out": lambda caveat, _: (
        f"Plans on other text: the n = {caveat.n} held-out sequences come from the same tasks as the sensitivity set. The intervals cover "
        "sampling from this text only."
    ),
    "many_comparisons": lambda caveat, _: (
        f"All {caveat.count} comparisons with the searched plan together: each relies on its own 95% interval, so about one in twenty can "
        "be wrong."
    ),
    "random_plans": _random_plans,
    "search_not_exhaustive": _fixed("Whether a better plan exists: the search is local and measures few of all plans."),
    "fisher_order": lambda caveat, _: (
        f"Whether the Fisher proxy ranks units as the sweep does at {_list(caveat.names)}: too few units or sequences for an interval."
    ),
    "accuracy_change": _accuracy_change,
    "reference_at_chance": _at_chance,
    "likelihood_change": _likelihood_change,
    "many_families": _families,
    "kind_not_measured": _kind,
    "static_cache_refused": _static_cache,
    "few_rounds": lambda caveat, _: f"How much latency varies: {_plural(caveat.n, 'round')}, fewer than {MIN_SEQUENCES}, give no interval.",
    "one_process": _fixed("Latency on other machines or in another process: all rounds come from one process on one machine."),
    "cells_failed": _cells_failed,
    "no_cause": _fixed("Why a layer is sensitive: activation and attention statistics describe the reference and claim no cause."),
}
