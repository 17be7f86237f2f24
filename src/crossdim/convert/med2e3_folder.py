"""What the released folders say about the parts: sizes from config files and shapes, tokenizers, preprocessing."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, BertConfig, PreTrainedConfig, PreTrainedTokenizerFast

from crossdim.convert.keys import Shape
from crossdim.convert.med2e3_parts import CLIP_PREFIX, PARTS, VIT_PREFIX, Weights, leaves, read_json
from crossdim.convert.med2e3_sizes import CONNECTOR, RELEASED, Parts, assemble, m3d_config
from crossdim.convert.plan import HEADS
from crossdim.encoders.vision3d import VisionTransformer3DConfig
from crossdim.errors import CrossdimError, ReadError, RecipeError
from crossdim.models.med2e3_config import Med2E3Config
from crossdim.transforms.contract import PreprocessingContract
from crossdim.transforms.presets import for_med2e3
from crossdim.transforms.text import Med2E3Processor

_NOT_SIZES = frozenset(
    {
        "_attn_implementation",
        "_name_or_path",
        "architectures",
        "attn_implementation",
        "auto_map",
        "dtype",
        "quantization_config",
        "torch_dtype",
        "transformers_version",
    }
)
"""Keys of a Hugging Face config that name code, files or types instead of sizes; they are ignored."""

_WRONG = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
    StrictDataclassError,
)
"""What classes of transformers raise when sizes contradict themselves."""
Made = TypeVar("Made")
_AGAIN = "Download or copy it again"
_BERT = f"{CLIP_PREFIX}language_encoder."
_BERT_HEAD_WIDTH = 64

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
_ENDS = {"phi3": "<|endoftext|>", "qwen2": "<|im_end|>"}
"""What ends an answer in the authors' templates, where the tokenizer may say something else."""

MAX_LENGTH = 768
"""Tokens that the authors' models take, visual ones included."""

M3D_PATCH, M3D_SIZE = (4, 16, 16), (32, 256, 256)
"""Of the released M3D-CLIP: assumed where no config file says otherwise and the shapes agree."""


def whole_config(folder: Path, weights: Weights, notes: list[str], heads: int | None = None) -> Med2E3Config:
    """Return our config for the released folder.

    Args:
        folder: With ``args/`` and one folder for each part.
        weights: Of all parts; only shapes are looked at.
        notes: Every assumption is added, one sentence each.
        heads: Heads of the 3D encoder, if nothing says.

    Raises:
        ReadError: A config file is missing, damaged, or does not fit the weights.
        RecipeError: The model is of a kind that cannot be converted.
    """
    arguments = leaves(read_json(folder / "args" / "config.json"))
    numbers = [int(match[1]) for value in arguments.values() if (match := CONNECTOR.fullmatch(str(value)))]
    if not numbers:
        notes.append(f"args/config.json names no scoring connector: the released one ({RELEASED}) is assumed.")
    parts = Parts(
        vision3d=vit_config(folder / "vision3d_model" / "config.json", weights, notes, heads),
        vision2d=_hugging_face(folder / "vision2d_model" / "config.json", weights, PARTS["vision2d_model"]),
        language=_hugging_face(folder / "llm" / "config.json", weights, PARTS["llm"]),
        question=_bert_config(weights, notes),
    )
    experiment = arguments.get("exp_id", 4)
    number = numbers[0] if numbers else RELEASED
    return checked(
        folder / "args" / "config.json", lambda: assemble(parts, number, experiment if type(experiment) is int else 4)
    )


def checked(path: Path, make: Callable[[], Made]) -> Made:
    """Make a config or model and turn whatever it complains about into one line.

    Args:
        path: Where the sizes come from.
        make: Makes it.

    Raises:
        ReadError: The sizes contradict themselves.
    """
    try:
        return make()
    except CrossdimError:
        raise
    except _WRONG as error:
        reason = " ".join(str(error).split())
        raise ReadError(path, f"does not describe a model ({reason})", _AGAIN) from error


def _hugging_face(path: Path, weights: Mapping[str, Any], prefix: str) -> PreTrainedConfig:
    """Return the config of a part by the name of its family, never by code that the file names."""
    found = read_json(path)
    if isinstance(found.get("vision_config"), dict) and prefix == PARTS["vision2d_model"]:
        found = {"model_type": f"{found.get('model_type')}_vision_model", **found["vision_config"]}
    sizes = {key: value for key, value in found.items() if key not in _NOT_SIZES}
    family = sizes.pop("model_type", None)
    scaling = sizes.get("rope_scaling")
    if isinstance(scaling, dict) and "su" in (scaling.get("type"), scaling.get("rope_type")):
        sizes["rope_scaling"] = scaling | {"type": "longrope", "rope_type": "longrope"}
    if not isinstance(family, str):
        raise ReadError(path, "names no model_type", _AGAIN)
    config = checked(path, lambda: AutoConfig.for_model(family, **sizes))
    layers = getattr(config, "num_hidden_layers", 0)
    there = sum(name.startswith(prefix) for name in weights)
    if type(layers) is not int or layers > there:
        raise ReadError(path, f"states {layers} layers for {there} weights", _AGAIN)
    return config


