"""Which modules can be quantized: linear layers that compute no more than a product. Every backend quantizes these and no others."""

from __future__ import annotations

import torch

from bitzones.backends.weights import holder

__all__ = ["is_quantizable"]

_PRODUCTS: dict[type[torch.nn.Linear], bool] = {}
"""Class of linear layers with a forward of its own -> whether that is a plain product."""


def is_quantizable(module: torch.nn.Module) -> bool:
    """Whether a module can be quantized: a linear layer that is not quantized yet and computes no more than a product.

    Some classes of linear layers return more (the routers of Llama 4 and Phi 3.5 MoE): a backend would put a plain product in their place.
    """
    return isinstance(module, torch.nn.Linear) and holder(module) is None and _is_product(module)


@torch.no_grad()
def _is_product(module: torch.nn.Linear) -> bool:
    """Whether a class with a forward of its own computes what `torch.nn.Linear` does; told once for each class, from its first module."""
    kind = type(module)
    if kind.forward is torch.nn.Linear.forward:
        return True
    if kind not in _PRODUCTS:
        given = torch.ones(1, module.in_features, dtype=module.weight.dtype, device=module.weight.device)
        try:
            found = kind.forward(module, given)
        except (TypeError, ValueError, RuntimeError, AttributeError):  # it takes something else
            found = None
        wanted = torch.nn.functional.linear(given, module.weight, module.bias)
        if not isinstance(found, torch.Tensor) or found.shape != wanted.shape:
            _PRODUCTS[kind] = False
        elif module.weight.is_meta:
            return True  # no values to compare yet
        else:
            _PRODUCTS[kind] = torch.allclose(found.float(), wanted.float(), rtol=1e-2, atol=1e-2 * float(wanted.abs().max()))
    return _PRODUCTS[kind]
