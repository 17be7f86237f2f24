"""From the folder of a run to a model that can be used."""

import json
from pathlib import Path
from typing import Literal

import torch

from crossdim.errors import ContractError, ReadError
from crossdim.inference.answerer import Answerer
from crossdim.inference.detector import Detector
from crossdim.inference.feature_cache import FeatureCache
from crossdim.inference.predictor import Predictor, Source
from crossdim.inference.scene_embedder import SceneEmbedder
from crossdim.models import auto  # noqa: F401  (towers are built through the Auto classes)
from crossdim.models.detr3d import Detr3dForObjectDetection
from crossdim.models.med2e3 import Med2E3ForConditionalGeneration
from crossdim.models.pimae import PimaeForImageClassification, PimaeModel
from crossdim.models.pimae_config import PimaeConfig
from crossdim.models.uni4eye import Uni4EyeForImageClassification, Uni4EyeModel
from crossdim.models.uni4eye_config import Uni4EyeConfig
from crossdim.training.checkpoints import last_complete
from crossdim.training.progress import quiet_transformers
from crossdim.transforms.contract import PreprocessingContract
from crossdim.transforms.text import Med2E3Processor

HUB = "hf:"
"""In front of the name of a model on Hugging Face's hub; never guessed from a path that does not exist."""

ANSWERS = "med2e3"
"""Type of the models that answer questions."""

SCENES = "pimae"
"""Type of the models that look at scenes."""

BOXES = "detr3d"
"""Type of the models that find boxes in scenes."""


def load(run_or_checkpoint: Source, device: str | None = None) -> Predictor | Answerer | SceneEmbedder | Detector:
    """Load a classifier, a detector, a pre-trained encoder, a model that answers questions, or a converted checkpoint.

    Args:
        run_or_checkpoint: A run folder, one of its checkpoints, or a converted folder: what holds ``config.json``,
            ``model.safetensors`` and ``contract.json``. A run that has not finished gives its last complete checkpoint.
        device: ``cuda``, ``cpu``, ...; a GPU if there is one when left out. On a GPU it runs in bf16.

    Returns:
        An ``Answerer`` for Med-2E3, a ``Detector`` for 3DETR, a ``SceneEmbedder`` for pre-trained PiMAE, a
        ``Predictor`` for the others.

    Raises:
        ReadError: The folder does not exist or holds no model.
        ContractError: The device cannot be used.
    """
    found = model_type(model_folder(Path(run_or_checkpoint)))
    if found == ANSWERS:
        return load_answerer(run_or_checkpoint, device)
    if found == BOXES:
        return load_detector(run_or_checkpoint, device)
    return load_encoder(run_or_checkpoint, device)


def load_encoder(run_or_checkpoint: Source, device: str | None = None) -> Predictor | SceneEmbedder:
    """Load what gives features: of scenes for a pre-trained PiMAE, of images and volumes for the others.

    Args:
        run_or_checkpoint: As for :func:`load`.
        device: As for :func:`load`.

    Raises:
        ReadError: The folder does not exist or holds no model.
        ContractError: It holds a model that answers questions or finds boxes, or the device cannot be used.
    """
    folder = model_folder(Path(run_or_checkpoint))
    if model_type(folder) == SCENES and not _classifies_images_of_scenes(folder):
        return load_scene_embedder(run_or_checkpoint, device)
    return load_predictor(run_or_checkpoint, device)


def load_scene_embedder(run_or_checkpoint: Source, device: str | None = None) -> SceneEmbedder:
    """Load a pre-trained PiMAE.

    Args:
        run_or_checkpoint: As for :func:`load`.
        device: As for :func:`load`.

    Raises:
        ReadError: The folder does not exist or holds no model.
        ContractError: It holds another kind of model, or the device cannot be used.
    """
    folder = model_folder(Path(run_or_checkpoint))
    if model_type(folder) != SCENES or _classifies_images_of_scenes(folder):
        raise ContractError(
            run_or_checkpoint, "is no pre-trained model of scenes", "Give a run of crossdim pretrain pimae"
        )
    with quiet_transformers():
        model = PimaeModel.from_pretrained(folder)
    _place(model, device)
    return SceneEmbedder(model, PreprocessingContract.from_pretrained(folder), str(run_or_checkpoint))


def load_detector(run_or_checkpoint: Source, device: str | None = None) -> Detector:
    """Load a detector of boxes in scenes.

    Args:
        run_or_checkpoint: As for :func:`load`.
        device: As for :func:`load`.

    Raises:
        ReadError: The folder does not exist or holds no model.
        ContractError: It holds another kind of model, or the device cannot be used.
    """
    folder = model_folder(Path(run_or_checkpoint))
    found = model_type(folder)
    if found != BOXES:
        raise ContractError(
            run_or_checkpoint,
            f"is a model of type '{found}', which finds no boxes",
            "Give a run of crossdim finetune detect, or a converted 3DETR",
        )
    with quiet_transformers():
        model = Detr3dForObjectDetection.from_pretrained(folder)
    _place(model, device)
    return Detector(model, PreprocessingContract.from_pretrained(folder), str(run_or_checkpoint))


