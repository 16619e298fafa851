r"""Our mixed 2/4-bit plans beside those of NVIDIA ModelOpt AutoQuantize and AutoRound AutoScheme: the same sequences, bytes and measure.

Every plan is made from the same sensitivity tokens and covers the linear layers of the decoder layers only. A peer's plan is read out and
quantized by quanto like ours, counted by our bytes (scales and shifts, as quanto stores them), and measured like ours on sequences that
nobody has seen. From the top of a checkout, with an interpreter for each peer:

    uv venv peers/modelopt && uv pip install -p peers/modelopt/bin/python torch==2.13.0 'nvidia-modelopt[hf]==0.47.*'
    uv venv peers/autoround && uv pip install -p peers/autoround/bin/python torch==2.13.0 'auto-round==0.16.*'
    python -m scripts.compare_peers SOURCE --data DATA --work WORK --modelopt peers/modelopt/bin/python \
        --autoround peers/autoround/bin/python

SOURCE is a model as in a profile, DATA a folder with ai2_arc and svamp. WORK keeps what was measured: a run that was cut off goes on, and
``table.md`` in it has what there is so far. Peers' answers in it are taken as they are, so that they can be made on one machine and
measured on another with a GPU (``--device cuda``). ``--speed`` times scoring instead, on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scripts.peers import ours
from scripts.peers.ours import FORMATS, Measured, Ours
from tabulate import tabulate

from bitzones.schema import environment
from bitzones.schema.profile_sections import HeadUse
from bitzones.schema.sensitivity_cells import FisherCell, SensitivityCell
from bitzones.sensitivity import fisher, sweep
from bitzones.stats import bootstrap, intervals

RESAMPLES = 10_000
GOAL = 0.75
"""Our KL by the best peer's."""

SEARCHED = "ours, after search"
BITS = {2: FORMATS["w2"], 4: FORMATS["w4"]}
TOP = Path(__file__).resolve().parents[1]
HOW = "uv venv FOLDER && uv pip install -p FOLDER/bin/python torch==2.13.0"


@dataclass(frozen=True)
class Peer:
    """Another tool: how its table rows are called, its script, what to install, and its interpreter."""

    name: str
    script: str
    package: str
    python: Path | None
    method: str | None = None
    quanto_values: bool = False


@dataclass(frozen=True)
class Row:
    """A plan at a budget, or why there is none."""

    name: str
    bits: float
    measured: Measured | str


class PeerError(Exception):
    """Why a peer gave no plan, in one line."""


