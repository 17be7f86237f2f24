"""Seeded, labelled data as real files: fundus-like photographs (PNG) and MR-like volumes (NIfTI).

The classes differ in what can be seen and in nothing simpler: brightness, colour, position, anatomy and noise vary
from picture to picture, and the mean intensity of every channel is drawn without regard to the class, so it tells
nothing. Sample n is the same whatever the count, and the same in every run with the same seed.
"""

import os
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int16, UInt8
from numpy.random import Generator

from crossdim.datasets.manifest import Header, Labels, Manifest, Progress, Record, Task
from crossdim.datasets.splits import Fractions, split_by_patient
from crossdim.errors import RecipeError

IMAGE_TASK = "sign"
IMAGE_CLASSES = ("none", "exudates", "haemorrhages")
VOLUME_TASK = "nodule"
VOLUME_CLASSES = ("none", "solid", "hollow")

_DRAWING_SCALE = 4
"""Vessels are drawn this many times larger and averaged down, which smooths their edges."""


def make_images(
    folder: str | os.PathLike[str],
    count: int = 240,
    size: int = 64,
    *,
    seed: int = 0,
    difficulty: float = 0.3,
    fractions: Fractions = (0.6, 0.2, 0.2),
    progress: Progress | None = None,
) -> Manifest:
    """Write fundus-like photographs, both eyes of each patient, and their manifest.

    Task ``sign``: no lesions, bright sharp spots (exudates), or dark blots (haemorrhages). Optic disc, vessels,
    macula, brightness, colour and noise vary and do not depend on the class.

    Args:
        folder: Gets ``images/*.png`` and ``manifest.jsonl``.
        count: Number of pictures; classes are equally frequent.
        size: Height and width in pixels, at least 32.
        seed: Seed of the pictures and of the split.
        difficulty: From 0 (many lesions of strong contrast) to 1 (few faint ones among strong noise).
        fractions: Shares of train, val and test.
        progress: Called after each picture.

    Raises:
        RecipeError: If an argument is out of its range.
    """
    from PIL import Image

    _check(count, size, difficulty)
    root = Path(folder)
    (root / "images").mkdir(parents=True, exist_ok=True)
    records = []
    for index in range(count):
        patient, eye = divmod(index, 2)
        label = patient % len(IMAGE_CLASSES)
        path = f"images/p{patient:04d}_{'right' if eye else 'left'}.png"
        pixels = fundus(
            np.random.default_rng([seed, patient, 2]), np.random.default_rng([seed, patient, eye]),
            label=label, size=size, difficulty=difficulty, right=bool(eye),
        )  # fmt: skip
        Image.fromarray(pixels).save(root / path)
        labels: Labels = {IMAGE_TASK: label}
        name = path.removesuffix(".png")
        records.append(Record(id=name, patient_id=f"p{patient:04d}", kind="image", paths=(path,), labels=labels))
        if progress:
            progress(index + 1, count)
    task = Task(kind="multiclass", classes=IMAGE_CLASSES)
    return _finish(root, "synthetic fundus photographs", {IMAGE_TASK: task}, records, fractions, seed)


def make_volumes(
    folder: str | os.PathLike[str],
    count: int = 120,
    size: int = 48,
    *,
    seed: int = 0,
    difficulty: float = 0.3,
    fractions: Fractions = (0.6, 0.2, 0.2),
    progress: Progress | None = None,
) -> Manifest:
    """Write MR-like volumes with thick slices, each stored in an orientation of its own, and their manifest.

    Task ``nodule``: none, a solid ball, or a hollow shell, somewhere in a textured body. Spacing is anisotropic
    (slices 1.5 to 2.5 times as thick as pixels are wide); the affine says how each file is oriented.

    Args:
        folder: Gets ``volumes/*.nii.gz`` and ``manifest.jsonl``.
        count: Number of volumes, one a patient; classes are equally frequent.
        size: Pixels along both axes of a slice, at least 32; about half as many slices.
        seed: Seed of the volumes and of the split.
        difficulty: From 0 (large nodules of strong contrast) to 1 (small faint ones among strong noise).
        fractions: Shares of train, val and test.
        progress: Called after each volume.

    Raises:
        RecipeError: If an argument is out of its range.
    """
    import nibabel

    _check(count, size, difficulty)
    root = Path(folder)
    (root / "volumes").mkdir(parents=True, exist_ok=True)
    records = []
    for index in range(count):
        label = index % len(VOLUME_CLASSES)
        path = f"volumes/v{index:04d}.nii.gz"
        generator = np.random.default_rng([seed, index])
        voxels, spacing_mm = scan(generator, label=label, size=size, difficulty=difficulty)
        affine = np.diag([*spacing_mm, 1.0])
        affine[:3, 3] = generator.uniform(-40, 40, 3) - affine[:3, :3] @ (np.array(voxels.shape) / 2)
        turned = np.stack([generator.permutation(3), generator.choice([-1, 1], 3)], axis=1)
        image = nibabel.nifti1.Nifti1Image(voxels, affine)
        nibabel.save(image.as_reoriented(turned), root / path)
        labels: Labels = {VOLUME_TASK: label}
        name = path.removesuffix(".nii.gz")
        records.append(Record(id=name, patient_id=f"v{index:04d}", kind="volume", paths=(path,), labels=labels))
        if progress:
            progress(index + 1, count)
    task = Task(kind="multiclass", classes=VOLUME_CLASSES)
    return _finish(root, "synthetic MR volumes", {VOLUME_TASK: task}, records, fractions, seed)


