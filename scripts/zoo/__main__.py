"""Measure every architecture of the zoo and write docs/architectures.md.

python -m scripts.zoo                  # measure all, write the page
python -m scripts.zoo --check          # measure all; fail where something breaks or the page is stale (tox -e zoo)
python -m scripts.zoo llama bloom      # only these; no page
python -m scripts.zoo --all            # every causal model that transformers has and that can be made tiny; no page
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from pathlib import Path

from scripts.zoo.architectures import ZOO
from scripts.zoo.page import VERSIONS, page
from scripts.zoo.specimen import Found
from scripts.zoo.workers import examined

PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"


def every_causal_model() -> list[str]:
    """Names of all configurations that transformers has a causal model of, without those of the zoo."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES  # noqa: PLC0415

    return [name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name not in ZOO]


def line(found: Found) -> str:
    """One architecture on the screen."""
    rest = "; ".join((*found.stays, *found.left_out, *([found.line] if found.line else [])))
    return f"{found.name:24} {found.status:10} {found.architecture:32} {rest[:400]}".rstrip()


def main() -> None:
    """Measure, print, and exit 1 where an architecture breaks or the page is stale."""
    parser = argparse.ArgumentParser(description="Measure a tiny random model of every architecture.")
    parser.add_argument("names", nargs="*", help="rows of the zoo, or any model_type of transformers; all of the zoo where none is named")
    parser.add_argument("--check", action="store_true", help="compare docs/architectures.md instead of writing it")
    parser.add_argument("--all", action="store_true", help="every other causal model of transformers")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    names = given.names or (every_causal_model() if given.all else list(ZOO))
    found: dict[str, Found] = {}
    for item in examined(names, given.processes):
        found[item.name] = item
        print(line(item), flush=True)
    print(", ".join(f"{count} {status}" for status, count in Counter(item.status for item in found.values()).most_common()))
    faults = [name for name, item in found.items() if item.status == "fault"]
    if faults:
        raise SystemExit(f"{len(faults)} break: {', '.join(faults)}")
    if not given.names and not given.all:
        settle(page(found), check=given.check)


def settle(text: str, *, check: bool) -> None:
    """Write the page, or see that it is what is there already but for the versions in it."""
    if not check:
        PAGE.write_text(text, encoding="utf-8")
    elif VERSIONS.sub("", PAGE.read_text(encoding="utf-8")) != VERSIONS.sub("", text):
        raise SystemExit(f"{PAGE} is stale: python -m scripts.zoo writes it")


if __name__ == "__main__":
    main()
