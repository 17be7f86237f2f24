"""NumPy arrays, archives of them, and MedMNIST."""

import pickle
import zipfile

import numpy as np
import pytest

from crossdim.errors import ReadError
from crossdim.geometry.affine import ASSUMED_AFFINE
from crossdim.readers import Limits, inspect, read
from crossdim.readers.array import _whole_member
from crossdim.readers.intensity import NO_PLACE
from tests.readers.toys import grey, rgb

STACK = np.stack([grey(), 255 - grey(), grey() // 2, grey() // 3, grey()])


def save(path, values, **options):
    np.save(path, values, **options)
    return path


@pytest.mark.parametrize(
    ("values", "kind", "shape", "unit"),
    [
        (grey(), "image", (1, 6, 8), "uint8"),
        (grey().astype(np.uint16), "image", (1, 6, 8), "uint16"),
        (grey() / 255, "image", (1, 6, 8), "arbitrary"),
        (grey() > 90, "image", (1, 6, 8), "arbitrary"),
        (grey()[..., None], "image", (1, 6, 8), "uint8"),
        (rgb(), "image", (3, 6, 8), "uint8"),
        (np.dstack([rgb(), grey()]), "image", (3, 6, 8), "uint8"),
        (STACK, "volume", (1, 5, 6, 8), "uint8"),
        (STACK.astype(np.float16), "volume", (1, 5, 6, 8), "arbitrary"),
        (STACK.astype(np.longdouble), "volume", (1, 5, 6, 8), "arbitrary"),
        (np.where(STACK > 90, 1500, -1000).astype(">i2"), "volume", (1, 5, 6, 8), "HU"),
        (STACK > 90, "volume", (1, 5, 6, 8), "arbitrary"),
        (np.stack([STACK, STACK]), "volume", (2, 5, 6, 8), "uint8"),
    ],
)
def test_the_number_of_dimensions_tells_images_from_volumes(tmp_path, values, kind, shape, unit):
    path = save(tmp_path / "a.npy", values)
    noun = read(path)
    read_values = noun.pixels if kind == "image" else noun.voxels
    assert (noun.kind, read_values.shape, noun.unit) == (kind, shape, unit)
    expected = np.moveaxis(values, -1, 0)[: shape[0]] if kind == "image" and values.ndim == 3 else values.reshape(shape)
    np.testing.assert_array_equal(read_values, expected)
    found = inspect(path, intensity=False)
    assert (found.kind, found.shape, found.dtype) == (kind, shape, read_values.dtype.name)
    assert read_values.dtype.isnative


def test_volumes_say_that_their_place_is_assumed(tmp_path):
    volume = read(save(tmp_path / "a.npy", STACK))
    assert volume.warnings == (NO_PLACE,)
    np.testing.assert_array_equal(volume.affine, ASSUMED_AFFINE)
    assert inspect(tmp_path / "a.npy").orientation == "SPL"


def test_fortran_order_is_the_same_array(tmp_path):
    np.testing.assert_array_equal(read(save(tmp_path / "a.npy", np.asfortranarray(STACK))).voxels[0], STACK)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.array([{}, None], object), "holds Python objects, which can run code when they are read"),
        (grey() * 1j, "holds values of type complex128, not plain numbers"),
        (np.array([["a", "b"]]), "holds values of type <U1, not plain numbers"),
        (np.zeros((3, 3), [("x", "f4")]), "not plain numbers"),
        (np.float32(3), "declares the size of nothing"),
        (np.zeros((0, 4)), "declares the size 0 x 4, which holds no values"),
        (np.arange(5.0), r"has the shape \(5,\), which is neither an image nor a volume"),
        (np.zeros((1, 2, 3, 4, 5)), "neither an image nor a volume"),
        (np.full((4, 4), np.inf), "holds no finite value"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(tmp_path, values, reason):
    with pytest.raises(ReadError, match=rf"a.npy: .*{reason}"):
        read(save(tmp_path / "a.npy", values, allow_pickle=True))


class Planted:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


def test_nothing_in_an_array_of_objects_is_run(tmp_path):
    with (tmp_path / "a.npy").open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": (1,)})
        pickle.dump(Planted(), stream)
    with pytest.raises(ReadError, match="holds Python objects"):
        read(tmp_path / "a.npy")


def test_cut_off_and_damaged_arrays_are_refused(tmp_path):
    whole = save(tmp_path / "a.npy", STACK).read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-5])
    with pytest.raises(ReadError, match=r"cut.npy: is cut short: its header declares 368 bytes .*, and 363 are there"):
        read(tmp_path / "cut.npy")
    (tmp_path / "bad.npy").write_bytes(whole[:20] + b"(" * 60 + whole[80:])
    with pytest.raises(ReadError, match=r"bad.npy: has a damaged NumPy header \("):
        read(tmp_path / "bad.npy")


