"""Compare the perplexity of a GGUF file with llama.cpp's on the same windows: ``python scripts/llama_perplexity.py MODEL.gguf TEXT.txt``.

It needs ``llama-cpp-python``. Both sides get the windows that a domain cuts, and score what ``llama-perplexity`` scores: predictions from
half of a window on. llama.cpp computes with the stored weights, bitzones with the same ones dequantized, so small differences remain.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch

from bitzones.data import mixtures, sequences
from bitzones.data.dealing import Dealer
from bitzones.data.sets import DomainSet
from bitzones.data.text import opened
from bitzones.evaluation import by_domain
from bitzones.models import loading
from bitzones.schema.profile_sections import Model
from bitzones.schema.text_settings import Domain


def main() -> None:
    """Print both perplexities and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--window", type=int, default=512)
    given = parser.parse_args()
    loaded = loading.load(Model(source=str(given.model), dtype="float32"), torch.device("cpu"), print, ())
    domain = Domain(name="text", source=str(given.text), tokens=given.windows * given.window, window=given.window)
    taken = Dealer(loaded.tokenizer, given.window).windows(opened(given.text), domain)
    windows, record = mixtures.joined([taken], given.window)
    batches = sequences.batches(windows, 1, torch.device("cpu"))
    cell = by_domain.domain_cell("same", loaded.model, loaded.model, DomainSet(domain, windows, record), batches)
    tokens = sum(cell.scored_tokens)
    ours = math.exp(sum(cell.nll_nats) / tokens)
    theirs = math.exp(sum(_nll(given.model, row.ids, domain.first) for row in windows.sequences) / tokens)
    measured = f"bitzones {ours:.4f}, llama.cpp {theirs:.4f}, ratio {ours / theirs:.5f}"
    print(f"{tokens} scored tokens of {len(windows.sequences)} windows: {measured}")


def _nll(model: Path, ids: tuple[int, ...], first: int, opened: dict[Path, object] = {}) -> float:  # noqa: B006  # loaded once
    """Negative log-likelihood of the scored tokens of one window by llama.cpp, in nats."""
    import llama_cpp  # noqa: PLC0415

    if model not in opened:
        opened[model] = llama_cpp.Llama(str(model), n_ctx=len(ids), logits_all=True, verbose=False, n_threads=1)
    llama = opened[model]
    assert isinstance(llama, llama_cpp.Llama)
    llama.reset()
    llama.eval(list(ids))
    logits = np.asarray(llama.scores[first : len(ids) - 1], dtype=np.float64)
    following = np.asarray(ids[first + 1 :])
    top = logits.max(axis=1)
    normal = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return float((normal - logits[np.arange(len(following)), following]).sum())


if __name__ == "__main__":
    main()
