"""What a peer is asked and what it answers, as files: peers live in environments of their own, without bitzones.

A request is a folder with ``model/`` and ``calibration.json`` (token lists), and targets in average bits without scales and shifts, which
are the same for every plan. The answer is a map of target to plan, module name to ``2`` or ``4``. Nothing here knows a peer.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

__all__ = ["BATCH", "GROUP", "LINEAR", "Batches", "Request", "answer", "read"]

BATCH = 8
"""Sequences in a batch: what both peers take unless told otherwise."""

GROUP = 96
"""Weights that share a scale: what quanto takes for 576 input features. It divides 1,536 too, where quanto takes 128."""

LINEAR = ".layers."
"""In the name of every linear layer that is planned; ``lm_head`` is not."""


class Batches:
    """The batches, as often as they are asked for; ``passes_s`` is how long whoever took them needed for all, pass by pass."""

    def __init__(self, batches: Sequence[Mapping[str, torch.Tensor]]) -> None:
        self._batches = batches
        self.passes_s: list[float] = []

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Mapping[str, torch.Tensor]]:
        started = time.perf_counter()
        try:
            yield from self._batches
        finally:
            self.passes_s.append(time.perf_counter() - started)


@dataclass(frozen=True)
class Request:
    """The model in float32, its tokenizer, the batches, and the targets as they were written."""

    model: Any
    tokenizer: Any
    batches: Batches
    targets: Sequence[str]
    method: str
    values: Path | None
    out: Path
    sequences: int
    longest: int
    tokens: int

    @property
    def linear(self) -> list[str]:
        """Names of what is planned."""
        return [name for name, module in self.model.named_modules() if isinstance(module, torch.nn.Linear) and LINEAR in name]


def read(description: str, methods: Sequence[str]) -> Request:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("work", type=Path, help="a folder with model/ and calibration.json")
    parser.add_argument("out", type=Path, help="where the answer goes, as JSON")
    parser.add_argument("targets", nargs="+", help="average bits of the weights alone")
    parser.add_argument("--method", choices=methods, default=methods[0])
    parser.add_argument(
        "--values", type=Path, help="what formats make of the weights, as safetensors: MODULE.BITS; by default the peer's own"
    )
    given = parser.parse_args()
    sequences: list[list[int]] = json.loads((given.work / "calibration.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(given.work / "model")
    model = AutoModelForCausalLM.from_pretrained(given.work / "model", dtype=torch.float32)
    lengths = [len(sequence) for sequence in sequences]
    return Request(
        model=model.eval(),
        tokenizer=tokenizer,
        batches=Batches(_batches(sequences)),
        targets=given.targets,
        method=given.method,
        values=given.values,
        out=given.out,
        sequences=len(lengths),
        longest=max(lengths),
        tokens=sum(lengths),
    )


def _batches(sequences: list[list[int]]) -> list[dict[str, torch.Tensor]]:
    """By ascending length, padded on the right; labels are the tokens themselves, none where padded."""
    ordered = sorted(sequences, key=len)
    return [_batch(ordered[start : start + BATCH]) for start in range(0, len(ordered), BATCH)]


def _batch(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    mask = torch.arange(ids.shape[1])[None] < torch.tensor([len(row) for row in rows])[:, None]
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": ids.masked_fill(~mask, -100)}


def answer(request: Request, plans: Mapping[str, Mapping[str, int]], seconds: float, versions: Mapping[str, str], note: str) -> None:
    """Write the plans; ``seconds`` is what the passes that score took, for the table of speeds.

    Raises:
        SystemExit: a plan is not one of 2 and 4 bits for every linear layer.
    """
    for target, plan in plans.items():
        if set(plan) != set(request.linear) or set(plan.values()) - {2, 4}:
            raise SystemExit(f"at {target} bits the plan is not one of 2 and 4 bits for each of the {len(request.linear)} linear layers")
    found = {"plans": plans, "seconds": seconds, "tokens": request.tokens, "versions": versions, "note": note}
    partial = request.out.with_suffix(".partial")
    partial.write_text(json.dumps(found))
    partial.replace(request.out)
