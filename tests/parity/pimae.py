"""What our PiMAE gives for every array of a fixture that this step owns."""

import math
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossdim.convert import convert_state_dict
from crossdim.heads.point_reconstruction import image_places
from crossdim.models.pimae import PimaeForPreTraining, PimaeForPreTrainingOutput
from crossdim.models.pimae_config import PimaeConfig
from crossdim.tokens.grid import grid_of, pair
from crossdim.tokens.positions import sincos_table
from crossdim.tokens.sampling import farthest_points, gather_points
from tests.parity import pimae_detector
from tests.parity.fixture import Fixture

Values = Iterator[tuple[str, np.ndarray | Tensor]]

MODES = {"random": "independent", "uniform": "uniform", "complement": "complement"}
LOSSES = {"pc": "points", "img": "image", "xmodal": "cross_modal"}
STATISTICS = ("first_conv.1.running_mean", "first_conv.1.running_var")
STATISTICS += ("second_conv.1.running_mean", "second_conv.1.running_var")


def results(fixture: Fixture, dtype: torch.dtype) -> Values:
    """Yield (name, value) of every array, from the authors' weights through our converter and public models."""
    official = fixture.config["pretrain"]
    grid = grid_of(pair(official["img_size"]), pair(official["patch_size"]))
    widths = {"encoder": "trans_dim", "decoder": "decoder_trans_dim"}
    tables = {
        f"pre.sincos_{name}": sincos_table(grid, official["pc_model"]["transformer_config"][key]).numpy()[1:]
        for name, key in widths.items()
    }
    yield from tables.items()
    cloud = torch.from_numpy(fixture.input("fps.points"))
    count = fixture.arrays["fps.index"]["shape"][1]
    yield "fps.index", farthest_points(cloud, count, skip_near_origin=True)
    weights = {name: torch.from_numpy(value) for name, value in fixture.state_dict("pretrain", tables).items()}
    config, state, report = convert_state_dict("pimae/pretrain", weights, official)
    if report.missing:
        raise ValueError(f"the converter leaves {len(report.missing)} weights unfilled: {report.missing[:3]}")
    inputs = arguments(fixture, dtype)
    yield from tokens(built(config, state, dtype), inputs)
    for name, alignment in MODES.items():
        yield from masked(f"pre.{name}", (config, state, dtype), {"mask_alignment": alignment}, inputs)
    still = {"mask_alignment": "independent", "dropout": 0.0, "points_decoder_drop_path_rate": 0.0}
    yield from trained(fixture, built(config, state, dtype, **still), report.used, inputs)
    if "detector" in fixture.config:
        yield from pimae_detector.results(fixture, dtype, (config, state, report.used))


def built(config: PimaeConfig, state: dict[str, Tensor], dtype: torch.dtype, **changes: Any) -> PimaeForPreTraining:
    """Return our model with the authors' weights and changed options."""
    changed = deepcopy(config)
    for name, value in changes.items():
        setattr(changed, name, value)
    model = PimaeForPreTraining(changed)
    model.load_state_dict(state)
    return model.eval().to(dtype)


