"""A model that quanto's loader would not make again is refused before it is quantized."""

from __future__ import annotations

import odd_models
import pytest
import tiny_models
import torch
from transformers import AutoModelForImageTextToText

from bitzones.backends.quanto import saving
from bitzones.schema.errors import ModelError


def test_a_causal_model_is_reloadable_and_one_of_images_and_text_is_not() -> None:
    saving.check_reloadable(tiny_models.llama())
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(odd_models.qwen_vl())
    with pytest.raises(ModelError, match="quanto's loader makes no Qwen2_5_VLForConditionalGeneration from a checkpoint"):
        saving.check_reloadable(model)
