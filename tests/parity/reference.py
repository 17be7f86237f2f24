"""Uni4Eye's forward pass in plain PyTorch and SciPy, under the authors' names, written from the description of the
released code; and fixtures of any size made with it, in the layout of the shared ones.

It shares no code with crossdim, works in float64 and is slow on purpose.
"""

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import correlate1d
from torch import Tensor
from torch.nn import functional as F

from tests.parity.fixture import evaluate, fill

Weights = dict[str, Tensor]
Arrays = dict[str, np.ndarray]


def layer(x: Tensor, w: Weights, name: str, heads: int, eps: float) -> Tensor:
    """One pre-norm transformer layer."""
    batch, tokens, dim = x.shape
    y = F.layer_norm(x, (dim,), w[f"{name}.norm1.weight"], w[f"{name}.norm1.bias"], eps)
    qkv = y @ w[f"{name}.attn.qkv.weight"].T
    if f"{name}.attn.qkv.bias" in w:
        qkv = qkv + w[f"{name}.attn.qkv.bias"]
    parts = [p.reshape(batch, tokens, heads, dim // heads).transpose(1, 2) for p in qkv.split(dim, dim=-1)]
    weights = torch.softmax(parts[0] @ parts[1].transpose(-1, -2) / (dim // heads) ** 0.5, dim=-1)
    mixed = (weights @ parts[2]).transpose(1, 2).reshape(batch, tokens, dim)
    x = x + mixed @ w[f"{name}.attn.proj.weight"].T + w[f"{name}.attn.proj.bias"]
    y = F.layer_norm(x, (dim,), w[f"{name}.norm2.weight"], w[f"{name}.norm2.bias"], eps)
    y = y @ w[f"{name}.mlp.fc1.weight"].T + w[f"{name}.mlp.fc1.bias"]
    y = y * 0.5 * (1 + torch.erf(y / 2**0.5))
    return x + y @ w[f"{name}.mlp.fc2.weight"].T + w[f"{name}.mlp.fc2.bias"]


def layers(x: Tensor, w: Weights, name: str, heads: int, eps: float) -> Tensor:
    """All layers of a stack."""
    depth = 1 + max(int(key.split(".")[1]) for key in w if key.startswith(f"{name}."))
    for place in range(depth):
        x = layer(x, w, f"{name}.{place}", heads, eps)
    return x


def cut(x: Tensor, patch: list[int]) -> Tensor:
    """Patches one by one, values by position, then channel."""
    starts = [range(0, size, step) for size, step in zip(x.shape[2:], patch, strict=True)]
    patches = []
    for corner in product(*starts):
        place = tuple(slice(start, start + step) for start, step in zip(corner, patch, strict=True))
        patches.append(x[(slice(None), slice(None), *place)].movedim(1, -1).flatten(1))
    return torch.stack(patches, dim=1)


def masked_error(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean over the hidden patches."""
    return ((prediction - target).square().mean(-1) * mask).sum() / mask.sum()


def sobel_bytes(values: np.ndarray, across: int, along: int) -> np.ndarray:
    """Derivative along ``across``, smoothed along ``along``: rounded, absolute, at most 255."""
    derived = correlate1d(values.astype(np.float64), [-1, -2, 0, 2, 1], axis=across, mode="mirror")
    return np.minimum(np.abs(np.rint(correlate1d(derived, [1, 4, 6, 4, 1], axis=along, mode="mirror"))), 255)


def sobel_maps(images: np.ndarray) -> Arrays:
    """The two released recipes for images ``(batch, 3, height, width)``."""
    grey = np.einsum("c,bchw->bhw", np.array([0.299, 0.587, 0.114]), images.astype(np.float64))
    both = [(sobel_bytes(g, 1, 0), sobel_bytes(g, 0, 1)) for g in grey]
    mixed = [sobel_bytes(images[0], 1, 0), sobel_bytes(images[0], 0, 1)]
    return {
        "dual2d.edge_u8": np.stack([np.rint(0.5 * x + 0.5 * y) for x, y in both])[:, None],
        "sobel.gray": grey[0],
        "sobel.absgx_u8": both[0][0],
        "sobel.absgy_u8": both[0][1],
        "sobel.chw_u8": np.rint(0.5 * mixed[0] + 0.5 * mixed[1]),
    }


def sincos(rows: int, columns: int, dim: int) -> np.ndarray:
    """MAE's position table: columns in the first half of the width, rows in the second, class token zero."""
    table = np.zeros((1 + rows * columns, dim))
    for row, column, k in product(range(rows), range(columns), range(dim // 4)):
        omega = 1 / 10000 ** (k / (dim / 4))
        place = 1 + row * columns + column
        for half, position in enumerate((column, row)):
            table[place, half * dim // 2 + k] = np.sin(position * omega)
            table[place, half * dim // 2 + dim // 4 + k] = np.cos(position * omega)
    return table


def branch(w: Weights, config: dict[str, Any], values: Tensor, noise: Tensor, edges: Tensor) -> Arrays:
    """Every array of one modality, under the names of the fixtures without their group."""
    rank = values.ndim - 2
    eps, heads, decoder_heads = config["layer_norm_eps"], config["num_heads"], config["decoder_num_heads"]
    patch = [config["patch_size"]] * 2 if rank == 2 else config["patch_size3"]
    w = {name: tensor.clone().requires_grad_(name in config["grad_names"]["dual"]) for name, tensor in w.items()}
    convolve = F.conv2d if rank == 2 else F.conv3d
    stem = convolve(values, w[f"patch_embed.proj{rank}.weight"], w[f"patch_embed.proj{rank}.bias"], stride=patch)
    tokens = stem.flatten(2).transpose(1, 2)
    table = w[f"pos_embed{rank}"]
    placed = tokens + table[:, 1:]
    kept = int(tokens.shape[1] * (1 - config["mask_ratio"]))
    shuffle = noise.argsort(dim=1)
    restore, keep = shuffle.argsort(dim=1), shuffle[:, :kept]
    mask = torch.ones_like(noise).scatter(1, keep, 0.0)
    visible = torch.stack([sample[places] for sample, places in zip(placed, keep, strict=True)])
    first = (w["cls_token"] + table[:, :1]).expand(len(values), -1, -1)

    def encode(x: Tensor) -> Tensor:
        x = layers(torch.cat([first, x], 1), w, "blocks", heads, eps)
        return F.layer_norm(x, x.shape[-1:], w["norm.weight"], w["norm.bias"], eps)

    def decode(x: Tensor, second: str) -> Tensor:
        x = x @ w[f"decoder_embed{second}.weight"].T + w[f"decoder_embed{second}.bias"]
        whole = w[f"mask_token{second}"].expand(len(x), tokens.shape[1], -1).clone()
        for sample in range(len(x)):
            whole[sample, keep[sample]] = x[sample, 1:]
        x = torch.cat([x[:, :1], whole], 1) + w[f"decoder_pos_embed{rank}"]
        x = layers(x, w, f"decoder_blocks{second}", decoder_heads, eps)
        x = F.layer_norm(x, x.shape[-1:], w["decoder_norm.weight"], w["decoder_norm.bias"], eps)
        return (x @ w[f"decoder_pred{rank}{second}.weight"].T + w[f"decoder_pred{rank}{second}.bias"])[:, 1:]

    latent = encode(visible)
    prediction, edge_prediction = decode(latent, ""), decode(latent, "1")
    target, edge_target = cut(values, patch), cut(edges, patch)
    centred = target - target.mean(-1, keepdim=True)
    normalised = centred / (centred.square().sum(-1, keepdim=True) / (target.shape[-1] - 1) + 1e-6).sqrt()
    intensity, edge = masked_error(prediction, target, mask), masked_error(edge_prediction, edge_target, mask)
    normalised_intensity = masked_error(prediction, normalised, mask)
    (intensity + edge).backward()
    gradients = [w[name].grad for name in config["grad_names"]["dual"]]
    results = {
        "patch_tokens": tokens,
        "f_d_all": placed,
        "f_d_visible": visible,
        "ids_keep": keep,
        "ids_restore": restore,
        "mask": mask,
        "latent": latent,
        "latent_unmasked": encode(placed),
        "pred": prediction,
        "pred_edge": edge_prediction,
        "target": target,
        "target_edge": edge_target,
        "loss": intensity + edge,
        "loss_intensity": intensity,
        "loss_edge": edge,
        "loss_norm_pix": normalised_intensity + edge,
        "loss_intensity_norm_pix": normalised_intensity,
        "grad_norm": torch.tensor([float("nan") if g is None else g.norm().item() for g in gradients]),
    }
    return {name: tensor.detach().numpy() for name, tensor in results.items()}


def official_keys(config: dict[str, Any]) -> list[tuple[str, list[int], str]]:
    """Names, shapes and kinds of the dual-branch state dict."""
    dim, narrow, channels = config["embed_dim"], config["decoder_embed_dim"], config["in_chans"]
    rows, columns = grid2(config)
    square, cube = config["patch_size"] ** 2, int(np.prod(config["patch_size3"]))
    volume_tokens = int(np.prod(config["vol_size"])) // cube
    keys: list[tuple[str, list[int], str]] = [("cls_token", [1, 1, dim], "table")]
    for group, width in (("", dim), ("decoder_", narrow)):
        array = "sincos.decoder" if group else "sincos.encoder"
        fixed = f"fixed:2-D sin-cos table, see array {array}"
        keys += [(f"{group}pos_embed2", [1, 1 + rows * columns, width], fixed)]
        keys += [(f"{group}pos_embed3", [1, 1 + volume_tokens, width], "table")]
    keys += [("decoder_pos_embed21", [1, 1 + rows * columns, narrow], "table")]
    keys += [("decoder_pos_embed31", [1, 1 + volume_tokens, narrow], "table")]
    keys += [(name, [1, 1, narrow], "table") for name in ("mask_token", "mask_token1")]

    def linear(name: str, out: int, *into: int) -> None:
        keys.extend([(f"{name}.weight", [out, *into], "weight"), (f"{name}.bias", [out], "bias")])

    def norm(name: str, width: int) -> None:
        keys.extend([(f"{name}.weight", [width], "norm_weight"), (f"{name}.bias", [width], "bias")])

    def stack(name: str, depth: int, width: int) -> None:
        inner = int(width * config["mlp_ratio"])
        for block in (f"{name}.{place}" for place in range(depth)):
            norm(f"{block}.norm1", width)
            linear(f"{block}.attn.qkv", 3 * width, width)
            linear(f"{block}.attn.proj", width, width)
            norm(f"{block}.norm2", width)
            linear(f"{block}.mlp.fc1", inner, width)
            linear(f"{block}.mlp.fc2", width, inner)

    linear("patch_embed.proj2", dim, channels, config["patch_size"], config["patch_size"])
    linear("patch_embed.proj3", dim, config["in_chans3"], *config["patch_size3"])
    stack("blocks", config["depth"], dim)
    norm("norm", dim)
    linear("decoder_embed", narrow, dim)
    linear("decoder_embed1", narrow, dim)
    stack("decoder_blocks", config["decoder_depth"], narrow)
    stack("decoder_blocks1", config["decoder_depth"], narrow)
    norm("decoder_norm", narrow)
    linear("decoder_pred2", square * channels, narrow)
    linear("decoder_pred3", cube * config["in_chans3"], narrow)
    linear("decoder_pred21", square, narrow)
    linear("decoder_pred31", cube, narrow)
    if not config["qkv_bias"]:
        keys = [entry for entry in keys if not entry[0].endswith("qkv.bias")]
    return keys


def grid2(config: dict[str, Any]) -> tuple[int, int]:
    """Rows and columns of an image's patches."""
    size = config["img_size"]
    height, width = (size, size) if isinstance(size, int) else size
    return height // config["patch_size"], width // config["patch_size"]


def describe_inputs(config: dict[str, Any]) -> dict[str, str]:
    """The inputs in the words of the shared fixtures."""
    rows, columns = grid2(config)
    p, b2, b3 = config["patch_size"], config["batch2"], config["batch3"]
    size = f"{b3}, {config['in_chans3']}, {', '.join(map(str, config['vol_size']))}"
    coarse = [size // step for size, step in zip(config["vol_size"], config["patch_size3"], strict=True)]
    times = "x".join(map(str, config["patch_size3"]))
    return {
        "x2": f"float32(floor(256 * (0.5 + (uniform('input:x2.3', ({b2},3,{rows * p},{columns * p})) - 0.5) * C)) / "
        f"255), C = uniform('input:x2.3.contrast', ({b2},1,{rows},{columns})) with every value repeated {p}x{p} times "
        "(nearest); i.e. 8-bit images divided by 255",
        "x3": f"float32(unit('input:x3', ({size})) * (0.25 + 1.5 * C)), C = uniform('input:x3.contrast', "
        f"({b3}, 1, {', '.join(map(str, coarse))})) with every value repeated {times} times",
        "edge2": "array dual2d.edge_u8 converted to float (official Sobel recipe applied to x2)",
        "edge3": f"float32(2 * uniform('input:edge3', ({b3}, 1, {', '.join(map(str, config['vol_size']))}))); stand-in",
        "noise2": f"float32(uniform('input:noise2', ({b2},{rows * columns})))",
        "noise3": f"float32(uniform('input:noise3', ({b3},{int(np.prod(coarse))})))",
    }


def entry(name: str, value: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """Describe one array as the fixtures do; large ones are stored in part."""
    exact = name.endswith(("ids_keep", "ids_restore", "mask", "target_edge", "_u8")) and name != "dual3d.target_edge"
    described: dict[str, Any] = {"shape": list(value.shape), "stored": "full", "compare": "exact" if exact else "close"}
    if not exact:
        described |= {"rel_tol": 2e-5, "rel_tol_float64": 5e-7}
    if name.endswith("grad_norm"):
        described |= {"compare": "elementwise", "rel_tol": 1e-4, "rel_tol_float64": 5e-6}
    if value.ndim:
        known = value[~np.isnan(value)].astype(np.float64)
        described |= {"absmax": float(np.abs(known).max()), "mean": float(known.mean())}
        described["l2"] = float(np.sqrt((known**2).sum()))
    if value.size > 4000:
        stride = next(s for s in range(3, 100, 2) if all(np.gcd(s, size) == 1 for size in value.shape))
        described |= {"stored": "strided", "stride": stride}
        value = value.reshape(-1)[::stride]
    kind = np.int64 if "ids" in name else np.float64 if name.endswith("grad_norm") else np.float32
    return described, value.astype(np.uint8 if name.endswith("_u8") else kind)


def write_fixture(path: Path, config: dict[str, Any], prefix: str) -> Path:
    """Make a fixture of the given sizes and return the path of its ``.npz``."""
    keys = official_keys(config)
    config["grad_names"] = {"dual": [name for name, _, _ in keys if "pos_embed" not in name]}
    rows, columns = grid2(config)
    arrays: Arrays = {
        "sincos.encoder": sincos(rows, columns, config["embed_dim"]),
        "sincos.decoder": sincos(rows, columns, config["decoder_embed_dim"]),
    }
    inputs = describe_inputs(config)
    drawn = {name: evaluate(text, prefix) for name, text in inputs.items() if name != "edge2"}
    arrays |= sobel_maps(drawn["x2"])
    weights = {name: torch.from_numpy(fill(name, tuple(shape), prefix)).double() for name, shape, _ in keys}
    for name, table in (("pos_embed2", "sincos.encoder"), ("decoder_pos_embed2", "sincos.decoder")):
        weights[name] = torch.from_numpy(arrays[table].astype(np.float32)).double()[None]
    tensors = {name: torch.from_numpy(value).double() for name, value in drawn.items()}
    edges = torch.from_numpy(arrays["dual2d.edge_u8"])
    images = branch(weights, config, tensors["x2"], tensors["noise2"], edges)
    volumes = branch(weights, config, tensors["x3"], tensors["noise3"], tensors["edge3"])
    arrays |= {f"dual2d.{name}": value for name, value in images.items()}
    arrays |= {f"dual3d.{name}": value for name, value in volumes.items()}
    entries = {name: entry(name, value) for name, value in arrays.items()}
    checked = [(name, fill(name, tuple(shape), prefix).astype(np.float64)) for name, shape, _ in keys[-8:]]
    description = {
        "format": "parity-fixture-1",
        "system": "uni4eye",
        "prefix": prefix,
        "config": config,
        "inputs": inputs,
        "formula_check": [["dual", name, list(value.reshape(-1)[:3]), value.sum()] for name, value in checked],
        "keys": {"dual": keys},
        "arrays": {name: described for name, (described, _) in entries.items()},
    }
    np.savez(path, **{name: stored for name, (_, stored) in entries.items()})
    path.with_suffix(".json").write_text(json.dumps(description), encoding="utf-8")
    return path
