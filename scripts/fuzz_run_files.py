"""Hostile run files, as many as asked for: each must give one clear error or a correct report, and never a traceback or an unescaped text.

A good run is mutated (values, types, structure, whole columns, names everywhere, text cut or torn), then collected and compared with the
good one in both directions. What is found is printed with the seed that repeats it; the exit code is then 1.

    python scripts/fuzz_run_files.py --inputs 100000
    python scripts/fuzz_run_files.py --seed 1234 --inputs 1     # one input again, with its traceback
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bitzones.analysis.analyze import analyse, read_run
from bitzones.analysis.reader import RunFile
from bitzones.regression.compare import compare
from bitzones.regression.drift import MIN_FREEDOM, between, timed
from bitzones.report.markdown.summary import headline, summary
from bitzones.report.mermaid.flow import overview, technical
from bitzones.report.regression.delta import delta, delta_json, delta_lines
from bitzones.schema.errors import BitzonesError
from bitzones.schema.profile_sections import Gate

GOOD = Path(__file__).parents[1] / "tests" / "golden" / "run.json"
BAD_TEXT = '<script>alert(1)</script>|`c`\n# h "q" ]) --> end; %%{init}%% [x](http://y) ```\x1b[31m\u202e$x$ @you **b** \\'
NEVER = ("\x1b", "\u202e", "\x00")
"""What stands in no text at all, however it came into the file."""
NEVER_MARKDOWN = (*NEVER, "<script", "](http://y", "%%{init}%%", "**b**", "```\ufffd[31m")
"""What stands in no Markdown besides: on a terminal these are mere letters."""
NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 2, 1e308, -1e308, 1.7e308, 1e155, 1e-308, 5e-324, 1e20, 2**31, 2**53, 2**63, 2**64, 10**400, -(10**30), 0.5),
    *(math.nan, math.inf, -math.inf),
)
VALUES: tuple[Any, ...] = (*NUMBERS, None, True, False, "", "0", BAD_TEXT, "x" * 100_000, [], {}, [[]], [None], {"a": 1}, [1e308] * 3)

MEMORY = 4 * 2**30
"""Bytes of address space that a small file may make the collector take: past it a MemoryError is the fault that is found."""

Mutation = Callable[[random.Random, Any], Any]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything, columns by their first items only, so that structure is met as often as numbers."""
    found = [path] if path else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += places(item, (*path, key))
    elif isinstance(value, list):
        for index in range(min(len(value), 3 if value and not isinstance(value[0], dict) else 40)):
            found += places(value[index], (*path, index))
    return found


def holder(data: Any, path: tuple[Any, ...]) -> Any:
    for step in path[:-1]:
        data = data[step]
    return data


def replaced(rng: random.Random, data: Any) -> Any:
    path = rng.choice(places(data))
    holder(data, path)[path[-1]] = rng.choice(VALUES)
    return data


def column(rng: random.Random, data: Any) -> Any:
    """Every number below one place becomes one number, or is scaled: what passes a check of a single value."""
    path = rng.choice(places(data))
    number, scale = rng.choice(NUMBERS), rng.random() < 0.5

    def change(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: change(item) for key, item in value.items()}
        if isinstance(value, list):
            return [change(item) for item in value]
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        return value * number if scale and abs(number) < 1e300 and abs(value) < 1e300 else number

    holder(data, path)[path[-1]] = change(holder(data, path)[path[-1]])
    return data


def removed(rng: random.Random, data: Any) -> Any:
    path = rng.choice(places(data))
    del holder(data, path)[path[-1]]
    return data


def doubled(rng: random.Random, data: Any) -> Any:
    lists = [path for path in places(data) if isinstance(holder(data, path), list)]
    path = rng.choice(lists)
    inner = holder(data, path)
    inner.insert(rng.randrange(len(inner) + 1), copy.deepcopy(inner[path[-1]]))
    return data


def swapped(rng: random.Random, data: Any) -> Any:
    first, second = rng.choice(places(data)), rng.choice(places(data))
    if first[: len(second)] == second or second[: len(first)] == first:
        return data
    a, b = holder(data, first), holder(data, second)
    a[first[-1]], b[second[-1]] = b[second[-1]], a[first[-1]]
    return data


def extended(rng: random.Random, data: Any) -> Any:
    path = rng.choice([path for path in places(data) if isinstance(holder(data, path), dict)])
    holder(data, path)[rng.choice(("watts", "schema", "kind", BAD_TEXT, ""))] = rng.choice(VALUES)
    return data


def renamed(rng: random.Random, data: Any) -> Any:
    """A string gets a hostile end wherever it stands, so that the file stays consistent."""
    text = json.dumps(data)
    strings = sorted({item for path in places(data) if isinstance(item := holder(data, path)[path[-1]], str) and item})
    chosen = rng.choice(strings)
    return json.loads(text.replace(json.dumps(chosen), json.dumps(chosen + BAD_TEXT)))


def few(rng: random.Random, data: Any) -> Any:
    """Only some of the cells, in any order."""
    data["benchmarks"] = rng.sample(data["benchmarks"], rng.randrange(len(data["benchmarks"]) + 1))
    return data


