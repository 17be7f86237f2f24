"""Which parameter learns how fast and decays how much.

Weight decay falls on matrices and kernels only; biases, norms and tokens have none (MAE, appendix A.1). With layer
decay, layer ``i`` of ``n`` learns at ``decay ** (n + 1 - i)`` of the classifier's rate; stem and class token are layer
0 (BEiT; MAE, appendix A.2).
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

_LAYER = re.compile(r"(?:^|\.)(?:image_)?encoder\.layers\.(\d+)\.")
_STEM = re.compile(r"(?:^|\.)(patch_embed\.|cls_token$|image_embedding$)")
_TOKEN = re.compile(r"(?:^|[._])token$")


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Return whether weight decay falls on a parameter.

    Args:
        name: Its name in the model.
        parameter: The parameter.
    """
    return parameter.ndim > 1 and not name.endswith("bias") and _TOKEN.search(name) is None


def layer_of(name: str, layers: int) -> int:
    """Return the layer a parameter belongs to: 0 for stem and class token, 1 to n in the encoder, n + 1 behind it.

    Args:
        name: Name of the parameter, with or without the names of models around it.
        layers: Number of encoder layers n.
    """
    if _STEM.search(name):
        return 0
    found = _LAYER.search(name)
    return int(found.group(1)) + 1 if found else layers + 1


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]],
    learning_rate: float,
    weight_decay: float,
    layers: int,
    layer_decay: float = 1.0,
    factor_of: Callable[[str], float] = lambda name: 1.0,
) -> list[dict[str, Any]]:
    """Return AdamW's parameter groups for the parameters that learn, one for each rate and decay.

    Args:
        parameters: Names and parameters; frozen ones are left out.
        learning_rate: Rate of the last layer.
        weight_decay: Decay of matrices and kernels.
        layers: Number of encoder layers.
        layer_decay: Factor on the rate from each layer to the one below.
        factor_of: Further factor on the rate of a parameter, by its name.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in parameters:
        if not parameter.requires_grad:
            continue
        scale = layer_decay ** (layers + 1 - layer_of(name, layers)) * factor_of(name)
        decay = weight_decay if decays(name, parameter) else 0.0
        group = groups.setdefault(
            (scale, decay), {"params": [], "names": [], "lr": learning_rate * scale, "weight_decay": decay}
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def scaled_learning_rate(base: float, samples_per_step: int) -> float:
    """Return the learning rate by the linear scaling rule: ``base * samples / 256`` (Goyal et al., 2017).

    Args:
        base: Rate at 256 samples per optimiser step.
        samples_per_step: Samples per optimiser step, over all processes.
    """
    return base * samples_per_step / 256
