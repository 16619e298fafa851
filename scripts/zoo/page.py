"""docs/architectures.md, from what became of each architecture."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from scripts.zoo.architectures import ZOO
from scripts.zoo.specimen import FORMATS, Found

__all__ = ["VERSIONS", "page"]

VERSIONS = re.compile(r"^Measured with .*$", re.MULTILINE)
"""The line that another version of a package changes, and nothing else need."""

INTRO = """\
Written by `python -m scripts.zoo`; do not edit. CI measures every row (`tox -e zoo`), on a tiny model with random weights that is saved by
transformers and loaded as any folder is: accuracy, likelihood, latency and memory of the formats {formats};
KL, the exact sweep, the Fisher proxy, calibrated rounding, a searched plan, and the plan applied in memory and as a checkpoint, which
quanto alone reloads. A model that is not in the list is read by the same rules, since none of them goes by a name."""

CHECKS = """\
## What is checked of each

- A pass that starts at any layer, on hidden states that were kept, gives the logits of the full pass bit for bit.
- Every unit with the reference's own weights in it has a KL of exactly 0.
- A unit with other weights has the KL in a sweep, which runs only the layers from its own on, that it has in a whole pass, bit for bit.
- The bytes of all units and of what stays add up to those of the files, before and after a plan is applied.
- Every layer of the decoder has a part in the logits.
- A plan applied in memory and its checkpoint, reloaded by quanto alone, give the same logits bit for bit."""

STAYS = """\
What stays keeps the reference's format, is counted in every size, and is named in the report. A class under "what stays" is no
plain `torch.nn.Linear`, and quanto has no quantized counterpart of it: where experts are fused, that is most of a model's weights. All that
is not left out is measured. Shapes that a kernel takes on some processors only are not listed: a run asks the processor at hand."""

COLUMNS = {
    "supported": ("## Supported", "Every matrix of the decoder layers can be quantized, and everything is measured."),
    "in part": ("## In part", STAYS),
    "refused": ("## Refused", "In one line, before anything is measured. The line is the last column."),
}


def page(found: Mapping[str, Found]) -> str:
    """The whole page.

    Args:
        found: by name, all of them.
    """
    rows = {status: [found[name] for name in ZOO if found[name].status == status] for status in COLUMNS}
    counts = ", ".join(f"{len(items)} {status}" for status, items in rows.items())
    intro = INTRO.format(formats=", ".join(f"`{name}`" for name in FORMATS))
    packages = ", ".join(f"{name} {version(name)}" for name in ("transformers", "torch", "optimum-quanto"))
    pieces = ["# Architectures", intro, f"Measured with {packages}.", f"{len(found)} architectures: {counts}."]
    for status, items in rows.items():
        if items:
            pieces += [*COLUMNS[status], _table(status, items)]
    return "\n\n".join((*pieces, CHECKS)) + "\n"


def _table(status: str, items: Sequence[Found]) -> str:
    heads = {
        "supported": ("models", "`model_type`", "class"),
        "in part": ("models", "`model_type`", "class", "what stays", "what is left out"),
        "refused": ("models", "`model_type`", "class", "why"),
    }[status]
    lines = [_row(heads), _row(["---"] * len(heads))]
    for item in items:
        last = {"supported": (), "in part": (_stays(item), "; ".join(map(_cell, item.left_out)) or "-"), "refused": (_cell(item.line),)}
        lines.append(_row((ZOO[item.name], f"`{item.name.partition(':')[0]}`", f"`{item.architecture}`", *last[status])))
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _stays(item: Found) -> str:
    return "; ".join(f"`{name}`" if name.isidentifier() else _cell(name) for name in item.stays) or "-"


def _cell(text: str) -> str:
    return re.sub(r"([|<>*_`\[\]])", r"\\\1", text)
