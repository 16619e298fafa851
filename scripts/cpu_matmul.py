"""How fast a CPU multiplies matrices in 16 bits against 32: why ``compute_dtype = "auto"`` is float32 on a CPU.

python scripts/cpu_matmul.py
"""

from __future__ import annotations

from statistics import median
from time import perf_counter

import torch

from bitzones.schema.environment import cpu_name

ROWS, INNER, COLUMNS, ROUNDS, WARMUP = 4096, 192, 384, 30, 3


def gigaflops(dtype: torch.dtype) -> list[float]:
    """GFLOP/s of each round of one product."""
    left, right = torch.randn(ROWS, INNER).to(dtype), torch.randn(INNER, COLUMNS).to(dtype)
    rounds = []
    for _ in range(WARMUP + ROUNDS):
        started = perf_counter()
        left @ right
        rounds.append(2 * ROWS * INNER * COLUMNS / (perf_counter() - started) / 1e9)
    return rounds[WARMUP:]


if __name__ == "__main__":
    print(f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"({ROWS} x {INNER}) @ ({INNER} x {COLUMNS}), n = {ROUNDS} rounds")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        rounds = gigaflops(dtype)
        print(f"{dtype}: median {median(rounds):.1f} GFLOP/s, {min(rounds):.1f} to {max(rounds):.1f}")
