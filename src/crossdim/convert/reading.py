"""Opens checkpoints: PyTorch's zip and older files, and safetensors; a tensor is read when it is asked for.

The file is mapped, not loaded: a tensor's declared place and size are checked against the file's length before any
memory is taken, and optimiser states and other tenants of the file are never read. Objects in a PyTorch file that are
not tensors become inert stubs (see :mod:`crossdim.convert.pickles`); the plain values among the training arguments stay
readable as :attr:`Checkpoint.arguments`.
"""

import mmap
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from math import prod
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from crossdim.convert.pickles import Pickled, PickleError, Plain, StoredTensor, Stub, read_pickle
from crossdim.errors import ReadError

WRAPPERS = ("model", "state_dict", "model_state_dict", "base_model", "module", "net")
"""Where training scripts put the weights inside the file."""

PREFIXES = ("module.", "_orig_mod.", "model.")
"""What distributed training, compilation and wrapping put before every key."""

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_AGAIN = "Download or copy it again"
_SAVE_AGAIN = "Save the weights again with torch.save(model.state_dict(), path)"


@dataclass(frozen=True)
class _Block:
    """Bytes of the file that hold one storage."""

    start: int
    nbytes: int


@dataclass
class Checkpoint(Mapping[str, Tensor]):
    """The weights of a file by name; a tensor is read when it is asked for.

    Attributes:
        path: The file.
        shapes: Shape of every tensor.
        load: Reads one tensor by the name it has in the file.
        prefix: What the names in the file begin with and the names here do not.
        arguments: Plain values among the training arguments that the file holds.
        not_tensors: Names among the weights whose value is no dense tensor.
    """

    path: str
    shapes: dict[str, tuple[int, ...]]
    load: Callable[[str], Tensor] = field(repr=False)
    prefix: str = ""
    arguments: dict[str, Plain] = field(default_factory=dict)
    not_tensors: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.shapes:
            raise KeyError(name)
        return self.load(self.prefix + name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def read_checkpoint(path: str | PathLike[str]) -> Checkpoint:
    """Open a checkpoint without running anything it holds.

    Weights are found at the top or under one of :data:`WRAPPERS`; a prefix that all names share is removed.

    Args:
        path: ``.pth``/``.pt``/``.bin`` of PyTorch (zip or the older format), or ``.safetensors``.

    Raises:
        ReadError: The file is absent, damaged, of another kind, or declares more than it holds.
    """
    file = Path(path)
    if not file.is_file():
        raise ReadError(path, "is not a file", "Give a checkpoint file (.pth, .pt or .safetensors)")
    with file.open("rb") as opened:
        head = opened.read(512)
    if not head:
        raise ReadError(path, "is empty", _AGAIN)
    if head[8:9] == b"{":
        return _open_safetensors(file)
    if head[257:262] == b"ustar":
        raise ReadError(path, "is in the tar format of PyTorch before 0.1.10", f"{_SAVE_AGAIN} in PyTorch 1.x")
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        try:
            if head[:4] == b"PK\x03\x04":
                pickled, blocks = _index_zip(file, mapped)
            elif head[:1] == b"\x80":
                pickled, blocks = _index_legacy(file, mapped)
            else:
                remedy = "Give a file written by torch.save or by safetensors"
                raise ReadError(path, "is neither a PyTorch nor a safetensors file", remedy)
        except PickleError as error:
            raise ReadError(path, f"has a damaged index: {error}", _AGAIN) from error
        return _checkpoint(file, pickled.content, blocks, len(mapped))


def _open_safetensors(file: Path) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    def load(name: str) -> Tensor:
        with safe_open(file, framework="pt") as opened:
            return opened.get_tensor(name)

    try:
        with safe_open(file, framework="pt") as opened:
            shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ReadError(file, f"is a damaged safetensors file ({error})", _AGAIN) from error
    prefix = _common_prefix(shapes)
    return Checkpoint(str(file), {name.removeprefix(prefix): shape for name, shape in shapes.items()}, load, prefix)


def _index_zip(file: Path, mapped: mmap.mmap) -> tuple[Pickled, dict[str, _Block]]:
    """Return the pickled content of a zip checkpoint and where its storages lie."""
    try:
        with zipfile.ZipFile(file) as archive:
            blocks = {entry.filename: _zip_block(file, mapped, entry) for entry in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, struct.error) as error:
        raise ReadError(file, f"is a damaged zip archive ({error})", _AGAIN) from error
    indices = [name for name in blocks if name.split("/")[1:] == ["data.pkl"]]
    if len(indices) != 1:
        raise ReadError(file, "is a zip archive without the weights of one PyTorch file", _SAVE_AGAIN)
    folder = indices[0].removesuffix("data.pkl")
    order = blocks.get(f"{folder}byteorder")
    if order is not None and mapped[order.start : order.start + 3] == b"big":
        raise ReadError(file, "holds big-endian numbers", f"{_SAVE_AGAIN} on a little-endian machine")
    index = blocks[indices[0]]
    pickled = read_pickle(BytesIO(mapped[index.start : index.start + index.nbytes]))
    within = f"{folder}data/"
    return pickled, {name.removeprefix(within): block for name, block in blocks.items() if name.startswith(within)}


def _zip_block(file: Path, mapped: mmap.mmap, entry: zipfile.ZipInfo) -> _Block:
    """Return where an entry's bytes lie; PyTorch stores them as they are."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        raise ReadError(file, f"holds the compressed entry '{entry.filename}'", _SAVE_AGAIN)
    header = mapped[entry.header_offset : entry.header_offset + 30]
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise ReadError(file, f"is a damaged zip archive (no entry '{entry.filename}')", _AGAIN)
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    block = _Block(entry.header_offset + 30 + name_length + extra_length, entry.file_size)
    if block.start + block.nbytes > len(mapped):
        raise ReadError(file, f"ends inside its entry '{entry.filename}'", _AGAIN)
    return block


def _index_legacy(file: Path, mapped: mmap.mmap) -> tuple[Pickled, dict[str, _Block]]:
    """Return the pickled content of a file of PyTorch before 1.6 and where its storages lie.

    Five pickles (magic number, version, system, content, keys of the storages), then for each key the count and the
    numbers.
    """
    if read_pickle(mapped).content != _LEGACY_MAGIC:
        raise ReadError(file, "is a plain pickle and not a file of torch.save", _SAVE_AGAIN)
    read_pickle(mapped)
    system = read_pickle(mapped).content
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise ReadError(file, "holds big-endian numbers", f"{_SAVE_AGAIN} on a little-endian machine")
    pickled = read_pickle(mapped)
    keys = read_pickle(mapped).content
    blocks: dict[str, _Block] = {}
    for key in keys if isinstance(keys, list) else []:
        storage = pickled.storages.get(str(key))
        if storage is None or storage.kind not in _DTYPES:
            kind = "nothing" if storage is None else storage.kind
            raise ReadError(file, f"declares a storage of {kind}, whose size is unknown", _SAVE_AGAIN)
        start = mapped.tell() + 8
        numel = int.from_bytes(mapped[start - 8 : start], "little", signed=True)
        block = _Block(start, numel * _DTYPES[storage.kind].itemsize)
        if numel < 0 or start + block.nbytes > len(mapped):
            raise ReadError(file, f"ends inside storage '{key}', declared as {numel} numbers", _AGAIN)
        mapped.seek(start + block.nbytes)
        blocks[str(key)] = block
    return pickled, blocks


def _checkpoint(file: Path, content: object, blocks: dict[str, _Block], length: int) -> Checkpoint:
    """Find the weights in the content, check every tensor against the file, and name them."""
    weights = _weights(file, content)
    tensors = {
        name: value
        for name, value in weights.items()
        if isinstance(name, str) and isinstance(value, StoredTensor) and value.storage.kind in _DTYPES
    }
    for name, tensor in tensors.items():
        _check(file, name, tensor, blocks)
    declared = sum(prod(tensor.shape) * _DTYPES[tensor.storage.kind].itemsize for tensor in tensors.values())
    if declared > 2 * length:
        raise ReadError(file, f"declares {declared} bytes of weights in a file of {length}", _SAVE_AGAIN)
    prefix = _common_prefix(tensors)
    return Checkpoint(
        str(file),
        {name.removeprefix(prefix): tensor.shape for name, tensor in tensors.items()},
        lambda name: _load(file, tensors[name], blocks),
        prefix,
        _arguments(content),
        tuple(str(name) for name in weights if name not in tensors),
    )


def _weights(file: Path, content: object) -> dict[object, object]:
    """Return the innermost dictionary under the wrappers, which must hold tensors."""
    value, places = content, ["the file"]
    while isinstance(value, dict) and len(places) < 5:
        wrapper = next((name for name in WRAPPERS if isinstance(value.get(name), dict)), None)
        if wrapper is None:
            break
        value = value[wrapper]
        places.append(wrapper)
    if isinstance(value, dict) and any(isinstance(item, StoredTensor) for item in value.values()):
        return value
    found = f"an object of {value.kind}" if isinstance(value, Stub) else "no tensor"
    if isinstance(value, dict) and value:
        kinds = [
            f"{name!r} ({item.kind if isinstance(item, Stub) else type(item).__name__})" for name, item in value.items()
        ]
        found = "only " + ", ".join(kinds[:6])
    raise ReadError(file, f"holds no weights by name: there is {found} in {' → '.join(places)}", _SAVE_AGAIN)


def _check(file: Path, name: str, tensor: StoredTensor, blocks: dict[str, _Block]) -> None:
    """Refuse a tensor that is not wholly inside its storage, or a storage that is not wholly inside the file."""
    storage, shape, stride = tensor.storage, tensor.shape, tensor.stride
    block = blocks.get(storage.key, _Block(0, 0))
    extent = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=False)) if prod(shape) else 0
    fits_file = storage.start >= 0 and (storage.start + storage.numel) * _DTYPES[storage.kind].itemsize <= block.nbytes
    fits_storage = tensor.offset >= 0 and max(prod(shape), tensor.offset + extent) <= storage.numel
    if len(shape) != len(stride) or min((*shape, *stride, storage.numel)) < 0 or not fits_file or not fits_storage:
        reason = f"declares '{name}' as {shape}, which its {block.nbytes} bytes cannot hold"
        raise ReadError(file, reason, _AGAIN)


def _load(file: Path, tensor: StoredTensor, blocks: dict[str, _Block]) -> Tensor:
    dtype = _DTYPES[tensor.storage.kind]
    if not prod(tensor.shape):
        return torch.empty(tensor.shape, dtype=dtype)
    start = blocks[tensor.storage.key].start + (tensor.storage.start + tensor.offset) * dtype.itemsize
    count = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride, strict=True))
    with file.open("rb") as opened:
        # A private mapping, because PyTorch wants bytes it may write to; it lives as long as the view of it.
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
    view = torch.frombuffer(mapped, dtype=dtype, count=count, offset=start)
    return view.as_strided(tensor.shape, tensor.stride).clone(memory_format=torch.contiguous_format)


def _arguments(content: object) -> dict[str, Plain]:
    """Return the plain values among the training arguments, a Namespace or a dictionary called ``args``."""
    held = content.get("args") if isinstance(content, dict) else None
    state = held.state if isinstance(held, Stub) else held if isinstance(held, dict) else {}
    return {
        name: value
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, str | bytes | int | float | bool | None)
    }


def _common_prefix(names: Mapping[str, object]) -> str:
    """Return the wrappers' prefixes that all names share."""
    prefix = ""
    while names:
        step = next((p for p in PREFIXES if all(name.startswith(prefix + p) for name in names)), None)
        if step is None:
            break
        prefix += step
    return prefix