def vit_config(path: Path, weights: Weights, notes: list[str], heads: int | None = None) -> VisionTransformer3DConfig:
    """Return our config of M3D-CLIP's vision transformer, from its config file or from shapes.

    Args:
        path: Its ``config.json``; need not exist.
        weights: Only shapes are looked at.
        notes: Every assumption is added.
        heads: Heads, if the file does not say.

    Raises:
        ReadError: The file is damaged or does not fit the weights, or a weight is missing.
        RecipeError: Something can be told neither from the file nor from shapes.
    """
    shapes = weights.shapes
    found = {key: value for key, value in _optional(path).items() if value is not None}
    hidden = _shape(weights, f"{VIT_PREFIX}cls_token")[-1]
    width = _shape(weights, f"{VIT_PREFIX}patch_embedding.patch_embeddings.1.weight")[-1]
    tokens = _shape(weights, f"{VIT_PREFIX}patch_embedding.position_embeddings")[1]
    sizes: dict[str, Any] = {
        "hidden_size": hidden,
        "num_layers": _layers(shapes, f"{VIT_PREFIX}blocks."),
        "mlp_dim": _shape(weights, f"{VIT_PREFIX}blocks.0.mlp.linear1.weight")[0],
        "pos_embed": found.get("pos_embed", "perceptron"),
    }
    if "num_heads" in found and heads is None:
        sizes["num_heads"] = found["num_heads"]
    else:
        sizes["num_heads"] = heads or _usual_heads(hidden, notes)
    if "img_size" in found and "patch_size" in found:
        sizes |= {key: found[key] for key in ("img_size", "patch_size", "in_channels") if key in found}
    elif (width, tokens) == (1024, 2048):
        sizes |= {"img_size": M3D_SIZE, "patch_size": M3D_PATCH}
        notes.append(f"Volumes of {M3D_SIZE} and patches of {M3D_PATCH} are assumed, as in the released M3D-CLIP.")
    else:
        reason = f"is needed to tell sizes: {tokens} positions and patches of {width} values are not those of M3D-CLIP"
        raise ReadError(path, reason, "Put the model's config.json beside its weights")
    return checked(path, lambda: m3d_config(sizes))


def _usual_heads(hidden: int, notes: list[str]) -> int:
    if hidden not in HEADS:
        known = ", ".join(map(str, HEADS))
        reason = f"cannot be told from a width of {hidden} (known widths: {known})"
        raise RecipeError("number of attention heads", reason, "Give it with --heads")
    notes.append(f"{HEADS[hidden]} heads of the 3D encoder are assumed from the width {hidden}.")
    return HEADS[hidden]


