"""Opening checkpoints: every layout of a file, and nothing in it runs."""

import argparse
import builtins
import contextlib
import functools
import io
import os
import pickle
import random
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from crossdim.convert.pickles import PickleError, read_pickle
from crossdim.convert.reading import read_checkpoint
from crossdim.errors import ReadError

ZIP, LEGACY = True, False
both_formats = pytest.mark.parametrize("new_format", [ZIP, LEGACY], ids=["zip", "legacy"])


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    wide = torch.rand(4, 6, generator=generator)
    return {
        "linear.weight": wide,
        "transposed": wide.T,
        "part": wide[1:3, 2:5],
        "half": wide.half(),
        "counts": torch.arange(5),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(wide * 2),
    }


def save(path: Path, content: object, new_format: bool = ZIP) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    return path


def assert_holds(path: Path, expected: dict[str, torch.Tensor]) -> None:
    checkpoint = read_checkpoint(path)
    assert set(checkpoint) == set(expected)
    assert len(checkpoint) == len(expected)
    for name, tensor in expected.items():
        assert checkpoint.shapes[name] == tuple(tensor.shape)
        assert checkpoint[name].dtype == tensor.dtype
        assert torch.equal(checkpoint[name], tensor)


@both_formats
def test_a_state_dict_is_read_as_it_was_saved(tmp_path, new_format):
    assert_holds(save(tmp_path / "a.pth", weights(), new_format), weights())


@both_formats
def test_a_training_checkpoint_gives_its_weights_and_its_plain_arguments(tmp_path, new_format):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2))
    optimiser = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    content = {
        "model": model.state_dict(),
        "optimizer": optimiser.state_dict(),
        "scaler": {"scale": 65536.0},
        "epoch": np.int64(3),
        "loss": np.float64(0.5),
        "args": argparse.Namespace(mask_ratio=0.5, norm_pix_loss=True, output_dir=Path("x"), betas=[0.9]),
    }
    path = save(tmp_path / "a.pth", content, new_format)
    assert_holds(path, dict(model.state_dict()))
    assert read_checkpoint(path).arguments == {"mask_ratio": 0.5, "norm_pix_loss": True}


def test_arguments_may_be_a_dictionary(tmp_path):
    path = save(tmp_path / "a.pth", {"model": weights(), "args": {"mask_ratio": 0.6, "sizes": (1, 2)}})
    assert read_checkpoint(path).arguments == {"mask_ratio": 0.6}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: {"model": w, "best": torch.tensor(0.9)},
        lambda w: {"state_dict": {f"module.{name}": value for name, value in w.items()}},
        lambda w: {"model": {"state_dict": {f"module._orig_mod.{name}": value for name, value in w.items()}}},
        lambda w: OrderedDict((f"model.{name}", value) for name, value in w.items()),
    ],
    ids=["model", "state_dict+module.", "nested", "model."],
)
def test_weights_are_found_under_wrappers_and_prefixes(tmp_path, wrap):
    assert_holds(save(tmp_path / "a.pth", wrap(weights())), weights())


def test_safetensors_are_read_directly(tmp_path):
    tensors = {f"module.{name}": value.detach().clone().contiguous() for name, value in weights().items()}
    save_file(tensors, tmp_path / "a.safetensors")
    assert_holds(tmp_path / "a.safetensors", {name.removeprefix("module."): value for name, value in tensors.items()})


def test_a_name_that_is_not_there_is_a_key_error(tmp_path):
    with pytest.raises(KeyError, match="missing"):
        read_checkpoint(save(tmp_path / "a.pth", weights()))["missing"]


class SubTensor(torch.Tensor):
    """A tensor subclass of a package that the reader does not have."""


def test_a_tensor_subclass_is_read_as_a_tensor(tmp_path):
    plain = torch.rand(2, 3)
    path = save(tmp_path / "a.pth", {"model": {"weight": plain.as_subclass(SubTensor)}})
    read = read_checkpoint(path)["weight"]
    assert type(read) is torch.Tensor
    assert torch.equal(read, plain)


def test_what_is_no_dense_tensor_is_named(tmp_path):
    content = {"weight": torch.ones(2), "version": 3, "sparse": torch.eye(3).to_sparse(), "complex": torch.ones(1) * 1j}
    checkpoint = read_checkpoint(save(tmp_path / "a.pth", content))
    assert set(checkpoint) == {"weight"}
    assert set(checkpoint.not_tensors) == {"version", "sparse", "complex"}


# Hostile files. Each object below would leave a file behind if anything in it ran.


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.reduction = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.reduction


class Sets:
    """Pickles as an object whose state is set by ``__setstate__``."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __setstate__(self, state: dict) -> None:
        Path(state["marker"]).touch()


class Subclass(torch.Tensor):
    """Pickles as a tensor rebuilt by a function of the file's choice."""

    marker = ""

    def __reduce_ex__(self, protocol: int) -> tuple:
        inner = (torch._utils._rebuild_tensor_v2, type(self), (Calls(os.system, f"touch {self.marker}"),), {})
        return torch._tensor._rebuild_from_type_v2, inner


