"""From a recognised checkpoint to our sizes, the preprocessing it was trained with, and what happens to each tensor."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from crossdim.convert.dual import expected_shapes
from crossdim.convert.keys import Change, KeyReport, Shape, fill
from crossdim.convert.layout import Layout, depth
from crossdim.convert.reading import Checkpoint
from crossdim.errors import ReadError, RecipeError
from crossdim.models.uni4eye import Uni4EyeForPreTraining, Uni4EyeModel
from crossdim.models.uni4eye_config import Uni4EyeConfig, pair, triple
from crossdim.tokens.grid import Grid, grid_of, inflate_kernel
from crossdim.tokens.positions import interpolate_table
from crossdim.transforms.contract import (
    ImageContract,
    PercentileIntensity,
    PreprocessingContract,
    VolumeContract,
)

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
"""Heads of the usual vision transformers, by width; shapes of weights do not tell them."""

DECODER_HEAD_WIDTH = 32
"""Width of a head in MAE's decoder: 16 heads of 512."""

VOLUME_GRIDS = {112: (4, 7, 4), 686: (7, 14, 7), 1372: (14, 14, 7)}
"""Patches along (depth, height, width) of the authors' volumes, by their number."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_IMAGE_STEM = "uni4eye.patch_embed.image"
_VOLUME_STEM = "uni4eye.patch_embed.volume"


@dataclass(frozen=True)
class Choices:
    """What the user decides; see :func:`crossdim.convert.uni4eye.convert_uni4eye`."""

    heads: int | None = None
    inflate: bool = False
    image_size: int | tuple[int, int] | None = None
    volume_size: int | tuple[int, int, int] | None = None


class Plan:
    """How a checkpoint is converted; made by reading its shapes, and its position tables.

    Args:
        checkpoint: Weights, not yet read.
        layout: Whose they are.
        choices: What the user decides.

    Attributes:
        model: Our class for it.
        config: Its sizes.
        contract: The preprocessing it was trained with.
        notes: Every assumption and change, one sentence each.

    Raises:
        ReadError: A weight is missing, or its shape fits no model of ours.
        RecipeError: A choice does not fit the checkpoint, or one is needed.
    """

    def __init__(self, checkpoint: Checkpoint, layout: Layout, choices: Choices) -> None:
        self.checkpoint, self.layout, self.choices = checkpoint, layout, choices
        self.model = Uni4EyeForPreTraining if layout.decoder else Uni4EyeModel
        self.notes: list[str] = []
        self._changes: dict[str, Change] = {}
        self._leave: dict[str, str] = {}
        self._derive: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
        sizes = self._encoder() | self._decoder() | self._images() | self._volumes() | self._training()
        self.config = Uni4EyeConfig(**sizes)
        self.contract = self._contract()

    def fill(self) -> tuple[dict[str, Tensor], KeyReport]:
        """Read, change and name every tensor.

        Returns:
            Our state dict in float32, and the report of all keys.

        Raises:
            ReadError: A weight is missing that nothing can stand in for, or has not the shape of its neighbours.
        """
        own = "" if self.layout.decoder else "uni4eye."
        expected = {own + name: shape for name, shape in expected_shapes(self.config, self.model).items()}
        shared = self.config.shared_decoder_norm
        state, keys = fill(self.checkpoint, expected, self._changes, self._leave, shared)
        if self._derive is not None:
            state |= self._derive(state)
        missing = tuple(name for name in keys.missing if name not in state)
        for name in missing:
            self._check_dispensable(name)
        state = {name.removeprefix(own): tensor.float().contiguous() for name, tensor in state.items()}
        used = {name: ours.removeprefix(own) for name, ours in keys.used.items()}
        left = tuple(name.removeprefix(own) for name in missing)
        return state, KeyReport(used, keys.unused, left, keys.reshaped)

    def _check_dispensable(self, name: str) -> None:
        of_volumes = name.startswith(_VOLUME_STEM) or ".volume_head." in name
        fine_tuned = name.startswith("uni4eye.encoder.norm.") and "fc_norm.weight" in self.checkpoint.shapes
        if not of_volumes and not fine_tuned:
            raise ReadError(self.checkpoint.path, f"has nothing for '{name}'", "Download or copy it again")

    def _shape(self, name: str) -> Shape:
        if name not in self.checkpoint.shapes:
            raise ReadError(self.checkpoint.path, f"lacks '{name}'", "Download or copy it again")
        return self.checkpoint.shapes[name]

    def _encoder(self) -> dict[str, Any]:
        hidden, heads = self._shape("cls_token")[-1], self.choices.heads
        if heads is None and hidden not in HEADS:
            known = ", ".join(map(str, HEADS))
            reason = f"cannot be told from a width of {hidden} (known widths: {known})"
            raise RecipeError("number of attention heads", reason, "Give it with --heads")
        if heads is None:
            heads = HEADS[hidden]
            self.notes.append(f"{heads} attention heads are assumed from the width {hidden}; shapes do not tell them.")
        elif heads < 1 or hidden % heads:
            raise RecipeError(f"heads {heads}", f"do not divide the width {hidden}", "Give a divisor of the width")
        mean_pooled = "fc_norm.weight" in self.checkpoint.shapes
        if mean_pooled:
            self.notes.append(
                "It was fine-tuned with mean pooling, without the norm that ends our encoder: that one starts anew."
            )
        return {
            "hidden_size": hidden,
            "num_hidden_layers": depth(self.checkpoint, "blocks"),
            "num_attention_heads": heads,
            "intermediate_size": self._shape("blocks.0.mlp.fc1.weight")[0],
            "qkv_bias": "blocks.0.attn.qkv.bias" in self.checkpoint.shapes,
            "pooling": "mean" if mean_pooled else "cls",
        }

    def _decoder(self) -> dict[str, Any]:
        if not self.layout.decoder:
            return {}
        width = self._shape("decoder_embed.weight")[0]
        if width % DECODER_HEAD_WIDTH:
            reason = f"is {width} wide, which is no multiple of the {DECODER_HEAD_WIDTH} of MAE's decoder heads"
            raise ReadError(self.checkpoint.path, f"has a decoder that {reason}", "Convert a state dict of its encoder")
        heads = width // DECODER_HEAD_WIDTH
        self.notes.append(f"{heads} heads are assumed in the decoder of width {width}, as in MAE's.")
        return {
            "decoder_hidden_size": width,
            "decoder_num_hidden_layers": depth(self.checkpoint, "decoder_blocks"),
            "decoder_num_attention_heads": heads,
            "decoder_intermediate_size": self._shape("decoder_blocks.0.mlp.fc1.weight")[0],
        }

    def _images(self) -> dict[str, Any]:
        two = self.layout.two
        _, channels, *kernel = self._shape(f"patch_embed.proj{two}.weight")
        patch = pair(kernel)
        if channels not in (1, 3):
            reason = f"takes images of {channels} channels; the preprocessing contract knows 1 and 3"
            raise ReadError(self.checkpoint.path, reason, "Convert a checkpoint for grey or RGB images")
        positions = self._shape(f"pos_embed{two}")[1] - 1
        side = math.isqrt(positions)
        if side * side != positions:
            reason = f"has {positions} image positions, which form no square grid"
            raise ReadError(self.checkpoint.path, reason, "Convert a checkpoint for square images")
        size = (side * patch[0], side * patch[1])
        if self.choices.image_size is not None:
            size = pair(self.choices.image_size)
        old, new = (side, side), grid_of(size, patch)
        kind = self._tables(two, "image")
        if kind == "table" and old != new:
            for place in ("uni4eye.positions.image_table", "decoder_positions.image_table"):
                self._changes[place] = partial(_interpolate, old=old, new=new)
        if self.layout.uni4eye and channels == 3:
            self._turn_colours()
        return {"image_size": size, "num_channels": channels, "patch_size": patch, "image_positions": kind}

    def _turn_colours(self) -> None:
        self._changes[f"{_IMAGE_STEM}.weight"] = _turn_inputs
        for head in ("intensity_decoder.image_head", "gradient_decoder.image_head"):
            source = "decoder_pred21.bias" if head.startswith("gradient") else f"decoder_pred{self.layout.two}.bias"
            square = math.prod(self._shape(f"patch_embed.proj{self.layout.two}.weight")[2:])
            if self.checkpoint.shapes.get(source) == (3 * square,):
                self._changes |= {f"{head}.weight": _turn_outputs, f"{head}.bias": _turn_outputs}
        self.notes.append(
            "The authors read images as BGR in [0, 1] without normalisation; stem and image head are turned to RGB, so "
            "that an RGB image gives the tokens that its BGR copy gave them."
        )

    def _tables(self, modality: str, kind: str) -> str:
        """Return ``table``, or ``none`` where the tables of a modality are zero and add nothing."""
        names = [f"{group}pos_embed{modality}" for group in ("", "decoder_")]
        present = [name for name in names if name in self.checkpoint.shapes]
        if any(bool(self.checkpoint[name].any()) for name in present):
            return "table"
        self._leave |= dict.fromkeys(present, "all zero: the same as no positions")
        self.notes.append(f"The {kind} positions are all zero, as in the released class: the model has none.")
        return "none"

    def _volumes(self) -> dict[str, Any]:
        if not self.layout.volume_stem:
            return self._without_volume_stem()
        if self.choices.inflate:
            reason = "is for checkpoints without a stem for volumes, and this one has its own"
            raise RecipeError("inflate", reason, "Leave it out")
        _, channels, *kernel = self._shape("patch_embed.proj3.weight")
        patch = triple(kernel)
        cube = math.prod(patch)
        head = self.checkpoint.shapes.get("decoder_pred3.bias", (cube,))[0]
        if channels > 1 and head != cube * channels:
            self._changes[f"{_VOLUME_STEM}.weight"] = _sum_inputs
            self.notes.append(
                f"The volume stem takes {channels} channels where its targets have one; it is summed over them, which "
                "is what a grey volume shown in every channel gives."
            )
            channels = 1
        if head != cube * channels:
            why = f"predicts patches of {head} values where the volume stem has patches of {cube * channels}"
            self._leave |= {"decoder_pred3.weight": why, "decoder_pred3.bias": why}
        if self.layout.dynamic_head:
            self.notes.append("The released training packs volumes into images and never reaches this volume stem.")
        kind = self._tables("3", "volume")
        grid = self._volume_grid(patch, needed=kind == "table")
        size = tuple(count * step for count, step in zip(grid, patch, strict=True))
        return {
            "volume_size": size,
            "num_volume_channels": channels,
            "volume_patch_size": patch,
            "volume_positions": kind,
        }

    def _volume_grid(self, patch: tuple[int, int, int], needed: bool) -> Grid:
        """Return patches along each axis: as chosen, as known, or as many along each."""
        positions = self._shape("pos_embed3")[1] - 1
        if self.choices.volume_size is not None:
            grid = grid_of(triple(self.choices.volume_size), patch)
            if needed and math.prod(grid) != positions:
                reason = f"has {math.prod(grid)} patches where the checkpoint has {positions} positions"
                raise RecipeError(
                    f"volume_size {self.choices.volume_size}", reason, "Give the size it was trained with"
                )
            return grid
        side = round(positions ** (1 / 3))
        if positions not in VOLUME_GRIDS and side**3 != positions and needed:
            reason = f"cannot be told from {positions} volume positions"
            raise RecipeError("volume size", reason, "Give it with --volume-size")
        grid = VOLUME_GRIDS.get(positions, (side, side, side))
        self.notes.append(f"{positions} volume positions are taken as a grid of {grid}.")
        return grid

    def _without_volume_stem(self) -> dict[str, Any]:
        height, width = pair(self._shape(f"patch_embed.proj{self.layout.two}.weight")[2:])
        patch = (height, height, width)
        if self.choices.inflate:
            self._derive = partial(_inflate, patch=patch, mean=self._mean(), std=self._std())
            self.notes.append(
                f"The stem for volumes is the image stem shared out over {patch[0]} slices: a volume of equal slices "
                "gives the token of its slice shown as a grey image."
            )
        else:
            self.notes.append("There is no stem for volumes: the contract refuses them, and a new stem starts anew.")
        size = triple(self.choices.volume_size or tuple(6 * step for step in patch))
        return {"volume_size": size, "num_volume_channels": 1, "volume_patch_size": patch}

    def _training(self) -> dict[str, Any]:
        arguments = self.checkpoint.arguments
        settings: dict[str, Any] = {}
        ratio = 0.5 if self.layout.dynamic_head else arguments.get("mask_ratio")
        if isinstance(ratio, float) and 0 <= ratio < 1:
            settings |= {"mask_ratio": ratio, "volume_mask_ratio": ratio}
        if self.layout.dynamic_head:
            self.notes.append("The mask ratio is 0.5, which the released loop passes whatever its argument says.")
            self.notes.append(
                "The decoder was trained on rectified tokens and with the dynamic head, which is not available yet: "
                "the encoder is exact, reconstructions are not the authors'."
            )
        square = math.prod(self._shape(f"patch_embed.proj{self.layout.two}.weight")[2:])
        maps = self.checkpoint.shapes.get("decoder_pred21.bias", (square,))[0]
        settings |= {
            "norm_pix_loss": arguments.get("norm_pix_loss") is True,
            "gradient_decoder": self.layout.gradient_decoder,
            "shared_decoder_norm": self.layout.gradient_decoder,
        }
        if self.layout.gradient_decoder:
            settings |= {"gradient_target": "uint8_chw" if maps == 3 * square else "uint8", "edge_scale": 1.0}
        return settings

    def _mean(self) -> tuple[float, ...] | None:
        colours = self._shape(f"patch_embed.proj{self.layout.two}.weight")[1] == 3
        return IMAGENET_MEAN if colours and not self.layout.uni4eye else None

    def _std(self) -> tuple[float, ...] | None:
        return IMAGENET_STD if self._mean() else None

    def _contract(self) -> PreprocessingContract:
        """Return the authors' preprocessing, as far as their code states it."""
        config, channels = self.config, self.config.num_channels
        height, width = pair(config.image_size)
        mean, std = self._mean(), self._std()
        image = ImageContract(
            size=(height, width),
            channels=3 if channels == 3 else 1,
            fit="resize" if self.layout.uni4eye else "crop",
            mean=mean,
            std=std,
        )
        volume, size = None, triple(config.volume_size)
        if self.layout.volume_stem:
            whole = PercentileIntensity(low=0.0, high=100.0)
            volume = VolumeContract(
                size=size, orientation=None, channels=config.num_volume_channels, intensity=whole, zscore=True
            )
        elif self.choices.inflate:
            volume = VolumeContract(size=size, mean=_average(mean), std=_average(std))
        if self.layout.uni4eye:
            source = "Uni4Eye's released code: images in [0, 1] without normalisation (BGR there, RGB here)"
            source += "; volumes z-scored over what is above 0" * self.layout.volume_stem
        else:
            source = "facebookresearch/mae: RGB, ImageNet mean and standard deviation"
        source += "; volumes for the inflated stem: crossdim's default" * self.choices.inflate
        return PreprocessingContract(image=image, volume=volume, source=f"{self.layout.name} ({source})")