def arguments(fixture: Fixture, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the inputs under our names; calibration and augmentation make one projection."""
    tilt, k, scale = (fixture.input(f"pre.{name}").astype(np.float64) for name in ("calib_Rtilt", "calib_K", "scale"))
    level = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    to_camera = level @ tilt.transpose(0, 2, 1) / scale[:, None, None] ** 2
    to_pixel = np.concatenate([k @ to_camera, np.zeros((len(k), 3, 1))], axis=2)
    to_pixel[:, :2] -= to_pixel[:, 2:]  # Their pixels count from 1.
    width, height = fixture.config["pretrain"]["frame"]
    return {
        "points": torch.from_numpy(fixture.input("pre.points")).to(dtype),
        "pixel_values": torch.from_numpy(fixture.input("images")).to(dtype),
        "projection": torch.from_numpy(to_pixel).to(dtype),
        "frame_size": torch.tensor([[height, width]] * len(k)),
        "points_mask": torch.from_numpy(fixture.stored("pre.mask_pc")).bool(),
        "image_noise": torch.from_numpy(fixture.input("image_noise")).to(dtype),
    }


@torch.no_grad()
def tokens(model: PimaeForPreTraining, inputs: dict[str, Tensor]) -> Values:
    """Groups, tokens, targets, and the encoders without a mask."""
    encoder, images = model.pimae, inputs["pixel_values"]
    groups = encoder.group(inputs["points"])
    yield "pre.fps_index", groups.center_index
    yield "pre.knn_index", groups.member_index
    yield "pre.center", groups.centers
    yield "pre.neighborhood", groups.neighbourhoods
    yield "pre.token_pc_feature", encoder.point_tokens(groups.neighbourhoods)
    yield "pre.token_pc", encoder.embed_points(groups)
    yield "pre.token_img_patch", encoder.patch_embed(images).flatten(2).transpose(1, 2)
    yield "pre.token_img", encoder.embed_image(images)
    output = model(**inputs)
    yield "pre.mask_pc", output.encoded.points_mask
    yield "pre.img_target", output.image_target
    whole = encoder(points=inputs["points"], pixel_values=images)
    yield "pre.full_img", whole.image_hidden_state
    yield "pre.full_pc", whole.points_hidden_state
    yield "pre.full_joint", whole.last_hidden_state


@torch.no_grad()
def masked(group: str, made_of: tuple[Any, Any, Any], changes: dict[str, Any], inputs: dict[str, Tensor]) -> Values:
    """Everything that depends on the mask."""
    model = built(*made_of, **changes)
    output: PimaeForPreTrainingOutput = model(**inputs)
    encoded = output.encoded
    yield f"{group}.mask_img", encoded.image_mask.mask
    yield f"{group}.ids_restore", encoded.image_mask.ids_restore
    if output.hit is not None:
        hidden = torch.stack([mask.nonzero()[:, 0] for mask in inputs["points_mask"]])
        centers = gather_points(encoded.groups.centers, hidden)
        places = image_places(centers, inputs["projection"], inputs["frame_size"], model.config.pixel_convention)
        yield f"{group}.align_u", places.u
        yield f"{group}.align_v", places.v
        yield f"{group}.hit", output.hit
    yield f"{group}.latent_img", encoded.image_hidden_state
    yield f"{group}.latent_pc", encoded.points_hidden_state
    yield f"{group}.latent_joint", encoded.last_hidden_state
    yield f"{group}.decoder_joint", output.joint_decoded
    yield f"{group}.img_feature", output.image_features
    yield f"{group}.img_pred", output.image_prediction
    yield f"{group}.pc_feature", output.points_features
    yield f"{group}.pc_pred", output.points_prediction.flatten(0, 1)
    yield f"{group}.cross_u", output.places.u
    yield f"{group}.cross_v", output.places.v
    yield f"{group}.cross_target", output.cross_modal_target.transpose(1, 2)
    by_group = output.cross_modal_prediction.unflatten(1, output.points_prediction.shape[1:3])
    yield f"{group}.cross_pred_raw", by_group.flatten(2).transpose(1, 2)
    for theirs, ours in LOSSES.items():
        yield f"{group}.loss_{theirs}", output.losses[ours]
    yield f"{group}.loss_total", output.loss
    straight = built(*made_of, **changes, cross_modal_axes="uv")(**inputs)
    yield f"{group}.loss_xmodal_xy", straight.losses["cross_modal"]
    normalised = built(*made_of, **changes, norm_pix_loss=True)(**inputs)
    yield f"{group}.loss_img_norm_pix", normalised.losses["image"]


def trained(fixture: Fixture, model: PimaeForPreTraining, used: dict[str, str], inputs: dict[str, Tensor]) -> Values:
    """Losses, gradients and running statistics of one training step."""
    output = model.train()(**inputs)
    output.loss.backward()
    for theirs, ours in LOSSES.items():
        yield f"pre.train.loss_{theirs}", output.losses[ours]
    yield "pre.train.loss_total", output.loss
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    ours = [gradients.get(used.get(name, "")) for name in fixture.config["pretrain"]["grad_names"]]
    yield "pre.train.grad_norm", np.array([math.nan if g is None else g.double().norm().item() for g in ours])
    buffers = dict(model.pimae.point_tokens.named_buffers())
    yield "pre.train.bn_running", torch.cat([buffers[name] for name in STATISTICS])
