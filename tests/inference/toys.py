"""A tiny model with random weights that answers questions, and volumes to ask about."""

from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import torch

from crossdim.inference import load_answerer
from crossdim.models import auto  # noqa: F401
from crossdim.models.med2e3 import Med2E3ForConditionalGeneration
from crossdim.models.med2e3_config import Med2E3Config
from crossdim.training.language_models import question_tokenizer, train_tokenizer
from crossdim.transforms.contract import ImageContract, PreprocessingContract, RangeIntensity, VolumeContract
from crossdim.transforms.prompts import SYSTEM
from crossdim.transforms.text import Med2E3Processor

SIZE = (16, 32, 32)
TEXTS = (SYSTEM, "Is the left kidney larger? Describe the findings in this scan.", *(10 * ["a yes no unclear"]))
CONTRACT = PreprocessingContract(
    volume=VolumeContract(size=SIZE),
    image=ImageContract(size=(32, 32), channels=1, intensity=RangeIntensity()),
    source="a test",
)


@cache
def tokenizer():
    return train_tokenizer(TEXTS, 400)


def config(**changes):
    return Med2E3Config.preset(
        "tiny",
        volume_token_id=1000,
        image_token_id=1001,
        **{"score_temperature": 3.0, **changes},
    )


def processor(of, **changes):
    tokens = tokenizer()
    return Med2E3Processor(
        **{
            "contract": CONTRACT,
            "tokenizer": tokens,
            "question_tokenizer": question_tokenizer(tokens),
            "volume_tokens": of.volume_tokens(SIZE),
            "image_tokens": of.image_tokens(SIZE[1:]) if of.uses_slices else 0,
            "volume_token_id": of.volume_token_id,
            "image_token_id": of.image_token_id,
            "max_length": 512,
            **changes,
        }
    )


def save_run(folder: Path, seed: int = 0, processing: dict | None = None, **changes) -> Path:
    """Write a run as training leaves it; weights large enough for answers to depend on what is seen."""
    torch.manual_seed(seed)
    of = config(**changes)
    model = Med2E3ForConditionalGeneration(of)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_((0.06 if "language_model" in name else 0.15) * torch.randn_like(parameter))
        for name, parameter in model.language_model.named_parameters():
            if name.endswith("model.norm.weight"):
                parameter.mul_(0.2)  # no choice is certain
    model.save_pretrained(folder)
    processor(of, **(processing or {})).save_pretrained(folder)
    return folder


def answerer(folder, **options):
    return load_answerer(folder, device="cpu", **{"cache": None, **options})


def save_volume(path, seed: int = 0, shape=(20, 24, 18), spacing=(1.0, 1.0, 2.0)) -> str:
    """Write a NIfTI volume; the array's axes are x, y, z."""
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([*spacing, 1.0])), path)
    return str(path)


def encoder_calls(model) -> list[str]:
    """Return a list that grows with every call of a tower."""
    calls: list[str] = []
    for name in ("vision3d", "vision2d"):
        tower = getattr(model, name)
        if tower is not None:
            tower.register_forward_hook(lambda *arguments, name=name: calls.append(name))
    return calls