def test_an_array_beyond_the_limit_is_refused(tmp_path):
    with pytest.raises(ReadError, match="declares 5 x 6 x 8 = 240 values, and the limit is 100"):
        read(save(tmp_path / "a.npy", STACK), limits=Limits(max_voxels=100))


def test_an_array_has_nothing_to_choose(tmp_path):
    path = save(tmp_path / "a.npy", STACK)
    with pytest.raises(ReadError, match=r"a.npy#2: the file holds one image or volume only"):
        read(f"{path}#2")


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_arrays_of_an_archive_are_chosen_by_name_and_row(tmp_path, write):
    write(tmp_path / "a.npz", scan=STACK, photo=rgb())
    np.testing.assert_array_equal(read(f"{tmp_path}/a.npz#scan").voxels[0], STACK)
    np.testing.assert_array_equal(read(f"{tmp_path}/a.npz#scan/2").pixels[0], STACK[2])
    np.testing.assert_array_equal(read(f"{tmp_path}/a.npz#photo").pixels, np.moveaxis(rgb(), -1, 0))
    with pytest.raises(
        ReadError, match=r"holds several arrays: scan \(5, 6, 8\), photo .* Choose one, such as '.*#scan'"
    ):
        read(tmp_path / "a.npz")


def test_the_only_array_of_an_archive_needs_no_name(tmp_path):
    np.savez(tmp_path / "a.npz", scan=STACK)
    assert read(tmp_path / "a.npz").voxels.shape == (1, 5, 6, 8)


@pytest.mark.parametrize(
    ("select", "reason"),
    [
        ("scna", "names no array of the file. Did you mean 'scan'"),
        ("scan/5", "names no row of scan, which has 5. Use a row from 0 to 4"),
        ("scan/-1", "names no row"),
        ("scan/x", "names no row"),
        ("other/1", "names no array of the file"),
        ("number/0", "names no row of number, which has 0"),
    ],
)
def test_a_choice_that_is_not_there_is_refused(tmp_path, select, reason):
    np.savez(tmp_path / "a.npz", scan=STACK, number=np.float32(1))
    with pytest.raises(ReadError, match=rf"a.npz#{select}: {reason}"):
        read(f"{tmp_path}/a.npz#{select}")


def medmnist(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("images", "kind", "shape"),
    [
        (np.arange(3 * 28 * 28, dtype=np.uint8).reshape(3, 28, 28), "image", (1, 28, 28)),
        (np.arange(3 * 28 * 28 * 3, dtype=np.uint8).reshape(3, 28, 28, 3), "image", (3, 28, 28)),
        (np.arange(3 * 28**3, dtype=np.uint8).reshape(3, 28, 28, 28), "volume", (1, 28, 28, 28)),
        (np.arange(3 * 28**3 * 3, dtype=np.uint8).reshape(3, 28, 28, 28, 3), "volume", (3, 28, 28, 28)),
    ],
)
def test_medmnist_samples_are_chosen_by_part_and_row(tmp_path, images, kind, shape):
    path = medmnist(tmp_path / "m.npz", train_images=images, train_labels=np.zeros((3, 1)), test_images=images[:1])
    noun = read(f"{path}#train/2")
    values = noun.pixels if kind == "image" else noun.voxels
    assert (noun.kind, values.shape, noun.origin.select) == (kind, shape, "train/2")
    expected = np.moveaxis(images[2], -1, 0) if images.shape[-1] == 3 else images[2][None]
    np.testing.assert_array_equal(values, expected)


def test_medmnist_needs_a_choice_and_lists_them(tmp_path):
    images = np.zeros((2, 28, 28), np.uint8)
    path = medmnist(tmp_path / "m.npz", train_images=images, val_images=images[:1], val_labels=np.zeros((1, 1)))
    with pytest.raises(
        ReadError, match=r"holds many samples \(2 in train, 1 in val\). Choose one, such as '.*#train/0'"
    ):
        read(path)
    found = inspect(path)
    assert found.choices == ("train/0", "train/1", "val/0")
    assert (found.kind, found.shape, found.needs_choice) == ("image", (1, 28, 28), True)
    with pytest.raises(ReadError, match="names no row of val_images, which has 1"):
        read(f"{path}#val/1")


def test_rows_do_not_share_memory_with_what_is_kept(tmp_path):
    path = medmnist(tmp_path / "m.npz", train_images=np.zeros((2, 4, 4), np.uint8))
    read(f"{path}#train/0").pixels[:] = 9
    assert read(f"{path}#train/0").pixels.max() == 0