def fundus(
    person: Generator, picture: Generator, *, label: int, size: int, difficulty: float, right: bool
) -> UInt8[np.ndarray, "size size 3"]:
    """Return one fundus-like photograph.

    Args:
        person: Draws what both eyes of a patient share (pigment).
        picture: Draws all else.
        label: Index into ``IMAGE_CLASSES``.
        size: Height and width in pixels.
        difficulty: From 0 to 1.
        right: Whether it is the right eye, which is the left one mirrored.
    """
    y, x = np.meshgrid(*[np.linspace(-1, 1, size)] * 2, indexing="ij")
    x, y = x + picture.uniform(-0.06, 0.06), y + picture.uniform(-0.06, 0.06)
    radius = np.hypot(x, y)
    pigment = np.array([0.8, 0.42, 0.22]) * person.uniform(0.8, 1.15, 3)
    eye = pigment * (1 - 0.35 * radius**2 + 0.12 * _texture(picture, (size, size), 0.12))[..., None]

    disc_x, disc_y = (0.5 if right else -0.5) + picture.uniform(-0.05, 0.05), picture.uniform(-0.08, 0.08)
    disc = _spot(x, y, disc_x, disc_y, picture.uniform(0.13, 0.18), sharpness=6.0)
    eye += disc[..., None] * np.array([0.35, 0.42, 0.25])
    macula = _spot(x, y, -disc_x * 0.4, disc_y, picture.uniform(0.2, 0.3), sharpness=2.0)
    eye *= 1 - 0.35 * macula[..., None] * np.array([0.6, 1, 1])
    eye *= 1 - 0.5 * _vessels(picture, disc_x, disc_y, size)[..., None] * np.array([0.5, 1, 0.8])

    contrast = 1 - 0.6 * difficulty
    for _ in range(int(picture.integers(5, 9) + round(6 * (1 - difficulty))) if label else 0):
        distance, angle = np.sqrt(picture.uniform(0.04, 0.6)), picture.uniform(0, 2 * np.pi)
        centre = distance * np.cos(angle), distance * np.sin(angle)
        if IMAGE_CLASSES[label] == "exudates":
            spot = _spot(x, y, *centre, picture.uniform(0.05, 0.1), sharpness=4.0)
            eye += contrast * spot[..., None] * np.array([0.4, 0.5, 0.1])
        else:
            spot = _spot(x, y, *centre, picture.uniform(0.07, 0.13), sharpness=3.0)
            eye *= 1 - 0.75 * contrast * spot[..., None] * np.array([0.6, 1, 1])

    inside = _spot(x, y, 0.0, 0.0, 0.92, sharpness=40.0)[..., None]
    eye = eye * inside + (0.01 + 0.03 * difficulty) * picture.normal(size=eye.shape)
    wanted_mean = np.array([0.42, 0.24, 0.13]) * picture.uniform(0.75, 1.25, 3)
    return np.clip(255 * eye * wanted_mean / eye.mean(axis=(0, 1)), 0, 255).round().astype(np.uint8)


