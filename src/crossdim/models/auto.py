"""Registers crossdim's models with Hugging Face's Auto classes; importing this file is enough."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    AutoModelForObjectDetection,
    AutoModelForPreTraining,
)

from crossdim.encoders.vision3d import VisionTransformer3D, VisionTransformer3DConfig
from crossdim.models.detr3d import Detr3dForObjectDetection, Detr3dModel
from crossdim.models.detr3d_config import Detr3dConfig
from crossdim.models.med2e3 import Med2E3ForConditionalGeneration
from crossdim.models.med2e3_config import Med2E3Config
from crossdim.models.pimae import PimaeForImageClassification, PimaeForPreTraining, PimaeModel
from crossdim.models.pimae_config import PimaeConfig
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

AutoConfig.register("vision_transformer_3d", VisionTransformer3DConfig, exist_ok=True)
AutoModel.register(VisionTransformer3DConfig, VisionTransformer3D, exist_ok=True)
AutoConfig.register("med2e3", Med2E3Config, exist_ok=True)
AutoModelForImageTextToText.register(Med2E3Config, Med2E3ForConditionalGeneration, exist_ok=True)

AutoConfig.register("pimae", PimaeConfig, exist_ok=True)
AutoModel.register(PimaeConfig, PimaeModel, exist_ok=True)
AutoModelForPreTraining.register(PimaeConfig, PimaeForPreTraining, exist_ok=True)
AutoModelForImageClassification.register(PimaeConfig, PimaeForImageClassification, exist_ok=True)

AutoConfig.register("detr3d", Detr3dConfig, exist_ok=True)
AutoModel.register(Detr3dConfig, Detr3dModel, exist_ok=True)
AutoModelForObjectDetection.register(Detr3dConfig, Detr3dForObjectDetection, exist_ok=True)
