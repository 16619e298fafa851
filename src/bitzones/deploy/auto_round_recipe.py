"""A plan for AutoRound: bits, group size and symmetry of each module, as its ``layer_config``."""

from __future__ import annotations

import json

from transformers import PreTrainedModel

from bitzones.deploy.plan_file import PlanFile
from bitzones.deploy.recipe_export import exporter, settings

__all__ = ["FILE", "AutoRound", "export"]

FILE = "layer_config.json"


class AutoRound:
    """The recipe."""

    name = "auto-round"
    tool = "[AutoRound](https://github.com/intel/auto-round)"

    def files(self, model: PreTrainedModel, plan_file: PlanFile) -> dict[str, str]:
        """The setting of every linear module, those that stay as they are included."""
        found = settings(model, plan_file)
        config: dict[str, dict[str, object]] = {
            name: {"bits": 16, "data_type": "fp"}
            for name, format_ in plan_file.plan.assignment.items()
            if format_ == plan_file.plan.reference
        }
        for name, setting in found.items():
            config[name] = {"bits": setting.bits, "group_size": setting.group, "sym": setting.symmetric, "data_type": "int"}
        return {FILE: json.dumps(config, indent=1) + "\n"}

    def usage(self, plan_file: PlanFile) -> str:
        """The lines of Python."""
        return f"""\
```python
import json
from auto_round import AutoRound
AutoRound("MODEL", scheme="W4A16", layer_config=json.load(open("{FILE}"))).quantize_and_save("model", format="auto_round")
```"""


export = exporter(AutoRound())
"""Write the recipe; see `bitzones.deploy.targets.Target`."""
