"""What is installed, what this machine can do, whether crossdim works on it, and what to do where it does not."""

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil
from packaging.requirements import Requirement

REPORTED_PACKAGES = (
    "crossdim",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "numpy",
    "nibabel",
    "pydicom",
)

GIBIBYTE = 2**30
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Where Linux states the memory of a container."""

FAILURES = (ImportError, OSError, RuntimeError, ValueError, TypeError, AttributeError)
"""What a broken or ill-matched installation raises; a check reports it and the next one goes on."""


@dataclass(frozen=True)
class Device:
    """Something a model can run on; memory in GiB."""

    name: str
    kind: str
    memory_gib: float
    bf16: bool


@dataclass(frozen=True)
class Extra:
    """An optional set of packages, those of them that are missing, and the command that installs them."""

    name: str
    missing: tuple[str, ...]
    command: str


@dataclass(frozen=True)
class Folder:
    """A folder that crossdim or its libraries write to."""

    purpose: str
    path: str
    writable: bool
    free_gib: float


@dataclass(frozen=True)
class Check:
    """One step of the self-test: how long it took, and what came out or went wrong."""

    name: str
    passed: bool
    seconds: float
    detail: str


@dataclass(frozen=True)
class Diagnosis:
    """Everything `crossdim doctor` says."""

    system: str
    versions: dict[str, str | None]
    devices: tuple[Device, ...]
    cpu_cores: int
    extras: tuple[Extra, ...]
    folders: tuple[Folder, ...]
    checks: tuple[Check, ...]
    advice: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        """Whether every check passed and every folder can be written to."""
        return all(check.passed for check in self.checks) and all(folder.writable for folder in self.folders)


def run(self_test: bool = True) -> Diagnosis:
    """Look at the installation and the machine, and try the main path once on toy data.

    Args:
        self_test: Whether to read, prepare and train on a toy (about five seconds once torch is loaded).
    """
    devices = find_devices()
    extras = find_extras()
    folders = find_folders()
    checks = tuple(run_checks()) if self_test else ()
    versions = {name: _version(name) for name in REPORTED_PACKAGES}
    return Diagnosis(
        system=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        versions=versions,
        devices=devices,
        cpu_cores=usable_cores(),
        extras=extras,
        folders=folders,
        checks=checks,
        advice=tuple(advise(devices, folders, checks)),
    )


def usable_cores() -> int:
    """Return the processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_memory() -> int:
    """Return the bytes of memory that this process may use: the machine's, or its container's if that is less."""
    machine = psutil.virtual_memory().total
    text = MEMORY_LIMIT.read_text(encoding="ascii").strip() if MEMORY_LIMIT.is_file() else "max"
    return min(machine, int(text)) if text.isdigit() else machine


def find_devices() -> tuple[Device, ...]:
    """Return the processor and every accelerator that torch can use, the preferred one first."""
    memory = usable_memory() / GIBIBYTE
    try:
        import torch
    except FAILURES:
        return (Device(platform.processor() or platform.machine(), "cpu", memory, bf16=False),)
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        with torch.cuda.device(index):
            bf16 = torch.cuda.is_bf16_supported()
        found.append(Device(properties.name, "cuda", properties.total_memory / GIBIBYTE, bf16))
    if torch.backends.mps.is_available():
        found.append(Device("Apple GPU", "mps", memory, bf16=torch.backends.mps.is_macos_or_newer(14, 0)))
    processor = f"{platform.processor() or platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"
    return (*found, Device(processor, "cpu", memory, bf16=True))


def find_extras() -> tuple[Extra, ...]:
    """Return crossdim's optional sets of packages, with what is missing from each."""
    requirements = [Requirement(text) for text in metadata.requires("crossdim") or []]
    names = metadata.metadata("crossdim").get_all("Provides-Extra") or []
    extras = []
    for name in sorted(names):
        wanted = [r for r in requirements if r.marker and r.marker.evaluate({"extra": name})]
        missing = tuple(sorted(r.name for r in wanted if r.name != "crossdim" and _version(r.name) is None))
        extras.append(Extra(name, missing, f"python -m pip install 'crossdim[{name}]'"))
    return tuple(extras)


def find_folders() -> tuple[Folder, ...]:
    """Return the folders that are written to, whether that works, and the space left there."""
    from huggingface_hub import constants

    places = {
        "working": Path.cwd(),
        "temporary files": Path(tempfile.gettempdir()),
        "model cache": Path(constants.HF_HUB_CACHE),
    }
    return tuple(_look_at(purpose, path) for purpose, path in places.items())


