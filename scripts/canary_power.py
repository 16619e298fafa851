"""What the canary catches and what it does not take for an alarm, on the embedded model's plan. Results: docs/findings/monitor.md.

    python scripts/canary_power.py breaks       # a scale x 1.1 in every module of every layer, one after another
    python scripts/canary_power.py served       # in one module of every layer, over HTTP, by `bitzones.serve`
    python scripts/canary_power.py unchanged    # 1,000 checks of servers that do not change

``breaks`` and ``unchanged`` ask the model in memory in place of a server; the watch, its state and its tests are those of the command. On
two quiet cores they take about 6, 8 and 3 minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, median

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import bitzones
from bitzones.backends import quantizing
from bitzones.data.sequences import batches, retold
from bitzones.embedded import TINY
from bitzones.models import structure
from bitzones.monitor.canary import FLOOR_NATS
from bitzones.monitor.canary_watch import PROMPTS, CanaryWatch, Server
from bitzones.monitor.completions import Completions
from bitzones.monitor.deviation import deviation
from bitzones.monitor.server_answers import WAYS, Answered, Way
from bitzones.monitor.state import opened
from bitzones.schema.canary_record import CanaryRecord, read_canary
from bitzones.stats.intervals import wilson_interval

ROOT = Path(__file__).resolve().parents[1]
RUN, PLAN = ROOT / "profiles" / "reference" / "h200-tiny.json", ROOT / "docs" / "reports" / "h200-tiny" / "plan.json"
FACTOR, MOST, GOOD_CHECKS, UNCHANGED_CHECKS = 1.1, 200, 3, 1000

Table = torch.Tensor
"""Logits after every pinned prompt, float32, shape (prompts, vocabulary)."""


class InMemory:
    """A server whose answers are computed already; ``noise`` is the deviation of what is added to the logits, anew in every answer."""

    url = "memory"

    def __init__(self, record: CanaryRecord, table: Table, noise: float = 0.0, other: Table | None = None, seed: int = 0) -> None:
        self.way: Way | None = WAYS[0]
        self._place = {prompt.prompt_ids: number for number, prompt in enumerate(record.prompts)}
        self.table, self._noise, self._other = table, noise, other
        self._rng = torch.Generator().manual_seed(seed)

    def next_token(self, ids: tuple[int, ...], text: str, top: int) -> Answered:
        """The answer, from the other table half of the time where there is one."""
        number = self._place[ids]
        table = self.table if self._other is None or torch.rand(1, generator=self._rng) < 0.5 else self._other
        row = table[number]
        if self._noise:
            row = row + self._noise * torch.randn(len(row), generator=self._rng)
        values, tokens = row.log_softmax(-1).topk(top)
        listed: Mapping[Hashable, float] = dict(zip(tokens.tolist(), values.tolist(), strict=True))
        return Answered(listed, "memory", 1)


def plan_model(dtype: torch.dtype) -> PreTrainedModel:
    model: PreTrainedModel = bitzones.apply(PLAN, AutoModelForCausalLM.from_pretrained(TINY, dtype="bfloat16"))
    quantizing.set_compute_dtype(model, dtype)
    model.eval()
    return model


@torch.no_grad()
def table_of(model: PreTrainedModel, record: CanaryRecord) -> Table:
    chosen = retold([" ".join(map(str, prompt.prompt_ids)) for prompt in record.prompts])
    found = [torch.empty(0)] * len(record.prompts)
    for batch in batches(chosen, 64, torch.device("cpu")):
        logits = model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits.float()
        for row, (index, sequence) in enumerate(zip(batch.index, batch.sequences, strict=True)):
            found[index] = logits[row, len(sequence.ids) - 1]
    return torch.stack(found)


def scaled_modules(model: PreTrainedModel) -> Iterator[tuple[int, str, torch.Tensor]]:
    """Layer, module and scales of everything that is quantized."""
    for layer, block in enumerate(structure.decoder_layers(model).values()):
        for name, module in block.named_modules():
            if (scale := getattr(getattr(module, "weight", None), "_scale", None)) is not None:
                yield layer, name, scale


@contextmanager
def broken(scale: torch.Tensor) -> Iterator[None]:
    """The module with wrong scales; they are restored bit for bit."""
    right = scale.clone()
    with torch.no_grad():
        scale.mul_(FACTOR)
        yield
        scale.copy_(right)


def listed(row: torch.Tensor, top: int) -> dict[Hashable, float]:
    values, tokens = row.log_softmax(-1).topk(top)
    return dict(zip(tokens.tolist(), values.tolist(), strict=True))


def noise_of_another_engine(record: CanaryRecord, table: Table) -> float:
    """Deviation of the noise on logits with which answers deviate as much as in the other dtype, on average over the prompts."""
    wanted, low, high = fmean(prompt.noise_nats for prompt in record.prompts), 1e-5, 1.0
    added = torch.randn(table.shape, generator=torch.Generator().manual_seed(1))
    for _ in range(30):
        middle = math.sqrt(low * high)
        seen = fmean(
            deviation(listed(row, record.top), listed(noisy, record.top)) for row, noisy in zip(table, table + middle * added, strict=True)
        )
        low, high = (middle, high) if seen < wanted else (low, middle)
    return math.sqrt(low * high)


@contextmanager
def watch(record: CanaryRecord, server: Server, state: Path, prompts: int = PROMPTS) -> Iterator[CanaryWatch]:
    with opened(state) as kept:
        yield CanaryWatch(record, kept, server, prompts)


def until_alarm(record: CanaryRecord, server: Server, state: Path) -> tuple[int, str]:
    """Prompts until an alarm, and of which tests; 0 for none."""
    with watch(record, server, state) as watching:
        for number in range(1, MOST // PROMPTS + 1):
            check = watching.check()
            if check.alarm:
                return number * PROMPTS, " and ".join(test.name for test in check.tests if test.alarm)
    return 0, ""


def enrolled(record: CanaryRecord, server: Server, place: Path) -> Path:
    """The state after a good server was enrolled and checked a few times."""
    with watch(record, server, place) as watching:
        for _ in range(1 + GOOD_CHECKS):
            assert not watching.check().alarm
    return place


def breaks(record: CanaryRecord, folder: Path) -> dict[str, object]:
    """Every module in turn, on a server that answers the same bit for bit, and on one with the noise of another engine in every answer."""
    model = plan_model(torch.float32)
    good = table_of(model, record)
    sizes = {"deterministic": 0.0, "noisy": noise_of_another_engine(record, good)}
    states = {kind: enrolled(record, InMemory(record, good, size), folder / kind) for kind, size in sizes.items()}
    found: dict[str, dict[str, dict[str, object]]] = {kind: {} for kind in sizes}
    for layer, name, scale in scaled_modules(model):
        with broken(scale):
            table = table_of(model, record)
        seen = fmean(deviation(listed(a, record.top), listed(b, record.top)) for a, b in zip(good, table, strict=True))
        said = [f"layer {layer:2} {name:20} mean deviation {seen:.2e}"]
        for kind, size in sizes.items():
            shutil.copy(states[kind], folder / "broken")
            prompts, by = until_alarm(record, InMemory(record, table, size, seed=2), folder / "broken")
            found[kind][f"{layer} {name}"] = {"prompts": prompts, "by": by, "deviation": seen}
            said.append(f"{kind}: {f'{prompts} prompts, {by}' if prompts else 'not caught'}")
        print("; ".join(said), flush=True)
    return {kind: {"noise_on_logits": sizes[kind], "modules": modules, **summarized(modules)} for kind, modules in found.items()}


def summarized(found: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """Caught modules, and layers of which all modules were caught."""
    caught = {name for name, one in found.items() if one["prompts"]}
    layers = {name.split()[0] for name in found}
    whole = [layer for layer in layers if all(name in caught for name in found if name.split()[0] == layer)]
    interval = wilson_interval(len(caught), len(found))
    share = f"{len(caught)} of {len(found)} modules ({interval.low:.0%} to {interval.high:.0%})"
    print(f"caught {share}, every module in {len(whole)} of {len(layers)} layers", flush=True)
    return {"caught": len(caught), "of": len(found), "whole_layers": len(whole), "layers": len(layers)}


def served(record: CanaryRecord, folder: Path) -> dict[str, object]:
    """Over HTTP by our own server: of each layer the module whose wrong scale deviates least in ``breaks``, and the first."""
    from bitzones.serve import load  # noqa: PLC0415
    from bitzones.serve.http import running  # noqa: PLC0415

    bitzones.export(PLAN, folder / "model")
    model = load(folder / "model")
    found: dict[str, dict[str, object]] = {}
    with running(model) as url, Completions(url) as server:
        state = enrolled(record, server, folder / "good")
        seen: set[int] = set()
        for layer, name, scale in scaled_modules(model.model):
            if layer not in seen and name.endswith("k_proj"):
                seen.add(layer)
                shutil.copy(state, folder / "broken")
                with broken(scale):
                    prompts, by = until_alarm(record, server, folder / "broken")
                found[f"{layer} {name}"] = {"prompts": prompts, "by": by}
                print(f"layer {layer:2} {name:20}: {f'{prompts} prompts, {by}' if prompts else 'not caught'}", flush=True)
    return {"modules": found, **summarized(found)}


def unchanged(record: CanaryRecord, folder: Path) -> dict[str, object]:
    good = table_of(plan_model(torch.float32), record)
    other = table_of(plan_model(torch.bfloat16), record)
    size = noise_of_another_engine(record, good)
    kinds: dict[str, Callable[[], Server]] = {
        "the same engine, deterministic": lambda: InMemory(record, good),
        "another engine, deterministic (bfloat16)": lambda: InMemory(record, other),
        f"noise of another engine in every answer ({size:.3g} on logits)": lambda: InMemory(record, good, size),
        "float32 or bfloat16 by chance, in every answer": lambda: InMemory(record, good, 0.0, other),
    }
    found: dict[str, object] = {}
    for number, (kind, make) in enumerate(kinds.items()):
        with watch(record, make(), folder / str(number)) as watching:
            checks = [watching.check() for _ in range(1 + UNCHANGED_CHECKS)]
        last = {test.name: test for test in checks[-1].tests}
        means = {name: median(test.mean_nats or 0.0 for check in checks[1:] for test in check.tests if test.name == name) for name in last}
        found[kind] = {
            "checks": len(checks),
            "checks_with_an_alarm": sum(check.alarm for check in checks),
            "median_deviation": means,
            "bound": {name: test.bound_nats for name, test in last.items()},
            "peak_evidence": {name: test.peak for name, test in last.items()},
        }
        print(f"{kind}: {found[kind]}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["breaks", "served", "unchanged"])
    parser.add_argument("--canary", type=Path, help="a record of this plan; made where none is given")
    parser.add_argument("-o", "--output", type=Path, help="JSON to write")
    given = parser.parse_args()
    torch.set_num_threads(1)
    record = read_canary(given.canary) if given.canary else bitzones.make_canary(RUN, plan=PLAN)
    memory = Path("/dev/shm")  # noqa: S108  # a folder in memory: the state is written to disk after every answer
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        match given.what:
            case "breaks":
                found = breaks(record, Path(folder))
            case "served":
                found = served(record, Path(folder))
            case _:
                found = unchanged(record, Path(folder))
    settings = {"prompts": len(record.prompts), "prompts_of_a_check": PROMPTS, "factor": FACTOR, "floor_nats": FLOOR_NATS}
    if given.output:
        given.output.write_text(json.dumps({**settings, **found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
