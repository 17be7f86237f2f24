"""The intensity path for images equals Hugging Face's ViTMAE with the same weights."""

import re

import pytest
import torch
from torch import Tensor
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from crossdim.models.uni4eye import Uni4EyeForPreTraining
from crossdim.models.uni4eye_config import Uni4EyeConfig

RENAMES = (
    (r"vit\.embeddings\.patch_embeddings\.projection", r"uni4eye.patch_embed.image"),
    (r"vit\.embeddings\.cls_token", r"uni4eye.cls_token"),
    (r"vit\.embeddings\.position_embeddings", r"uni4eye.positions.image_table"),
    (r"vit\.layers", r"uni4eye.encoder.layers"),
    (r"vit\.layernorm", r"uni4eye.encoder.norm"),
    (r"decoder\.decoder_pos_embed", r"decoder_positions.image_table"),
    (r"decoder\.decoder_embed", r"intensity_decoder.embed"),
    (r"decoder\.mask_token", r"intensity_decoder.mask_token"),
    (r"decoder\.decoder_layers", r"intensity_decoder.layers"),
    (r"decoder\.decoder_norm", r"decoder_norm.intensity"),
    (r"decoder\.decoder_pred", r"intensity_decoder.image_head"),
    (r"\.layernorm_before\.", r".norm1."),
    (r"\.layernorm_after\.", r".norm2."),
    (r"\.o_proj\.", r".proj."),
)


def copied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename ViTMAE's weights; the maps of its queries, keys and values become one."""
    ours: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        for pattern, new in RENAMES:
            name = re.sub(pattern, new, name)
        ours[name] = tensor
    for name in [name for name in ours if ".q_proj." in name]:
        parts = [ours.pop(name.replace(".q_proj.", part)) for part in (".q_proj.", ".k_proj.", ".v_proj.")]
        ours[name.replace(".q_proj.", ".qkv.")] = torch.cat(parts)
    return ours


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_loss_prediction_mask_and_latent_equal_vitmae(norm_pix_loss):
    torch.manual_seed(0)
    theirs = ViTMAEForPreTraining(
        ViTMAEConfig(
            hidden_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=96,
            image_size=32,
            patch_size=8,
            decoder_hidden_size=32,
            decoder_num_hidden_layers=2,
            decoder_num_attention_heads=4,
            decoder_intermediate_size=64,
            layer_norm_eps=1e-6,
            mask_ratio=0.6,
            norm_pix_loss=norm_pix_loss,
        )
    ).eval()
    ours = Uni4EyeForPreTraining(
        Uni4EyeConfig(
            hidden_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=96,
            image_size=32,
            patch_size=8,
            volume_size=8,
            volume_patch_size=8,
            image_positions="table",
            decoder_hidden_size=32,
            decoder_num_hidden_layers=2,
            decoder_num_attention_heads=4,
            decoder_intermediate_size=64,
            mask_ratio=0.6,
            norm_pix_loss=norm_pix_loss,
            gradient_decoder=False,
        )
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    loaded = ours.load_state_dict(copied(theirs.state_dict()), strict=False)
    assert not loaded.unexpected_keys
    assert all("volume" in name for name in loaded.missing_keys)
    pixels, noise = torch.rand(3, 3, 32, 32), torch.rand(3, 16)
    with torch.no_grad():
        expected = theirs(pixels, noise=noise)
        latent = theirs.vit(pixels, noise=noise).last_hidden_state
        found = ours(pixel_values=pixels, noise=noise)
    assert torch.equal(found.image.mask, expected.mask)
    assert torch.equal(found.image.ids_restore, expected.ids_restore)
    torch.testing.assert_close(found.image.latent, latent, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.image.prediction, expected.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-6, atol=1e-6)
