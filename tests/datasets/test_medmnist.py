import numpy as np
import pytest

from crossdim import readers
from crossdim.datasets.medmnist import from_medmnist
from crossdim.errors import ReadError, RecipeError


def make(
    folder, name="anymnist.npz", *, shape=(8, 8), labels=((0,), (1,), (2,)), parts=("train", "val", "test"), **more
):
    arrays = {}
    for part in parts:
        arrays[f"{part}_images"] = np.arange(len(labels), dtype=np.uint8).reshape(-1, *[1] * len(shape)) + np.zeros(
            (1, *shape), np.uint8
        )
        arrays[f"{part}_labels"] = np.array(labels, np.uint8)
    path = folder / name
    np.savez_compressed(path, **(arrays | more))
    return path


def test_retinamnist_keeps_its_official_parts_and_ordered_grades(crossdim_data):
    manifest = from_medmnist(crossdim_data / "medmnist" / "retinamnist.npz")
    assert [len(manifest.split(part)) for part in ("train", "val", "test")] == [1080, 120, 400]
    assert manifest.header.tasks["label"].kind == "ordinal"
    assert len(manifest.header.tasks["label"].classes) == 5
    first = manifest.split("val").records[7]
    image = readers.read_channels(manifest.resolve(first))
    with np.load(crossdim_data / "medmnist" / "retinamnist.npz") as arrays:
        np.testing.assert_array_equal(image.pixels, np.moveaxis(arrays["val_images"][7], -1, 0))
        assert first.labels == {"label": int(arrays["val_labels"][7, 0])}
    assert image.kind == first.kind == "image"


def test_a_set_without_its_test_part_gives_the_parts_it_has(crossdim_data):
    manifest = from_medmnist(crossdim_data / "medmnist" / "adrenalmnist3d_trainval.npz")
    assert [len(manifest.split(part)) for part in ("train", "val", "test")] == [1188, 98, 0]
    assert manifest.header.name == "adrenalmnist3d"
    assert manifest.header.tasks["label"].classes == ("normal", "hyperplasia")
    record = manifest.records[0]
    volume = readers.read_channels(manifest.resolve(record))
    assert volume.kind == record.kind == "volume"
    assert volume.voxels.shape == (1, 28, 28, 28)


@pytest.mark.parametrize(
    ("shape", "kind"), [((8, 8), "image"), ((8, 8, 3), "image"), ((8, 8, 8), "volume"), ((8, 8, 8, 1), "volume")]
)
def test_two_and_three_dimensions_are_told_apart_as_the_reader_does(tmp_path, shape, kind):
    manifest = from_medmnist(make(tmp_path, shape=shape))
    assert {record.kind for record in manifest.records} == {kind}
    assert {readers.read(manifest.resolve(record)[0]).kind for record in manifest.records} == {kind}


def test_labels_of_several_columns_are_a_multilabel_task(tmp_path):
    rows = np.zeros((3, 14), int)
    rows[0, [2, 5]] = 1
    rows[1, 13] = 1
    manifest = from_medmnist(make(tmp_path, "chestmnist_64.npz", labels=rows, parts=("train",)))
    assert manifest.header.tasks["label"].kind == "multilabel"
    assert [record.labels["label"] for record in manifest.records] == [(2, 5), (13,), ()]
    assert manifest.header.tasks["label"].classes[13] == "hernia"


def test_an_unknown_set_of_the_same_layout_has_numbered_classes(tmp_path):
    task = from_medmnist(make(tmp_path)).header.tasks["label"]
    assert (task.kind, task.classes) == ("multiclass", ("0", "1", "2"))
    task = from_medmnist(make(tmp_path, labels=((0, 1), (1, 1)))).header.tasks["label"]
    assert (task.kind, task.classes) == ("multilabel", ("0", "1"))


def test_labels_without_a_second_axis_are_accepted(tmp_path):
    assert [r.labels["label"] for r in from_medmnist(make(tmp_path, labels=(2, 0), parts=("val",))).records] == [2, 0]


def test_what_is_no_medmnist_file_is_refused(tmp_path):
    with pytest.raises(ReadError, match=r"absent.npz: does not exist"):
        from_medmnist(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ReadError, match=r"is a damaged .npz file"):
        from_medmnist(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(ReadError, match=r"holds x, and no train_images"):
        from_medmnist(tmp_path / "other.npz")
    whole = make(tmp_path).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ReadError, match=r"is a damaged .npz file"):
        from_medmnist(tmp_path / "cut.npz")


def test_labels_that_do_not_fit_the_images_are_refused(tmp_path):
    images = np.zeros((3, 8, 8), np.uint8)
    np.savez(tmp_path / "a.npz", train_images=images)
    with pytest.raises(ReadError, match=r"has train_images and no train_labels"):
        from_medmnist(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", train_images=images, train_labels=np.zeros((2, 1), np.uint8))
    with pytest.raises(ReadError, match=r"#train: 3 images and 2 labels"):
        from_medmnist(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", train_images=images, train_labels=np.zeros((3, 1)))
    with pytest.raises(ReadError, match=r"#train_labels: is float64 of shape \(3, 1\), not whole numbers"):
        from_medmnist(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", train_images=images[0], train_labels=np.zeros((8, 1), np.uint8))
    with pytest.raises(ReadError, match=r"which is neither 2D nor 3D"):
        from_medmnist(tmp_path / "d.npz")
    with pytest.raises(RecipeError, match=r"class index 2 is outside the 2 classes"):
        from_medmnist(make(tmp_path, "breastmnist.npz"))
    with pytest.raises(RecipeError, match=r"chestmnist labels: 2 a sample for 14 classes"):
        from_medmnist(make(tmp_path, "chestmnist.npz", labels=((0, 1),)))


def test_labels_that_are_pickled_objects_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "o.npz", train_images=np.zeros((2, 8, 8)), train_labels=np.array([{}, {}], dtype=object))
    with pytest.raises(ReadError, match=r"#train_labels: holds Python objects, which can run code"):
        from_medmnist(tmp_path / "o.npz")


def test_labels_that_changed_on_the_way_are_refused(tmp_path):
    labels = np.arange(20_000, dtype=np.int64)
    np.savez(tmp_path / "x.npz", train_images=np.zeros((20_000, 4, 4), np.uint8), train_labels=labels)
    whole, end = (tmp_path / "x.npz").read_bytes(), labels[-100:].tobytes()
    assert end in whole
    (tmp_path / "x.npz").write_bytes(whole.replace(end, end[::-1]))
    with pytest.raises(ReadError, match=r"#train_labels: cannot be read \(Bad CRC-32"):
        from_medmnist(tmp_path / "x.npz")