def _look_at(purpose: str, path: Path) -> Folder:
    """Write and remove a small file in the folder, or in the nearest folder above it that exists."""
    existing = next(folder for folder in (path, *path.parents) if folder.is_dir())
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"crossdim")
        writable = True
    except OSError:
        writable = False
    return Folder(purpose, str(path), writable, shutil.disk_usage(existing).free / GIBIBYTE)


def run_checks() -> Iterator[Check]:
    """Yield the self-test's steps one by one: libraries, reading, preparing, one training step."""
    with tempfile.TemporaryDirectory(prefix="crossdim-doctor-") as folder:
        steps: dict[str, Callable[[], str]] = {
            "load torch and transformers": _load_libraries,
            "read and prepare a volume": lambda: _read_and_prepare(Path(folder)),
            "train one step on images and volumes": _train_one_step,
        }
        for name, step in steps.items():
            start = time.perf_counter()
            try:
                detail, passed = step(), True
            except FAILURES as error:
                detail, passed = f"{type(error).__name__}: {error}", False
            yield Check(name, passed, time.perf_counter() - start, " ".join(detail.split()))


def _load_libraries() -> str:
    import torch
    import transformers

    return f"torch {torch.__version__}, transformers {transformers.__version__}"


def _read_and_prepare(folder: Path) -> str:
    import nibabel
    import numpy as np

    from crossdim.readers import read_channels
    from crossdim.transforms.contract import PercentileIntensity, PreprocessingContract, VolumeContract

    path = folder / "toy.nii.gz"
    voxels = np.random.default_rng(0).normal(size=(20, 18, 12)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.0, 1.0, 2.0, 1.0])), path)
    contract = PreprocessingContract(
        volume=VolumeContract(
            size=(16, 16, 16), orientation="SPL", fit="resize", channels=1, intensity=PercentileIntensity()
        ),
        source="crossdim doctor",
    )
    tensor = contract.prepare(read_channels([path])).tensor
    return f"NIfTI of {voxels.shape} voxels -> tensor of {tuple(tensor.shape)}"


def _train_one_step() -> str:
    import torch

    from crossdim.models.uni4eye import Uni4EyeForPreTraining
    from crossdim.models.uni4eye_config import Uni4EyeConfig

    device = find_devices()[0].kind
    config = Uni4EyeConfig.preset("tiny", image_size=(32, 32), volume_size=(32, 32, 32), num_hidden_layers=2)
    with torch.device(device):
        model = Uni4EyeForPreTraining(config)
        output = model(pixel_values=torch.rand(2, 3, 32, 32), voxel_values=torch.rand(2, 1, 32, 32, 32))
    output.loss.backward()
    if not torch.isfinite(output.loss):
        raise RuntimeError(f"the loss is {output.loss.item()} on {device}")
    return f"loss {output.loss.item():.3f} on {device}"


def advise(
    devices: tuple[Device, ...],
    folders: tuple[Folder, ...],
    checks: tuple[Check, ...],
) -> Iterator[str]:
    """Yield what the user should do, the most urgent first.

    Args:
        devices: What models can run on.
        folders: Folders that are written to.
        checks: Results of the self-test.
    """
    if _version("torchvision") is not None:
        yield (
            "torchvision is installed: crossdim does not need it, and one that does not match torch breaks "
            "transformers. If a check failed: python -m pip uninstall torchvision"
        )
    for check in checks:
        if not check.passed:
            yield f"'{check.name}' failed ({check.detail}). Reinstall in a fresh environment with constraints.txt"
    for folder in folders:
        if not folder.writable:
            remedy = _REMEDY_FOR_FOLDER[folder.purpose]
            yield f"the {folder.purpose} folder {folder.path} cannot be written to: {remedy}"
        elif folder.free_gib < 1:
            yield f"less than 1 GiB is left in the {folder.purpose} folder {folder.path}: free some space"
    if devices[0].kind == "cpu":
        yield from _advise_without_accelerator(devices[0])


_REMEDY_FOR_FOLDER = {
    "working": "run crossdim from a folder of yours, or give outputs another place",
    "temporary files": "set TMPDIR to a folder of yours",
    "model cache": "set HF_HOME to a folder of yours",
}


def _advise_without_accelerator(processor: Device) -> Iterator[str]:
    if shutil.which("nvidia-smi"):
        yield (
            "there is an NVIDIA driver, but torch sees no GPU: install a torch built for CUDA "
            "(python -m pip install --force-reinstall torch) or check CUDA_VISIBLE_DEVICES"
        )
    yield "no GPU: use the tiny or small preset"
    if processor.memory_gib < 8:
        yield f"only {processor.memory_gib:.0f} GiB of memory: keep volumes small, and the batch at 1 or 2"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