class Planted(torch.nn.Linear):
    """A module that is pickled whole, with a state that runs."""

    def __setstate__(self, state: dict) -> None:
        Path(state["marker"]).touch()


def hostile(marker: Path) -> dict[str, object]:
    command, touch = f"touch {marker}", f"open({str(marker)!r}, 'w')"
    tensor = torch.ones(2).as_subclass(Subclass)
    tensor.marker = str(marker)
    module = Planted(2, 2)
    module.marker = str(marker)
    return {
        "os.system": Calls(os.system, command),
        "eval": Calls(builtins.eval, touch),
        "exec": Calls(builtins.exec, touch),
        "open": Calls(io.open, str(marker), "w"),
        "getattr": Calls(builtins.getattr, Calls(builtins.__import__, "os"), "system"),
        "partial": Calls(functools.partial(builtins.eval, touch)),
        "setstate": Sets(str(marker)),
        "torch.load": Calls(torch.load, str(marker)),
        "tensor": tensor,
        "module": module,
        "namespace": argparse.Namespace(inner=[{"deep": (Calls(os.system, command),)}]),
        "scalar": np.float32(1),
    }


@pytest.mark.parametrize("what", list(hostile(Path("unused"))))
@both_formats
def test_a_hostile_object_runs_nothing_and_the_weights_are_read(tmp_path, what, new_format):
    marker = tmp_path / "ran"
    content = {"args": hostile(marker)[what], "model": weights(), "epoch": np.float64(1.5)}
    assert_holds(save(tmp_path / "a.pth", content, new_format), weights())
    assert not marker.exists()


@pytest.mark.parametrize("what", list(hostile(Path("unused"))))
def test_a_hostile_object_among_the_weights_is_no_tensor(tmp_path, what):
    marker = tmp_path / "ran"
    path = save(tmp_path / "a.pth", {"model": {"weight": torch.ones(2), "bad": hostile(marker)[what]}})
    checkpoint = read_checkpoint(path)
    assert set(checkpoint) == {"weight"}
    assert checkpoint.not_tensors == ("bad",)
    assert not marker.exists()


def test_the_hostile_objects_do_run_when_they_are_unpickled(tmp_path):
    for what in ("os.system", "eval", "setstate"):
        marker = tmp_path / what
        pickle.loads(pickle.dumps(hostile(marker)[what]))
        assert marker.exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_every_protocol_of_pickle_is_followed(protocol):
    content = {
        "list": [1, -2, 2**70, 1.5, True, False, None],
        "texts": ("a", "é", b"bytes", "x" * 300),
        "nested": {"tuple": (1, 2, 3, 4), 3: {}},
        "set": {1, 2},
        "frozen": frozenset({1}),
        "name": OrderedDict(a=1),
    }
    content["again"] = content["list"]
    read = read_pickle(io.BytesIO(pickle.dumps(content, protocol))).content
    assert read["list"] == content["list"]
    assert read["again"] is read["list"]
    assert read["nested"] == content["nested"]
    assert read["name"] == {"a": 1}
    assert read["texts"][0] == "a"


def test_keys_that_are_no_plain_data_are_dropped():
    deep_tuple = b")" + b"\x85" * 10_000
    program = b"\x80\x02}(" + deep_tuple + b"K\x01X\x01\x00\x00\x00aK\x02u."
    assert read_pickle(io.BytesIO(program)).content == {"a": 2}


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (b"\x80\x02.", "pop from empty list"),
        (b"\x80\x02K\x01", "exhausted before seeing STOP"),
        (b"\x80\x02(.", "an operand is missing"),
        (b"\x80\x02h\x05.", "cannot be followed"),
        (b"\x80\x02(K\x01d.", "cannot be followed"),
        (b"\x80\x05\x97.", "NEXT_BUFFER has no place"),
        (b"\x80\x02B\xff\xff\xff\x7fab.", "expected 2147483647 bytes"),
        (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7fab.", "cannot be followed"),
    ],
)
def test_a_damaged_pickle_is_refused_with_the_reason(program, reason):
    with pytest.raises(PickleError, match=reason):
        read_pickle(io.BytesIO(program))


# Damaged files.


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ReadError, match="is not a file"):
        read_checkpoint(tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"hello, this is no checkpoint", "is neither a PyTorch nor a safetensors file"),
        (b"PK\x03\x04 and no archive", "is a damaged zip archive"),
        (b"\x80\x02K", "has a damaged index"),
        (pickle.dumps({"a": 1}, 2), "is a plain pickle"),
        (b"\xff" * 8 + b"{nonsense", "is a damaged safetensors file"),
        (b"\0" * 257 + b"ustar" + b"\0" * 250, "tar format of PyTorch before 0.1.10"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_the_reason(tmp_path, content, reason):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(ReadError, match=reason):
        read_checkpoint(path)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99])
@both_formats
def test_a_truncated_file_is_refused(tmp_path, kept, new_format):
    path = save(tmp_path / "a.pth", {"weight": torch.rand(100, 100)}, new_format)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ReadError, match=r"damaged|ends inside"):
        read_checkpoint(path)


