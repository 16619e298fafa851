"""Memory of a sweep whose layers are streamed, on a model with random weights.

    python scripts/streaming_memory.py make llama-3.2-3b FOLDER
    python scripts/streaming_memory.py measure FOLDER --formats qint8,qint4 --sequences 4 --length 32

``make`` writes the architecture as sharded safetensors in bfloat16, a layer at a time. ``measure`` sweeps it by layers in a process of its
own and prints, as JSON, the peak of its resident memory (``getrusage``), the peak of what is not backed by a file and so cannot be dropped
(``RssAnon``, every 50 ms), and the seconds of each part. ``--cgroup`` puts that process into a memory cgroup, whose limit then holds.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig

from bitzones.data import sequences as sequence_sets
from bitzones.data.sequences import SequenceSet, TokenSequence
from bitzones.embedded import TINY
from bitzones.models import loading, offload
from bitzones.models.units import model_units
from bitzones.schema.profile_sections import Model
from bitzones.schema.progress import Progress
from bitzones.sensitivity import streamed
from bitzones.sensitivity.variants import Variants

CPU = torch.device("cpu")
CONFIGS: dict[str, PretrainedConfig] = {
    "llama-3.2-3b": LlamaConfig(
        vocab_size=128256, hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, num_attention_heads=24, num_key_value_heads=8,
        head_dim=128, tie_word_embeddings=True, rms_norm_eps=1e-5, max_position_embeddings=131072,
    ),
    "llama-2-7b": LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32,
        tie_word_embeddings=False, rms_norm_eps=1e-5, max_position_embeddings=4096,
    ),
}  # fmt: skip
STD = 0.02
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
SAMPLED_S = 0.05


def make(name: str, folder: Path) -> None:
    """Random weights of an architecture, one file for each layer and one for what lies outside."""
    folder.mkdir(parents=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.bfloat16)
    model.config.save_pretrained(folder)
    for source in filter(Path.is_file, (TINY / name for name in TOKENIZER)):
        (folder / source.name).write_bytes(source.read_bytes())
    shards: dict[str, dict[str, torch.Size]] = {}
    for key, parameter in model.named_parameters():
        part = key.split(".")[2] if key.startswith("model.layers.") else "outside"
        shards.setdefault(f"model-{part}.safetensors", {})[key] = parameter.shape
    generator = torch.Generator().manual_seed(0)
    for file, shapes in shards.items():
        drawn = {key: _drawn(shape, generator) for key, shape in shapes.items()}
        save_file(drawn, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: file for file, shapes in shards.items() for key in shapes}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _drawn(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.randn(shape, generator=generator).mul_(STD).bfloat16()


@contextmanager
def _watching(peak: dict[str, int]) -> Iterator[None]:
    """Note the most bytes of memory that is backed by no file."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLED_S):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    peak["anonymous_bytes"] = max(peak.get("anonymous_bytes", 0), int(line.split()[1]) * 1024)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def sweep(args: argparse.Namespace) -> None:
    """Sweep and print the figures."""
    if args.cgroup:
        (args.cgroup / "cgroup.procs").write_text("0")
    torch.set_num_threads(1)
    made: dict[str, object] = {}
    peak: dict[str, int] = {}
    began = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal began
        made[f"{name}_s"] = round(time.perf_counter() - began, 1)
        made[f"{name}_peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        made[f"{name}_peak_anonymous_bytes"] = peak.get("anonymous_bytes", 0)
        began = time.perf_counter()

    with _watching(peak):
        loaded = loading.load(Model(source=str(args.folder), placement="stream"), CPU, notify=lambda line: print(line, file=sys.stderr))
        lap("load")
        formats = {"bf16": "bf16"} | {f"v{n}": name for n, name in enumerate(args.formats.split(","))}
        variants = Variants(loaded, formats, CPU, torch.float32)
        units = model_units(loaded.model, args.granularity, [int(number) for number in args.layers.split(",")] if args.layers else None)
        lap("units")
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(1, loaded.model.config.vocab_size, (args.sequences, args.length), generator=generator).tolist()
        chosen = SequenceSet(tuple(TokenSequence(tuple(row), len(row) - 2, ()) for row in ids))
        batches = list(sequence_sets.batches(chosen, args.batch, CPU))
        cell = streamed.exact_cell(variants, units, args.granularity, chosen, batches, _shown())
        lap("sweep")
    cpu = resource.getrusage(resource.RUSAGE_SELF)
    made |= {
        "model_bytes": sum(p.nbytes for p in loaded.model.parameters()),
        "in_memory_bytes": offload.whole_bytes(loaded.model, args.formats.split(","), 3.0),
        "layer_bytes_computing": 2 * sum(p.nbytes for p in loaded.model.model.layers[0].parameters()),
        "candidates": len(cell.measurements),
        "measured": sum(item.kl_nats is not None for item in cell.measurements),
        "tokens": args.sequences * args.length,
        "process_s": round(cpu.ru_utime + cpu.ru_stime, 1),
        "blocks_read": cpu.ru_inblock,
        "kl_nats_per_token": {
            item.format: round(sum(item.kl_nats) / (args.sequences * args.length), 6) for item in cell.measurements if item.kl_nats
        },
    }
    print(json.dumps(made, indent=1))


def _shown() -> Progress:
    at = time.perf_counter()

    def progress(share: float) -> None:
        nonlocal at
        if time.perf_counter() - at > 60:
            at = time.perf_counter()
            print(f"{share:.0%}", file=sys.stderr, flush=True)

    return progress


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("name", choices=CONFIGS)
    making.add_argument("folder", type=Path)
    for name in ("measure", "sweep"):
        measuring = commands.add_parser(name)
        measuring.add_argument("folder", type=Path)
        measuring.add_argument("--formats", default="qint4")
        measuring.add_argument("--granularity", default="layer", choices=("layer", "group"))
        measuring.add_argument("--layers", help="numbers of the layers that are changed, with commas; all are streamed")
        measuring.add_argument("--sequences", type=int, default=4)
        measuring.add_argument("--length", type=int, default=32)
        measuring.add_argument("--batch", type=int, default=4)
        measuring.add_argument("--cgroup", type=Path)
    args = parser.parse_args()
    if args.command == "make":
        make(args.name, args.folder)
    elif args.command == "sweep":
        sweep(args)
    else:
        subprocess.run([sys.executable, __file__, "sweep", *sys.argv[2:]], check=True)


if __name__ == "__main__":
    main()
