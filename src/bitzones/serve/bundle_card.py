"""The README.md of a bundle: what it holds, how to load it, where requests go, what it costs and whether that is worth it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bitzones.deploy.model_card import escaped
from bitzones.report.markdown import tables
from bitzones.report.markdown.tables import markdown, megabytes, milliseconds, more_nats, nats, percent, table
from bitzones.serve.bundle_record import BASE, Bundle
from bitzones.serve.cost_record import BundleCost, TaskAccuracy, TaskCost
from bitzones.serve.router_record import Classifier, Router, Rule
from bitzones.stats.intervals import Interval

__all__ = ["CARD", "card", "cost_section", "router_section"]

CARD = "README.md"


def card(record: Bundle, router: Router | None, cost: BundleCost | None = None) -> str:
    """The text of README.md."""
    return "\n\n".join(filter(None, (_top(record), _tasks(record), router_section(router), cost_section(cost)))) + "\n"


def _top(record: Bundle) -> str:
    name = escaped(Path(record.source).name)
    tasks = ", ".join(markdown(task.name) for task in record.tasks)
    return f"""\
# {name}: {len(record.tasks) + 1} plans in one model

A base plan and the weights in which the plans of {tasks} differ from it, made by bitzones {markdown(record.bitzones)}.

```python
import bitzones.serve

served = bitzones.serve.load(".")
with served.precision("{record.tasks[0].name}"):
    ids = served.model.generate(**served.tokenizer("Question: ", return_tensors="pt"), max_new_tokens=20)
```

