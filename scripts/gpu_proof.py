"""The second half of gpu_proof.sh: what two runs show, held against what is promised, and three measurements that are no cells of a run.

Prints one line for each promise with the number that was measured, writes them beside the run files, and exits with 1 where one is broken.
At toy scale every number is printed and none is judged: on a CPU none of them is promised.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from bitzones.analysis.analyze import analyse, read_run
from bitzones.analysis.contention import contended_by
from bitzones.analysis.reader import RunFile
from bitzones.data import sequences as calibration
from bitzones.data.sequences import SequenceSet, TokenSequence
from bitzones.devices import device
from bitzones.models import kv_cache as caches
from bitzones.models.units import model_units
from bitzones.report.writer import write_report
from bitzones.rounding import layerwise
from bitzones.run.session import Session
from bitzones.schema import profile_files
from bitzones.schema.performance_cells import LatencyCell
from bitzones.schema.progress import silent
from bitzones.sensitivity import sweep as sensitivity

ROOFLINE_SHARE, OVERHEAD, RUN_S, SWEEP_S, ROUNDING_S, REPEATED = 0.70, 0.01, 300.0, 180.0, 300.0, 0.03
"""Promised: of the bandwidth roofline with compile, harness overhead, seconds of latency and memory, of a sweep, of rounding in two widths,
difference of two runs."""

SWEEP_TOKENS, SEQUENCE = 4096, 128
ROUNDED_LAYERS = 2
"""Of the model, in two calibrated formats: every layer costs the same."""

BARE_ROUNDS = 20


@dataclass(frozen=True)
class Verdict:
    """One promise: what was measured, in words, and whether it holds; None where there is nothing to judge."""

    promise: str
    measured: str
    holds: bool | None


def speed(run: RunFile) -> Iterator[Verdict]:
    """The compiled reference at batch 1 against the bandwidth roofline, and what the others reach."""
    for item in analyse(run).latency:
        if item.phase == "decode" and item.times_roofline is not None:
            judged = item.variant == "bf16" and item.batch == 1 and item.compiled
            promise = f"at least {ROOFLINE_SHARE:.0%} of the bandwidth roofline" if judged else "(no promise)"
            name = f"{item.variant}, batch {item.batch}{', compiled' if item.compiled else ''}"
            share = f"{1 / item.times_roofline:.1%} of the roofline, {1e3 * item.median_s / item.tokens * item.batch:.3f} ms a step"
            yield Verdict(promise, f"{name}: {share}", 1 / item.times_roofline >= ROOFLINE_SHARE if judged else None)


def compiled_is_there(run: RunFile) -> Verdict:
    """A promise about what is missing is broken, not kept."""
    there = any(cell.compiled and cell.variant == "bf16" for cell in run.of(LatencyCell))
    return Verdict("decoding through torch.compile is measured", "it is" if there else "it is not: see the failed cells", there)


def repeated(first: RunFile, second: RunFile) -> Iterator[Verdict]:
    """Medians of two runs side by side; a cell that says that it was contended is excused."""
    before = {_key(cell): cell for cell in first.of(LatencyCell)}
    for cell in second.of(LatencyCell):
        if (old := before.get(_key(cell))) is not None:
            change = statistics.median(cell.rounds_s) / statistics.median(old.rounds_s) - 1
            contended = [word for item in (old, cell) for word in contended_by(item)]
            said = f"{cell.variant} {cell.phase} batch {cell.batch}{' compiled' if cell.compiled else ''}: {change:+.1%}"
            yield Verdict(f"two runs within {REPEATED:.0%}", f"{said} {contended or ''}", abs(change) <= REPEATED or bool(contended))


def _key(cell: LatencyCell) -> tuple[str, str, int, bool]:
    return cell.variant, cell.phase, cell.batch, cell.compiled


def overhead(session: Session) -> Verdict:
    """Rounds as a run times them, under the watch, against a bare loop over the same steps, in one process."""
    name = next(name for name, shape in session.profile.latency.timings().items() if shape.phase == "decode" and not shape.compiled)
    made = session.hardware.ready(session.reference_id, name)
    model, steps = session.model(session.reference_id), made.timing.new_tokens

    @torch.no_grad()
    def bare(kept: Any, token: torch.Tensor) -> None:
        for _ in range(steps):
            out = model(input_ids=token, use_cache=True, logits_to_keep=1, **caches.as_argument(model, kept))
            token = out.logits[:, -1:].argmax(-1)
        device.synchronize(session.device)

    def median_s(run: Callable[..., object]) -> float:
        rounds = []
        for _ in range(BARE_ROUNDS):
            prepared = made.timed.setup()
            began = time.perf_counter()
            run(*prepared)
            rounds.append(time.perf_counter() - began)
        return statistics.median(rounds)

    before = median_s(bare)
    with made.watch:
        watched = median_s(made.timed.run)
    found = watched / min(before, median_s(bare)) - 1
    return Verdict(f"harness overhead under {OVERHEAD:.0%}", f"{found:+.2%} (medians of {BARE_ROUNDS} rounds)", found < OVERHEAD)


def sweep(session: Session, formats: int, tokens: int) -> Verdict:
    """A layer-granular exact sweep on random tokens: its time does not depend on what they say."""
    chosen = random_tokens(session.variants.reference.config.vocab_size, tokens // SEQUENCE)
    variants = session.variants
    for name in list(variants.uniform)[: len(variants.uniform) - formats]:
        del variants.uniform[name]
    for name in variants.uniform:
        variants.packed(name)  # quantizing is not sweeping
    units = model_units(variants.loaded.model, "layer")
    batches = list(calibration.batches(chosen, 8, session.device))
    began = time.perf_counter()
    sensitivity.exact_cell(variants, units, "layer", chosen, batches, silent)
    device.synchronize(session.device)
    took = time.perf_counter() - began
    said = f"{took:.1f} s for {len(units)} layers x {formats} formats x {tokens} tokens"
    return Verdict(f"an exact sweep within {SWEEP_S:.0f} s", said, took <= SWEEP_S)


def rounded(session: Session) -> Verdict:
    """GPTQ of a few layers in 4 and 2 bits, on as many random tokens as the widest module has input features."""
    config = copy.deepcopy(session.variants.reference.config)
    layers, config.num_hidden_layers = config.num_hidden_layers, ROUNDED_LAYERS
    with session.device:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval().requires_grad_(requires_grad=False)
    sequences = -(-config.intermediate_size // (SEQUENCE - 1))
    batches = list(calibration.batches(random_tokens(config.vocab_size, sequences), 8, session.device))
    began = time.perf_counter()
    found = layerwise.separately(model, ["qint4:gptq", "qint2:gptq"], batches, torch.bfloat16)
    device.synchronize(session.device)
    took = time.perf_counter() - began
    assert not any(item.fallbacks for item in found.values())
    whole = took / ROUNDED_LAYERS * layers
    said = f"{took:.1f} s for {ROUNDED_LAYERS} layers in 2 widths, so {whole:.0f} s for {layers}"
    return Verdict(f"rounding within {ROUNDING_S:.0f} s", said, whole <= ROUNDING_S)


def random_tokens(vocabulary: int, sequences: int) -> SequenceSet:
    """What costs time only: it does not depend on what the tokens say."""
    ids = torch.randint(0, vocabulary, (sequences, SEQUENCE), generator=torch.Generator().manual_seed(0)).tolist()
    return SequenceSet(tuple(TokenSequence(tuple(row), SEQUENCE - 1, ()) for row in ids))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile")
    parser.add_argument("work", type=Path, help="holds run-1.json, run-2.json and the seconds of the first")
    parser.add_argument("out", type=Path, help="where run files and verdicts go")
    parser.add_argument("--scale", default="mistral-7b")
    given = parser.parse_args()
    runs = [read_run(given.work / f"run-{number}.json") for number in (1, 2)]
    verdicts = [*speed(runs[0]), compiled_is_there(runs[0]), *repeated(*runs)]
    took = float((given.work / "seconds").read_text())
    verdicts.append(Verdict(f"latency and memory within {RUN_S:.0f} s", f"{took:.0f} s", took <= RUN_S))
    session = Session(profile_files.load(given.profile))
    verdicts += [overhead(session), sweep(session, 2, SWEEP_TOKENS if given.scale != "toy" else 4 * SEQUENCE), rounded(session)]
    judged = given.scale != "toy"
    for item in verdicts:
        word = "      " if item.holds is None or not judged else "kept  " if item.holds else "BROKEN"
        print(f"{word} {item.promise}: {item.measured}")
    name = re.sub(r"[^a-z0-9]+", "-", device.name_of(session.device).lower().removeprefix("nvidia ")).strip("-")
    given.out.mkdir(parents=True, exist_ok=True)
    for number in (1, 2):
        shutil.copy(given.work / f"run-{number}.json", given.out / f"{name}-{given.scale}-{number}.json")
    (given.out / f"{name}-{given.scale}-verdicts.json").write_text(json.dumps([asdict(item) for item in verdicts], indent=1) + "\n")
    write_report(analyse(runs[0]), given.out / f"{name}-{given.scale}")
    print(f"run files, verdicts and report: {given.out}/{name}-{given.scale}*")
    return 1 if judged and any(item.holds is False for item in verdicts) else 0


if __name__ == "__main__":
    raise SystemExit(main())
