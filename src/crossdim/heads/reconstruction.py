"""MAE decoders and their masked loss (MAE, section 3; Uni4Eye, section 2.3).

One decoder per target; each has an output layer for images and one for volumes. Position codes and the final norm are
handed in, because the released model shares them between its two decoders.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from crossdim.encoders.transformer import TransformerLayer, TransformerShape

Kind = Literal["image", "volume"]


def masked_mean_squared_error(
    prediction: Float[Tensor, "batch tokens values"],
    target: Float[Tensor, "batch tokens values"],
    mask: Float[Tensor, "batch tokens"],
) -> Float[Tensor, ""]:
    """Return the mean squared error over the tokens that count, in float32 or, for float64 predictions, float64.

    Args:
        prediction: Decoder output.
        target: Patches of the input or of its gradient map.
        mask: 1 where a token counts (hidden and not padding). With none, the loss is zero.
    """
    precision = torch.promote_types(prediction.dtype, torch.float32)
    per_token = (prediction.to(precision) - target.to(precision)).square().mean(dim=-1)
    return (per_token * mask).sum() / mask.sum().clamp_min(1)


def normalise_patches(patches: Float[Tensor, "batch tokens values"]) -> Float[Tensor, "batch tokens values"]:
    """Give every patch mean 0 and variance 1 (unbiased variance, epsilon 1e-6 inside the root).

    Args:
        patches: Target patches.
    """
    mean = patches.mean(dim=-1, keepdim=True)
    variance = patches.var(dim=-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


def fill_in(
    visible: Float[Tensor, "batch visible width"],
    mask_token: Float[Tensor, "1 1 width"],
    tokens: int,
    ids_restore: Int[Tensor, "batch tokens"] | None = None,
) -> Float[Tensor, "batch tokens width"]:
    """Return the visible tokens with a mask token for each hidden one.

    Args:
        visible: Visible tokens in the order of the encoder.
        mask_token: Stands for what is hidden.
        tokens: How many there are in all.
        ids_restore: Inverse of the shuffling permutation; without it, visible tokens stay before hidden ones.
    """
    hidden = mask_token.to(visible.dtype).expand(len(visible), tokens - visible.shape[1], -1)
    filled = torch.cat([visible, hidden], dim=1)
    return filled if ids_restore is None else filled.gather(1, ids_restore[..., None].expand(-1, -1, filled.shape[-1]))


class ReconstructionDecoder(nn.Module):
    """Fill in the hidden tokens and predict every patch.

    ``(batch, 1 + kept, encoder width)`` → append mask tokens, unshuffle, add positions → layers → norm → one output
    layer per modality → ``(batch, tokens, patch values)``.

    Args:
        encoder_size: Width of the encoder's tokens.
        shape: Sizes of the decoder.
        image_values: Values per image patch.
        volume_values: Values per volume patch.
    """

    def __init__(self, encoder_size: int, shape: TransformerShape, image_values: int, volume_values: int) -> None:
        super().__init__()
        self.embed = nn.Linear(encoder_size, shape.hidden_size)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, shape.hidden_size))
        self.layers = nn.ModuleList(TransformerLayer(shape) for _ in range(shape.num_layers))
        self.image_head = nn.Linear(shape.hidden_size, image_values)
        self.volume_head = nn.Linear(shape.hidden_size, volume_values)

    def forward(
        self,
        latent: Float[Tensor, "batch kept_and_class dim"],
        ids_restore: Int[Tensor, "batch tokens"],
        positions: Float[Tensor, "1 positions width"] | None,
        norm: nn.LayerNorm,
        kind: Kind,
    ) -> Float[Tensor, "batch tokens values"]:
        """Predict the patches of a batch.

        Args:
            latent: Encoder output, class token first.
            ids_restore: Inverse of the shuffling permutation.
            positions: Codes with the class row first, or None.
            norm: The norm before the output layer.
            kind: Which output layer to use.
        """
        visible = self.embed(latent)
        patches = fill_in(visible[:, 1:], self.mask_token, ids_restore.shape[1], ids_restore)
        sequence = torch.cat([visible[:, :1], patches], dim=1)
        if positions is not None:
            sequence = sequence + positions.to(sequence)
        for layer in self.layers:
            sequence = layer(sequence)
        head = self.image_head if kind == "image" else self.volume_head
        return head(norm(sequence)[:, 1:])
