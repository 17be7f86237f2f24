"""PiMAE's detector in plain PyTorch, under the authors' names, written from the description of the released code.

It shares no code with crossdim and is slow on purpose.
"""

import math
from typing import Any

import torch
from torch import Tensor

from tests.parity.reference_pimae import detr_layers, linear, norm

Weights = dict[str, Tensor]
Keys = list[tuple[str, tuple[int, ...]]]

HEADS = {
    "sem_cls": "num_semcls",
    "center": 3,
    "size": 3,
    "angle_cls": "num_angle_bin",
    "angle_residual": "num_angle_bin",
}


def _norm_keys(name: str, width: int) -> Keys:
    ends = ("weight", "bias", "running_mean", "running_var")
    return [*((f"{name}.{end}", (width,)) for end in ends), (f"{name}.num_batches_tracked", ())]


def _attention_keys(name: str, width: int) -> Keys:
    square, long = (width, width), 3 * width
    keys = [("in_proj_weight", (long, width)), ("in_proj_bias", (long,))]
    return [
        (f"{name}.{end}", shape) for end, shape in [*keys, ("out_proj.weight", square), ("out_proj.bias", (width,))]
    ]


def _layer_keys(name: str, width: int, inner: int, attentions: tuple[str, ...]) -> Keys:
    keys = [key for attention in attentions for key in _attention_keys(f"{name}.{attention}", width)]
    for number in range(1, len(attentions) + 2):
        keys += [(f"{name}.norm{number}.{end}", (width,)) for end in ("weight", "bias")]
    keys += [(f"{name}.linear1.weight", (inner, width)), (f"{name}.linear1.bias", (inner,))]
    return [*keys, (f"{name}.linear2.weight", (width, inner)), (f"{name}.linear2.bias", (width,))]