def test_a_file_that_was_changed_is_read_again(tmp_path):
    path = medmnist(tmp_path / "m.npz", train_images=np.zeros((2, 4, 4), np.uint8))
    assert read(f"{path}#train/1").pixels.max() == 0
    medmnist(path, train_images=np.full((3, 4, 4), 7, np.uint8))
    assert read(f"{path}#train/1").pixels.max() == 7


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_rows_of_arrays_too_large_to_keep_are_read_on_their_own(tmp_path, monkeypatch, write):
    monkeypatch.setattr("crossdim.readers.array._CACHED_BYTES", 10)
    _whole_member.cache_clear()
    write(tmp_path / "a.npz", scan=STACK, turned=np.asfortranarray(STACK))
    for row in range(5):
        np.testing.assert_array_equal(read(f"{tmp_path}/a.npz#scan/{row}").pixels[0], STACK[row])
    np.testing.assert_array_equal(read(f"{tmp_path}/a.npz#scan").voxels[0], STACK)
    with pytest.raises(ReadError, match="is stored with rows scattered"):
        read(f"{tmp_path}/a.npz#turned/1")
    assert _whole_member.cache_info().currsize == 0
    write(tmp_path / "noise.npz", scan=np.random.default_rng(0).integers(0, 255, (5, 64, 64), np.uint8))
    whole = bytearray((tmp_path / "noise.npz").read_bytes())
    whole[12000:12200] = bytes(200)
    (tmp_path / "noise.npz").write_bytes(whole)
    with pytest.raises(ReadError, match=r"noise.npz: is cut short or damaged \("):
        read(f"{tmp_path}/noise.npz#scan/4")


def rewrite(path, name, data, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(name, data)
    return path


def test_damaged_archives_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", scan=np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8))
    whole = bytearray((tmp_path / "a.npz").read_bytes())
    (tmp_path / "cut.npz").write_bytes(whole[:500])
    with pytest.raises(ReadError, match=r"cut.npz: is a damaged .npz file \("):
        read(tmp_path / "cut.npz")
    whole[1000:1010] = b"\0" * 10
    (tmp_path / "bad.npz").write_bytes(whole)
    with pytest.raises(ReadError, match=r"bad.npz: is (cut short or damaged|a damaged .npz file) \(Bad CRC-32"):
        read(tmp_path / "bad.npz")


def test_archives_without_arrays_are_refused(tmp_path):
    path = rewrite(tmp_path / "a.npz", "readme.txt", b"hello")
    with pytest.raises(ReadError, match=r"a.npz: holds no arrays"):
        read(path)


def test_arrays_that_are_not_what_their_archive_says_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", STACK)
    data = (tmp_path / "a.npy").read_bytes()
    path = rewrite(tmp_path / "a.npz", "scan.npy", data + b"more")
    with pytest.raises(ReadError, match=r"a.npz#scan: declares 368 bytes, and its place in the archive 372"):
        read(path)
    path = rewrite(tmp_path / "b.npz", "scan.npy", b"nonsense")
    with pytest.raises(ReadError, match=r"b.npz#scan: has a damaged NumPy header"):
        read(path)


def test_unpacking_stops_at_the_limit(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", scan=np.zeros((50, 40, 40), np.uint8))
    with pytest.raises(ReadError, match=r"a.npz: unpacks to 80000 bytes, and the limit is 70000"):
        read(f"{tmp_path}/a.npz#scan", limits=Limits(max_gzip_bytes=70_000))
    assert read(f"{tmp_path}/a.npz#scan/9", limits=Limits(max_gzip_bytes=70_000)).pixels.shape == (1, 40, 40)


def test_the_real_medmnist_samples_are_numpys(crossdim_data):
    for name, row in (("retinamnist", 12), ("adrenalmnist3d_trainval", 3)):
        path = crossdim_data / "medmnist" / f"{name}.npz"
        expected = np.load(path)["train_images"][row]
        noun = read(f"{path}#train/{row}")
        values = np.moveaxis(noun.pixels, 0, -1) if noun.kind == "image" else noun.voxels[0]
        np.testing.assert_array_equal(values, expected)


def test_real_numbers_in_0_to_1_are_not_guessed_to_be_a_display_range(tmp_path):
    np.save(tmp_path / "m3d.npy", np.linspace(0, 1, 8 * 9 * 10, dtype=np.float32).reshape(8, 9, 10))
    assert read(tmp_path / "m3d.npy").unit == "arbitrary"
