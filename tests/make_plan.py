"""Plans made in memory through the record itself, so that they follow its schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitzones.analysis.plan import Plan

KL = {"value": 0.0156, "low": 0.0133, "high": 0.0183}


def plan(assignment: Mapping[str, str], group_sizes: Mapping[str, int | None], **model: Any) -> Plan:
    """A plan that assigns formats to modules; ``model`` changes keys of its model."""
    return Plan.model_validate(
        {
            "bitzones": "0.1.0",
            "model": {
                "source": "embedded:tiny",
                "sha256": "0" * 64,
                "architecture": "LlamaForCausalLM",
                "dtype": "bfloat16",
                "compute_dtype": "float32",
                "trust_remote_code": False,
                **model,
            },
            "reference": "bf16",
            "budget": {"average_bits": 4.0, "stored_bytes": 2_000_000},
            "achieved": {"average_bits": 3.5, "stored_bytes": 1_750_000},
            "reference_bytes": 8_000_000,
            "predicted_kl": KL,
            "units": {},
            "assignment": dict(assignment),
            "group_sizes": dict(group_sizes),
            "sequences_sha256": "c" * 64,
            "profile_sha256": "d" * 64,
            "versions": {"torch": "2.13.0"},
        }
    )


def for_tiny_llama(source: Path, sha256: str, **changes: Any) -> Plan:
    """Every format, modules that stay, and groups of both widths of `tiny_models.llama`: down_proj is the one with 384 inputs."""
    sizes: dict[str, int | None] = {}
    assignment = {}
    for number, name in enumerate(name for layer in range(3) for name in _modules(layer)):
        chosen = ("qint4", "qint2:hqq", "qint8", "bf16", "qint4")[number % 5]
        assignment[name] = chosen
        if chosen != "bf16":
            sizes[name] = None if chosen == "qint8" else 128 if name.endswith("down_proj") else 96
    return plan(assignment, sizes, source=str(source), sha256=sha256, **changes)


def _modules(layer: int) -> list[str]:
    names = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
    return [f"model.layers.{layer}.{name}" for name in names]


def write(path: Path, made: Plan, **changes: Any) -> Path:
    """plan.json as collect writes it; ``changes`` replace keys at its top."""
    path.write_text(json.dumps({**made.model_dump(mode="json", by_alias=True), **changes}), encoding="utf-8")
    return path