def _average(values: tuple[float, ...] | None) -> tuple[float] | None:
    return (sum(values) / len(values),) if values else None


def _interpolate(table: Tensor, old: Grid, new: Grid) -> tuple[Tensor, str]:
    return interpolate_table(table, old, new), f"interpolated from a grid of {old} to {new}"


def _turn_inputs(weight: Tensor) -> tuple[Tensor, str]:
    return weight.flip(1), "input channels turned from BGR to RGB"


def _turn_outputs(weight: Tensor) -> tuple[Tensor, str]:
    turned = weight.unflatten(0, (-1, 3)).flip(1).flatten(0, 1)
    return turned, "output channels turned from BGR to RGB"


def _sum_inputs(weight: Tensor) -> tuple[Tensor, str]:
    return weight.sum(dim=1, keepdim=True), f"summed over its {weight.shape[1]} input channels"


def _inflate(
    state: dict[str, Tensor],
    patch: tuple[int, int, int],
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> dict[str, Tensor]:
    """Return the volume stem that answers to a grey volume as the image stem does to a grey image.

    Each channel of the image has a mean and a deviation of its own, the volume has their averages: the difference goes
    into kernel and bias.
    """
    weight, bias = state[f"{_IMAGE_STEM}.weight"].float(), state[f"{_IMAGE_STEM}.bias"].float()
    means = torch.tensor(mean or (0.0,) * weight.shape[1])[:, None, None]
    stds = torch.tensor(std or (1.0,) * weight.shape[1])[:, None, None]
    shift = (weight * (means.mean() - means) / stds).sum(dim=(1, 2, 3))
    kernel = inflate_kernel(weight * stds.mean() / stds, 1, patch)
    return {f"{_VOLUME_STEM}.weight": kernel, f"{_VOLUME_STEM}.bias": bias + shift}
