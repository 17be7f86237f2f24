"""From the folder of a run to a model that can be used."""

import json
from pathlib import Path

import torch

from crossdim.errors import ReadError
from crossdim.inference.predictor import Predictor, Source
from crossdim.models.uni4eye import Uni4EyeForImageClassification, Uni4EyeModel
from crossdim.models.uni4eye_config import Uni4EyeConfig
from crossdim.training.checkpoints import last_complete
from crossdim.training.progress import quiet_transformers
from crossdim.transforms.contract import PreprocessingContract


def load(run_or_checkpoint: Source, device: str | None = None) -> Predictor:
    """Load a fine-tuned classifier, a pre-trained encoder, or a converted checkpoint.

    Args:
        run_or_checkpoint: A run folder, one of its checkpoints, or a converted folder: what holds ``config.json``,
            ``model.safetensors`` and ``contract.json``. A run that has not finished gives its last complete checkpoint.
        device: ``cuda``, ``cpu``, ...; a GPU if there is one when left out. On a GPU it runs in bf16.

    Raises:
        ReadError: The folder does not exist or holds no model.
    """
    return load_predictor(run_or_checkpoint, device)


def load_predictor(run_or_checkpoint: Source, device: str | None = None) -> Predictor:
    """Load a fine-tuned classifier or a pre-trained encoder.

    Args:
        run_or_checkpoint: As for :func:`load`.
        device: As for :func:`load`.

    Raises:
        ReadError: The folder does not exist or holds no such model.
    """
    folder = model_folder(Path(run_or_checkpoint))
    config = Uni4EyeConfig.from_pretrained(folder)
    names = config.architectures or []
    classifies = Uni4EyeForImageClassification.__name__ in names
    with quiet_transformers():
        model = (Uni4EyeForImageClassification if classifies else Uni4EyeModel).from_pretrained(folder)
    _place(model, device)
    return Predictor(model, PreprocessingContract.from_pretrained(folder), str(run_or_checkpoint))


def _place(model: torch.nn.Module, device: str | None) -> None:
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.nn.Module.to(model.eval(), chosen)


def model_folder(path: Path) -> Path:
    """Return the folder that holds a model's files: the one given, or its last complete checkpoint.

    Args:
        path: A run, one of its checkpoints, or a converted model.

    Raises:
        ReadError: There is no model.
    """
    if not path.is_dir():
        raise ReadError(path, "is not a folder", "Give the folder of a run, a checkpoint or a converted model")
    if (path / "config.json").is_file():
        return path
    checkpoint = last_complete(path / "checkpoints")
    if checkpoint is None:
        remedy = "Give the folder written by pretrain, finetune or convert"
        raise ReadError(path, "holds no config.json and no complete checkpoint", remedy)
    if not (checkpoint / "config.json").is_file():
        reason = f"has not finished, and its checkpoint {checkpoint.name} holds an adapter or a classifier alone"
        raise ReadError(path, reason, "Let the run finish: give its command again")
    return checkpoint


def model_type(folder: Path) -> str:
    """Return the kind of model in a folder, as its ``config.json`` names it.

    Args:
        folder: As :func:`model_folder` returns it.
    """
    return str(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type"))
