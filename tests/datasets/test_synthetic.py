import json
from itertools import pairwise

import nibabel
import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from crossdim.datasets.manifest import Manifest
from crossdim.datasets.synthetic import fundus, make_images, make_volumes, scan
from crossdim.errors import RecipeError


def test_images_are_real_files_with_a_manifest_beside_them(tmp_path):
    manifest = make_images(tmp_path / "eyes", 24, 40, fractions=(0.5, 0.25, 0.25))
    assert Manifest.load(tmp_path / "eyes" / "manifest.jsonl") == manifest
    assert len(manifest) == 24
    for record in manifest.records:
        with Image.open(manifest.resolve(record)[0]) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (40, 40))
    assert json.loads((tmp_path / "eyes" / "manifest.jsonl").read_text().splitlines()[0])["root"] == "."


def test_both_eyes_of_a_patient_are_in_one_part_with_one_label(tmp_path):
    manifest = make_images(tmp_path, 24, 32)
    for left, right in zip(manifest.records[::2], manifest.records[1::2], strict=True):
        assert (left.patient_id, left.split, left.labels) == (right.patient_id, right.split, right.labels)
        pixels = [np.asarray(Image.open(manifest.resolve(record)[0])) for record in (left, right)]
        assert not np.array_equal(*pixels)


def test_volumes_have_thick_slices_and_orientations_of_their_own(tmp_path):
    manifest = make_volumes(tmp_path, 12, 32)
    orientations = set()
    for record in manifest.records:
        image = nibabel.load(manifest.resolve(record)[0])
        orientations.add(nibabel.aff2axcodes(image.affine))
        canonical = nibabel.as_closest_canonical(image)
        x, y, z = canonical.header.get_zooms()
        assert x == y == 3
        assert 1.5 * x <= z <= 2.5 * x
        centre = nibabel.affines.apply_affine(image.affine, (np.array(image.shape) - 1) / 2)
        assert np.all(np.abs(centre) < 50)
    assert len(orientations) > 4


def test_a_turned_volume_is_the_same_body_in_patient_space(tmp_path):
    manifest = make_volumes(tmp_path, 6, 32, seed=2)
    image = nibabel.as_closest_canonical(nibabel.load(manifest.resolve(manifest.records[4])[0]))
    voxels, spacing_mm = scan(np.random.default_rng([2, 4]), label=1, size=32, difficulty=0.3)
    np.testing.assert_array_equal(np.asarray(image.dataobj), voxels)
    np.testing.assert_allclose(image.header.get_zooms(), spacing_mm, rtol=1e-6)


@pytest.mark.parametrize("make", [make_images, make_volumes])
def test_the_same_seed_gives_the_same_files_and_a_larger_set_begins_with_the_smaller(tmp_path, make):
    few, many = make(tmp_path / "few", 6, 32, seed=4), make(tmp_path / "many", 12, 32, seed=4)
    other = make(tmp_path / "other", 6, 32, seed=5)
    for a, b, c in zip(few.records, many.records, other.records, strict=False):
        assert (a.id, a.labels) == (b.id, b.labels)
        pixels = [
            np.asarray(nibabel.load(path).dataobj) if path.endswith(".gz") else np.asarray(Image.open(path))
            for path in (few.resolve(a)[0], many.resolve(b)[0], other.resolve(c)[0])
        ]
        assert np.array_equal(pixels[0], pixels[1])
        assert not np.array_equal(pixels[0], pixels[2])


def draw(label, person, difficulty):
    generators = np.random.default_rng([person, 1]), np.random.default_rng([person, 2])
    return fundus(*generators, label=label, size=48, difficulty=difficulty, right=person % 2 == 1)


def accuracy(features, labels):
    half = len(labels) // 2
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    return LogisticRegression(max_iter=1000).fit(scaled[:half], labels[:half]).score(scaled[half:], labels[half:])


def test_the_mean_of_each_channel_tells_nothing_about_the_class_of_an_image():
    labels = np.arange(600) % 3
    means = np.array([draw(int(label), person, 0.0).mean(axis=(0, 1)) for person, label in enumerate(labels)])
    assert abs(accuracy(means, labels) - 1 / 3) < 0.09


def test_the_mean_tells_nothing_about_the_class_of_a_volume():
    labels = np.arange(240) % 3
    volumes = [
        scan(np.random.default_rng([7, n]), label=int(label), size=32, difficulty=0.0)[0]
        for n, label in enumerate(labels)
    ]
    means = np.array([[volume.mean()] for volume in volumes])
    assert abs(accuracy(means, labels) - 1 / 3) < 0.13


def test_lesions_change_the_picture_and_less_so_when_it_is_harder():
    def change(difficulty):
        return np.abs(draw(2, 3, difficulty).astype(float) - draw(0, 3, difficulty)).mean()

    assert change(0.0) > 3
    plain = [draw(label, 3, 0.0).astype(float) / draw(label, 3, 0.0).mean() for label in range(3)]
    hard = [draw(label, 3, 1.0).astype(float) / draw(label, 3, 1.0).mean() for label in range(3)]
    assert np.percentile(plain[1] - plain[0], 99) > np.percentile(hard[1] - hard[0], 99)
    assert np.percentile(plain[2] - plain[0], 1) < -0.3


def test_progress_is_told_after_each_file(tmp_path):
    calls = []
    make_images(tmp_path, 6, 32, progress=lambda done, total: calls.append((done, total)))
    make_volumes(tmp_path, 6, 32, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(n, 6) for n in range(1, 7)] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 5}, r"count 5: is too small. Take at least 6"),
        ({"size": 16}, r"size 16: is too small. Take at least 32"),
        ({"difficulty": 1.5}, r"difficulty 1.5: is not between 0 and 1"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, arguments, message):
    for make in (make_images, make_volumes):
        with pytest.raises(RecipeError, match=message):
            make(tmp_path, **arguments)


@pytest.mark.slow
def test_a_small_network_learns_the_classes_within_a_minute(tmp_path):
    import torch

    torch.manual_seed(0)
    manifest = make_images(tmp_path, 480, 64)

    def tensors(part):
        records = manifest.split(part).records
        pixels = np.stack([np.asarray(Image.open(manifest.resolve(record)[0])) for record in records])
        labels = torch.tensor([record.labels["sign"] for record in records])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255, labels

    widths = (3, 16, 32, 64)
    layers = [
        layer
        for narrow, wide in pairwise(widths)
        for layer in (torch.nn.Conv2d(narrow, wide, 3, 2, 1), torch.nn.BatchNorm2d(wide), torch.nn.ReLU())
    ]
    network = torch.nn.Sequential(*layers, torch.nn.AdaptiveMaxPool2d(1), torch.nn.Flatten(), torch.nn.Linear(64, 3))
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3)
    images, labels = tensors("train")
    for _ in range(15):
        for batch in torch.randperm(len(images)).split(32):
            loss = torch.nn.functional.cross_entropy(network(images[batch]), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    images, labels = tensors("test")
    with torch.no_grad():
        assert (network.eval()(images).argmax(dim=1) == labels).float().mean() > 0.75
