"""A plan of portable formats as an AutoRound checkpoint, which plain transformers loads where ``auto-round`` is installed, on a CPU too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitzones.deploy import auto_round_recipe
from bitzones.deploy.packed_checkpoint import Stored, packed_or_recipe

__all__ = ["AutoRoundCheckpoint", "export"]

PACKING = "auto_round:gptqmodel"
"""AutoRound's name for zeros that are stored as they are."""


class AutoRoundCheckpoint:
    """The dialect."""

    name = auto_round_recipe.AutoRound.name
    tool = auto_round_recipe.AutoRound.tool
    install = "pip install auto-round transformers"
    indices = False

    def files(self, stored: Mapping[str, Stored], left: list[str]) -> dict[str, dict[str, Any]]:
        """Every module has its own entry; what is left has 16 bits."""
        listed = list(stored.values())
        default = max(dict.fromkeys(listed), key=listed.count)
        modules = {name: {**how.described(), "data_type": "int"} for name, how in stored.items()}
        modules |= {name: {"bits": 16, "data_type": "float"} for name in left}
        config = {
            **default.described(),
            "data_type": "int",
            "quant_method": "auto-round",
            "packing_format": PACKING,
            "extra_config": modules,
        }
        return {"config.json": config}

    def usage(self, folder: str) -> str:
        """AutoRound needs no call of its own."""
        return f"""\
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = AutoModelForCausalLM.from_pretrained("{folder}"), AutoTokenizer.from_pretrained("{folder}")
tokens = model.generate(**tokenizer("How many legs do two dogs have?", return_tensors="pt"), max_new_tokens=20)
print(tokenizer.decode(tokens[0]))"""


export = packed_or_recipe(AutoRoundCheckpoint(), auto_round_recipe.export)
"""Export for AutoRound; see `bitzones.deploy.targets.Target`."""