def scan(
    generator: Generator, *, label: int, size: int, difficulty: float
) -> tuple[Int16[np.ndarray, "x y z"], tuple[float, float, float]]:
    """Return one MR-like volume in RAS+ order, and its spacing in millimetres.

    Args:
        generator: Draws everything.
        label: Index into ``VOLUME_CLASSES``.
        size: Voxels along x and y; about half as many along z.
        difficulty: From 0 to 1.
    """
    thickness = generator.uniform(1.5, 2.5)
    pixel_mm = 96 / size
    shape = (size, size, max(16, round(size / thickness)))
    spacing_mm = (pixel_mm, pixel_mm, pixel_mm * thickness)
    x, y, z = np.meshgrid(
        *[(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing_mm, strict=True)], indexing="ij"
    )
    body = 1 / (1 + np.exp(np.clip(12 * (_ellipsoid(generator, x, y, z) - 1), -50, 50)))
    tissue = 0.5 + 0.05 * _texture(generator, shape, 0.06)
    tissue += 0.06 * np.sin((x * generator.normal() + y * generator.normal() + z * generator.normal()) / 12)

    if label:
        centre = generator.uniform(-16, 16, 3)
        distance_mm = np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2)
        radius_mm = generator.uniform(13, 18) * (1 - 0.4 * difficulty)
        edge = 1 / (1 + np.exp(np.clip((distance_mm - radius_mm) / 0.8, -50, 50)))
        if VOLUME_CLASSES[label] == "hollow":
            edge -= 1.6 / (1 + np.exp(np.clip((distance_mm - 0.6 * radius_mm) / 0.8, -50, 50)))
        tissue += 0.6 * (1 - 0.6 * difficulty) * edge

    bias_field = 1 + 0.15 * np.tanh((x * generator.normal() + y * generator.normal()) / 40)
    voxels = body * tissue * bias_field + (0.02 + 0.06 * difficulty) * np.abs(generator.normal(size=shape))
    voxels *= generator.uniform(200, 420) / voxels.mean()
    return np.clip(voxels, 0, 32767).round().astype(np.int16), spacing_mm


def _check(count: int, size: int, difficulty: float) -> None:
    for name, value, least in (("count", count, 6), ("size", size, 32)):
        if value < least:
            raise RecipeError(f"{name} {value}", "is too small", f"Take at least {least}")
    if not 0 <= difficulty <= 1:
        raise RecipeError(f"difficulty {difficulty:g}", "is not between 0 and 1", "Take 0 for easy, 1 for hard")


def _finish(
    root: Path, name: str, tasks: dict[str, Task], records: list[Record], fractions: Fractions, seed: int
) -> Manifest:
    header = Header(
        name=name, root=str(root.absolute()), tasks=tasks, source=f"crossdim.datasets.synthetic, seed {seed}"
    )
    manifest = split_by_patient(Manifest(header, tuple(records)), fractions, seed, stratify=next(iter(tasks)))
    manifest.save(root / "manifest.jsonl")
    return manifest


def _texture(generator: Generator, shape: tuple[int, ...], scale: float) -> Float[np.ndarray, "..."]:
    """Return smooth noise of mean 0 and deviation 1; ``scale`` is its blur as a share of the longest axis."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(generator.normal(size=shape), scale * max(shape), mode="wrap")
    return (noise - noise.mean()) / noise.std()


def _spot(
    x: Float[np.ndarray, "h w"], y: Float[np.ndarray, "h w"], cx: float, cy: float, radius: float, *, sharpness: float
) -> Float[np.ndarray, "h w"]:
    """Return a disc of ones with a smooth edge."""
    distance = np.hypot(x - cx, y - cy) / radius
    return 1 / (1 + np.exp(np.clip(sharpness * (distance - 1), -50, 50)))


def _vessels(generator: Generator, disc_x: float, disc_y: float, size: int) -> Float[np.ndarray, "h w"]:
    """Return arcs that leave the optic disc upwards and downwards and bend round the macula."""
    from PIL import Image, ImageDraw

    canvas = Image.new("L", (size * _DRAWING_SCALE,) * 2)
    draw = ImageDraw.Draw(canvas)
    along = np.linspace(0, 1, 24)
    towards_macula = -np.sign(disc_x)
    for branch in range(8):
        up = -1 if branch % 2 else 1
        reach = towards_macula * generator.uniform(0.2, 1.4) if branch < 6 else -towards_macula * 0.6
        rise = up * generator.uniform(0.35, 0.9)
        x = disc_x + reach * along**1.5 + generator.uniform(-0.1, 0.1) * np.sin(3 * np.pi * along)
        y = disc_y + rise * np.sin(np.pi * along * generator.uniform(0.4, 0.8))
        points = ((np.stack([x, y], axis=1) + 1) / 2 * size * _DRAWING_SCALE).ravel().tolist()
        draw.line(points, fill=255, width=round(_DRAWING_SCALE * size * generator.uniform(0.012, 0.025)))
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX), dtype=float) / 255


def _ellipsoid(
    generator: Generator, x: Float[np.ndarray, "x y z"], y: Float[np.ndarray, "x y z"], z: Float[np.ndarray, "x y z"]
) -> Float[np.ndarray, "x y z"]:
    """Return the distance from the centre of a body, 1 on its surface."""
    half_axes_mm = generator.uniform(36, 44, 3)
    shift_mm = generator.uniform(-4, 4, 3)
    return np.sqrt(sum(((axis - s) / a) ** 2 for axis, s, a in zip((x, y, z), shift_mm, half_axes_mm, strict=True)))
