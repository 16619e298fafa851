"""The importance of every input feature of a module: its mean square over the calibration set, in the reference.

What ``llama-imatrix`` collects, and what llama.cpp's quantizers weigh the squared error of a column by: the diagonal of the second moment
that GPTQ calls the Hessian. One pass over the model, and a vector a module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from bitzones.data.sequences import Batch
from bitzones.schema.errors import NonFiniteError

__all__ = ["Importance", "importance_of"]


@dataclass(eq=False)
class Importance:
    """Of the input features of one module: ``squares`` is summed over its ``tokens``, float64 of shape (columns,)."""

    squares: torch.Tensor
    tokens: int

    @property
    def mean(self) -> torch.Tensor:
        """The mean square, float32 of shape (columns,)."""
        return (self.squares / self.tokens).float()


@torch.no_grad()
def importance_of(model: PreTrainedModel, names: Sequence[str], batches: Iterable[Batch]) -> dict[str, Importance]:
    """The importance of the input features of the named modules; a module that no token reached has none.

    Padding is excluded if a module receives whole sequences. An expert receives only the tokens that were routed to it.

    Args:
        model: the reference in its compute dtype.
        names: of modules.
        batches: the calibration set.

    Raises:
        NonFiniteError: an input is NaN or infinite; the message names the module.
    """
    found: dict[str, Importance] = {}
    for batch in batches:
        handles = [model.get_submodule(name).register_forward_pre_hook(_adder(found, name, batch.mask)) for name in names]
        try:
            model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
    if odd := [name for name, item in found.items() if not torch.isfinite(item.squares).all()]:
        raise NonFiniteError(f"{odd[0]}: an input of the calibration set is NaN or infinite")
    return found


def _adder(found: dict[str, Importance], name: str, mask: torch.Tensor) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...]], None]:
    def add(_module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        given = args[0]
        inputs = given[mask.to(given.device).bool()] if given.shape[:-1] == mask.shape else given.flatten(0, -2)
        squares = inputs.float().square().sum(0, dtype=torch.float64)
        held = found.get(name)
        if len(inputs):
            found[name] = Importance(squares if held is None else held.squares + squares, len(inputs) + (held.tokens if held else 0))

    return add
