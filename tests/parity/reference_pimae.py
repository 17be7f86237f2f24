"""PiMAE's pre-training in plain PyTorch, under the authors' names, written from the description of the released code;
and fixtures of any size made with it, in the layout of the shared ones.

It shares no code with crossdim, works in float64 and is slow on purpose.
"""

import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.parity.fixture import evaluate, fill, uniform
from tests.parity.reference_med2e3 import Keys, Names

Weights = dict[str, Tensor]
Arrays = dict[str, np.ndarray]
Tensors = dict[str, Tensor]

TOKENS, POINTS = "pc_branch.MAE_encoder.encoder.", "pc_branch.MAE_encoder."
NORMS = (f"{TOKENS}first_conv.1", f"{TOKENS}second_conv.1")
FRAME = (730, 530)
UPSAMPLED = [256, 352]
HIDDEN = 128
"""Width inside the position networks and after the first convolution."""


def linear(x: Tensor, w: Weights, name: str) -> Tensor:
    """A linear map over the last axis, or a convolution with kernel 1."""
    y = x @ w[f"{name}.weight"].flatten(1).T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def norm(x: Tensor, w: Weights, name: str, eps: float) -> Tensor:
    """LayerNorm by its formula."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    """Exact GELU."""
    return 0.5 * x * (1 + torch.erf(x / 2**0.5))


def attend(qkv: Tensor, heads: int) -> Tensor:
    """Attention among the tokens of a sample; ``(batch, tokens, 3 · dim)`` → ``(batch, tokens, dim)``."""
    batch, tokens, width = qkv.shape
    q, k, v = (part.reshape(batch, tokens, heads, -1).transpose(1, 2) for part in qkv.chunk(3, -1))
    weights = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)
    return (weights @ v).transpose(1, 2).reshape(batch, tokens, width // 3)


def blocks(x: Tensor, w: Weights, stem: str, heads: int, eps: float, again: Tensor | None = None) -> Tensor:
    """Layers of a vision transformer; ``again`` is added before each of them."""
    for place in range(depth_of(w, stem)):
        block = f"{stem}{place}."
        x = x if again is None else x + again
        y = attend(linear(norm(x, w, f"{block}norm1", eps), w, f"{block}attn.qkv"), heads)
        x = x + linear(y, w, f"{block}attn.proj")
        x = x + linear(gelu(linear(norm(x, w, f"{block}norm2", eps), w, f"{block}mlp.fc1")), w, f"{block}mlp.fc2")
    return x


def detr_layers(x: Tensor, w: Weights, stem: str, heads: int) -> Tensor:
    """Pre-norm layers of 3DETR."""
    for place in range(depth_of(w, stem)):
        block = f"{stem}{place}."
        y = norm(x, w, f"{block}norm1", 1e-5) @ w[f"{block}self_attn.in_proj_weight"].T
        y = attend(y + w[f"{block}self_attn.in_proj_bias"], heads)
        x = x + linear(y, w, f"{block}self_attn.out_proj")
        y = linear(norm(x, w, f"{block}norm2", 1e-5), w, f"{block}linear1").clamp(min=0)
        x = x + linear(y, w, f"{block}linear2")
    return x


def depth_of(w: Weights, stem: str) -> int:
    """Layers of a stack."""
    return 1 + max(int(name.removeprefix(stem).split(".")[0]) for name in w if name.startswith(stem))


def sample_farthest(points: np.ndarray, count: int) -> np.ndarray:
    """Farthest points of one cloud from the first on; what lies near the origin is never taken."""
    near = (points.astype(np.float64) ** 2).sum(-1) <= 1e-3
    nearest = np.full(len(points), np.inf)
    chosen = [0]
    while len(chosen) < count:
        nearest = np.minimum(nearest, ((points - points[chosen[-1]]).astype(np.float64) ** 2).sum(-1))
        chosen.append(int(np.where(near, -1.0, nearest).argmax()))
    return np.array(chosen)


def grouped(points: np.ndarray, groups: int, size: int) -> Arrays:
    """Centres and their nearest neighbours."""
    clouds = points.astype(np.float64)
    centres, members = [], []
    for cloud in clouds:
        centres.append(sample_farthest(cloud, groups))
        distance = ((cloud[centres[-1]][:, None] - cloud[None]) ** 2).sum(-1)
        members.append(distance.argsort(-1, kind="stable")[:, :size])
    center = np.stack([cloud[index] for cloud, index in zip(clouds, centres, strict=True)])
    near = np.stack([cloud[index] for cloud, index in zip(clouds, members, strict=True)])
    return {
        "fps_index": np.stack(centres),
        "knn_index": np.stack(members),
        "center": center,
        "neighborhood": near - center[:, :, None],
    }


def batch_norm(x: Tensor, w: Weights, name: str, statistics: Tensors | None) -> Tensor:
    """Batch norm over all but the last axis; with ``statistics`` in training, which gathers the running ones there."""
    mean, variance = w[f"{name}.running_mean"], w[f"{name}.running_var"]
    if statistics is not None:
        rows = x.flatten(0, -2)
        here, spread = rows.mean(0), rows.var(0, unbiased=False)
        statistics[f"{name}.running_mean"] = 0.9 * mean + 0.1 * here.detach()
        statistics[f"{name}.running_var"] = 0.9 * variance + 0.1 * rows.var(0).detach()
        mean, variance = here, spread
    return (x - mean) / (variance + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def point_features(w: Weights, near: Tensor, statistics: Tensors | None = None) -> Tensor:
    """The mini-PointNet: one token for each group."""
    x = batch_norm(linear(near, w, f"{TOKENS}first_conv.0"), w, NORMS[0], statistics).clamp(min=0)
    x = linear(x, w, f"{TOKENS}first_conv.3")
    x = torch.cat([x.amax(-2, keepdim=True).expand_as(x), x], -1)
    x = batch_norm(linear(x, w, f"{TOKENS}second_conv.0"), w, NORMS[1], statistics).clamp(min=0)
    return linear(x, w, f"{TOKENS}second_conv.3").amax(-2)


def place_code(w: Weights, stem: str, center: Tensor) -> Tensor:
    """The position network."""
    return linear(gelu(linear(center, w, f"{stem}0")), w, f"{stem}2")


def sincos(rows: int, columns: int, dim: int) -> np.ndarray:
    """MAE's table without a class row: columns in the first half of the width, rows in the second."""
    table = np.zeros((rows * columns, dim))
    for row, column, k in product(range(rows), range(columns), range(dim // 4)):
        omega = 1 / 10000 ** (k / (dim / 4))
        for half, position in enumerate((column, row)):
            table[row * columns + column, half * dim // 2 + k] = np.sin(position * omega)
            table[row * columns + column, half * dim // 2 + dim // 4 + k] = np.cos(position * omega)
    return table


def cut(images: Tensor, patch: int) -> Tensor:
    """Patches row by row, their values by row, column, channel."""
    _, _, height, width = images.shape
    rows = []
    for top, left in product(range(0, height, patch), range(0, width, patch)):
        rows.append(images[:, :, top : top + patch, left : left + patch].permute(0, 2, 3, 1).flatten(1))
    return torch.stack(rows, 1)


def on_image(points: Tensor, inputs: Tensors) -> tuple[Tensor, Tensor]:
    """Where points lie on the frame: share of its width and of its height, after rounding to a pixel."""
    tilt, k, scale = inputs["calib_Rtilt"], inputs["calib_K"], inputs["scale"]
    x, y, z = (points @ tilt / scale[:, None, None] ** 2).unbind(-1)
    a, b, c = (torch.stack([x, -z, y], -1) @ k.transpose(1, 2)).unbind(-1)
    return torch.round(a / c - 1) / FRAME[0], torch.round(b / c - 1) / FRAME[1]


def read_off(features: Tensor, x: Tensor, y: Tensor, size: list[int]) -> Tensor:
    """Values of a feature map at places in [0, 1], after it was enlarged; outside it is zero."""
    large = F.interpolate(features, size, mode="bilinear", align_corners=False)
    grid = torch.stack([2 * x - 1, 2 * y - 1], -1)[:, :, None]
    return F.grid_sample(large, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[..., 0]


def chamfer(prediction: Tensor, target: Tensor, kind: str) -> Tensor:
    """Squared distances to the nearest point, both ways; or half of the distances."""
    distance = (prediction[:, :, None] - target[:, None]).square().sum(-1)
    ways = distance.amin(2), distance.amin(1)
    if kind == "cdl2":
        return ways[0].mean() + ways[1].mean()
    return (ways[0].sqrt().mean() + ways[1].sqrt().mean()) / 2


def image_mask(config: dict[str, Any], inputs: Tensors, mode: str, hidden_centres: Tensor) -> Tensors:
    """Which patches are kept, in the order in which they are encoded."""
    noise, (height, width), patch = inputs["image_noise"], config["img_size"], config["patch_size"]
    share = 1 - config["joint_model"]["mask_ratio"]
    found: Tensors = {}
    if mode == "random":
        kept, shuffle = int(noise.shape[1] * share), noise.argsort(1)
    else:
        u, v = on_image(hidden_centres, inputs)
        place = (v * (height - 1) / patch).floor() * (width // patch) + (u * (width - 1) / patch).floor()
        hit = torch.zeros_like(noise).scatter(1, place.long(), 1.0)
        kept, shuffle = math.ceil(noise.shape[1] * share), (hit + noise / 2).argsort(1, descending=mode == "complement")
        found |= {"align_u": u, "align_v": v, "hit": hit}
    restore = shuffle.argsort(1)
    return found | {"keep": shuffle[:, :kept], "ids_restore": restore, "mask_img": (restore >= kept).double()}


def picked(x: Tensor, index: Tensor) -> Tensor:
    """Rows of every sample."""
    return torch.stack([sample[rows] for sample, rows in zip(x, index, strict=True)])


def decoded(
    w: Weights, config: dict[str, Any], latent: tuple[Tensor, Tensor], center: Tensor, restore: Tensor
) -> Tensors:
    """Both decoders; ``center`` in the order of the point tokens, visible ones first."""
    image, points = latent
    batch, patches, groups = len(image), restore.shape[1], center.shape[1]
    table = w["img_branch.decoder_pos_embed"]
    image = linear(image, w, "img_branch.decoder_embed")
    lacking = w["img_branch.mask_token"].expand(batch, patches - image.shape[1], -1)
    image = picked(torch.cat([image, lacking], 1), restore) + table + w["decoder_modality_img_embed"]
    code = place_code(w, "pc_branch.decoder_pos_embed.", center)
    visible = linear(points, w, "pc_branch.decoder_embed")
    lacking = w["pc_branch.mask_token"].expand(batch, groups - visible.shape[1], -1)
    points = torch.cat([visible, lacking], 1) + code + w["decoder_modality_pc_embed"]
    heads = [config[model][part]["num_heads"] for model, part in (("joint_model", "decoder"), ("img_model", "decoder"))]
    both = blocks(torch.cat([image, points], 1), w, "decoder_blocks.", heads[0], 1e-6)
    both = norm(both, w, "decoder_norm", 1e-6)
    image = blocks(both[:, :patches] + table, w, "img_branch.decoder_blocks.", heads[1], 1e-6)
    image = norm(image, w, "img_branch.decoder_norm", 1e-6)
    narrow = config["pc_model"]["transformer_config"]["decoder_num_heads"]
    points = blocks(both[:, patches:], w, "pc_branch.MAE_decoder.blocks.", narrow, 1e-5, again=code)
    points = norm(points[:, visible.shape[1] :], w, "pc_branch.MAE_decoder.norm", 1e-5)
    return {"decoder_joint": both, "img_feature": image, "pc_feature": points}


def tokens_of(w: Weights, config: dict[str, Any], inputs: Tensors, statistics: Tensors | None = None) -> Tensors:
    """Tokens of both modalities, without the modality embeddings."""
    images, patch = inputs["images"], config["patch_size"]
    stem = F.conv2d(images, w["img_branch.patch_embed.proj.weight"], w["img_branch.patch_embed.proj.bias"], patch)
    patches = stem.flatten(2).transpose(1, 2)
    features = point_features(w, inputs["neighborhood"], statistics)
    return {
        "token_img_patch": patches,
        "token_img": patches + w["img_branch.pos_embed"],
        "token_pc_feature": features,
        "token_pc": features + place_code(w, f"{POINTS}pos_embed.", inputs["center"]),
    }


def encoded(w: Weights, config: dict[str, Any], image: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each modality by itself, then both together with the class token."""
    narrow = config["pc_model"]["transformer_config"]["num_heads"]
    image = blocks(image, w, "img_branch.blocks.", config["img_model"]["encoder"]["num_heads"], 1e-6)
    points = detr_layers(points, w, f"{POINTS}blocks.layers.", narrow)
    both = torch.cat([w["cls_token"].expand(len(image), -1, -1), image, points], 1)
    return image, points, detr_layers(both, w, "blocks.layers.", config["joint_model"]["encoder"]["num_heads"])


def pretrain(
    w: Weights, config: dict[str, Any], inputs: Tensors, mode: str, statistics: Tensors | None = None
) -> Tensors:
    """Every array of one kind of mask, and the losses."""
    tokens = tokens_of(w, config, inputs, statistics)
    hidden = inputs["mask_pc"]
    seen = torch.stack([row.nonzero()[:, 0] for row in ~hidden])
    unseen = torch.stack([row.nonzero()[:, 0] for row in hidden])
    found = image_mask(config, inputs, mode, picked(inputs["center"], unseen))
    image = picked(tokens["token_img"] + w["modality_img_embedding"], found.pop("keep"))
    points = picked(tokens["token_pc"] + w["modality_pc_embedding"], seen)
    image, points, both = encoded(w, config, image, points)
    found |= {"latent_img": image, "latent_pc": points, "latent_joint": both}
    center = picked(inputs["center"], torch.cat([seen, unseen], 1))
    split = (both[:, 1 : 1 + image.shape[1]], both[:, 1 + image.shape[1] :])
    found |= decoded(w, config, split, center, found["ids_restore"])
    found["img_pred"] = linear(found["img_feature"], w, "img_branch.decoder_pred")
    size = config["pc_model"]["group_size"]
    found["pc_pred"] = linear(found["pc_feature"], w, "pc_branch.increase_dim.0").reshape(-1, size, 3)
    found["cross_pred_raw"] = linear(found["pc_feature"], w, "increase_dim_feat.0").transpose(1, 2)
    near = picked(inputs["neighborhood"], unseen)
    return found | losses(
        config, inputs, found, near, (near + picked(inputs["center"], unseen)[:, :, None]).flatten(1, 2)
    )


def losses(config: dict[str, Any], inputs: Tensors, found: Tensors, near: Tensor, points: Tensor) -> Tensors:
    """All terms; ``points`` are those of the hidden groups, where they lie in the scene."""
    target = cut(inputs["images"], config["patch_size"])
    centred = target - target.mean(-1, keepdim=True)
    normalised = centred / (centred.square().sum(-1, keepdim=True) / (target.shape[-1] - 1) + 1e-6).sqrt()
    mask = found["mask_img"]
    of_image = [
        ((found["img_pred"] - each).square().mean(-1) * mask).sum() / mask.sum() for each in (target, normalised)
    ]
    u, v = on_image(points, inputs)
    rows = config["img_size"][0] // config["patch_size"]
    features = found["img_feature"].detach().transpose(1, 2).unflatten(2, (rows, -1))
    by_point = found["cross_pred_raw"].transpose(1, 2).reshape(len(points), points.shape[1], -1)
    turned = read_off(features, v, u, config["feature_map_upsampled_to"])
    straight = read_off(features, u, v, config["feature_map_upsampled_to"])
    across = [(by_point - each.transpose(1, 2)).square().mean() for each in (turned, straight)]
    of_points = chamfer(found["pc_pred"], near.flatten(0, 1), config["pc_model"]["loss"])
    return {
        "cross_u": u,
        "cross_v": v,
        "cross_target": turned,
        "loss_pc": of_points,
        "loss_img": of_image[0],
        "loss_xmodal": across[0],
        "loss_total": of_points + of_image[0] + across[0],
        "loss_xmodal_xy": across[1],
        "loss_img_norm_pix": of_image[1],
    }


def everything(w: Weights, config: dict[str, Any], inputs: Tensors) -> Arrays:
    """Every array under ``pre.``, without the inputs."""
    found = {f"pre.{name}": value for name, value in tokens_of(w, config, inputs).items()}
    found["pre.img_target"] = cut(inputs["images"], config["patch_size"])
    for mode in ("random", "uniform", "complement"):
        found |= {f"pre.{mode}.{name}": value for name, value in pretrain(w, config, inputs, mode).items()}
    image = found["pre.token_img"] + w["modality_img_embedding"]
    points = found["pre.token_pc"] + w["modality_pc_embedding"]
    whole = zip(("img", "pc", "joint"), encoded(w, config, image, points), strict=True)
    found |= {f"pre.full_{name}": value for name, value in whole}
    w = {name: value.clone().requires_grad_(name in config["grad_names"]) for name, value in w.items()}
    statistics: Tensors = {}
    trained = pretrain(w, config, inputs, "random", statistics)
    trained["loss_total"].backward()
    found |= {f"pre.train.{name}": trained[name] for name in ("loss_pc", "loss_img", "loss_xmodal", "loss_total")}
    norms = [math.nan if w[name].grad is None else float(w[name].grad.norm()) for name in config["grad_names"]]
    found["pre.train.grad_norm"] = torch.tensor(norms, dtype=torch.float64)
    found["pre.train.bn_running"] = torch.cat(list(statistics.values()))
    return {name: value.detach().numpy() for name, value in found.items()}


def official_keys(config: dict[str, Any]) -> Keys:
    """Names, shapes and kinds of the state dict."""
    image, points, joint = config["img_model"], config["pc_model"], config["joint_model"]
    narrow, patch = points["transformer_config"], config["patch_size"]
    dim, thin, size = narrow["trans_dim"], narrow["decoder_trans_dim"], points["group_size"]
    rows, columns = (side // patch for side in config["img_size"])
    add = Names()
    for name in ("modality_img_embedding", "modality_pc_embedding", "cls_token", "img_branch.cls_token"):
        add.table(name, 1, 1, dim)
    for name in ("modality_img_embed", "modality_pc_embed"):
        add.table(f"decoder_{name}", 1, 1, thin)
    for name in ("pc_branch.mask_token", "img_branch.mask_token"):
        add.table(name, 1, 1, thin)
    for name, width in (("pos_embed", dim), ("decoder_pos_embed", thin)):
        which = "decoder" if name.startswith("decoder") else "encoder"
        kind = f"fixed:2-D sin-cos table, array pre.sincos_{which}"
        add.keys.append((f"img_branch.{name}", [1, rows * columns, width], kind))
    add.linear("img_branch.patch_embed.proj", dim, 3, patch, patch)
    for name, widths in (("first_conv", (3, 128, 128, 256)), ("second_conv", (512, 512, 512, dim))):
        add.linear(f"{TOKENS}{name}.0", widths[1], widths[0], 1)
        add.norm(f"{TOKENS}{name}.1", widths[1])
        add.keys.append((f"{TOKENS}{name}.1.running_mean", [widths[1]], "bias"))
        add.keys.append((f"{TOKENS}{name}.1.running_var", [widths[1]], "var"))
        add.keys.append((f"{TOKENS}{name}.1.num_batches_tracked", [], "fixed:integer buffer, value [0]"))
        add.linear(f"{TOKENS}{name}.3", widths[3], widths[2], 1)
    for name, width in ((f"{POINTS}pos_embed", dim), ("pc_branch.decoder_pos_embed", thin)):
        add.linear(f"{name}.0", HIDDEN, 3)
        add.linear(f"{name}.2", width, HIDDEN)
    detr_keys(add, f"{POINTS}blocks.layers.", narrow["depth"], dim, narrow["dim_feedforward"])
    detr_keys(add, "blocks.layers.", joint["encoder"]["depth"], dim, joint["encoder"]["dim_feedforward"])
    ratio = image["encoder"]["mlp_ratio"]
    vit_keys(add, "img_branch.blocks.", image["encoder"]["depth"], (dim, int(dim * ratio)))
    vit_keys(add, "img_branch.decoder_blocks.", image["decoder"]["depth"], (thin, int(thin * ratio)))
    vit_keys(add, "decoder_blocks.", joint["decoder"]["depth"], (thin, int(thin * joint["decoder"]["mlp_ratio"])))
    vit_keys(add, "pc_branch.MAE_decoder.blocks.", narrow["decoder_depth"], (thin, 4 * thin), bias=False)
    for name, width in (("img_branch.norm", dim), (f"{POINTS}norm", dim), ("norm", dim), ("decoder_norm", thin)):
        add.norm(name, width)
    add.norm("img_branch.decoder_norm", thin)
    add.norm("pc_branch.MAE_decoder.norm", thin)
    add.linear("img_branch.decoder_embed", thin, dim)
    add.linear("pc_branch.decoder_embed", thin, dim)
    add.linear("img_branch.decoder_pred", 3 * patch**2, thin)
    add.linear("pc_branch.increase_dim.0", 3 * size, thin, 1)
    add.linear("increase_dim_feat.0", size * thin, thin, 1)
    return add.keys


def detr_keys(add: Names, stem: str, depth: int, dim: int, inner: int) -> None:
    """Layers of 3DETR."""
    for block in (f"{stem}{place}." for place in range(depth)):
        add.keys.append((f"{block}self_attn.in_proj_weight", [3 * dim, dim], "weight"))
        add.keys.append((f"{block}self_attn.in_proj_bias", [3 * dim], "bias"))
        add.linear(f"{block}self_attn.out_proj", dim, dim)
        add.linear(f"{block}linear1", inner, dim)
        add.linear(f"{block}linear2", dim, inner)
        add.norm(f"{block}norm2", dim)
        add.norm(f"{block}norm1", dim)


def vit_keys(add: Names, stem: str, depth: int, widths: tuple[int, int], bias: bool = True) -> None:
    """Layers of a vision transformer."""
    dim, inner = widths
    for block in (f"{stem}{place}." for place in range(depth)):
        add.norm(f"{block}norm1", dim)
        add.linear(f"{block}attn.qkv", 3 * dim, dim, bias=bias)
        add.linear(f"{block}attn.proj", dim, dim)
        add.norm(f"{block}norm2", dim)
        add.linear(f"{block}mlp.fc1", inner, dim)
        add.linear(f"{block}mlp.fc2", dim, inner)


def scene_inputs(config: dict[str, Any], prefix: str) -> Arrays:
    """Point clouds in front of tilted cameras, stored under the names of the fixtures."""
    batch, count = config["batch"], config["npoints"]
    points = (uniform(f"{prefix}input:points", (batch, count, 3)) - 0.5) * [3.2, 2.4, 2.0] + [0, 3.0, -0.4]
    scale = 0.9 + 0.25 * uniform(f"{prefix}input:scale", (batch,))
    angle = 0.15 + 0.1 * uniform(f"{prefix}input:tilt", (batch,))
    tilt = np.stack([[[1, 0, 0], [0, np.cos(a), np.sin(a)], [0, -np.sin(a), np.cos(a)]] for a in angle])
    focal = 600 + 100 * uniform(f"{prefix}input:focal", (batch, 2))
    k = np.stack([[[fx, 0, FRAME[0] / 2], [0, fy, FRAME[1] / 2], [0, 0, 1]] for fx, fy in focal])
    given = {
        "pre.points": points * scale[:, None, None],
        "pre.calib_Rtilt": tilt * scale[:, None, None],
        "pre.calib_K": k,
        "pre.scale": scale,
        "fps.points": np.concatenate([points[:1] / 200, points[:1], points[:1]], 1) * [1, 1 / 3, 1],
    }
    return {name: value.astype(np.float32) for name, value in given.items()}


def point_mask(config: dict[str, Any], arrays: Arrays, noise: np.ndarray) -> np.ndarray:
    """Hide groups at random, among those whose centre is on the image: the released code knows no others."""
    calibration = {
        name: torch.from_numpy(arrays[f"pre.{name}"]).double() for name in ("calib_Rtilt", "calib_K", "scale")
    }
    places = torch.stack(on_image(torch.from_numpy(arrays["pre.center"]), calibration)).numpy()
    outside = ((places < 0) | (places >= 1)).any(0)
    hidden = int(config["pc_model"]["transformer_config"]["mask_ratio"] * noise.shape[1])
    return (noise + outside).argsort(1).argsort(1) < hidden


def entry(name: str, value: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """Describe one array as the fixtures do; large ones are stored in part."""
    described: dict[str, Any] = {"shape": list(value.shape), "stored": "full", "compare": "close"}
    if name in ("pre.points", "pre.calib_Rtilt", "pre.calib_K", "pre.scale", "fps.points"):
        return described | {"compare": "input"}, value
    if value.dtype.kind in "ib" or name.endswith((".hit", ".mask_img")):
        return described | {"compare": "exact"}, value
    described |= {"rel_tol": 2e-5, "rel_tol_float64": 5e-7}
    if name.endswith("grad_norm"):
        described |= {"compare": "elementwise", "rel_tol": 1e-4, "rel_tol_float64": 5e-6}
    known = value[~np.isnan(value)].astype(np.float64)
    if value.ndim:
        described |= {"absmax": float(np.abs(known).max()), "mean": float(known.mean())}
        described["l2"] = float(np.sqrt((known**2).sum()))
    if value.size > 4000:
        stride = next(s for s in range(3, 200, 2) if all(np.gcd(s, size) == 1 for size in value.shape))
        described |= {"stored": "strided", "stride": stride}
        value = value.reshape(-1)[::stride]
    return described, value if name.endswith("grad_norm") else value.astype(np.float32)


def write_fixture(path: Path, config: dict[str, Any], prefix: str) -> Path:
    """Make a fixture of the given sizes and return the path of its ``.npz``."""
    keys = official_keys(config)
    trained = [name for name, _, kind in keys if not kind.startswith("fixed:") and ".running_" not in name]
    config |= {"grad_names": trained, "feature_map_upsampled_to": UPSAMPLED, "frame": list(FRAME)}
    rows, columns = (side // config["patch_size"] for side in config["img_size"])
    groups = config["pc_model"]["num_group"]
    described = {
        "images": f"float32(unit('input:images', ({config['batch']}, 3, {config['img_size'][0]}, "
        f"{config['img_size'][1]})))",
        "image_noise": f"float32(uniform('input:image_noise', ({config['batch']}, {rows * columns})))",
    }
    arrays = scene_inputs(config, prefix)
    dim, thin = (config["pc_model"]["transformer_config"][name] for name in ("trans_dim", "decoder_trans_dim"))
    arrays |= {"pre.sincos_encoder": sincos(rows, columns, dim), "pre.sincos_decoder": sincos(rows, columns, thin)}
    found = grouped(arrays["pre.points"], groups, config["pc_model"]["group_size"])
    arrays |= {f"pre.{name}": value for name, value in found.items()}
    arrays["pre.mask_pc"] = point_mask(config, arrays, uniform(f"{prefix}input:mask", (config["batch"], groups)))
    cloud = arrays["fps.points"][0]
    taken = len(cloud) // 3
    arrays["fps.index"] = sample_farthest(cloud, taken)[None]
    inputs = {name.removeprefix("pre."): torch.from_numpy(value) for name, value in arrays.items() if "pre." in name}
    inputs |= {name: torch.from_numpy(evaluate(text, prefix)) for name, text in described.items()}
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    weights = {name: fill(name, tuple(shape), prefix) for name, shape, kind in keys if not kind.startswith("fixed:")}
    w = {name: torch.from_numpy(value).double() for name, value in weights.items()}
    for name, table in (("pos_embed", "encoder"), ("decoder_pos_embed", "decoder")):
        w[f"img_branch.{name}"] = torch.from_numpy(arrays[f"pre.sincos_{table}"].astype(np.float32)).double()[None]
    arrays |= everything(w, config, inputs)
    entries = {name: entry(name, value) for name, value in arrays.items()}
    checked = [(name, value.astype(np.float64)) for name, value in list(weights.items())[-8:]]
    description = {
        "format": "parity-fixture-1",
        "system": "pimae",
        "prefix": prefix,
        "config": {"pretrain": config},
        "inputs": described | {"points, calib_Rtilt, calib_K, scale, point mask": "stored in the arrays pre.*"},
        "formula_check": [["pretrain", name, list(value.reshape(-1)[:3]), value.sum()] for name, value in checked],
        "keys": {"pretrain": keys},
        "arrays": {name: described for name, (described, _) in entries.items()},
    }
    np.savez(path, **{name: stored for name, (_, stored) in entries.items()})
    path.with_suffix(".json").write_text(json.dumps(description), encoding="utf-8")
    return path
