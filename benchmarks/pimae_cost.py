"""What a step of PiMAE's pre-training costs in the paper's sizes, beside the straightforward way.

    python -m benchmarks.pimae_cost                     # one JSON in benchmarks/results/pimae/

Forward and backward of one batch with dropout, without the optimiser. Three ways with the same weights and masks, taken
in turn so that whatever else the machine does falls on all:

* ``plain``: :mod:`benchmarks.pimae_plain`;
* ``same``: our model with the same settings (hidden groups embedded, features enlarged); its losses and gradients are
  compared with the plain way's before anything is timed;
* ``ours``: our model as it is by default.

The rate of a matrix product, measured in the same turns, says what the machine could do: ``gemm_share`` is the rate of
the operations that are counted in a step (products, convolutions, attention), as a share of it.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import pimae_plain as plain
from benchmarks.pimae_plain import Scenes
from crossdim.masking import aligned_mask, patches_hit, random_point_mask, visible_first
from crossdim.models.pimae import PimaeForPreTraining
from crossdim.models.pimae_config import PimaeConfig
from crossdim.tokens.grid import pair
from crossdim.training.provenance import git_commit

OUT = Path(__file__).parent / "results" / "pimae" / "cost.json"
PRODUCT = 1536
SAME: dict[str, Any] = {"embed_hidden_points": True, "cross_modal_sampling": "upsampled"}
WITHOUT_CHANCE: dict[str, Any] = {"dropout": 0.0, "points_decoder_drop_path_rate": 0.0}


def make_scenes(config: PimaeConfig, batch: int, seed: int) -> Scenes:
    """Return scenes in front of a level camera, and masks of the config's ratios."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(batch, config.num_points, 3, generator=generator)
    points = points * torch.tensor([4.0, 3.0, 2.5]) + torch.tensor([-2.0, 1.0, -1.2])
    flat = torch.randint(0, 4, points.shape[:2], generator=generator)
    points[..., 1] = torch.where(flat > 1, 4.0, points[..., 1])
    height, width = pair(config.image_size)
    camera = torch.tensor([[550.0, 365.0, 0.0, 0.0], [0.0, 265.0, -550.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    points_mask = random_point_mask(torch.rand(batch, config.num_groups, generator=generator), config.points_mask_ratio)
    rows, columns = (size // patch for size, patch in zip((height, width), pair(config.patch_size), strict=True))
    hit = patches_hit(
        torch.randint(0, rows * columns, (batch, 60), generator=generator),
        torch.ones(batch, 60, dtype=torch.bool),
        rows * columns,
    )
    noise = torch.rand(batch, rows * columns, generator=generator)
    return Scenes(
        points,
        torch.randn(batch, config.num_channels, height, width, generator=generator),
        camera.expand(batch, 3, 4),
        torch.tensor([[530.0, 730.0]]).expand(batch, 2),
        points_mask,
        aligned_mask(hit, noise, config.image_mask_ratio, "complement"),
    )


def build(config: PimaeConfig, seed: int) -> PimaeForPreTraining:
    """Return a training model whose losses all have gradients."""
    torch.manual_seed(seed)
    return PimaeForPreTraining(config).train()


def like(model: PimaeForPreTraining, preset: str, **options: Any) -> PimaeForPreTraining:
    """Return another model with the same weights."""
    other = PimaeForPreTraining(PimaeConfig.preset(preset, **options)).train()
    other.load_state_dict(model.state_dict())
    return other


def our_losses(model: PimaeForPreTraining, scenes: Scenes) -> dict[str, Tensor]:
    """Return the losses of our model."""
    found = model(
        scenes.points,
        scenes.pixel_values,
        scenes.projection,
        scenes.frame_size,
        points_mask=scenes.points_mask,
        image_noise=scenes.image_mask,
    ).losses
    assert found is not None
    return found


def both_ways(losses: dict[str, Tensor]) -> None:
    """Go back through the sum of the losses."""
    torch.stack(list(losses.values())).sum().backward()


def compare(preset: str, scenes: Scenes, seed: int) -> dict[str, float]:
    """Return how far our losses and gradients in float64 are from the plain way's, relative to the largest of each.

    Raises:
        SystemExit: They are not the same computation.
    """
    model = build(PimaeConfig.preset(preset, **SAME, **WITHOUT_CHANCE), seed).double()
    whole = ("points_mask", "image_mask")
    doubles = {name: each.double() for name, each in scenes._asdict().items() if name not in whole}
    scenes = scenes._replace(**doubles)
    expected = plain.step(model, scenes)
    both_ways(expected)
    gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()
    found = our_losses(model, scenes)
    both_ways(found)
    parameters = dict(model.named_parameters())
    largest = max(float(each.abs().max()) for each in gradients.values())
    worst = {
        "losses": max(float((found[name] / expected[name] - 1).detach().abs()) for name in expected),
        "gradients": max(float((parameters[name].grad - each).abs().max()) for name, each in gradients.items())
        / largest,
    }
    if max(worst.values()) > 1e-9:
        raise SystemExit(f"not the same computation: {worst}")
    return worst


def count(losses: Callable[[], dict[str, Tensor]]) -> int:
    """Return the operations of forward and backward that a machine does by matrix products."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        both_ways(losses())
    return counter.get_total_flops()


def seconds(work: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def through(work: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> Callable[[], None]:
    """Return a stage, forward and backward, from inputs that no longer belong to a graph."""
    leaves = [each.detach().requires_grad_(each.is_floating_point()) for each in inputs]

    def run() -> None:
        outputs = work(*leaves)
        torch.autograd.backward(outputs, [torch.ones_like(each) for each in outputs])

    return run


def plain_stages(model: PimaeForPreTraining, scenes: Scenes) -> dict[str, Callable[[], object]]:
    """Return the stages of the plain way, each by itself."""
    groups = plain.choose(model, scenes.points)
    image, points = plain.tokens(model, scenes, groups)
    hidden = plain.encode(model, image, points)
    return {
        "groups": lambda: plain.choose(model, scenes.points),
        "tokens": through(lambda: plain.tokens(model, scenes, groups)),
        "encoders": through(lambda *given: [plain.encode(model, *given)], image, points),
        "decoders": through(lambda given: plain.decode(model, scenes, groups, given), hidden),
    }


def our_stages(model: PimaeForPreTraining, scenes: Scenes) -> dict[str, Callable[[], object]]:
    """Return the stages of our model, each by itself."""
    pimae = model.pimae
    groups = pimae.group(scenes.points)
    order, shown = visible_first(scenes.points_mask)
    encoded = pimae(groups, scenes.pixel_values, scenes.points_mask, scenes.image_mask)
    image = pimae.embed_image(scenes.pixel_values, scenes.image_mask)
    points = pimae.embed_points(groups, order[:, :shown])
    grid = pimae.grid(scenes.pixel_values)

    def embed() -> Sequence[Tensor]:
        return [pimae.embed_image(scenes.pixel_values, scenes.image_mask), pimae.embed_points(groups, order[:, :shown])]

    def encode(image: Tensor, points: Tensor) -> Sequence[Tensor]:
        return [pimae.joint([pimae.image_encoder(image), pimae.points_encoder(points)]).hidden]

    def decode(hidden: Tensor) -> Sequence[Tensor]:
        encoded.last_hidden_state = hidden
        decoded = model._decode(encoded, grid)
        assert decoded.image_features is not None
        assert decoded.points_features is not None
        return [decoded.image_features, decoded.points_features]

    return {
        "groups": lambda: pimae.group(scenes.points),
        "tokens": through(embed),
        "encoders": through(encode, image, points),
        "decoders": through(decode, encoded.last_hidden_state),
    }


def measure(preset: str, batch: int, repeats: int, seed: int) -> dict[str, object]:
    """Return times, shares and the breakdown.

    Args:
        preset: Size of the model.
        batch: Scenes of a step.
        repeats: Times each way is run.
        seed: Of weights, scenes and masks.
    """
    ours = build(PimaeConfig.preset(preset), seed)
    same = like(ours, preset, **SAME)
    scenes = make_scenes(ours.config, batch, seed)
    errors = compare(preset, scenes, seed)
    operations = {
        "plain": count(lambda: plain.step(same, scenes)),
        "same": count(lambda: our_losses(same, scenes)),
        "ours": count(lambda: our_losses(ours, scenes)),
    }
    first = torch.rand(PRODUCT, PRODUCT)
    ways: dict[str, Callable[[], object]] = {
        "gemm": lambda: first @ first,
        "plain": lambda: both_ways(plain.step(same, scenes)),
        "same": lambda: both_ways(our_losses(same, scenes)),
        "ours": lambda: both_ways(our_losses(ours, scenes)),
    }
    for name, stages in (("plain", plain_stages(same, scenes)), ("ours", our_stages(ours, scenes))):
        ways |= {f"{name}.{stage}": work for stage, work in stages.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, work in ways.items():
            taken = seconds(work)
            if turn:
                times[name].append(taken)
        for model in (ours, same):
            model.zero_grad()
    middle = {name: median(taken) for name, taken in times.items()}
    rate = 2 * PRODUCT**3 / middle["gemm"]

    def breakdown(name: str) -> dict[str, float]:
        stages = {stage.split(".")[1]: taken for stage, taken in middle.items() if stage.startswith(f"{name}.")}
        stages["losses and heads (the rest)"] = middle[name] - sum(stages.values())
        return {stage: round(1000 * taken, 2) for stage, taken in stages.items()}

    steps = ("plain", "same", "ours")
    return {
        "relative_errors": errors,
        "gemm_gflops": round(rate / 1e9, 2),
        "step_ms": {name: round(1000 * middle[name], 2) for name in steps},
        "step_gflop": {name: round(operations[name] / 1e9, 3) for name in steps},
        "gemm_share": {name: round(operations[name] / middle[name] / rate, 3) for name in steps},
        "plain_operations_at_gemm_rate_over_step": {
            name: round(operations["plain"] / rate / middle[name], 3) for name in steps
        },
        "ours_over_plain": round(median(a / b for a, b in zip(times["ours"], times["plain"], strict=True)), 3),
        "same_over_plain": round(median(a / b for a, b in zip(times["same"], times["plain"], strict=True)), 3),
        "breakdown_ms": {"plain": breakdown("plain"), "ours": breakdown("ours")},
    }


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    document = {
        "benchmark": "pimae_cost",
        "preset": given.preset,
        "batch": given.batch,
        "repeats": given.repeats,
        "seed": given.seed,
        "threads": given.threads,
        "processor": platform.processor() or platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "commit": git_commit(),
        "load_before": os.getloadavg(),
        **measure(given.preset, given.batch, given.repeats, given.seed),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = given.out.with_suffix(".tmp")
    temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    temporary.replace(given.out)
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
