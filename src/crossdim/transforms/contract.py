"""The preprocessing contract: what is done between a file and a tensor, saved in every checkpoint and enforced.

Training, evaluation and inference all call :meth:`PreprocessingContract.prepare`, so a model never sees data that were
prepared in another way. What does not fit is refused with the reason and the remedy.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, model_serializer, model_validator
from pydantic_core import ErrorDetails

from crossdim.errors import ContractError, nearest
from crossdim.samples import Image, Volume
from crossdim.transforms.image import ImageContract, prepare_image
from crossdim.transforms.intensity import Intensity, Part, PercentileIntensity, RangeIntensity, WindowIntensity
from crossdim.transforms.prepared import FileSlice, Prepared
from crossdim.transforms.scenes import PointsContract, SceneContract
from crossdim.transforms.volume import VolumeContract, prepare_volume

__all__ = [
    "FILE_NAME",
    "FileSlice",
    "ImageContract",
    "Intensity",
    "PercentileIntensity",
    "PointsContract",
    "Prepared",
    "PreprocessingContract",
    "RangeIntensity",
    "SceneContract",
    "VolumeContract",
    "WindowIntensity",
]

FILE_NAME = "contract.json"


class PreprocessingContract(Part):
    """How files become tensors, for the kinds a model knows.

    It can be given to Hugging Face's Trainer as ``processing_class``, which saves it in every checkpoint.

    Attributes:
        version: Version of the format.
        image: For images; None refuses them.
        volume: For volumes; None refuses them.
        scene: For scenes; None refuses them.
        source: Where the numbers come from, in words.
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values", "voxel_values", "points"]

    version: Literal[1] = 1
    image: ImageContract | None = None
    volume: VolumeContract | None = None
    scene: SceneContract | None = None
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _something_is_known(self) -> "PreprocessingContract":
        if self.image is None and self.volume is None and self.scene is None:
            raise ValueError("neither image nor volume nor scene is stated: every file would be refused")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Leave scenes out where there are none, so that contracts written before there were any keep their hash."""
        tree = handler(self)
        if self.scene is None:
            tree.pop("scene", None)
        return tree

    def prepare(self, noun: Image | Volume) -> Prepared:
        """Return what the model sees of a file.

        Args:
            noun: As read.

        Raises:
            ContractError: The kind, the channels or the intensities are not what the contract is for.
        """
        if isinstance(noun, Image) and self.image is not None:
            return prepare_image(noun, self.image)
        if isinstance(noun, Volume) and self.volume is not None:
            return prepare_volume(noun, self.volume)
        parts = {"images": self.image, "volumes": self.volume, "scenes": self.scene}
        known = " and ".join(kind for kind, part in parts.items() if part is not None)
        raise ContractError(
            noun.origin.path,
            f"is {'an image' if isinstance(noun, Image) else 'a volume'}, and the contract knows {known} only "
            f"({self.source})",
            f"Give {known}, or a model that was trained with both kinds",
        )

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> Path:
        """Write ``contract.json``; a crash never leaves half a file.

        Args:
            save_directory: Folder, made if need be.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{FILE_NAME}.{os.getpid()}"
        try:
            temporary.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
            os.replace(temporary, folder / FILE_NAME)
        finally:
            temporary.unlink(missing_ok=True)
        return folder / FILE_NAME

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str]) -> "PreprocessingContract":
        """Load a contract.

        Args:
            source: A ``contract.json``, or a folder that holds one.

        Raises:
            ContractError: There is none, it is no JSON, or a key in it is unknown, missing or of the wrong type.
        """
        path = Path(source)
        path = path / FILE_NAME if path.is_dir() else path
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise ContractError(
                path, "does not exist", "Give a contract.json, or the folder of a run or checkpoint"
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise ContractError(path, f"cannot be read ({error})", "Give a contract.json") from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, name: str = FILE_NAME) -> "PreprocessingContract":
        """Return the contract that a JSON text states.

        Args:
            text: What ``contract.json`` holds.
            name: What to call it in errors.

        Raises:
            ContractError: It is no JSON, or a key in it is unknown, missing or of the wrong type.
        """
        try:
            tree = json.loads(text)
        except json.JSONDecodeError as error:
            raise ContractError(name, f"is not valid JSON ({error})", "Mend that line, or take a copy") from error
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise _explain(name, tree, error.errors()) from error


def _explain(name: str, tree: Any, details: Sequence[ErrorDetails]) -> ContractError:
    """Turn pydantic's first complaint into one line; further ones are counted."""
    first = details[0]
    keys, part = _walk(PreprocessingContract, tree, first["loc"])
    more = f" ({len(details) - 1} more like this)" if len(details) > 1 else ""
    subject = f"{name}: '{'.'.join(keys)}'" if keys else name
    if first["type"] == "extra_forbidden":
        return ContractError(subject, f"is unknown{more}", nearest(keys[-1], part.model_fields))
    if first["type"] == "missing":
        subject = f"{name}: '{'.'.join([*keys, str(first['loc'][-1])])}'"
        return ContractError(subject, f"is missing{more}", "Add it")
    if first["type"] == "value_error":
        return ContractError(subject, first["msg"].removeprefix("Value error, ") + more, "Change one of the keys")
    if keys == ["version"]:
        return ContractError(subject, f"is {first['input']!r}, and this crossdim knows 1", "Update crossdim")
    value = "a section" if isinstance(first["input"], Mapping) else repr(first["input"])
    message = first["msg"][0].lower() + first["msg"][1:]
    return ContractError(subject, f"is {value}; {message}{more}", "Give a value of the stated kind")


def _walk(part: type[BaseModel], tree: Any, location: Sequence[int | str]) -> tuple[list[str], type[BaseModel]]:
    """Return the keys of a location without pydantic's own words, and the part that holds the last key."""
    keys: list[str] = []
    holder = part
    for step in location:
        if isinstance(tree, list) and isinstance(step, int):
            keys.append(str(step))
            tree = tree[step]
        elif isinstance(tree, Mapping) and step in tree:
            holder = part
            keys.append(str(step))
            tree = tree[step]
            part = _part_of(part, str(step), tree) or part
    return keys, holder


def _part_of(part: type[BaseModel], key: str, tree: Any) -> type[BaseModel] | None:
    """Return the part that a key holds; among several, the one of the kind that the file names."""
    field = part.model_fields.get(key)
    options = get_args(field.annotation) or (field.annotation,) if field is not None else ()
    found = [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]
    kind = tree.get("kind") if isinstance(tree, Mapping) else None
    named = [
        option for option in found if "kind" in option.model_fields and option.model_fields["kind"].default == kind
    ]
    return next(iter(named or found), None)
