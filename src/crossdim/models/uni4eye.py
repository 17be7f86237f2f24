"""Uni4Eye: one ViT pre-trained on images and volumes by masked image modelling, then fine-tuned to classify.

Cai et al., "Uni4Eye: Unified 2D and 3D Self-supervised Pre-training via Masked Image Modeling Transformer for
Ophthalmic Image Classification", MICCAI 2022: section 2.1 (Unified Patch Embedding), 2.2 (masking), 2.3 (dual-branch
decoder).

What is unusual: squares and cubes become tokens of one encoder; a second decoder predicts the gradient map; the images
and the volumes of an optimiser step go through one forward, so every step trains the shared layers on both.

Differs from the authors' code (each behaviour of theirs is an option, see docs/explanation/fidelity.md):

* volume positions are sine-cosine, theirs are zero (``volume_positions="none"``, or their tables as ``"table"``);
* each decoder has a norm of its own (``shared_decoder_norm=True`` for theirs);
* the gradient map is a float in the scale of the intensities (``gradient_target="uint8"`` for theirs);
* volumes reach a volume stem of any patch size; padded tokens are hidden first and never count in the loss.
"""

from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput, ModelOutput

from crossdim.encoders.transformer import TransformerEncoder
from crossdim.errors import ContractError
from crossdim.heads.classification import ClassificationHead, Classifies
from crossdim.heads.gradients import GradientTarget, image_gradient, volume_gradient
from crossdim.heads.reconstruction import (
    Kind,
    ReconstructionDecoder,
    masked_mean_squared_error,
    normalise_patches,
)
from crossdim.masking import block_noise, hide_padding_first, mask_by_noise
from crossdim.models.uni4eye_config import Uni4EyeConfig, pair, triple
from crossdim.tokens.grid import Grid, UnifiedPatchEmbed, VolumeStem, grid_of, patchify
from crossdim.tokens.positions import GridPositions, PositionKind


@dataclass
class Uni4EyeModelOutput(ModelOutput):
    """Encoder output.

    Attributes:
        last_hidden_state: ``(batch, 1 + kept, dim)``, class token first; without a mask all tokens in raster order
            (padded ones are zero).
        pooler_output: ``(batch, dim)``: class token or mean of the patch tokens, as the config says.
        mask: ``(batch, tokens)``, 1 where hidden; None without noise.
        ids_keep: ``(batch, kept)`` indices of the visible tokens.
        ids_restore: ``(batch, tokens)`` inverse of the shuffling permutation.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    mask: Tensor | None = None
    ids_keep: Tensor | None = None
    ids_restore: Tensor | None = None


@dataclass
class BranchOutput(ModelOutput):
    """What pre-training computes for the images, or for the volumes, of a batch.

    Attributes:
        latent: ``(batch, 1 + kept, dim)`` encoder output.
        prediction: ``(batch, tokens, values)`` of the intensity decoder.
        gradient_prediction: The same of the gradient decoder, if there is one.
        target: ``(batch, tokens, values)`` patches, normalised if the config says so.
        gradient_target: Patches of the gradient map.
        mask: ``(batch, tokens)``, 1 where hidden.
        ids_restore: ``(batch, tokens)``.
    """

    latent: Tensor | None = None
    prediction: Tensor | None = None
    gradient_prediction: Tensor | None = None
    target: Tensor | None = None
    gradient_target: Tensor | None = None
    mask: Tensor | None = None
    ids_restore: Tensor | None = None


@dataclass
class Uni4EyeForPreTrainingOutput(ModelOutput):
    """Loss and everything behind it.

    Attributes:
        loss: Weighted sum of all parts.
        losses: The parts without weights: ``image/intensity``, ``image/gradient``, ``volume/intensity``,
            ``volume/gradient``.
        image: Branch of the images, if there were any.
        volume: Branch of the volumes, if there were any.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    image: BranchOutput | None = None
    volume: BranchOutput | None = None


