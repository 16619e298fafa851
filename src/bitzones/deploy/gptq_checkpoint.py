"""A plan of portable formats as a GPTQ checkpoint (``gptq_v2``), which GPTQModel loads: a rule for each module in ``dynamic``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bitzones import __version__
from bitzones.deploy import gptqmodel_recipe
from bitzones.deploy.packed_checkpoint import Stored, packed_or_recipe

__all__ = ["GPTQCheckpoint", "export"]


class GPTQCheckpoint:
    """The dialect."""

    name = gptqmodel_recipe.GPTQModel.name
    tool = gptqmodel_recipe.GPTQModel.tool
    install = "pip install gptqmodel"
    indices = True

    def files(self, stored: Mapping[str, Stored], left: list[str]) -> dict[str, dict[str, Any]]:
        """``+:`` opens the rule of a module that is quantized, ``-:`` that of one that is not; the most frequent is the default."""
        listed = list(stored.values())
        default = max(dict.fromkeys(listed), key=listed.count)
        dynamic = {f"+:^{re.escape(name)}$": how.described() for name, how in stored.items()}
        dynamic |= {f"-:^{re.escape(name)}$": {} for name in left}
        config = {
            **default.described(),
            "quant_method": "gptq",
            "checkpoint_format": "gptq_v2",
            "desc_act": False,
            "lm_head": "lm_head" in stored,
            "pack_dtype": "int32",
            "dynamic": dynamic,
            "meta": {"quantizer": [f"bitzones:{__version__}"]},
        }
        return {"config.json": config, gptqmodel_recipe.FILE: config}

    def usage(self, folder: str) -> str:
        """Loaded by GPTQModel itself."""
        return f"""\
from gptqmodel import GPTQModel
model = GPTQModel.load("{folder}")
print(model.tokenizer.decode(model.generate("How many legs do two dogs have?")[0]))"""


export = packed_or_recipe(GPTQCheckpoint(), gptqmodel_recipe.export)
"""Export for GPTQModel; see `bitzones.deploy.targets.Target`."""