def _classifies_images_of_scenes(folder: Path) -> bool:
    names = PimaeConfig.from_pretrained(folder).architectures or []
    return PimaeForImageClassification.__name__ in names


def load_answerer(
    run_or_checkpoint: Source, device: str | None = None, cache: FeatureCache | Literal["default"] | None = "default"
) -> Answerer:
    """Load a model that answers questions.

    Args:
        run_or_checkpoint: As for :func:`load`.
        device: As for :func:`load`.
        cache: Where the towers' features of files are kept; the user's cache folder by default, None keeps none.

    Raises:
        ReadError: The folder does not exist or holds no model.
        ContractError: It holds another kind of model, or the device cannot be used.
    """
    folder = model_folder(Path(run_or_checkpoint))
    found = model_type(folder)
    if found != ANSWERS:
        does, use = ("finds boxes", "detect") if found == BOXES else ("classifies or embeds", "predict or embed")
        raise ContractError(
            run_or_checkpoint,
            f"is a model of type '{found}', which {does}, and does not answer questions",
            f"Use it with crossdim {use}, or give a model trained by crossdim instruct",
        )
    with quiet_transformers():
        model = Med2E3ForConditionalGeneration.from_pretrained(folder)
    processor = Med2E3Processor.from_pretrained(folder)
    _place(model, device)
    kept = FeatureCache() if cache == "default" else cache
    return Answerer(model, processor, str(run_or_checkpoint), kept)


def load_predictor(run_or_checkpoint: Source, device: str | None = None) -> Predictor:
    """Load a fine-tuned classifier or a pre-trained encoder.

    Args:
        run_or_checkpoint: As for :func:`load`.
        device: As for :func:`load`.

    Raises:
        ReadError: The folder does not exist or holds no model.
        ContractError: It holds a model that answers questions, finds boxes or was pre-trained on scenes, or the device
            cannot be used.
    """
    folder = model_folder(Path(run_or_checkpoint))
    if model_type(folder) == ANSWERS:
        raise ContractError(
            run_or_checkpoint,
            "answers questions, and is neither a classifier nor an encoder",
            "Use it with crossdim ask, or give a model of pretrain or finetune",
        )
    if model_type(folder) == BOXES:
        raise ContractError(
            run_or_checkpoint,
            "finds boxes in scenes, and is neither a classifier nor an encoder",
            "Use it with crossdim detect, or give a model of pretrain or finetune",
        )
    if model_type(folder) == SCENES:
        if not _classifies_images_of_scenes(folder):
            raise ContractError(
                run_or_checkpoint,
                "is a pre-trained model of scenes, without a classifier",
                "Fine-tune it first (crossdim finetune), or use embed",
            )
        kind: type[PimaeForImageClassification | Uni4EyeForImageClassification | Uni4EyeModel]
        kind = PimaeForImageClassification
    else:
        names = Uni4EyeConfig.from_pretrained(folder).architectures or []
        kind = Uni4EyeForImageClassification if Uni4EyeForImageClassification.__name__ in names else Uni4EyeModel
    with quiet_transformers():
        model = kind.from_pretrained(folder)
    _place(model, device)
    return Predictor(model, PreprocessingContract.from_pretrained(folder), str(run_or_checkpoint))


def _place(model: torch.nn.Module, device: str | None) -> None:
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=chosen)
    except (AssertionError, NotImplementedError, RuntimeError) as error:  # torch raises each of them for a device
        reason = str(error).strip().splitlines()[0]
        raise ContractError(f"device '{chosen}'", f"cannot be used ({reason})", "Give cpu or cuda") from error
    torch.nn.Module.to(model.eval(), chosen)


def model_folder(path: Path) -> Path:
    """Return the folder that holds a model's files: the one given, or its last complete checkpoint.

    Args:
        path: A run, one of its checkpoints, or a converted model; or ``hf:OWNER/NAME``, fetched from Hugging Face's hub
            (nothing but JSON, safetensors and tokenizers).

    Raises:
        ReadError: There is no model.
    """
    if str(path).startswith(HUB):
        return _from_hub(str(path).removeprefix(HUB))
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


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*tokenizer/*"]))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ReadError(f"{HUB}{name}", f"cannot be fetched ({reason})", "Check the name and the connection") from error


def model_type(folder: Path) -> str:
    """Return the kind of model in a folder, as its ``config.json`` names it.

    Args:
        folder: As :func:`model_folder` returns it.

    Raises:
        ReadError: ``config.json`` is damaged.
    """
    path = folder / "config.json"
    try:
        return str(dict(json.loads(path.read_text(encoding="utf-8"))).get("model_type"))
    except (TypeError, ValueError) as error:
        raise ReadError(path, f"is damaged ({error})", "Give another folder, or train or convert again") from error
