"""The image encoder of a run → a folder that timm loads: weights, arguments, preprocessing and how to use them."""

import json
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from crossdim import __version__
from crossdim.convert.plain_vit import NORM_EPS, PlainVit, plain_vit
from crossdim.convert.reading import read_checkpoint
from crossdim.convert.report import appearing, check_free
from crossdim.errors import ContractError
from crossdim.inference.loading import model_folder, model_type
from crossdim.models.detr3d_config import Detr3dConfig
from crossdim.models.pimae_config import PimaeConfig
from crossdim.models.uni4eye_config import Uni4EyeConfig
from crossdim.transforms.contract import ImageContract, PreprocessingContract, RangeIntensity

CONFIGS: dict[str, type[PimaeConfig | Detr3dConfig | Uni4EyeConfig]] = {
    "pimae": PimaeConfig,
    "detr3d": Detr3dConfig,
    "uni4eye": Uni4EyeConfig,
}
"""Models whose image encoder is a plain vision transformer, by their type."""

ARCHITECTURE = "vit_base_patch16_224"
"""timm's entry point for plain vision transformers; the arguments beside it replace all of its sizes."""

_CROPS = {"resize": "squash", "crop": "center", "pad": "border"}
"""How an image gets its size: the contract's word → timm's."""


@dataclass(frozen=True)
class ImageEncoderExport:
    """What was written.

    Attributes:
        out: The folder.
        source: What it was made from.
        vit: Arguments and weights.
        contract: Preprocessing of the images, red first.
        notes: What timm's preprocessing does otherwise, one sentence each.
    """

    out: Path
    source: str
    vit: PlainVit
    contract: ImageContract
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as ``config.json`` holds it: what timm reads, and under ``crossdim`` what it does not."""
        contract, channels = self.contract, self.contract.channels
        return {
            "architecture": ARCHITECTURE,
            "num_classes": 0,
            "num_features": self.vit.arguments["embed_dim"],
            "global_pool": "",
            "model_args": self.vit.arguments,
            "pretrained_cfg": {
                "num_classes": 0,
                "input_size": [channels, *contract.size],
                "fixed_input_size": True,
                "mean": list(contract.mean or (0.0,) * channels),
                "std": list(contract.std or (1.0,) * channels),
                "interpolation": "bilinear",
                "crop_pct": 1.0,
                "crop_mode": _CROPS[contract.fit],
                "first_conv": "patch_embed.proj",
                "classifier": "head",
            },
            "crossdim": {
                "version": __version__,
                "source": self.source,
                "layer_norm_eps": NORM_EPS,
                "activation": "gelu",
                "channel_order": "rgb",
                "notes": list(self.notes),
            },
        }

    @property
    def tokens(self) -> str:
        """What comes out, in words."""
        rows, columns = self.vit.grid
        first = "the class token, then " if self.vit.arguments["class_token"] else ""
        return f"{first}{rows} x {columns} patches, row by row, each {self.vit.arguments['embed_dim']} values"


def export_image_encoder(
    run_or_checkpoint: str | PathLike[str],
    out: str | PathLike[str],
    *,
    image_size: tuple[int, int] | None = None,
) -> ImageEncoderExport:
    """Write the image encoder of a model as a plain vision transformer.

    The folder holds ``model.safetensors`` with timm's names, ``config.json`` (what timm's ``local-dir:`` reads),
    ``contract.json`` (the same preprocessing for crossdim) and ``README.md`` with the lines that load it.

    Args:
        run_or_checkpoint: A run of PiMAE or Uni4Eye, of a detector that looks at images or of a classifier of images,
            one of its checkpoints, or a converted model.
        out: Folder to make; it appears when it is complete.
        image_size: (height, width) in pixels, if the position table shall be made for another size than the model's.

    Raises:
        ReadError: There is no model, or a weight of the image encoder is missing.
        ContractError: The model does not look at images, or the size is no multiple of its patch.
        RecipeError: The folder exists already.
    """
    folder = check_free(out)
    source = model_folder(Path(run_or_checkpoint))
    kind = model_type(source)
    if kind not in CONFIGS:
        reason = f"is a model of type '{kind}', which has no image encoder of crossdim's own"
        raise ContractError(run_or_checkpoint, reason, f"Give a model of one of the types {', '.join(CONFIGS)}")
    config = CONFIGS[kind].from_pretrained(source)
    images = _images(PreprocessingContract.from_pretrained(source))
    if images is None or (isinstance(config, Detr3dConfig) and not config.image):
        raise ContractError(run_or_checkpoint, "does not look at images", "Give a model that was trained with images")
    size = image_size or images.size
    vit = plain_vit(config, read_checkpoint(source / "model.safetensors"), size, images.channel_order)
    contract = _red_first(images.model_copy(update={"size": size}))
    export = ImageEncoderExport(folder, str(run_or_checkpoint), vit, contract, _notes(contract))
    with appearing(folder) as temporary:
        _write(export, temporary)
    return export


def _write(export: ImageEncoderExport, folder: Path) -> None:
    save_file(export.vit.weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(export.to_dict(), indent=2) + "\n", encoding="utf-8")
    contract = PreprocessingContract(image=export.contract, source=f"the image encoder of {export.source}")
    contract.save_pretrained(folder)
    (folder / "README.md").write_text(_readme(export), encoding="utf-8")


def _images(contract: PreprocessingContract) -> ImageContract | None:
    if contract.image is None and contract.scene is not None:
        return contract.scene.image
    return contract.image


def _red_first(contract: ImageContract) -> ImageContract:
    if contract.channel_order == "rgb":
        return contract
    turned = {key: value and value[::-1] for key, value in (("mean", contract.mean), ("std", contract.std))}
    return contract.model_copy(update={**turned, "channel_order": "rgb"})


def _notes(contract: ImageContract) -> tuple[str, ...]:
    notes = []
    if not isinstance(contract.intensity, RangeIntensity):
        notes.append(
            f"The model was trained on intensities that contract.json brings to [0, 1] ({contract.intensity.kind}); "
            "timm's transform takes the full range of 8 bits for [0, 1]."
        )
    if contract.channels == 1:
        notes.append("Images are grey: open them with mode L before timm's transform.")
    if contract.fit == "pad":
        notes.append(
            "crossdim fills up with black and leaves patches of nothing but filling out; timm fills up with the mean "
            "and shows them."
        )
    return tuple(notes)


def _readme(export: ImageEncoderExport) -> str:
    arguments, contract, name = export.vit.arguments, export.contract, export.out.resolve().name
    last = int(arguments["depth"]) - 1
    ends = "a class token and a final norm" if arguments["class_token"] else "no class token and no final norm"
    statistics = export.to_dict()["pretrained_cfg"]
    colours = "grey" if contract.channels == 1 else "RGB"
    notes = "".join(f"- {note}\n" for note in export.notes)
    return f"""# A plain vision transformer

