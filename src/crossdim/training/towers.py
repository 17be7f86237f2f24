"""The towers of Med-2E3: named sizes with random weights, or what was trained or published before.

A Uni4Eye encoder can be the 3D tower, the 2D tower, or both; its preprocessing then comes with it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from crossdim.encoders.vision3d import VisionTransformer3DConfig
from crossdim.errors import ContractError, RecipeError
from crossdim.models import auto as _registered  # noqa: F401 (AutoModel then knows crossdim's own)
from crossdim.training.adaptation import encoder_folder
from crossdim.training.provenance import weights_hash
from crossdim.training.recipe_instruct import QuestionSection, Vision2DSection, Vision3DSection
from crossdim.transforms.contract import FILE_NAME, PreprocessingContract

TINY = {"hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 384}
TINY_QUESTION = TINY | {"num_hidden_layers": 2, "hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}
M3D = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
SIGLIP_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
PATCHES_3D = {"tiny": (4, 8, 8), "m3d": (4, 16, 16)}
PATCHES_2D = {"tiny": 8, "siglip-large": 16}

_VISION_HALVES = {"siglip": "SiglipVisionModel", "siglip2": "Siglip2VisionModel", "clip": "CLIPVisionModel"}
"""Models of pictures and texts, of which the tower is the half that looks."""


@dataclass(frozen=True)
class Tower:
    """A tower before it stands in a model.

    Attributes:
        config: What to build.
        patch: Its patch, as many numbers as axes.
        model: With its weights; None draws new ones.
        contract: The preprocessing it was trained with, if it is known.
        sha256: Of its weights, where they lie in a folder.
    """

    config: Callable[[PreprocessingContract], PreTrainedConfig]
    patch: tuple[int, ...]
    model: PreTrainedModel | None = None
    contract: PreprocessingContract | None = None
    sha256: str | None = None


def vision3d_tower(section: Vision3DSection) -> Tower:
    """Return the 3D tower.

    Args:
        section: The recipe's.

    Raises:
        RecipeError: It is not to be found, or is no 3D tower.
    """
    if section.source in section.NAMED:
        sizes = (TINY if section.source == "tiny" else M3D) | section.stated()
        patch = section.patch_size or PATCHES_3D[section.source]

        def config(contract: PreprocessingContract) -> PreTrainedConfig:
            assert contract.volume is not None
            return VisionTransformer3DConfig(
                volume_size=contract.volume.size, volume_patch_size=patch, **cast("Any", sizes)
            )

        return Tower(config, patch)
    found = _loaded("model.vision3d.source", section.source)
    if found.config_class.model_type not in ("uni4eye", "vision_transformer_3d"):
        raise RecipeError(
            f"'model.vision3d.source' {section.source}",
            f"is a {found.config_class.model_type} model, which does not look at volumes",
            "Give a Uni4Eye run, a converted M3D-CLIP, 'tiny' or 'm3d'",
        )
    patch = found.config_class.volume_patch_size
    return found.tower((patch,) * 3 if isinstance(patch, int) else tuple(patch))


def vision2d_tower(section: Vision2DSection) -> Tower:
    """Return the 2D tower.

    Args:
        section: The recipe's.

    Raises:
        RecipeError: It is not to be found.
    """
    if section.source in section.NAMED:
        from transformers import SiglipVisionConfig

        sizes = (TINY if section.source == "tiny" else SIGLIP_LARGE) | section.stated()
        patch = section.patch_size or PATCHES_2D[section.source]

        def config(contract: PreprocessingContract) -> PreTrainedConfig:
            seen = contract.volume.size[1:] if contract.volume is not None else _image(contract)
            side = -(-max(seen) // patch) * patch  # square, as SigLIP is; slices are resized to it
            channels = 3 if section.source != "tiny" else 1
            if contract.image is not None:
                channels = max(channels, contract.image.channels)
            return SiglipVisionConfig(
                image_size=side, patch_size=patch, num_channels=channels, vision_use_head=False, **cast("Any", sizes)
            )

        return Tower(config, (patch, patch))
    found = _loaded("model.vision2d.source", section.source)
    patch_2d = found.config_class.patch_size
    return found.tower((patch_2d,) * 2 if isinstance(patch_2d, int) else tuple(patch_2d))


def _image(contract: PreprocessingContract) -> tuple[int, int]:
    if contract.image is None:
        raise ContractError("contract", "knows neither volumes nor images", "Give data")
    return contract.image.size


def question_encoder(section: QuestionSection, vocab_size: int) -> tuple[Tower, Any]:
    """Return the question encoder and its tokenizer; None reads with the language model's.

    Args:
        section: The recipe's.
        vocab_size: Of the language model's tokenizer.

    Raises:
        RecipeError: It is not to be found, or is no BERT.
    """
    from transformers import BertConfig

    if section.source in section.NAMED:
        sizes: dict[str, Any] = {**section.stated()}
        if section.source == "tiny":
            sizes = TINY_QUESTION | sizes
            sizes["initializer_range"] = sizes["hidden_size"] ** -0.5  # BERT's 0.02 is for its own width
        config = BertConfig(vocab_size=vocab_size, **sizes)
        return Tower(lambda contract: config, ()), None
    found = _loaded("model.question.source", section.source)
    if found.config_class.model_type != "bert":
        raise RecipeError(
            f"'model.question.source' {section.source}",
            f"is a {found.config_class.model_type} model where a BERT is needed",
            "Give a BERT, 'tiny' or 'bert-base'",
        )
    return found.tower(()), AutoTokenizer.from_pretrained(section.source)


@dataclass(frozen=True)
class _Loaded:
    model: PreTrainedModel
    contract: PreprocessingContract | None
    sha256: str | None

    @property
    def config_class(self) -> Any:
        return self.model.config

    def tower(self, patch: tuple[int, ...]) -> Tower:
        return Tower(lambda contract: self.model.config, patch, self.model, self.contract, self.sha256)


def _loaded(key: str, source: str) -> _Loaded:
    path = Path(source)
    folder: str | Path = encoder_folder(path) if path.is_dir() else source
    try:
        kind = AutoConfig.from_pretrained(folder).model_type
        half = _VISION_HALVES.get(kind)
        if half is None:
            model = AutoModel.from_pretrained(folder)
        else:
            import transformers

            model = getattr(transformers, half).from_pretrained(folder)
    except (OSError, ValueError) as error:
        if isinstance(error, ContractError):
            raise
        reason = str(error).strip().splitlines()[0]
        raise RecipeError(
            f"'{key}' {source}",
            f"is neither a folder with a model nor a name on a hub within reach ({reason})",
            "Give one of these, or a named size",
        ) from error
    local = Path(folder)
    contract = PreprocessingContract.from_pretrained(local) if (local / FILE_NAME).is_file() else None
    return _Loaded(model, contract, weights_hash(local) if local.is_dir() else None)