def official_keys(config: dict[str, Any]) -> Keys:
    """Names and shapes of the authors' state dict."""
    dim, width = config["enc_dim"], config["dec_dim"]
    keys: Keys = []
    for number, (before, after) in enumerate(zip((3, 64, 128), (64, 128, dim), strict=True)):
        layer = f"pre_encoder.mlp_module.layer{number}"
        keys += [(f"{layer}.conv.weight", (after, before, 1, 1)), *_norm_keys(f"{layer}.bn.bn", after)]
    for number in range(config["enc_nlayers"]):
        keys += _layer_keys(f"encoder.layers.{number}", dim, config["enc_ffn_dim"], ("self_attn",))
    for number, after in enumerate((dim, dim, width)):
        layers = "encoder_to_decoder_projection.layers"
        keys += [(f"{layers}.{3 * number}.weight", (after, dim, 1)), *_norm_keys(f"{layers}.{3 * number + 1}", after)]
    keys.append(("pos_embedding.gauss_B", (3, width // 2)))
    for number in (0, 2):
        keys.append((f"query_projection.layers.{number}.weight", (width, width, 1)))
        keys.append((f"query_projection.layers.{number}.bias", (width,)))
    for number in range(config["dec_nlayers"]):
        both = ("self_attn", "multihead_attn")
        keys += _layer_keys(f"decoder.layers.{number}", width, config["dec_ffn_dim"], both)
    keys += [("decoder.norm.weight", (width,)), ("decoder.norm.bias", (width,))]
    for head, values in HEADS.items():
        count = config[values] + (head == "sem_cls") if isinstance(values, str) else values
        layers = f"mlp_heads.{head}_head.layers"
        for number in (0, 4):
            keys.append((f"{layers}.{number}.weight", (width, width, 1)))
            keys += _norm_keys(f"{layers}.{number + 1}", width)
        keys += [(f"{layers}.8.weight", (count, width, 1)), (f"{layers}.8.bias", (count,))]
    return keys


def batch_norm(x: Tensor, w: Weights, name: str) -> Tensor:
    """Batch normalisation in evaluation mode, over the last axis."""
    scale = w[f"{name}.weight"] / (w[f"{name}.running_var"] + 1e-5).sqrt()
    return (x - w[f"{name}.running_mean"]) * scale + w[f"{name}.bias"]


def farthest(points: Tensor, count: int) -> Tensor:
    """Places of points, each the farthest from those before; none within about 3 cm of the origin but the first."""
    chosen, reach = [0], (points - points[0]).square().sum(-1)
    reach = torch.where(points.square().sum(-1) <= 1e-3, -1.0, reach)
    while len(chosen) < count:
        chosen.append(int(reach.argmax()))
        reach = torch.minimum(reach, (points - points[chosen[-1]]).square().sum(-1))
    return torch.tensor(chosen)


def balls(points: Tensor, centers: Tensor, radius: float, count: int) -> Tensor:
    """The first points nearer than the radius, as shares of it; the first again where there are too few."""
    rows = []
    for center in centers:
        inside = points[(points - center).square().sum(-1) < radius**2][:count]
        rows.append(torch.cat([inside, inside[:1].expand(count - len(inside), -1)]) - center)
    return torch.stack(rows) / radius


def attention(q: Tensor, k: Tensor, v: Tensor, w: Weights, name: str, heads: int) -> Tensor:
    """Multi-head attention of one scene."""
    width = q.shape[-1]
    parts = [
        (x @ m.T + b).reshape(len(x), heads, -1).transpose(0, 1)
        for x, m, b in zip(
            (q, k, v), w[f"{name}.in_proj_weight"].split(width), w[f"{name}.in_proj_bias"].split(width), strict=True
        )
    ]
    scores = parts[0] @ parts[1].transpose(1, 2) / math.sqrt(width / heads)
    return linear((scores.softmax(-1) @ parts[2]).transpose(0, 1).reshape(len(q), width), w, f"{name}.out_proj")


def decoder(memory: Tensor, places: Tensor, spots: Tensor, w: Weights, config: dict[str, Any]) -> list[Tensor]:
    """What every layer puts out, behind the norm."""
    x, every = torch.zeros_like(places), []
    for number in range(config["dec_nlayers"]):
        layer, heads = f"decoder.layers.{number}", config["dec_nhead"]
        y = norm(x, w, f"{layer}.norm1", 1e-5)
        x = x + attention(y + places, y + places, y, w, f"{layer}.self_attn", heads)
        y = norm(x, w, f"{layer}.norm2", 1e-5)
        x = x + attention(y + places, memory + spots, memory, w, f"{layer}.multihead_attn", heads)
        y = linear(norm(x, w, f"{layer}.norm3", 1e-5), w, f"{layer}.linear1").clamp(min=0)
        x = x + linear(y, w, f"{layer}.linear2")
        every.append(norm(x, w, "decoder.norm", 1e-5))
    return every


def head(x: Tensor, w: Weights, name: str) -> Tensor:
    """One head in evaluation mode."""
    for number in (0, 4):
        x = batch_norm(linear(x, w, f"{name}.layers.{number}"), w, f"{name}.layers.{number + 1}").clamp(min=0)
    return linear(x, w, f"{name}.layers.8")


def detect(points: Tensor, w: Weights, config: dict[str, Any]) -> dict[str, Tensor]:
    """The predictions for one scene behind the last layer, under the authors' names."""
    low, high = points.amin(0), points.amax(0)
    index = farthest(points, config["preenc_npoints"])
    xyz = points[index]
    x = balls(points, xyz, config.get("preenc_radius", 0.2), config.get("preenc_nsample", 64))
    for number in range(3):
        layer = f"pre_encoder.mlp_module.layer{number}"
        x = batch_norm(linear(x, w, f"{layer}.conv"), w, f"{layer}.bn.bn").clamp(min=0)
    x = detr_layers(x.amax(1)[None], w, "encoder.layers.", config["enc_nhead"])[0]
    for number in (0, 3, 6):
        layers = "encoder_to_decoder_projection.layers"
        x = batch_norm(linear(x, w, f"{layers}.{number}"), w, f"{layers}.{number + 1}").clamp(min=0)
    angles = 2 * math.pi * ((xyz - low) / (high - low)) @ w["pos_embedding.gauss_B"]
    spots = torch.cat([angles.sin(), angles.cos()], -1)
    chosen = farthest(xyz, config["nqueries"])
    places = spots[chosen]
    for number in (0, 2):
        places = linear(places, w, f"query_projection.layers.{number}").clamp(min=0)
    last = decoder(x, places, spots, w, config)[-1]
    found = {name: head(last, w, f"mlp_heads.{name}_head") for name in HEADS}
    bins = config["num_angle_bin"]
    residual = found["angle_residual"] * math.pi / bins
    best = found["angle_cls"].argmax(-1)
    angle = best * 2 * math.pi / bins + residual[torch.arange(len(best)), best]
    return {
        "sem_cls_logits": found["sem_cls"],
        "center_unnormalized": xyz[chosen] + found["center"].sigmoid() - 0.5,
        "size_unnormalized": found["size"].sigmoid() * (high - low),
        "angle_logits": found["angle_cls"],
        "angle_residual_normalized": found["angle_residual"],
        "angle_continuous": torch.where(angle > math.pi, angle - 2 * math.pi, angle) * (bins > 1),
    }
