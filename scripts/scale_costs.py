"""What a sweep of a large model costs, worked out from unit costs that were measured on one H200: the tables of docs/scale.md.

    PYTHONPATH=src:. python scripts/scale_costs.py

Measured (docs/findings/h200.md): 5.9 s for the sweep of Mistral 7B's architecture in two formats on 4,096 tokens; 2.6 TB/s at which a
GPU reads weights; 10.7 s to round two of its layers in two widths. Assumed: how fast storage is read. Everything else follows, and no model
of such a size was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from tabulate import tabulate

SWEEP_S, SWEEP_FORMATS, SWEEP_TOKENS = 5.9, 2, 4096
ROUNDING_S, ROUNDING_LAYERS, ROUNDING_WIDTH = 10.7, 2, 4096
READ_BYTES_S = 2.6e12
STORAGE_BYTES_S = 2e9
"""Assumed, for each machine: a good network drive. Local NVMe is several times faster, a busy share slower."""
BYTES_PER_PARAMETER = 2


@dataclass(frozen=True)
class Architecture:
    """Parameters of a model: of all layers, of those that a token visits, of the head, and in all."""

    name: str
    layers: int
    width: int
    layer_parameters: float
    active_parameters: float
    head_parameters: float
    units_per_layer: int = 1

    @property
    def stored_bytes(self) -> float:
        """Of the reference, the embeddings as large as the head."""
        return BYTES_PER_PARAMETER * (self.layers * self.layer_parameters + 2 * self.head_parameters)

    def passes(self, formats: int, workers: int) -> float:
        """Of the whole model: the reference's, once on each worker, and of each candidate the layers from its own on, and the head."""
        layer, head = self.active_parameters / self.layers, self.head_parameters
        whole = self.active_parameters + head
        candidates = sum((self.layers - number) * layer + head for number in range(self.layers)) / whole
        return workers + candidates * formats * self.units_per_layer

    def flops(self, tokens: int) -> float:
        """Of one pass over so many tokens."""
        return 2 * tokens * (self.active_parameters + self.head_parameters)


def dense(name: str, layers: int, width: int, inner: int, key_value: int, vocabulary: int) -> Architecture:
    """A Llama-like model."""
    layer = 2 * width**2 + 2 * width * key_value + 3 * width * inner
    return Architecture(name, layers, width, layer, layers * layer, width * vocabulary)


MISTRAL_7B = dense("Mistral 7B", 32, 4096, 14336, 1024, 32000)
LLAMA_70B = dense("70B", 80, 8192, 28672, 1024, 128256)
MOE_400B = Architecture("400B MoE, 17B active", 48, 5120, 399e9 / 48, 16e9, 5120 * 202048)
"""128 experts in every other layer, one of them and a shared one visited by each token."""

FLOPS_S = MISTRAL_7B.passes(SWEEP_FORMATS, 1) * MISTRAL_7B.flops(SWEEP_TOKENS) / SWEEP_S
"""What the measured sweep computed per second: unpacking, the head and the divergence are in it."""


@dataclass(frozen=True)
class Costs:
    """Of a sweep: passes over all workers, and seconds of the slowest one."""

    passes: float
    loading_s: float
    computing_s: float
    rounding_s: float
    read_bytes: float
    device_bytes: float


def costs(model: Architecture, formats: int, tokens: int, batch_tokens: int, workers: int) -> Costs:
    """What a sweep costs that ``workers`` share, each on as many GPUs as hold the model: of these one computes at a time.

    A pass takes what its products take at the measured rate, or what it takes to read all weights once for each batch, if that is longer.
    """
    passes, batches = model.passes(formats, workers), tokens / batch_tokens
    one_pass = max(model.flops(tokens) / FLOPS_S, batches * model.stored_bytes / READ_BYTES_S)
    # Rounding solves a system of the width of every module: its cost is that of parameters times width.
    measured = ROUNDING_S / ROUNDING_LAYERS / (MISTRAL_7B.layer_parameters * ROUNDING_WIDTH)
    rounding = measured * model.layers * model.layer_parameters * model.width
    return Costs(
        passes=passes,
        loading_s=model.stored_bytes / STORAGE_BYTES_S,
        computing_s=passes * one_pass / workers,
        rounding_s=rounding / workers,
        read_bytes=workers * model.stored_bytes,
        device_bytes=passes * batches * model.stored_bytes,
    )


ROWS = (
    (MISTRAL_7B, 8, 1),
    (LLAMA_70B, 4, 2),
    (MOE_400B, 1, 8),
)
"""Architecture, workers on 8 GPUs, GPUs of each."""


def rows(formats: int, tokens: int, batch_tokens: int) -> list[list[str]]:
    """The table: layers, and groups of modules, of which a dense layer has four."""
    found = []
    for model, workers, gpus in ROWS:
        for unit, count in (("layer", 1), ("group", 4)):
            made = Architecture(**{**vars(model), "units_per_layer": count})
            cost = costs(made, formats, tokens, batch_tokens, workers)
            found.append(
                [
                    f"{model.name}, by {unit}",
                    f"{workers} x {gpus}",
                    f"{model.stored_bytes / 1e9:,.0f} GB",
                    f"{cost.passes:,.0f}",
                    minutes(cost.loading_s),
                    minutes(cost.computing_s),
                    minutes(cost.rounding_s),
                    f"{cost.read_bytes / 1e12:.2f} TB",
                    f"{cost.device_bytes / 1e12:,.0f} TB",
                ]
            )
    return found


def minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


HEAD = ["model and units", "workers x GPUs", "reference", "passes", "loading", "sweep", "rounding", "read from storage", "read on GPUs"]


def main() -> None:
    print(f"one H200: {FLOPS_S / 1e12:.0f} TFLOP/s over the measured sweep, {MISTRAL_7B.passes(SWEEP_FORMATS, 1):.1f} passes")
    for tokens in (4096, 32768):
        print(f"\n3 formats, {tokens:,} tokens in batches of 4,096:\n")
        print(tabulate(rows(3, tokens, 4096), HEAD, "github", disable_numparse=True))


if __name__ == "__main__":
    main()