def ask(peer: Peer, mine: Ours, targets: Sequence[str], *, kept: bool) -> dict[str, Any]:
    """A peer's answer (`scripts.peers.request`), from its own interpreter; the one that is ``kept`` in the work folder where there is one.

    Raises:
        PeerError: there is no interpreter, or it failed.
    """
    asked = f"{mine.sensitivity_set.sha256} {[*targets, peer.method, peer.quanto_values]}"
    out = mine.work / f"{peer.script}-{hashlib.sha256(asked.encode()).hexdigest()[:12]}.json"
    if not kept:
        out.unlink(missing_ok=True)
    if not out.exists():
        if peer.python is None or not peer.python.exists():
            raise PeerError(f"no interpreter; {HOW} '{peer.package}', then name FOLDER/bin/python")
        print(f"{peer.name} ...", flush=True)
        options = (["--method", peer.method] if peer.method else []) + (
            ["--values", str(mine.values().resolve())] if peer.quanto_values else []
        )
        command = [str(peer.python.absolute()), "-m", f"scripts.peers.{peer.script}", str(mine.work.resolve()), str(out.resolve())]
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        log = out.with_suffix(".log")
        with log.open("w") as output:
            done = subprocess.run([*command, *targets, *options], cwd=TOP, env=clean, stdout=output, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            last = next((line for line in reversed(log.read_text(errors="replace").splitlines()) if line.strip()), "no output")
            raise PeerError(f"exit {done.returncode}: {last[:200]} (all of it in {log.name})")
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def rows(mine: Ours, peers: Sequence[Peer], bits: Sequence[float], rounds: int) -> Iterator[tuple[Row, Mapping[str, str]]]:
    """Every plan, measured as soon as it is there, with the versions and notes of who made it; what takes longest comes last."""
    targets = {budget: f"{budget - mine.shared_bits:.6f}" for budget in bits}  # without scales and shifts, as the peers count
    larger: list[tuple[str, float, float]] = []
    for peer in peers:
        for budget, target in targets.items():
            try:
                answer = ask(peer, mine, list(targets.values()), kept=True)
            except PeerError as error:
                yield Row(peer.name, budget, f"not available: {error}"), {}
                continue
            plan = {module: BITS[number] for module, number in answer["plans"][target].items()}
            yield Row(peer.name, budget, mine.measured(plan)), {**answer["versions"], peer.name: answer["note"]}
            if mine.bits(plan) > budget:
                larger.append((peer.name, budget, mine.bits(plan)))
    for budget in bits:
        yield Row("ours, fisher scores", budget, mine.measured(mine.by_fisher(budget))), {}
        yield Row("ours, separate sensitivities", budget, mine.measured(mine.additive(budget))), {}
    for budget in bits:
        yield Row(SEARCHED, budget, mine.measured(mine.found(mine.searched(budget, rounds)))), {}
    for name, budget, used in larger:
        yield Row(f"{SEARCHED}, at the bytes of {name}", budget, mine.measured(mine.found(mine.searched(used, rounds)))), {}


def table(mine: Ours, found: Sequence[Row]) -> str:
    """In Markdown, budgets in order; every interval from the same resamples of the held-out sequences."""
    tokens = np.array(mine.held_out.sequence_tokens, dtype=np.float64)
    weights = bootstrap.resample_weights(len(tokens), RESAMPLES, ours.SEED)
    best = {row.bits: row.measured for row in found if row.name == SEARCHED}
    lines = []
    for row in sorted(found, key=lambda row: row.bits):
        if isinstance(row.measured, str):
            lines.append([f"{row.bits:g}", row.name, "", row.measured.replace("|", "\\|"), ""])
            continue
        kl, reference = np.asarray(row.measured.kl_nats), best.get(row.bits)
        ratio = ""
        if isinstance(reference, Measured) and row.name != SEARCHED:
            ratio = _text(bootstrap.bootstrap_ratio(weights, np.asarray(reference.kl_nats), kl))
        used = row.measured.stored_bytes * 8 / mine.parameters
        lines.append([f"{row.bits:g}", row.name, f"{used:.4f}", _text(bootstrap.bootstrap_ratio(weights, kl, tokens)), ratio])
    heads = ["budget, bits", "plan", "stored bits", "held-out KL, nats/token (95%)", "KL after search / its KL (95%)"]
    return tabulate(lines, heads, tablefmt="github", disable_numparse=True)


def _text(value: intervals.Estimate) -> str:
    return f"{value.value:.3f}" + ("" if value.low is None else f" ({value.low:.3f} to {value.high:.3f})")


def footer(mine: Ours, said: Mapping[str, str], rounds: int) -> str:
    """What was measured, on what, with which versions."""
    known = {name: version(name) for name in ("torch", "transformers", "optimum-quanto")}
    notes = "".join(f" {name}: {note}." for name, note in said.items() if " " in note)
    versions = ", ".join(
        f"{name} {number}" for name, number in (known | {n: v for n, v in said.items() if n in {"nvidia-modelopt", "auto-round"}}).items()
    )
    sizes = sorted({str(size) for size in mine.sizes().values()})
    used, kept = mine.sensitivity_set.sequence_tokens, mine.held_out.sequence_tokens
    return (
        f"Calibration: {len(used)} sequences, {sum(used)} tokens, the same for all; held out: {len(kept)} sequences, {sum(kept)} tokens, "
        f"seen by none. Linear layers of the decoder layers only, {mine.parameters} weights; every plan quantized by quanto "
        f"({', '.join(FORMATS.values())}; groups of {' and '.join(sizes)}; scales and shifts take {mine.shared_bits:g} bits per weight in "
        f"any plan, so a peer is asked for that much less). Fisher: {ours.FISHER_SAMPLES} label samples; search: {rounds} rounds.{notes} "
        f"Intervals: bootstrap over sequences, paired. Goal: {GOAL:g} of the best peer. {versions}; float32 on {_device(mine)}."
    )


def _device(mine: Ours) -> str:
    device = mine.variants.device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else environment.cpu_name()


def speeds(mine: Ours, peers: Sequence[Peer]) -> str:
    """Tokens scored per second, 2 formats: the passes that score alone; quantizing the weights once beforehand is not in it, for nobody.

    Beside them, how narrow the result is: the median over units and formats of a sensitivity's standard error, as a share of it. A peer
    gives none; the whole head's is what the same sequences have with any method that computes their KL.
    """
    tokens = sum(mine.sensitivity_set.sequence_tokens)
    for variant in FORMATS:
        mine.variants.packed(variant)
    lines = []
    for name, work in _scorings(mine).items():
        started = time.perf_counter()
        found = work()
        took = time.perf_counter() - started
        lines.append([name, f"{tokens / took:.2f}", f"{_standard_error(found):.2%}" if isinstance(found, SensitivityCell) else ""])
        print(*lines[-1], flush=True)
    for peer in peers:
        try:
            answer = ask(peer, mine, [f"{3 - mine.shared_bits:.6f}"], kept=False)
            lines.append([peer.name, f"{answer['tokens'] / answer['seconds']:.2f}", ""])
        except PeerError as error:
            lines.append([peer.name, f"not available: {error}", ""])
        print(*lines[-1], flush=True)
    threads = f"{tokens} tokens, {len(mine.units)} groups, 2 formats, float32, threads: {torch.get_num_threads()}, {_device(mine)}."
    heads = ["scoring", "tokens/s", "standard error of a sensitivity"]
    return tabulate(lines, heads, tablefmt="github", disable_numparse=True) + f"\n\n{threads}"


def _scorings(mine: Ours) -> dict[str, Callable[[], FisherCell | SensitivityCell]]:
    """Our ways of scoring."""

    def exact(head: HeadUse) -> SensitivityCell:
        return sweep.exact_cell(mine.variants, mine.units, "group", mine.sensitivity_set, mine.batches(), lambda _: None, head)

    return {
        f"ours, fisher, {ours.FISHER_SAMPLES} samples": lambda: fisher.fisher_cell(
            mine.variants, mine.units, mine.sensitivity_set, mine.batches(), ours.FISHER_SAMPLES, ours.SEED, lambda _: None
        ),
        "ours, exact, sampled head": lambda: exact("sampled"),
        "ours, exact, whole head": lambda: exact("whole"),
    }


def _standard_error(cell: SensitivityCell) -> float:
    """Median over units and formats of the standard error of nats per token, as a share of them: of a ratio over sequences, linearized."""
    tokens = np.array(cell.sequence_tokens, dtype=np.float64)
    kls = (np.asarray(item.kl_nats) for item in cell.measurements if item.kl_nats is not None)
    errors = [np.sqrt(len(kl)) * np.std(kl - kl.sum() / tokens.sum() * tokens, ddof=1) / kl.sum() for kl in kls if kl.sum() > 0]
    return float(np.median(errors))


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description="Compare our plans with ModelOpt's and AutoRound's.")
    parser.add_argument("source", help="a model as in a profile, such as a .gguf file")
    parser.add_argument("--data", type=Path, required=True, help="a folder with ai2_arc and svamp in the hub's layout")
    parser.add_argument("--work", type=Path, required=True, help="a folder for what is measured")
    parser.add_argument("--modelopt", type=Path, help="an interpreter with nvidia-modelopt[hf] 0.47")
    parser.add_argument("--autoround", type=Path, help="an interpreter with auto-round 0.16")
    parser.add_argument("--bits", type=float, nargs="+", default=[3.0, 3.5])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--held-out", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="for our side; peers keep to the CPU")
    parser.add_argument("--speed", action="store_true", help="time scoring instead")
    parser.add_argument("--kl-div", action="store_true", help="with --speed: ModelOpt's kl_div too, which is slow")
    given = parser.parse_args()
    modelopt = Peer("ModelOpt AutoQuantize", "modelopt_plan", "nvidia-modelopt[hf]==0.47.*", given.modelopt)
    autoround = Peer("AutoRound AutoScheme", "autoround_plan", "auto-round==0.16.*", given.autoround)
    nearest = replace(autoround, name="AutoRound AutoScheme, formats nearest to quanto's", method="nearest")
    on_quanto = replace(modelopt, name="ModelOpt AutoQuantize on quanto's values", quanto_values=True)
    kl_div = replace(modelopt, name="ModelOpt AutoQuantize, kl_div", method="kl_div")
    mine = ours.load(given.source, given.data, given.work, given.tokens, given.held_out, given.device)
    if given.speed:
        print(speeds(mine, [modelopt, autoround, *([kl_div] if given.kl_div else [])]))
        return
    found: list[Row] = []
    said: dict[str, str] = {}
    text = ""
    for row, more in rows(mine, [modelopt, on_quanto, autoround, nearest], given.bits, given.rounds):
        found.append(row)
        said |= more
        text = f"{table(mine, found)}\n\n{footer(mine, said, given.rounds)}\n"
        (given.work / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