def test_a_truncated_safetensors_file_is_refused(tmp_path):
    save_file({"a": torch.rand(100)}, tmp_path / "a.safetensors")
    whole = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(whole[:-40])
    with pytest.raises(ReadError, match="damaged safetensors"):
        read_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"epoch": 3}, r"there is only 'epoch' \(int\) in the file"),
        ({"model": torch.nn.Linear(2, 2)}, r"only 'model' \(torch.nn.modules.linear.Linear\)"),
        ({"model": {}}, "no tensor in the file → model"),
        (torch.nn.Linear(2, 2), "an object of torch.nn.modules.linear.Linear"),
    ],
)
def test_a_file_without_weights_by_name_says_what_it_holds(tmp_path, content, reason):
    with pytest.raises(ReadError, match=reason):
        read_checkpoint(save(tmp_path / "a.pth", content))


def rewrite(path: Path, change: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """Write a zip checkpoint again with some entries changed."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, change.get(name.partition("/")[2], content))
    return path


def test_a_storage_that_is_shorter_than_declared_is_refused(tmp_path):
    path = rewrite(save(tmp_path / "a.pth", {"weight": torch.rand(10, 10)}), {"data/0": b"\0" * 40})
    with pytest.raises(ReadError, match=r"declares 'weight' as \(10, 10\), which its 40 bytes cannot hold"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(1).expand(1000, 1000),
        torch.ones(1).as_strided((2,), (0,)),
    ],
)
def test_a_tensor_larger_than_its_storage_is_refused(tmp_path, tensor):
    with pytest.raises(ReadError, match="cannot hold"):
        read_checkpoint(save(tmp_path / "a.pth", {"weight": tensor}))


def test_many_views_of_one_storage_cannot_grow_beyond_the_file(tmp_path):
    shared = torch.rand(1000)
    path = save(tmp_path / "a.pth", {f"w{i}": shared for i in range(1000)})
    with pytest.raises(ReadError, match="declares 4000000 bytes of weights in a file of"):
        read_checkpoint(path)


def test_a_compressed_archive_is_refused(tmp_path):
    path = rewrite(save(tmp_path / "a.pth", weights()), {}, zipfile.ZIP_DEFLATED)
    with pytest.raises(ReadError, match="compressed entry"):
        read_checkpoint(path)


def test_a_zip_archive_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("letter.txt", "hello")
    with pytest.raises(ReadError, match="without the weights of one PyTorch file"):
        read_checkpoint(tmp_path / "a.pth")


def test_an_entry_whose_header_lies_elsewhere_is_refused(tmp_path):
    path = save(tmp_path / "a.pth", {"weight": torch.rand(10)})
    content = bytearray(path.read_bytes())
    content[:4] = b"PK\x03\x04"
    second = content.index(b"PK\x03\x04", 4)
    content[second : second + 4] = b"XXXX"
    path.write_bytes(content)
    with pytest.raises(ReadError, match="is a damaged zip archive"):
        read_checkpoint(path)


def test_an_entry_that_reaches_beyond_the_file_is_refused(tmp_path):
    path = rewrite(save(tmp_path / "a.pth", {"weight": torch.rand(10)}), {})
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02")
    content[place + 20 : place + 28] = struct.pack("<II", 10**9, 10**9)
    path.write_bytes(content)
    with pytest.raises(ReadError, match="ends inside its entry"):
        read_checkpoint(path)


def test_big_endian_numbers_are_refused(tmp_path):
    with pytest.raises(ReadError, match="big-endian"):
        read_checkpoint(rewrite(save(tmp_path / "a.pth", weights()), {"byteorder": b"big"}))
    legacy = save(tmp_path / "b.pth", weights(), LEGACY)
    legacy.write_bytes(legacy.read_bytes().replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89", 1))
    with pytest.raises(ReadError, match="big-endian"):
        read_checkpoint(legacy)


def test_a_storage_of_unknown_kind_in_an_old_file_is_refused(tmp_path):
    path = save(tmp_path / "a.pth", {"weight": torch.ones(2), "other": torch.ones(2) * 1j}, LEGACY)
    with pytest.raises(ReadError, match="storage of ComplexFloatStorage, whose size is unknown"):
        read_checkpoint(path)


@pytest.mark.parametrize("layout", ["zip", "legacy", "safetensors"])
def test_a_damaged_byte_is_a_read_error_or_harmless_and_never_anything_else(tmp_path, layout):
    path = tmp_path / "a"
    if layout == "safetensors":
        save_file({"a": torch.rand(5, 4)}, path)
    else:
        save(path, {"model": {"a": torch.rand(5, 4)}, "args": argparse.Namespace(lr=0.1)}, layout == "zip")
    whole = path.read_bytes()
    chance = random.Random(0)
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(chance.choice([1, 2, 8])):
            damaged[chance.randrange(len(damaged))] = chance.choice([0, 255, chance.randrange(256)])
        path.write_bytes(damaged[: chance.choice([len(whole), chance.randrange(len(whole))])])
        with contextlib.suppress(ReadError):
            for tensor in read_checkpoint(path).values():
                assert tensor.numel() <= 20
