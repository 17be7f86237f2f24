"""The 3D vision transformer of M3D-CLIP: cubes of a volume become tokens.

Bai et al., "M3D: Advancing 3D Medical Image Analysis with Multi-Modal Large Language Models", 2024: a ViT-B over
patches of 4 x 16 x 16 voxels. Patches are cut in raster order, values inside a patch by position then channel, and
mapped by one matrix; learned position codes are added to the patches only, then the class token comes first.

Differs from the authors' code: other sizes work (the position table is interpolated); any hidden layer, with or
without the final norm, may be asked for.
"""

from math import prod
from typing import Any, no_type_check

import torch
from huggingface_hub.dataclasses import strict
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from crossdim.encoders.transformer import TransformerEncoder, TransformerShape
from crossdim.errors import ContractError
from crossdim.tokens.grid import Grid, grid_of, patchify


@no_type_check
@strict
class VisionTransformer3DConfig(PreTrainedConfig):
    """Sizes of the encoder; the defaults are M3D-CLIP's. Sizes are ``(depth, height, width)``.

    Attributes:
        hidden_size: Width of the tokens.
        num_hidden_layers: Layers.
        num_attention_heads: Heads of each layer.
        intermediate_size: Width inside the MLPs.
        layer_norm_eps: Epsilon of every LayerNorm.
        qkv_bias: Whether qkv projections have a bias.
        volume_size: Volume size of the position table; other sizes work too.
        volume_patch_size: Patch.
        num_channels: Channels of a volume.
        initializer_range: Standard deviation of new weights.
    """

    model_type = "vision_transformer_3d"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    layer_norm_eps: float = 1e-5
    qkv_bias: bool = False
    volume_size: tuple[int, ...] | list[int] = (32, 256, 256)
    volume_patch_size: tuple[int, ...] | list[int] = (4, 16, 16)
    num_channels: int = 1
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        self.volume_size, self.volume_patch_size = tuple(self.volume_size), tuple(self.volume_patch_size)
        if not len(self.volume_size) == len(self.volume_patch_size) == 3:
            raise ContractError(
                f"volume_size {self.volume_size}, volume_patch_size {self.volume_patch_size}",
                "are not both (depth, height, width)",
                "Give three numbers each",
            )
        super().__post_init__(**kwargs)


class VisionTransformer3D(PreTrainedModel):
    """``(volumes, channels, depth, height, width)`` → ``(volumes, tokens, dim)``."""

    config_class = VisionTransformer3DConfig
    base_model_prefix = "vision3d"
    main_input_name = "voxel_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["TransformerLayer"]

    def __init__(self, config: VisionTransformer3DConfig) -> None:
        super().__init__(config)
        dim = config.hidden_size
        self.patch_embed = nn.Linear(prod(config.volume_patch_size) * config.num_channels, dim)
        tokens = prod(grid_of(tuple(config.volume_size), tuple(config.volume_patch_size)))
        self.position_embeddings = nn.Parameter(torch.zeros(1, tokens, dim))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.encoder = TransformerEncoder(
            TransformerShape(
                dim,
                config.num_hidden_layers,
                config.num_attention_heads,
                config.intermediate_size,
                config.qkv_bias,
                config.layer_norm_eps,
            )
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise maps, tokens and positions from N(0, initializer_range²)."""
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, VisionTransformer3D):
            init.normal_(module.position_embeddings, std=std)
            init.normal_(module.cls_token, std=std)

    def grid(self, voxel_values: Float[Tensor, "volumes channels depth height width"]) -> Grid:
        """Return the number of patches along each axis.

        Args:
            voxel_values: Volumes; sizes are multiples of the patch.
        """
        return grid_of(tuple(voxel_values.shape[2:]), tuple(self.config.volume_patch_size))

    def embed(
        self, voxel_values: Float[Tensor, "volumes channels depth height width"]
    ) -> Float[Tensor, "volumes tokens dim"]:
        """Return the patch tokens with their position codes, without the class token.

        Args:
            voxel_values: Volumes; sizes are multiples of the patch.

        Raises:
            ContractError: The volumes have some other number of channels.
        """
        if voxel_values.shape[1] != self.config.num_channels:
            raise ContractError(
                f"volumes of {voxel_values.shape[1]} channels",
                f"do not fit an encoder of {self.config.num_channels}",
                "Prepare the input with the contract saved beside the model",
            )
        grid = self.grid(voxel_values)
        tokens = self.patch_embed(patchify(voxel_values, tuple(self.config.volume_patch_size)))
        return tokens + self._positions(grid)

    def _positions(self, grid: Grid) -> Float[Tensor, "1 tokens dim"]:
        own = grid_of(tuple(self.config.volume_size), tuple(self.config.volume_patch_size))
        if grid == own:
            return self.position_embeddings
        table = self.position_embeddings.reshape(1, *own, -1).movedim(-1, 1)
        resized = F.interpolate(table.float(), grid, mode="trilinear", align_corners=False)
        return resized.flatten(2).transpose(1, 2).to(self.position_embeddings.dtype)

    def hidden_state(
        self, voxel_values: Float[Tensor, "volumes channels depth height width"], layer: int = -1, norm: bool = False
    ) -> Float[Tensor, "volumes tokens dim"]:
        """Return the class token and the patch tokens after a layer.

        Args:
            voxel_values: Volumes; sizes are multiples of the patch.
            layer: 0 is the input of the first layer; negative numbers count from the last layer.
            norm: Whether the final norm follows.
        """
        tokens = self.embed(voxel_values)
        sequence = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        return self.encoder.hidden_state(sequence, layer, norm)

    def forward(
        self, voxel_values: Float[Tensor, "volumes channels depth height width"], layer: int = -1, norm: bool = False
    ) -> Float[Tensor, "volumes tokens dim"]:
        """Return the patch tokens after a layer, in raster order.

        Args:
            voxel_values: Volumes; sizes are multiples of the patch.
            layer: 0 is the input of the first layer; negative numbers count from the last layer.
            norm: Whether the final norm follows (M3D-LaMed has it, Med-2E3 does not).
        """
        return self.hidden_state(voxel_values, layer, norm)[:, 1:]