def deep(rng: random.Random, data: Any) -> Any:
    value: Any = 1
    for _ in range(rng.choice((10, 100, 900))):
        value = [value] if rng.random() < 0.5 else {"a": value}
    path = rng.choice(places(data))
    holder(data, path)[path[-1]] = value
    return data


STRUCTURED: tuple[Mutation, ...] = (replaced, column, column, removed, doubled, swapped, extended, renamed, few, deep)


def torn(rng: random.Random, text: str) -> bytes:
    """The text cut, or with something put into it; 100,000 brackets deep at times."""
    at = rng.randrange(len(text))
    match rng.randrange(5):
        case 0:
            return text[:at].encode()
        case 1:
            return (text[:at] + rng.choice(("\x00", '"', "{", "]", "NaN", "1e999", ",", "\ud800")) + text[at:]).encode(
                errors="surrogatepass"
            )
        case 2:
            return (text[:at] + text[at + rng.randrange(1, 50) :]).encode()
        case 3:
            return bytes(rng.randrange(256) for _ in range(rng.randrange(200)))
        case _:
            return (rng.choice(("[", '{"a":', '{"benchmarks": ')) * rng.choice((10, 100_000))).encode()


def hostile(rng: random.Random, good: str) -> bytes:
    """One hostile file: up to four mutations of a good one, or its text torn."""
    if rng.random() < 0.1:
        return torn(rng, good)
    data = json.loads(good)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        try:
            data = rng.choice(STRUCTURED)(rng, data)
        except (
            IndexError,
            KeyError,
            TypeError,
            AttributeError,
            OverflowError,
            RecursionError,
        ):  # an earlier mutation took what this one needs
            continue
    try:
        return json.dumps(data).encode(errors="surrogatepass")
    except RecursionError:  # deeper than it can be written: as text then
        return torn(rng, good)


def shown(good: RunFile, run: RunFile) -> Iterator[tuple[str, bool]]:
    """Everything that is shown of a run, collected and compared, and whether it is Markdown."""
    times = [timed(item).medians for item in (good, run)]
    past = between([times] * MIN_FREEDOM)  # as if both were runs of one release, and as many releases as make a history
    for pair in ((good, run), (run, good)):
        comparison = compare(*pair, Gate(), past)
        delta_json(comparison)
        yield delta(comparison, 0), True
        yield "\n".join(delta_lines(comparison, 0)), False
    analysis = analyse(run)
    analysis.model_dump_json(by_alias=True)
    yield from ((text, True) for text in (summary(analysis), overview(analysis), technical(analysis)))
    yield "\n".join(headline(analysis)), False


def tried(path: Path, good: RunFile) -> str:
    """``refused`` or ``reported``; anything else raises."""
    try:
        said, word = list(shown(good, read_run(path))), "reported"
    except BitzonesError as error:
        said, word = [(str(error), False)], "refused"
        if "\n" in said[0][0] or not said[0][0].strip():
            raise AssertionError(f"not one line: {said[0][0]!r}") from error
    if bad := sorted({token for text, marked in said for token in (NEVER_MARKDOWN if marked else NEVER) if token in text}):
        raise AssertionError(f"unescaped: {bad}")
    return word


def good_text() -> str:
    """The run that is mutated: few resamples, since it is not the statistics that are tried."""
    data = json.loads(GOOD.read_text(encoding="utf-8"))
    data["bitzones"]["profile"]["zones"]["resamples"] = 20
    return json.dumps(data)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first input; the next has the next")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after this long")
    given = parser.parse_args()
    warnings.simplefilter("error")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    outcomes: Counter[str] = Counter()
    faults: dict[str, int] = {}
    text, started, sizes = good_text(), time.monotonic(), 0
    slowest = (0.0, given.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, path = Path(folder, "good.json"), Path(folder, "run.json")
        whole.write_text(text, encoding="utf-8")
        good = read_run(whole)
        for seed in range(given.seed, given.seed + given.inputs):
            content = hostile(random.Random(seed), text)
            sizes += len(content)
            path.write_bytes(content)
            began = time.monotonic()
            try:
                outcomes[tried(path, good)] += 1
            except Exception as error:  # noqa: BLE001 (whatever a hostile file raises is what is looked for)
                outcomes["FAULT"] += 1
                steps = [step for step in traceback.extract_tb(error.__traceback__) if "bitzones" in step.filename]
                where = f"{Path(steps[-1].filename).name}:{steps[-1].lineno}" if steps else "here"
                faults.setdefault(f"{type(error).__name__} at {where}: {str(error)[:120]!r}", seed)
                if given.inputs == 1:
                    traceback.print_exc()
            slowest = max(slowest, (time.monotonic() - began, seed))
            if time.monotonic() - started > given.seconds:
                break
    took = time.monotonic() - started
    count = max(1, outcomes.total())
    longest = f"the slowest {slowest[0]:.1f} s (seed {slowest[1]})"
    print(f"{count:,} inputs of {sizes / count / 1e3:.0f} kB on average in {took:.0f} s, {longest}: {dict(outcomes)}")
    for fault, seed in faults.items():
        print(f"seed {seed}: {fault}")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
