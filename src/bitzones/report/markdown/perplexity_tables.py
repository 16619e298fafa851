"""Perplexity of whole documents, of tasks that ask for it: the table, and its headline lines."""

from __future__ import annotations

from collections.abc import Iterator

from bitzones.analysis.results import Analysis
from bitzones.analysis.task_answers import Likelihood, TaskPerplexity
from bitzones.report.markdown.tables import ABSENT, NO_INTERVAL, four_digits, markdown, plain, table
from bitzones.stats.intervals import Estimate

__all__ = ["lines", "perplexity"]


def perplexity(analysis: Analysis) -> Iterator[str]:
    """The section inside that on tasks; nothing where no task asks for it."""
    if not analysis.perplexity:
        return
    compared = _compared(analysis)
    head = (
        "task", "variant", "word perplexity [95%]", "byte perplexity [95%]", "bits per byte [95%]", "verdict", "documents", "tokens",
        "time",
    )  # fmt: skip
    yield "### Perplexity of documents"
    yield (
        "As loglikelihood_rolling of lm-evaluation-harness defines it: every token of a document once, after as much before it as the "
        "model reads. Verdicts are those of the likelihood below, in nats per token. 95% intervals by bootstrap over documents."
    )
    yield table(head, (_row(item, compared.get((item.task, item.variant))) for item in analysis.perplexity), text=(0, 1, 5))


def lines(analysis: Analysis) -> Iterator[str]:
    """Word perplexity of every variant, one line a task, as plain text."""
    compared = _compared(analysis)
    for task in dict.fromkeys(item.task for item in analysis.perplexity):
        items = [item for item in analysis.perplexity if item.task == task]
        said = "; ".join(_words(item, compared.get((task, item.variant))) for item in items)
        yield f"Word perplexity of {plain(task)} (n = {items[0].n} documents, 95% intervals): {said}"


def _compared(analysis: Analysis) -> dict[tuple[str, str], Likelihood]:
    return {(item.task, item.variant): item for item in analysis.likelihood}


def _row(item: TaskPerplexity, compared: Likelihood | None) -> tuple[str, ...]:
    against = compared.against if compared else None
    return (
        markdown(item.task),
        markdown(item.variant),
        *(_interval(found) for found in (item.word_perplexity, item.byte_perplexity, item.bits_per_byte)),
        f"**{against.verdict}**" if against else ABSENT,
        str(item.n),
        f"{item.tokens:,}",
        f"{item.seconds_s:.2f} s",
    )


def _words(item: TaskPerplexity, compared: Likelihood | None) -> str:
    verdict = f", {compared.against.verdict}" if compared and compared.against else ""
    found = item.word_perplexity
    ends = NO_INTERVAL if found.low is None or found.high is None else f"({four_digits(found.low)} to {four_digits(found.high)})"
    return f"{plain(item.variant)} {four_digits(found.value)} {ends}{verdict}"


def _interval(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return f"{four_digits(found.value)} {NO_INTERVAL}"
    return f"{four_digits(found.value)} [{four_digits(found.low)}, {four_digits(found.high)}]"
