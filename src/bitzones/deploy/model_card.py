"""The README.md of a deployed folder: which model, what was done to each layer, how far it is from the original, how to load it.

A plan may come from anywhere, so nothing in it is trusted: names are escaped for Markdown, HTML and YAML. This module reads no model.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bitzones import __version__
from bitzones.analysis.plan import Plan, PlannedModel
from bitzones.schema.environment import versions
from bitzones.schema.profile_sections import HUB_ID
from bitzones.stats.intervals import CONFIDENCE

__all__ = ["QUANTO", "SNIPPET", "Card", "escaped", "layer_table", "model_card"]

SNIPPET = """\
from optimum.quanto import QuantizedModelForCausalLM
from transformers import AutoTokenizer
model, tokenizer = QuantizedModelForCausalLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")
tokens = model.generate(**tokenizer("How many legs do two dogs have?", return_tensors="pt"), max_new_tokens=20)
print(tokenizer.decode(tokens[0]))
"""

LONGEST = 160
"""Characters of a name that are shown."""

_NOT_PLAIN = re.compile(r"[^\w\s.,:/()+=-]|_(?!\w)|(?<!\w)_|:(?=//)|(?<=[wW]{3})\.")


def escaped(text: str) -> str:
    """One line of text that Markdown and HTML show as it is, in a table cell too, and make no link of.

    >>> escaped("q_proj"), escaped("a|<b> https://x")
    ('q_proj', 'a&#124;&#60;b&#62; https&#58;//x')
    """
    line = " ".join(text.split())
    shown = "".join("\ufffd" if unicodedata.category(letter) in {"Cc", "Cf", "Cs", "Co", "Cn"} else letter for letter in line)
    cut = shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}\u2026"
    return _NOT_PLAIN.sub(lambda match: f"&#{ord(match[0])};", cut)


@dataclass(frozen=True)
class Card:
    """What a target adds to the card: names that are its own, and Markdown that is not a stranger's.

    ``library`` is what loads the folder, as the hub names it; ``by`` what its weights were quantized by; ``load`` how to load it;
    ``stored`` what each format of the plan is called there.
    """

    library: str
    by: str
    load: str
    stored: tuple[str, ...] = ()
    files: str = "`plan.json` is the plan"


QUANTO = Card(
    "optimum-quanto",
    "quantized by [optimum-quanto](https://github.com/huggingface/optimum-quanto)",
    f"""\
`pip install optimum-quanto transformers accelerate ninja`; 4-bit and 2-bit weights need a C++ compiler on a CPU (quanto compiles an
extension, once). In this folder:

```python
{SNIPPET}```

`bitzones apply --check .` tells whether the folder is whole and computes what it did when it was made.""",
    files="`plan.json` is the plan, `quanto_qmap.json` what quanto makes of it",
)


def model_card(plan: Plan, model: PlannedModel, layers: Mapping[str, int], bytes_before: int, bytes_after: int, card: Card = QUANTO) -> str:
    """The text of README.md.

    Args:
        plan: as it was applied.
        model: that of the plan.
        layers: quantizable module -> number of its layer.
        bytes_before: of all weights, in the model's own dtype.
        bytes_after: of all weight files in the folder.
        card: what the target adds.
    """
    return f"""\
{_front_matter(model, card)}

# {escaped(_name(model))}, quantized layer by layer

{escaped(model.architecture)}, {card.by} with the formats that bitzones
planned from measured sensitivities. All weights: {bytes_before / 1e6:,.3f} MB in {escaped(model.dtype)}, {bytes_after / 1e6:,.3f} MB here.
The license of the base model holds.

## How to load it

{card.load}

## How far it is from the original

{_distance(plan)}

## What was done to each layer

{layer_table(plan, layers)}

{_stored(card)}Modules that are not named, the embeddings among them, stay as they are.

## Made with

