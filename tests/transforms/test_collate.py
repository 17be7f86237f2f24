import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from crossdim.errors import ContractError
from crossdim.transforms.augment import generator_for
from crossdim.transforms.collate import Sample, collate_classification, collate_pretraining, padded_share, padding_mask
from crossdim.transforms.image import ImageContract, prepare_image
from crossdim.transforms.volume import VolumeContract, prepare_volume
from tests.transforms.toys import image, noise, volume


def flat(index=0, label=None, size=(16, 32)):
    prepared = prepare_image(image(np.full((3, *size), 200, np.uint8)), ImageContract(size=(32, 32), fit="pad"))
    return Sample.of(prepared, (8, 8), generator_for(0, 0, index), label)


def deep(index=0):
    contract = VolumeContract(size=(8, 16, 16), fit="crop_pad")
    prepared = prepare_volume(volume(noise(1, 4, 16, 16)), contract)
    return Sample.of(prepared, (2, 8, 8), generator_for(0, 0, index))


@limits(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(0, 19), st.integers(1, 20)),
        min_size=2,
        max_size=3,
    )
)
def test_a_patch_is_padding_only_if_it_holds_no_data_in_raster_order(axes):
    patch = tuple(part for part, _, _, _ in axes)
    size = tuple(part * cells for part, cells, _, _ in axes)
    valid = tuple((min(a, s - 1), min(s, min(a, s - 1) + n)) for s, (_, _, a, n) in zip(size, axes, strict=True))
    data = np.zeros(size, dtype=bool)
    data[tuple(slice(*extent) for extent in valid)] = True
    cells = [length // part for length, part in zip(size, patch, strict=True)]
    expected = [
        not data[tuple(slice(i * p, i * p + p) for i, p in zip(cell, patch, strict=True))].any()
        for cell in np.ndindex(*cells)
    ]
    assert padding_mask(valid, size, patch).tolist() == expected


def test_a_size_that_is_no_multiple_of_the_patch_is_refused():
    with pytest.raises(ContractError, match=r"size \(30, 32\): is not a multiple of the patch \(16, 16\)"):
        padding_mask(((0, 30), (0, 32)), (30, 32), (16, 16))


def test_images_and_volumes_become_the_arguments_of_pretraining():
    batch = collate_pretraining([flat(0), deep(1), flat(2)])
    assert {name: tuple(value.shape) for name, value in batch.items()} == {
        "pixel_values": (2, 3, 32, 32),
        "noise": (2, 16),
        "padding_mask": (2, 16),
        "voxel_values": (1, 1, 8, 16, 16),
        "voxel_noise": (1, 16),
        "voxel_padding_mask": (1, 16),
    }
    assert batch["padding_mask"].dtype == torch.bool
    assert padded_share(batch) == 0.5


def test_an_absent_kind_is_absent():
    assert set(collate_pretraining([flat()])) == {"pixel_values", "noise", "padding_mask"}
    assert set(collate_pretraining([deep()])) == {"voxel_values", "voxel_noise", "voxel_padding_mask"}


def test_noise_belongs_to_the_sample_and_not_to_the_batch():
    alone = collate_pretraining([flat(5)])["noise"][0]
    assert torch.equal(alone, collate_pretraining([flat(4), flat(5)])["noise"][1])
    assert not torch.equal(alone, flat(4).noise)


def test_labels_and_padding_become_the_arguments_of_classification():
    batch = collate_classification([flat(0, torch.tensor(1)), flat(1, torch.tensor(0))])
    assert batch["labels"].tolist() == [1, 0]
    assert batch["padding_mask"].sum() == 16
    whole = collate_classification([flat(0, size=(32, 32))])
    assert set(whole) == {"pixel_values"}
    assert padded_share(whole) == 0.0
