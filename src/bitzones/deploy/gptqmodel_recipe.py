"""A plan for GPTQModel: the ``dynamic`` of its ``QuantizeConfig``, a rule for each module."""

from __future__ import annotations

import json
import re
from typing import Any

from transformers import PreTrainedModel

from bitzones.deploy.plan_file import PlanFile
from bitzones.deploy.recipe_export import Setting, exporter, settings
from bitzones.models import structure

__all__ = ["FILE", "GPTQModel", "export"]

FILE = "quantize_config.json"


class GPTQModel:
    """The recipe."""

    name = "gptq"
    tool = "[GPTQModel](https://github.com/ModelCloud/GPTQModel)"

    def files(self, model: PreTrainedModel, plan_file: PlanFile) -> dict[str, str]:
        """``+:`` opens the rule of a module that is quantized, ``-:`` that of one that is not; the most frequent setting is the default."""
        found = settings(model, plan_file)
        listed = list(found.values())
        default = max(dict.fromkeys(listed), key=listed.count)
        left = [name for name in structure.quantizable_modules(model) if name not in found]
        dynamic: dict[str, Any] = {f"+:^{re.escape(name)}$": _rule(setting) for name, setting in found.items()}
        dynamic |= {f"-:^{re.escape(name)}$": {} for name in left}
        return {FILE: json.dumps({**_rule(default), "dynamic": dynamic}, indent=1) + "\n"}

    def usage(self, plan_file: PlanFile) -> str:
        """The lines of Python."""
        return f"""\
```python
import json
from gptqmodel import GPTQModel, QuantizeConfig
model = GPTQModel.load("MODEL", QuantizeConfig(**json.load(open("{FILE}"))))
model.quantize(["calibration text", ...])
model.save("model")
```"""


def _rule(setting: Setting) -> dict[str, object]:
    return {"bits": setting.bits, "group_size": setting.group, "sym": setting.symmetric}


export = exporter(GPTQModel())
"""Write the recipe; see `bitzones.deploy.targets.Target`."""