def _bert_config(weights: Weights, notes: list[str]) -> BertConfig:
    table = {
        name: _shape(weights, f"{_BERT}embeddings.{name}_embeddings.weight")
        for name in ("word", "position", "token_type")
    }
    hidden = table["word"][1]
    heads = max(1, hidden // _BERT_HEAD_WIDTH)
    notes.append(f"{heads} heads of BERT are assumed from the width {hidden}: no config file of it is released.")
    return BertConfig(
        vocab_size=table["word"][0],
        hidden_size=hidden,
        num_hidden_layers=_layers(weights.shapes, f"{_BERT}encoder.layer."),
        num_attention_heads=heads,
        intermediate_size=_shape(weights, f"{_BERT}encoder.layer.0.intermediate.dense.weight")[0],
        max_position_embeddings=table["position"][0],
        type_vocab_size=table["token_type"][0],
    )


def _optional(path: Path) -> dict[str, Any]:
    return leaves(read_json(path)) if path.is_file() else {}


def _shape(weights: Weights, name: str) -> Shape:
    found = weights.shapes.get(name, ())
    if len(found) < 2:
        subject = next((file for file in weights.files if "vision3d_model" in file.parts), weights.files[-1])
        raise ReadError(subject, f"lacks '{name.removeprefix(CLIP_PREFIX)}'", _AGAIN)
    return found


def _layers(shapes: Mapping[str, Shape], stem: str) -> int:
    numbers = {name.removeprefix(stem).split(".")[0] for name in shapes if name.startswith(stem)}
    return len(numbers)


def processor_of(
    folder: Path, config: Med2E3Config, notes: list[str], question_tokenizer: Path | None = None
) -> Med2E3Processor | PreprocessingContract:
    """Return what prepares the model's input: with the tokenizers where they are there, else the contract alone.

    Args:
        folder: The released one.
        config: Of the converted model.
        notes: What is missing is added.
        question_tokenizer: BERT's ``vocab.txt`` or tokenizer folder, in place of one in the released folder.

    Raises:
        ReadError: A tokenizer is damaged.
    """
    vision3d: Any = config.vision3d_config
    size = (vision3d.volume_size[0], vision3d.volume_size[1], vision3d.volume_size[2])
    contract = for_med2e3(size)
    if not any((folder / "llm" / name).is_file() for name in _TOKENIZERS):
        notes.append("llm/ holds no tokenizer: only the contract is written, and text has to be tokenised elsewhere.")
        return contract
    questions = None
    if config.uses_question and config.question_feature != "llm_mean":
        places = [question_tokenizer] if question_tokenizer else [folder / "vision3d_model", folder / "vocab.txt"]
        found = next((place for place in places if _holds_tokenizer(place)), None)
        if found is None:
            raise ReadError(
                folder / "vision3d_model" / "vocab.txt",
                "does not exist, and without BERT's words no question can be read",
                "Put M3D-CLIP's vocab.txt there, or give one (--question-tokenizer PATH)",
            )
        questions = read_question_tokenizer(found)
    tokenizer = read_tokenizer(folder / "llm")
    language, question = config.get_text_config(), config.question_config
    end = _ENDS.get(str(language.model_type), "")
    known = end and end in tokenizer.get_vocab()
    return Med2E3Processor(
        contract=contract,
        tokenizer=tokenizer,
        question_tokenizer=questions,
        prompt="vicuna",
        volume_tokens=config.volume_tokens(size),
        image_tokens=config.image_tokens((size[1], size[2])) if config.uses_slices else 0,
        volume_token_id=config.volume_token_id,
        image_token_id=config.image_token_id,
        max_length=_longest(folder),
        question_max_length=512 if questions is None else min(512, question.max_position_embeddings),
        eos=end if known else "",
    )


def _longest(folder: Path) -> int:
    found = leaves(read_json(folder / "args" / "config.json")).get("llm_max_length")
    return found if type(found) is int and found > 0 else MAX_LENGTH


def _holds_tokenizer(place: Path) -> bool:
    return place.is_file() or any((place / name).is_file() for name in ("vocab.txt", "tokenizer.json"))


def read_question_tokenizer(source: Path) -> Any:
    """Return BERT's tokenizer from its word list; line ends may be those of any system.

    Args:
        source: ``vocab.txt``, or a folder that holds it or a ``tokenizer.json``.

    Raises:
        ReadError: There is none, or it lacks BERT's special words.
    """
    from transformers import BertTokenizer

    if source.is_dir() and not (source / "vocab.txt").is_file():
        return read_tokenizer(source)
    path = source / "vocab.txt" if source.is_dir() else source
    try:
        words = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ReadError(path, f"cannot be read ({error})", "Give BERT's vocab.txt") from error
    places = {word: place for place, word in enumerate(words)}
    lacking = [word for word in ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]") if word not in places]
    if lacking:
        raise ReadError(path, f"lacks {', '.join(lacking)}", "Give BERT's vocab.txt")
    return BertTokenizer(vocab=places, do_lower_case=True)


def read_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a folder, without any code that it names.

    Args:
        folder: With ``tokenizer.json``, or an older format that transformers converts.

    Raises:
        ReadError: There is none, or it is damaged.
    """
    from transformers import AutoTokenizer

    try:
        if not (folder / "tokenizer.json").is_file():
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        stated = _optional(folder / "tokenizer_config.json")
        stated = read_json(folder / "tokenizer_config.json") if stated else {}
        words = {
            name: value["content"] if isinstance(value, dict) else value
            for name, value in stated.items()
            if name in ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
            and (isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("content"), str)))
        }
        template = stated.get("chat_template")
        if isinstance(template, str):
            words["chat_template"] = template
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **words)
        _open_as_stated(tokenizer, stated.get("add_bos_token"))
        return tokenizer
    except CrossdimError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ReadError(folder, f"holds no tokenizer that can be read ({reason})", _AGAIN) from error


def _open_as_stated(tokenizer: PreTrainedTokenizerFast, opens: object) -> None:
    """Let text begin with the first token or not, as ``add_bos_token`` says, whatever ``tokenizer.json`` does."""
    from tokenizers.processors import TemplateProcessing

    start, place = tokenizer.bos_token, tokenizer.bos_token_id
    if not isinstance(opens, bool) or not isinstance(start, str) or not isinstance(place, int):
        return
    if opens != (tokenizer("a").input_ids[:1] == [place]):
        head = f"{start}:0 " if opens else ""
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{head}$A:0", pair=f"{head}$A:0 $B:1", special_tokens=[(start, place)]
        )