{_made_with(plan, model, card)}
"""


def _front_matter(model: PlannedModel, card: Card) -> str:
    """YAML; a JSON string is one, whatever it holds. The hub refuses a ``base_model`` that is no id of its own."""
    source = json.dumps(model.source)
    on_hub = HUB_ID.fullmatch(model.source) and not Path(model.source).exists()
    base = [f"base_model: {source}", "base_model_relation: quantized"] if on_hub else [f"# base_model: no id of the hub: {source}"]
    tag = card.library.removeprefix("optimum-")
    return "\n".join(("---", *base, f"library_name: {card.library}", "pipeline_tag: text-generation", f"tags: [{tag}, bitzones]", "---"))


def _stored(card: Card) -> str:
    return "".join(f"- {line}\n" for line in card.stored) + "\n" if card.stored else ""


def _name(model: PlannedModel) -> str:
    """The source without the folders of the machine that measured."""
    return model.source if HUB_ID.fullmatch(model.source) else re.split(r"[/\\]", model.source.rstrip("/\\"))[-1] or model.source


def _distance(plan: Plan) -> str:
    measured, predicted = plan.measured_kl, plan.predicted_kl
    said = f"predicted {_kl(predicted.value, predicted.low, predicted.high)}: a sum over units measured one by one"
    if measured is None:
        line = f"KL(original || this): {said}; predicted, not measured as a whole. Separate sensitivities do not add up at 2 bits."
    else:
        on = "" if plan.measured_sequences is None else f" on {plan.measured_sequences} held-out sequences"
        line = f"KL(original || this), measured as a whole{on}: {_kl(measured.value, measured.low, measured.high)}; {said}."
    return f"""\
{line}

{plan.achieved.average_bits:.2f} stored bits per weight of the units that the plan decides, scales and shifts counted:
{plan.achieved.stored_bytes / 1e6:,.3f} MB instead of {plan.reference_bytes / 1e6:,.3f} MB.

{_accuracy(plan)}"""


def _accuracy(plan: Plan) -> str:
    """What the plan as a whole got right, with Wilson's interval and the verdict against the original on the same items."""
    if not plan.accuracy:
        return "Accuracy on tasks: not measured with this plan."
    lines = ["| task | metric | items | right | 95% interval | against the original |", "| --- | --- | ---: | ---: | ---: | --- |"]
    for item in plan.accuracy:
        share, verdict = item.share, "not measured" if item.verdict is None else str(item.verdict)
        interval = f"{share.low:.1%} to {share.high:.1%}"
        lines.append(f"| {escaped(item.task)} | {escaped(item.metric)} | {item.n} | {share.value:.1%} | {interval} | {verdict} |")
    return "\n".join(lines)


def _kl(value: float, low: float | None, high: float | None) -> str:
    interval = "no interval: too few sequences" if low is None or high is None else f"{CONFIDENCE:.0%} interval {low:.3g} to {high:.3g}"
    return f"{value:.3g} nats per token ({interval})"


def layer_table(plan: Plan, layers: Mapping[str, int]) -> str:
    """A row for each layer: its formats, and the modules at each of them where there are several. Modules outside the layers come last."""
    rows: defaultdict[int | None, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, format_name in plan.assignment.items():
        rows[layers.get(name)][format_name].append(name)
    ordered = sorted(rows.items(), key=lambda row: (row[0] is None, row[0] or 0))
    lines = ["| layer | formats |", "| --- | --- |"]
    lines += [f"| {'others' if layer is None else layer} | {_formats(formats, whole=layer is not None)} |" for layer, formats in ordered]
    return "\n".join(lines)


def _formats(formats: Mapping[str, list[str]], *, whole: bool) -> str:
    if whole and len(formats) == 1:
        return escaped(next(iter(formats)))
    return "; ".join(
        f"{escaped(format_name)}: {', '.join(escaped(name.rpartition('.')[2] if whole else name) for name in names)}"
        for format_name, names in formats.items()
    )


def _made_with(plan: Plan, model: PlannedModel, card: Card) -> str:
    measured = ", ".join(f"{escaped(name)} {escaped(version)}" for name, version in plan.versions.items())
    here = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"""\
- applied by bitzones {__version__} with {here}
- planned by bitzones {escaped(plan.bitzones)}, measured with {measured}, arithmetic in {escaped(model.compute_dtype)}
- base model: {escaped(model.source)}, SHA-256 of its weights {escaped(model.sha256)}
- calibration data {escaped(plan.sequences_sha256)}, profile {escaped(plan.profile_sha256)}
- {card.files}"""