class Uni4EyePreTrainedModel(PreTrainedModel):
    """What all Uni4Eye models share: initialisation and Hugging Face's switches."""

    config_class = Uni4EyeConfig
    base_model_prefix = "uni4eye"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["TransformerLayer"]
    _keys_to_ignore_on_load_unexpected = [
        r"^(intensity_decoder|gradient_decoder|decoder_norm|decoder_positions|classifier)\."
    ]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as MAE does: xavier-uniform maps, unit norms, tokens from N(0, 0.02²)."""
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
            flat = module.weight.view(module.weight.shape[0], -1)
            bound = (6 / (flat.shape[0] + flat.shape[1])) ** 0.5
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, Uni4EyeModel):
            init.normal_(module.cls_token, std=0.02)
        elif isinstance(module, ReconstructionDecoder):
            init.normal_(module.mask_token, std=0.02)
        elif isinstance(module, ClassificationHead) and module.thresholds is not None:
            init.copy_(module.thresholds, torch.linspace(1, -1, len(module.thresholds)))
        elif isinstance(module, GridPositions):
            for table in (module.image_table, module.volume_table):
                if table is not None:
                    init.zeros_(table)


def _positions(config: Uni4EyeConfig, dim: int) -> GridPositions:
    image: PositionKind = config.image_positions
    volume: PositionKind = config.volume_positions
    image_grid = grid_of(pair(config.image_size), pair(config.patch_size))
    volume_grid = grid_of(triple(config.volume_size), triple(config.volume_patch_size))
    return GridPositions(dim, image, image_grid, volume, volume_grid)


class Uni4EyeModel(Uni4EyePreTrainedModel):
    """Stem and encoder: images or volumes → tokens.

    ``(batch, channels, height, width)`` or ``(batch, channels, depth, height, width)`` → stem → + positions →
    [mask] → class token → encoder → ``(batch, 1 + tokens, dim)``.
    """

    def __init__(self, config: Uni4EyeConfig) -> None:
        super().__init__(config)
        stem: VolumeStem = config.volume_stem
        self.patch_embed = UnifiedPatchEmbed(
            config.hidden_size,
            config.num_channels,
            pair(config.patch_size),
            config.num_volume_channels,
            triple(config.volume_patch_size),
            stem,
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.positions = _positions(config, config.hidden_size)
        self.encoder = TransformerEncoder(config.encoder_shape())
        self.post_init()

    def grid(self, pixel_values: Float[Tensor, "batch channels *spatial"]) -> Grid:
        """Return the number of patches along each axis of a batch.

        Args:
            pixel_values: Images or volumes.
        """
        return grid_of(tuple(pixel_values.shape[2:]), self.patch_embed.patch_of(pixel_values))

    def embed(
        self, pixel_values: Float[Tensor, "batch channels *spatial"]
    ) -> tuple[Float[Tensor, "batch tokens dim"], Float[Tensor, "batch 1 dim"]]:
        """Return the patch tokens and the class token, both with their position codes (f_d of the paper).

        Args:
            pixel_values: Images or volumes.
        """
        tokens = self.patch_embed(pixel_values)
        cls_token = self.cls_token
        positions = self.positions(self.grid(pixel_values))
        if positions is not None:
            positions = positions.to(tokens)
            tokens, cls_token = tokens + positions[:, 1:], cls_token + positions[:, :1]
        return tokens, cls_token.to(tokens).expand(tokens.shape[0], -1, -1)

    def forward(
        self,
        pixel_values: Float[Tensor, "batch channels *spatial"],
        noise: Float[Tensor, "batch tokens"] | None = None,
        padding_mask: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Uni4EyeModelOutput:
        """Encode images or volumes.

        Args:
            pixel_values: Images or volumes, sizes multiples of the patch.
            noise: Mask scores; without noise nothing is hidden.
            padding_mask: True where a patch holds padding only. Under a mask such tokens are hidden first, and the
                ratio is a share of the tokens that hold data (on average over the batch, so that all samples keep
                equally many); without one they are left out of the sequence.
        """
        tokens, cls_token = self.embed(pixel_values)
        if noise is not None:
            rank = pixel_values.ndim - 2
            ratio = self.config.mask_ratio if rank == 2 else self.config.volume_mask_ratio
            data = None if padding_mask is None else int((~padding_mask).sum() / len(padding_mask))
            mask = mask_by_noise(hide_padding_first(noise, padding_mask), ratio, of=data)
            visible = tokens.gather(1, mask.ids_keep[..., None].expand(-1, -1, tokens.shape[-1]))
            hidden = self.encoder(torch.cat([cls_token, visible], dim=1))
            return Uni4EyeModelOutput(hidden, self.pool(hidden), mask.mask, mask.ids_keep, mask.ids_restore)
        sequence = torch.cat([cls_token, tokens], dim=1)
        if padding_mask is None or not bool(padding_mask.any()):
            hidden = self.encoder(sequence)
            return Uni4EyeModelOutput(hidden, self.pool(hidden))
        real = torch.cat([torch.ones_like(padding_mask[:, :1]), ~padding_mask], dim=1)
        packed = self.encoder(sequence[real][None], real.sum(dim=1).tolist())
        hidden = torch.zeros(sequence.shape, dtype=packed.dtype, device=packed.device)
        hidden = hidden.masked_scatter(real[..., None], packed)
        return Uni4EyeModelOutput(hidden, self.pool(hidden, padding_mask))

    def pool(
        self,
        hidden: Float[Tensor, "batch tokens dim"],
        padding_mask: Bool[Tensor, "batch patches"] | None = None,
        pooling: Literal["cls", "mean"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """Turn tokens into one feature per sample.

        Args:
            hidden: Encoder output, class token first; zero where padded.
            padding_mask: True where a patch holds padding only.
            pooling: Class token or mean of the patch tokens; the config's when left out.
        """
        if (pooling or self.config.pooling) == "cls":
            return hidden[:, 0]
        if padding_mask is None:
            return hidden[:, 1:].mean(dim=1)
        return hidden[:, 1:].sum(dim=1) / (~padding_mask).sum(dim=1, keepdim=True).clamp_min(1).to(hidden)


class Uni4EyeForPreTraining(Uni4EyePreTrainedModel):
    """Encoder and two decoders; one forward takes the images and the volumes of a step.

    images and volumes → visible tokens → shared encoder → intensity decoder and gradient decoder → masked losses →
    ``L = λ1 L_intensity + λ2 L_gradient`` summed over the two modalities (section 2.3).
    """

    def __init__(self, config: Uni4EyeConfig) -> None:
        super().__init__(config)
        self.uni4eye = Uni4EyeModel(config)
        shape = config.decoder_shape()
        square, cube = prod(pair(config.patch_size)), prod(triple(config.volume_patch_size))
        maps = 3 if config.gradient_target == "uint8_chw" else 1
        self.decoder_positions = _positions(config, config.decoder_hidden_size)
        self.intensity_decoder = ReconstructionDecoder(
            config.hidden_size, shape, square * config.num_channels, cube * config.num_volume_channels
        )
        self.gradient_decoder = (
            ReconstructionDecoder(config.hidden_size, shape, square * maps, cube) if config.gradient_decoder else None
        )
        names = ["shared"] if config.shared_decoder_norm else ["intensity"] + ["gradient"] * config.gradient_decoder
        norms = {name: nn.LayerNorm(config.decoder_hidden_size, eps=config.layer_norm_eps) for name in names}
        self.decoder_norm = nn.ModuleDict(norms)
        self.post_init()

    def forward(
        self,
        pixel_values: Float[Tensor, "images channels height width"] | None = None,
        voxel_values: Float[Tensor, "volumes volume_channels depth rows columns"] | None = None,
        noise: Float[Tensor, "images image_tokens"] | None = None,
        voxel_noise: Float[Tensor, "volumes volume_tokens"] | None = None,
        gradient_target: Float[Tensor, "images maps height width"] | None = None,
        voxel_gradient_target: Float[Tensor, "volumes 1 depth rows columns"] | None = None,
        padding_mask: Bool[Tensor, "images image_tokens"] | None = None,
        voxel_padding_mask: Bool[Tensor, "volumes volume_tokens"] | None = None,
    ) -> Uni4EyeForPreTrainingOutput:
        """Reconstruct hidden patches of images, volumes, or both.

        Args:
            pixel_values: Images, or None.
            voxel_values: Volumes, or None.
            noise: Mask scores of the images; drawn here if absent.
            voxel_noise: Mask scores of the volumes; drawn here if absent.
            gradient_target: Gradient maps of the images; computed here if absent.
            voxel_gradient_target: Gradient maps of the volumes; computed here if absent.
            padding_mask: True where an image patch holds padding only.
            voxel_padding_mask: True where a volume patch holds padding only.

        Raises:
            ContractError: Neither images nor volumes were given.
        """
        if pixel_values is None and voxel_values is None:
            raise ContractError(
                "pre-training batch",
                "holds neither images nor volumes",
                "Give pixel_values, voxel_values or both",
            )
        output = Uni4EyeForPreTrainingOutput()
        losses: dict[str, Tensor] = {}
        if pixel_values is not None:
            output.image = self._branch("image", pixel_values, noise, gradient_target, padding_mask)
            losses |= {f"image/{name}": part for name, part in self._losses(output.image, padding_mask).items()}
        if voxel_values is not None:
            output.volume = self._branch("volume", voxel_values, voxel_noise, voxel_gradient_target, voxel_padding_mask)
            losses |= {f"volume/{name}": part for name, part in self._losses(output.volume, voxel_padding_mask).items()}
        weights = {"intensity": self.config.intensity_weight, "gradient": self.config.gradient_weight}
        output.losses = losses
        output.loss = torch.stack([weights[key.split("/")[1]] * part for key, part in losses.items()]).sum()
        return output

    def _branch(
        self,
        kind: Kind,
        values: Float[Tensor, "batch channels *spatial"],
        noise: Float[Tensor, "batch tokens"] | None,
        gradients: Float[Tensor, "batch maps *spatial"] | None,
        padding_mask: Bool[Tensor, "batch tokens"] | None,
    ) -> BranchOutput:
        grid, patch = self.uni4eye.grid(values), self.uni4eye.patch_embed.patch_of(values)
        if noise is None:
            noise = torch.rand(values.shape[0], prod(grid), device=values.device)
        if kind == "volume" and self.config.volume_masking == "block":
            noise = block_noise(noise, grid, triple(self.config.volume_mask_block))
        encoded = self.uni4eye(values, noise=noise, padding_mask=padding_mask)
        target = patchify(values, patch)
        branch = BranchOutput(
            latent=encoded.last_hidden_state,
            target=normalise_patches(target) if self.config.norm_pix_loss else target,
            mask=encoded.mask,
            ids_restore=encoded.ids_restore,
        )
        branch.prediction = self._decode(self.intensity_decoder, "intensity", branch, grid, kind)
        if self.gradient_decoder is not None:
            if gradients is None:
                gradients = self._gradient_map(kind, values)
            branch.gradient_target = patchify(gradients, patch)
            branch.gradient_prediction = self._decode(self.gradient_decoder, "gradient", branch, grid, kind)
        return branch

    def _decode(
        self, decoder: ReconstructionDecoder, name: str, branch: BranchOutput, grid: Grid, kind: Kind
    ) -> Float[Tensor, "batch tokens values"]:
        norm = self.decoder_norm["shared" if self.config.shared_decoder_norm else name]
        return decoder(branch.latent, branch.ids_restore, self.decoder_positions(grid), norm, kind)

    @torch.no_grad()
    def _gradient_map(
        self, kind: Kind, values: Float[Tensor, "batch channels *spatial"]
    ) -> Float[Tensor, "batch maps *spatial"]:
        if kind == "volume":
            return volume_gradient(values, self.config.edge_scale)
        recipe: GradientTarget = self.config.gradient_target
        return image_gradient(values, recipe, self.config.edge_scale)

    @staticmethod
    def _losses(
        branch: BranchOutput, padding_mask: Bool[Tensor, "batch tokens"] | None
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the loss of each decoder, over the tokens that are hidden and hold data."""
        assert branch.mask is not None
        counts = branch.mask if padding_mask is None else branch.mask * ~padding_mask
        pairs = {
            "intensity": (branch.prediction, branch.target),
            "gradient": (branch.gradient_prediction, branch.gradient_target),
        }
        return {
            name: masked_mean_squared_error(prediction, target, counts)
            for name, (prediction, target) in pairs.items()
            if prediction is not None and target is not None
        }


class Uni4EyeForImageClassification(Classifies, Uni4EyePreTrainedModel):
    """Encoder over all tokens and one fully connected layer; images or volumes → logits.

    The feature is the class token, or the mean of the patch tokens followed by a LayerNorm (``pooling``).
    """

    def __init__(self, config: Uni4EyeConfig) -> None:
        super().__init__(config)
        self.uni4eye = Uni4EyeModel(config)
        self.make_classifier(config.hidden_size, config.layer_norm_eps if config.pooling == "mean" else None)
        self.post_init()

    def forward(
        self,
        pixel_values: Float[Tensor, "batch channels *spatial"],
        padding_mask: Bool[Tensor, "batch tokens"] | None = None,
        labels: Int[Tensor, "batch"] | Float[Tensor, "batch classes"] | None = None,
    ) -> ImageClassifierOutput:
        """Classify images or volumes.

        Args:
            pixel_values: Images or volumes.
            padding_mask: True where a patch holds padding only.
            labels: Class indices, or 0/1 per class for multi-label problems.
        """
        return self.classify(self.uni4eye(pixel_values, padding_mask=padding_mask).pooler_output, labels)
