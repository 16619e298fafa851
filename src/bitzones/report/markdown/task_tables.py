"""The section on accuracy: task settings, accuracy of every variant, changes against the reference, and answer likelihood."""

from __future__ import annotations

from collections.abc import Iterator

from bitzones.analysis.results import Analysis
from bitzones.analysis.task_answers import NORMALIZED, Accuracy, Asked, Likelihood, Paired
from bitzones.report.markdown import perplexity_tables
from bitzones.report.markdown.tables import ABSENT, markdown, more_nats, nats, p_value, percent, points, table
from bitzones.stats.intervals import ALPHA
from bitzones.stats.verdicts import NON_INFERIORITY_NATS

__all__ = ["accuracy"]

FINER = frozenset({"worse", "better"})
"""Verdicts that the likelihood can give where accuracy is too coarse."""


def accuracy(analysis: Analysis) -> str:
    """Every task and variant, and every variant against the reference."""
    if not analysis.tasks:
        return "## Accuracy\n\nNot measured."
    answered = _answered(analysis) if analysis.accuracy else ()
    return "\n\n".join(("## Accuracy", _asked(analysis), *answered, *perplexity_tables.perplexity(analysis), *_likelihood(analysis)))


def _answered(analysis: Analysis) -> Iterator[str]:
    head = ("task", "metric", "variant", "format", "right", "accuracy [95%]", "chance", "above chance", "time", "tokens/s")
    yield table(head, map(_accuracy_row, analysis.accuracy), text=range(4))
    yield "Times here say how long the answers took and nothing of kernels: packed weights may be unpacked once for a whole task."
    yield _against(analysis)


def _asked(analysis: Analysis) -> str:
    head = ("task", "items", "not asked, malformed", "from", "solved examples", "chat template", "version", "sha256")
    said = [line for item in analysis.tasks for line in _said(item)]
    return "\n\n".join((table(head, map(_asked_row, analysis.tasks), text=(0, 3)), *(["\n".join(said)] if said else [])))


def _said(item: Asked) -> Iterator[str]:
    """What a tokenizer makes of a task, where it is not what is usual: it opens a text, does not close it, and merges nothing."""
    used, name = item.special_tokens, markdown(item.task)
    if item.passed_over:
        yield f"- {name}: not asked besides: {item.passed_over}, of which this tokenizer merges an answer with the end of the prompt."
    if used is not None and used.closing:
        yield f"- {name}: the tokenizer closes a text with {markdown(' '.join(used.closing))}, which is left out and not scored."
    if used is not None and used.opened in {"by the prompt", "by either"}:
        opening = markdown(" ".join(used.opening))
        yield f"- {name}: prompts begin with {opening}, put there {used.opened.replace('either', 'the prompt or the tokenizer')}, once."


def _asked_row(item: Asked) -> tuple[str, ...]:
    return (
        markdown(item.task),
        str(item.n),
        str(item.dropped),
        markdown(item.origin, 200),
        str(item.fewshot),
        "yes" if item.chat_template else "no",
        _version(item),
        markdown(item.sha256[:12]),
    )


def _version(item: Asked) -> str:
    """Of the task: of one of lm-evaluation-harness its own, and the release that asked it."""
    if item.harness is None:
        return str(item.version)
    return markdown(f"{item.harness.task} {item.harness.version}, lm_eval {item.harness.lm_eval}")


def _accuracy_row(item: Accuracy) -> tuple[str, ...]:
    share, p = item.share, item.above_chance_p
    again = item.metric == NORMALIZED  # the same answers by another metric: give the time once
    return (
        markdown(item.task),
        item.metric,
        markdown(item.variant),
        markdown(item.format),
        f"{item.k}/{item.n}",
        f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}]",
        percent(item.chance),
        ABSENT if p is None else ("yes" if p < ALPHA else "inconclusive") + f" ({p_value(p)})",
        ABSENT if again else f"{item.seconds_s:.2f} s",
        ABSENT if again or item.tokens_per_s is None else f"{item.tokens_per_s:,.0f}",
    )


def _against(analysis: Analysis) -> str:
    pairs = [(item, item.against) for item in analysis.accuracy if item.against is not None]
    if not pairs:
        return "No variant could be paired with the reference, so the cost of quantization is inconclusive."
    head = (
        "task",
        "metric",
        "variant",
        "verdict",
        "points [95%]",
        "harmful flips, right to wrong",
        "beneficial flips, wrong to right",
        "wrong to other wrong",
        "McNemar",
        "Holm",
        "minimum detectable effect",
        "n",
    )
    text = (
        "Against the reference on the same items. Answers can change while accuracy does not: flips in both directions cancel, and a wrong "
        "answer can change to another wrong one. Verdicts use p-values after Holm's correction for the variants of a task and metric. The "
        "minimum detectable effect is at 80% power in the first step of that correction."
    )
    return f"{text}\n\n{table(head, (_against_row(*pair) for pair in pairs), text=range(4))}"


def _against_row(item: Accuracy, against: Paired) -> tuple[str, ...]:
    return (
        markdown(item.task),
        item.metric,
        markdown(item.variant),
        f"**{against.verdict}**",
        points(against.difference),
        str(against.lost),
        str(against.gained),
        str(against.changed),
        p_value(against.p_value),
        p_value(against.p_adjusted),
        percent(against.minimum_detectable_effect) if against.minimum_detectable_effect is not None else "none",
        str(item.n),
    )


def _likelihood(analysis: Analysis) -> Iterator[str]:
    if not analysis.likelihood:
        return
    documents = " Of documents, every token is scored." if analysis.perplexity else ""
    head = ("task", "variant", "NLL, nats per answer token [95%]", "minus the reference [95%]", "verdict", "Holm", "n", "answer tokens")
    yield "### Likelihood of the right answers"
    yield (
        "Negative log-likelihood (NLL) of the right answer given its question. It moves before an answer flips, so it detects smaller "
        f"losses than accuracy.{documents} 'Non-inferior' requires the interval to exclude a loss above {NON_INFERIORITY_NATS:g} nats, "
        "which is 3% less probability per token; 'equivalent' a gain above it too. 95% intervals by bootstrap over the n "
        "items, all variants on the same resamples."
    )
    yield table(head, map(_likelihood_row, analysis.likelihood), text=(0, 1, 4))
    yield from _finer(analysis)


def _likelihood_row(item: Likelihood) -> tuple[str, ...]:
    against = item.against
    p = against.p_adjusted if against else None
    return (
        markdown(item.task),
        markdown(item.variant),
        nats(item.nll),
        more_nats(against.difference) if against else ABSENT,
        f"**{against.verdict}**" if against else ABSENT,
        ABSENT if p is None else p_value(p),
        str(item.n),
        f"{item.tokens:,}",
    )


def _finer(analysis: Analysis) -> Iterator[str]:
    """Where the likelihood gives a verdict and accuracy none."""
    coarse = {
        (item.task, item.variant): item.against.verdict
        for item in analysis.accuracy
        if item.against is not None and item.metric != NORMALIZED and item.against.verdict.word not in FINER
    }
    lines = [
        f"- {markdown(item.variant)} on {markdown(item.task)}: {coarse[item.task, item.variant]} by accuracy, "
        f"**{item.against.verdict}** by {more_nats(item.against.difference)} nats per answer token."
        for item in analysis.likelihood
        if item.against is not None and item.against.verdict.word in FINER and (item.task, item.variant) in coarse
    ]
    if lines:
        yield "Seen in likelihood but not in accuracy:\n\n" + "\n".join(lines)
