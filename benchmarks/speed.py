"""What is worth keeping fast, in paired runs against the plain way: ``python -m benchmarks.speed [--out FILE.json]``.

Each pair is run alternately, ours and the plain way, so that whatever else the machine does falls on both; medians are
printed. One thread, so that numbers from different machines can be compared.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from crossdim.heads.gradients import DERIVE, SMOOTH, volume_gradient
from crossdim.metrics.classification import evaluate_classification
from crossdim.samples import Image, Origin, Volume
from crossdim.tokens.grid import UnifiedPatchEmbed, patchify
from crossdim.transforms.contract import ImageContract, PreprocessingContract, VolumeContract

Work = Callable[[], object]


def stem_pair() -> tuple[Work, Work]:
    """Return the volume stem, and the same as a product over patches that were cut out first."""
    stem = UnifiedPatchEmbed(768, 3, (16, 16), 1, (16, 16, 16))
    volumes = torch.rand(4, 1, 96, 96, 96)
    assert stem.volume is not None
    weight, bias = stem.volume.weight, stem.volume.bias

    def plain() -> None:
        F.linear(patchify(volumes, (16, 16, 16)), weight.flatten(1), bias).sum().backward()

    return lambda: stem(volumes).sum().backward(), plain


def gradient_pair() -> tuple[Work, Work]:
    """Return the volume's gradient map, and the same by nine convolutions along one axis each."""
    volumes = torch.rand(4, 1, 48, 48, 48)

    def along(values: torch.Tensor, taps: tuple[float, ...], axis: int) -> torch.Tensor:
        moved = values.movedim(axis, -1)
        padded = F.pad(moved.reshape(-1, 1, moved.shape[-1]), (2, 2), mode="reflect")
        return F.conv1d(padded, torch.tensor(taps)[None, None]).reshape(moved.shape).movedim(-1, axis)

    def plain() -> torch.Tensor:
        parts = []
        for derived in (2, 3, 4):
            part = volumes
            for axis in (2, 3, 4):
                part = along(part, DERIVE if axis == derived else SMOOTH, axis)
            parts.append(part)
        return torch.stack(parts).square().sum(0).sqrt()

    return lambda: volume_gradient(volumes), plain


def prepare_photo() -> Work:
    """Return the preparation of a 768 x 510 photograph for 224 x 224."""
    contract = PreprocessingContract(image=ImageContract(size=(224, 224)), source="benchmark")
    photo = Image(np.random.default_rng(0).integers(0, 255, (3, 510, 768), dtype=np.uint8), "uint8", Origin("photo"))
    return lambda: contract.prepare(photo)


def prepare_head() -> Work:
    """Return the preparation of a 197 x 233 x 189 head for 96³ at 2 mm."""
    volume = VolumeContract(size=(96, 96, 96), spacing_mm=(2.0, 2.0, 2.0), fit="crop_pad")
    contract = PreprocessingContract(volume=volume, source="benchmark")
    voxels = np.random.default_rng(0).normal(size=(1, 189, 233, 197)).astype(np.float32)
    affine = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    head = Volume(voxels, affine, "arbitrary", Origin("head"))
    return lambda: contract.prepare(head)


def bootstrap() -> Work:
    """Return 1,000 resamples by patient of every metric, 400 cases and 5 classes."""
    generator = np.random.default_rng(0)
    chances, labels = generator.dirichlet(np.ones(5), 400), generator.integers(0, 5, 400)
    patients = [str(case // 2) for case in range(400)]
    return lambda: evaluate_classification(chances, labels, patients, "multiclass", tuple("abcde"))


def inspect_folder(folder: Path) -> Work:
    """Return the inspection of 1,000 PNG files by their headers."""
    from PIL import Image as Picture

    from crossdim.readers import find_readable, inspect

    for number in range(1000):
        Picture.new("RGB", (64, 64)).save(folder / f"{number}.png")
    return lambda: [inspect(path, intensity=False) for path in find_readable(folder)]


def median_ms(work: Work, plain: Work | None = None, rounds: int = 7) -> dict[str, float]:
    """Return median milliseconds of both, run alternately after a warm-up.

    Args:
        work: Ours.
        plain: What it is compared with, if anything.
        rounds: Times each is run.
    """
    taken: dict[str, list[float]] = {}
    for place in range(rounds + 1):
        for name, each in (("ours", work), ("plain", plain)):
            if each is None:
                continue
            start = time.perf_counter()
            each()
            if place:
                taken.setdefault(name, []).append(1000 * (time.perf_counter() - start))
    return {name: round(statistics.median(times), 2) for name, times in taken.items()}


def main() -> None:
    """Time everything and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the numbers here too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = {
            "volume stem, 4 x 96³, forward and backward": median_ms(*stem_pair()),
            "volume gradient map, 4 x 48³": median_ms(*gradient_pair()),
            "prepare a photograph": median_ms(prepare_photo()),
            "prepare a head": median_ms(prepare_head()),
            "1,000 resamples of 400 cases": median_ms(bootstrap(), rounds=3),
            "inspect 1,000 files": median_ms(inspect_folder(Path(folder)), rounds=3),
        }
    for name, times in found.items():
        print(f"{name:45} " + "   ".join(f"{way} {value:10.2f} ms" for way, value in times.items()))
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
