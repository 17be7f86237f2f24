"""Registers crossdim's models with Hugging Face's Auto classes; importing this file is enough."""

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, AutoModelForPreTraining

from crossdim.models.uni4eye import (
    Uni4EyeConfig,
    Uni4EyeForImageClassification,
    Uni4EyeForPreTraining,
    Uni4EyeModel,
)

AutoConfig.register("uni4eye", Uni4EyeConfig, exist_ok=True)
AutoModel.register(Uni4EyeConfig, Uni4EyeModel, exist_ok=True)
AutoModelForPreTraining.register(Uni4EyeConfig, Uni4EyeForPreTraining, exist_ok=True)
AutoModelForImageClassification.register(Uni4EyeConfig, Uni4EyeForImageClassification, exist_ok=True)
