"""What our Uni4Eye gives for every array of a fixture that this step owns."""

from collections.abc import Iterator
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor

from crossdim.convert import convert_state_dict
from crossdim.heads.gradients import image_gradient, luminance, sobel_uint8
from crossdim.models.uni4eye import Uni4EyeForPreTraining
from crossdim.models.uni4eye_config import pair
from crossdim.tokens.grid import grid_of
from crossdim.tokens.positions import sincos_table
from tests.parity.fixture import Fixture

Values = Iterator[tuple[str, np.ndarray | Tensor]]


def results(fixture: Fixture, dtype: torch.dtype) -> Values:
    """Yield (name, value) of every array, from the authors' weights through our converter and public models."""
    grid = grid_of(pair(fixture.config["img_size"]), pair(fixture.config["patch_size"]))
    tables = {
        "sincos.encoder": sincos_table(grid, fixture.config["embed_dim"]).numpy(),
        "sincos.decoder": sincos_table(grid, fixture.config["decoder_embed_dim"]).numpy(),
    }
    yield from tables.items()
    weights = {name: torch.from_numpy(value) for name, value in fixture.state_dict("dual", tables).items()}
    config, state, report = convert_state_dict("uni4eye/dual", weights, fixture.config)
    if report.missing:
        raise ValueError(f"the converter leaves {len(report.missing)} weights unfilled: {report.missing[:3]}")
    models = []
    for norm_pix_loss in (False, True):
        changed = deepcopy(config)
        changed.norm_pix_loss = norm_pix_loss
        model = Uni4EyeForPreTraining(changed)
        model.load_state_dict(state)
        models.append(model.eval().to(dtype))
    images = torch.from_numpy(fixture.input("x2")).to(dtype)
    volumes = torch.from_numpy(fixture.input("x3")).to(dtype)
    yield from _gradient_maps(images)
    used = report.used
    yield from _branch(fixture, models, used, "dual2d", images, {"noise": fixture.input("noise2")})
    of_volumes = {"voxel_noise": fixture.input("noise3"), "voxel_gradient_target": fixture.input("edge3")}
    yield from _branch(fixture, models, used, "dual3d", volumes, of_volumes)


def _gradient_maps(images: Tensor) -> Values:
    grey = luminance(images[:1])
    yield "dual2d.edge_u8", image_gradient(images, "uint8")
    yield "sobel.gray", grey[0, 0]
    yield "sobel.absgx_u8", sobel_uint8(grey)[0, 0, 1]
    yield "sobel.absgy_u8", sobel_uint8(grey)[0, 0, 0]
    yield "sobel.chw_u8", image_gradient(images[:1], "uint8_chw")[0]


def _branch(
    fixture: Fixture,
    models: list[Uni4EyeForPreTraining],
    used: dict[str, str],
    group: str,
    values: Tensor,
    others: dict[str, np.ndarray],
) -> Values:
    kind = "image" if group == "dual2d" else "volume"
    arguments = {name: torch.from_numpy(value).to(values.dtype) for name, value in others.items()}
    arguments["pixel_values" if kind == "image" else "voxel_values"] = values
    noise = arguments["noise" if kind == "image" else "voxel_noise"]
    model, normalising = models
    encoder = model.uni4eye
    output = model(**arguments)
    output.loss.backward()
    branch = output[kind]
    with torch.no_grad():
        encoded = encoder(values, noise=noise)
        tokens, _ = encoder.embed(values)
        yield f"{group}.patch_tokens", encoder.patch_embed(values)
        yield f"{group}.f_d_all", tokens
        yield f"{group}.f_d_visible", torch.take_along_dim(tokens, encoded.ids_keep[..., None], dim=1)
        yield f"{group}.latent_unmasked", encoder(values).last_hidden_state
        normalised = normalising(**arguments)
    yield f"{group}.ids_keep", encoded.ids_keep
    yield f"{group}.ids_restore", branch.ids_restore
    yield f"{group}.mask", branch.mask
    yield f"{group}.latent", branch.latent
    yield f"{group}.pred", branch.prediction
    yield f"{group}.pred_edge", branch.gradient_prediction
    yield f"{group}.target", branch.target
    yield f"{group}.target_edge", branch.gradient_target
    yield f"{group}.loss", output.loss
    yield f"{group}.loss_intensity", output.losses[f"{kind}/intensity"]
    yield f"{group}.loss_edge", output.losses[f"{kind}/gradient"]
    yield f"{group}.loss_norm_pix", normalised.loss
    yield f"{group}.loss_intensity_norm_pix", normalised.losses[f"{kind}/intensity"]
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    ours = [gradients[used[name]] for name in fixture.config["grad_names"]["dual"]]
    yield f"{group}.grad_norm", np.array([np.nan if g is None else g.double().norm().item() for g in ours])
    model.zero_grad()