`base/` alone is a checkpoint of optimum-quanto. `bundle.json` holds the SHA-256 of every file; loading compares them."""


def _tasks(record: Bundle) -> str:
    rows = [
        (
            markdown(task.name),
            markdown(task.plan),
            str(len(task.modules)),
            str(len(task.dense)),
            megabytes(task.stored_bytes),
            "the base's" if task.logits_sha256 is None else "its plan's",
        )
        for task in record.tasks
    ]
    head = ("task", "plan", "modules that differ", "other parameters", "bytes beside the base", "rounding")
    mixed = any(task.logits_sha256 is None for task in record.tasks)
    note = (
        "With the base's rounding, modules of the base's format keep the base's integers: such a task is not the model of its plan, and "
        "what was measured with that plan does not hold for it.\n\n"
    )
    return "## Tasks\n\n" + (note if mixed else "") + table(head, rows, text=(0, 1, 5))


def router_section(router: Router | None) -> str:
    """Where requests go that name no task."""
    if router is None:
        return "## Routing\n\nA request goes to the task that it names, else to the base."
    parts = ["## Routing", "A request goes to the task that it names; else where the first of these leads:"]
    steps = [_rule(rule) for rule in router.rules]
    if router.classifier is not None:
        steps.append(f"a classifier of the prompt's words, where it is at least {percent(router.classifier.confidence)} sure")
    parts.append("\n".join(f"{number}. {step}" for number, step in enumerate((*steps, "the base"), 1)))
    if router.classifier is not None:
        parts += _classifier(router.classifier)
    return "\n\n".join(parts)


def _rule(rule: Rule) -> str:
    conditions = [(name, value) for name, value in (("prompt", rule.prompt), ("system prompt", rule.system)) if value is not None]
    said = [f"the {name} matches {markdown(value)}" for name, value in conditions]
    said += [f"the last message is of role {markdown(rule.role)}"] if rule.role is not None else []
    return f"{markdown(rule.task)}, if {' and '.join(said)}"


def _classifier(found: Classifier) -> Iterator[str]:
    trained = ", ".join(f"{count:,} of {markdown(name)}" for name, count in found.trained_on.items())
    terms = f"{len(found.vocabulary):,} terms"
    yield f"The classifier (TF-IDF and logistic regression, {terms}) was trained on prompts of the train splits: {trained}."
    tried = found.held_out
    if tried is None:
        return
    yield (
        f"On n = {tried.n:,} prompts of the test splits its likeliest task is the right one for {_share(tried.share)}; it sends "
        f"{tried.misrouted:,} to another task and {sum(tried.below):,}, of which it is not sure, to the base:"
    )
    head = ("prompts of", *(f"to {markdown(name)}" for name in found.tasks), f"to {BASE}")
    rows = [
        (markdown(name), *map(str, counts), str(below))
        for name, counts, below in zip(found.tasks, tried.confusion, tried.below, strict=True)
    ]
    yield table(head, rows)


def _share(found: Interval) -> str:
    return f"{percent(found.value)} [{percent(found.low)}, {percent(found.high)}]"


def cost_section(cost: BundleCost | None) -> str:
    """What the bundle costs, what it gains, and whether it is worth it; empty where that was not measured."""
    if cost is None:
        return ""
    return "\n\n".join(("## Is the bundle worth it?", _verdict(cost), _memory(cost), _quality(cost), _speed(cost)))


def _verdict(cost: BundleCost) -> str:
    better = ", ".join(markdown(task.name) for task in cost.tasks if task.better)
    worse = ", ".join(markdown(task.name) for task in cost.tasks if task.worse)
    one = f"one plan of the same memory ({tables.bits(cost.one_plan.average_bits)} bits per weight)"
    match cost.worth:
        case "worth it":
            return f"**The bundle is worth it**: better than {one} on {better}, and not told worse on any task."
        case "not worth it":
            return f"**The bundle is not worth it**: {one} is better on {worse}, and the bundle is told better on no task. Apply that plan."
        case _ if better:
            return f"**That depends on the tasks**: the bundle is better than {one} on {better}, and worse on {worse}."
        case _:
            return f"**Not shown**: no task is told better or worse than with {one}, which needs no routing and no switch."


def _memory(cost: BundleCost) -> str:
    more = cost.resident_bytes - cost.base_resident_bytes
    return (
        f"Memory: {megabytes(cost.resident_bytes)} resident in {markdown(cost.dtype)}, {megabytes(more)} more than the base alone. As "
        f"stored, the planned modules take {megabytes(cost.stored_bytes)} in the bundle, {megabytes(cost.base_stored_bytes)} in the base, "
        f"and {megabytes(cost.one_plan.stored_bytes)} in the one plan that the planner makes of {megabytes(cost.one_plan.budget_bytes)}."
    )


def _quality(cost: BundleCost) -> str:
    head = ("task", "sequences", "KL, base", "KL, task's plan", "KL, one plan", "task's minus one", "told")
    rows = [
        (markdown(t.name), str(t.sequences), nats(t.kl_base), nats(t.kl), nats(t.kl_one_plan), more_nats(t.kl_difference), _told(t))
        for t in cost.tasks
    ]
    scored = [(task.name, task.accuracy) for task in cost.tasks if task.accuracy is not None]
    parts = ["KL to the reference in nats per token on test items with their answers, paired by sequence (p by Holm's correction):"]
    parts.append(table(head, rows, text=(0, 6)))
    if scored:
        parts.append("Accuracy on the same items, the task's plan against the one plan (McNemar's test, corrected with the others):")
        parts.append(table(("task", "n", "base", "task's plan", "one plan", "verdict"), [_accuracy(*pair) for pair in scored], text=(0, 5)))
    return "\n\n".join(parts)


def _told(task: TaskCost) -> str:
    word = "better" if task.kl_difference.value < 0 else "worse"
    return f"{word}, {tables.p_value(task.kl_p)}" if task.better or task.worse else f"no difference, {tables.p_value(task.kl_p)}"


def _accuracy(name: str, found: TaskAccuracy) -> tuple[str, ...]:
    return markdown(name), str(found.n), _share(found.base), _share(found.task), _share(found.one_plan), str(found.verdict)


def _speed(cost: BundleCost) -> str:
    switching = cost.switching
    speeds = table(("plan", "tokens per second"), [(markdown(name), f"{value:.1f}") for name, value in cost.tokens_per_s.items()])
    return (
        f"Switching, at most {switching.modules} modules: median {milliseconds(switching.median_s)}, 99th percentile "
        f"{milliseconds(switching.p99_s)}, n = {switching.n:,} ({markdown(cost.device)}, {cost.threads} threads). Greedy generation:"
        f"\n\n{speeds}"
    )