The image encoder of `{export.source}`, written by crossdim {__version__}: {arguments["depth"]} layers, \
{arguments["embed_dim"]} wide, {arguments["num_heads"]} heads, {ends}. LayerNorm has epsilon {NORM_EPS:g}, GELU is
exact. `pos_embed` holds the position codes for this size, and whatever else crossdim adds to every token.

In: images `(batch, {contract.channels}, {contract.size[0]}, {contract.size[1]})`. Out, before any pooling: \
{export.tokens}.

## Load

With timm 1.0.16 or later, beside this folder:

```python
import timm

model = timm.create_model("local-dir:{name}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
```

As the backbone of a detector, which wants maps `(batch, dim, rows, columns)` of some layers:

```python
backbone = timm.create_model("local-dir:{name}", pretrained=True, features_only=True, out_indices=[{last}])
```

With an older one, or with any plain vision transformer that has timm's names:

```python
import json

from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

model = VisionTransformer(**json.load(open("{name}/config.json"))["model_args"])
model.load_state_dict(load_file("{name}/model.safetensors"))
```

## Preprocessing

{colours}, values in [0, 1], size {contract.size[0]} x {contract.size[1]} ({contract.fit}, bilinear, antialiased); \
then less {statistics["mean"]}, divided by {statistics["std"]}.
{notes}
`contract.json` does exactly what training did:

```python
from crossdim.readers import read
from crossdim.transforms.contract import PreprocessingContract

pixels = PreprocessingContract.from_pretrained("{name}").prepare(read("photo.jpg")).tensor
```
"""
