"""A plan for llm-compressor: a recipe with a config group for each setting, which it rounds by GPTQ and saves for vLLM."""

from __future__ import annotations

import json
from typing import Any

from transformers import PreTrainedModel

from bitzones.deploy.compressed_tensors_checkpoint import check_fused
from bitzones.deploy.plan_file import PlanFile
from bitzones.deploy.recipe_export import Setting, exporter, settings

__all__ = ["FILE", "LLMCompressor", "export"]

FILE = "recipe.yaml"


class LLMCompressor:
    """The recipe."""

    name = "llm-compressor"
    tool = "[llm-compressor](https://github.com/vllm-project/llm-compressor)"

    def files(self, model: PreTrainedModel, plan_file: PlanFile) -> dict[str, str]:
        """JSON, which is YAML too; every target is one module's name.

        Raises:
            PlanError: vLLM fuses modules to which the plan gives different formats.
        """
        check_fused(model, plan_file, "vLLM")
        found = settings(model, plan_file)
        groups = {
            f"group_{number}": {"targets": [name for name, its in found.items() if its == setting], "weights": _weights(setting)}
            for number, setting in enumerate(dict.fromkeys(found.values()))
        }
        return {FILE: json.dumps({"quant_stage": {"quant_modifiers": {"GPTQModifier": {"config_groups": groups}}}}, indent=1) + "\n"}

    def usage(self, plan_file: PlanFile) -> str:
        """The lines of Python."""
        return f"""\
```python
from llmcompressor import oneshot
oneshot(model="MODEL", dataset="open_platypus", recipe="{FILE}", output_dir="model")
```"""


def _weights(setting: Setting) -> dict[str, Any]:
    """In the words of compressed-tensors."""
    grouped = setting.group != -1
    return {
        "num_bits": setting.bits,
        "type": "int",
        "symmetric": setting.symmetric,
        "strategy": "group" if grouped else "channel",
        **({"group_size": setting.group} if grouped else {}),
    }


export = exporter(LLMCompressor())
"""Write the recipe; see `bitzones.deploy.targets.Target`."""
