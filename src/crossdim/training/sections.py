"""Sections that both kinds of recipe have: model, contract, optimisation, hardware."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from crossdim.training.schedule import Kind

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
PixelSize = tuple[Positive, Positive]
VoxelSize = tuple[Positive, Positive, Positive]


class Section(BaseModel):
    """A part of a recipe: unknown keys and values of another type are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelSection(Section):
    """Size and structure of the model; a size left out is the preset's.

    Attributes:
        preset: Named size.
        hidden_size: Width of the encoder.
        num_hidden_layers: Layers of the encoder.
        num_attention_heads: Heads of the encoder.
        intermediate_size: Width inside the encoder's MLPs.
        patch_size: Patch of an image, (height, width).
        volume_patch_size: Patch of a volume, (depth, height, width).
        volume_stem: Weights of its own for volumes, or inflated from the image stem.
        image_positions: Position codes of image patches.
        volume_positions: Position codes of volume patches (the authors' run had none).
        drop_path_rate: Stochastic depth of the last layer.
        pooling: Feature: the class token, or the mean of the patch tokens.
    """

    preset: Literal["tiny", "small", "base", "large"] = "tiny"
    hidden_size: Positive | None = None
    num_hidden_layers: Positive | None = None
    num_attention_heads: Positive | None = None
    intermediate_size: Positive | None = None
    patch_size: PixelSize = (16, 16)
    volume_patch_size: VoxelSize = (16, 16, 16)
    volume_stem: Literal["separate", "inflated"] = "separate"
    image_positions: Literal["sincos", "none"] = "sincos"
    volume_positions: Literal["sincos", "none"] = "sincos"
    drop_path_rate: Share = 0.0
    pooling: Literal["cls", "mean"] = "cls"

    @property
    def patches(self) -> dict[Kind, tuple[int, ...]]:
        """Patch of each kind."""
        return {"image": self.patch_size, "volume": self.volume_patch_size}


class ContractSection(Section):
    """How files become tensors; what is left out is proposed from the data.

    Attributes:
        file: A ``contract.json`` (or a folder that holds one) to use as it is; excludes the other keys.
        image_size: (height, width) of images in pixels; None proposes it.
        volume_size: (depth, height, width) of volumes in voxels; None proposes it.
        image_tokens: Most patches of a proposed image size.
        volume_tokens: Most patches of a proposed volume size.
    """

    file: str | None = None
    image_size: PixelSize | None = None
    volume_size: VoxelSize | None = None
    image_tokens: Positive = 196
    volume_tokens: Positive = 216

    @model_validator(mode="after")
    def _one_source(self) -> "ContractSection":
        for given, stated in (
            ("file", "image"),
            ("file", "volume"),
            ("image_size", "image"),
            ("volume_size", "volume"),
        ):
            if getattr(self, given) is None:
                continue
            tokens = f"{stated}_tokens"
            if getattr(self, tokens) != type(self).model_fields[tokens].default:
                raise ValueError(f"{given} and {tokens} exclude each other: {given} states the size")
            if given == "file" and getattr(self, f"{stated}_size") is not None:
                raise ValueError(f"file and {stated}_size exclude each other: file states the size")
        return self


class OptimisationSection(Section):
    """AdamW with linear warm-up and half-cosine decay.

    Attributes:
        base_learning_rate: Learning rate at 256 samples per optimiser step; scaled linearly with the samples.
        weight_decay: On weights only, never on biases, norms and tokens.
        betas: AdamW's β1 and β2.
        warmup: Share of the run in which the learning rate rises.
        epochs: Length of the run in passes over the data; excludes ``steps``.
        steps: Length of the run in optimiser steps; excludes ``epochs``.
        accumulate: Forwards per optimiser step.
        max_grad_norm: Gradients are clipped to this norm; 0 does not clip.
    """

    base_learning_rate: Rate = 1e-3
    weight_decay: Weight = 0.05
    betas: tuple[Share, Share] = (0.9, 0.95)
    warmup: Share = 0.1
    epochs: Rate | None = 100.0
    steps: Positive | None = None
    accumulate: Positive = 1
    max_grad_norm: Weight = 0.0

    @model_validator(mode="after")
    def _one_length(self) -> "OptimisationSection":
        if self.steps is not None and "epochs" not in self.model_fields_set:
            object.__setattr__(self, "epochs", None)  # steps alone replace the default number of epochs
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("needs either epochs or steps, not both and not neither")
        return self


class HardwareSection(Section):
    """Where and how fast; none of it changes what is learned beyond rounding.

    Attributes:
        device: ``auto`` takes a GPU if there is one.
        precision: ``auto`` is bf16 on a GPU that has it and fp32 elsewhere; losses are always fp32.
        workers: Processes that prepare samples; 0 prepares them in the training process.
        cache_gib: Memory for prepared samples, over all workers of a process.
        activation_checkpointing: Recompute activations in the backward pass to save memory.
    """

    device: Literal["auto", "cpu"] = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    workers: Count = 0
    cache_gib: Weight = 2.0
    activation_checkpointing: bool = False
