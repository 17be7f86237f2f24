import pickle

import numpy as np
import pytest
import torch
from PIL import Image

import crossdim.training.data as data_room
from crossdim.datasets.manifest import Header, Manifest, Record, Task
from crossdim.errors import ContractError, ReadError, RecipeError
from crossdim.training.data import (
    Collate,
    Failure,
    RecordDataset,
    check_records,
    indices_by_kind,
    refuse_failures,
    spread_evenly,
)
from crossdim.training.schedule import Draw
from crossdim.transforms.augment import Augmentation
from crossdim.transforms.collate import collate_classification, collate_pretraining
from crossdim.transforms.contract import ImageContract, PreprocessingContract, VolumeContract

PATCHES = {"image": (8, 8), "volume": (8, 8, 8)}
CONTRACT = PreprocessingContract(
    image=ImageContract(size=(32, 32)), volume=VolumeContract(size=(16, 32, 32)), source="test"
)
VARIED = Augmentation(crop_scale=(0.3, 1.0), flip_width=0.5, noise_std=0.1)


def dataset(manifest, **more):
    return RecordDataset(manifest, CONTRACT, PATCHES, **more)


def with_broken_file(folder, toy):
    (folder / "broken.png").write_bytes(b"\x89PNG nothing more")
    record = Record(id="broken", patient_id="b", kind="image", paths=(str(folder / "broken.png"),))
    return Manifest(toy.header, (toy.records[0], record))


def test_a_sample_depends_on_seed_cycle_and_place_only(toy):
    first, again = dataset(toy, seed=1, augmentation=VARIED), dataset(toy, seed=1, augmentation=VARIED)
    first[Draw(0, 5)]
    one, other = first[Draw(2, 3)], again[Draw(2, 3)]
    assert torch.equal(one.values, other.values)
    assert torch.equal(one.noise, other.noise)


@pytest.mark.parametrize("other", [(1, Draw(3, 3)), (1, Draw(2, 4)), (2, Draw(2, 3))])
def test_another_seed_cycle_or_place_varies_and_masks_differently(toy, other):
    seed, draw = other
    one = dataset(toy, seed=1, augmentation=VARIED)[Draw(2, 3)]
    two = dataset(toy, seed=seed, augmentation=VARIED)[draw]
    assert not torch.equal(one.noise, two.noise)
    assert not torch.equal(one.values, two.values)


def test_without_augmentation_only_the_noise_changes_from_cycle_to_cycle(toy):
    data = dataset(toy)
    one, two = data[Draw(0, 0)], data[Draw(1, 0)]
    assert torch.equal(one.values, two.values)
    assert not torch.equal(one.noise, two.noise)


def test_prepared_records_stay_in_memory_within_the_budget(toy):
    one_image = 3 * 32 * 32 * 4
    data = dataset(toy, cache_bytes=2 * one_image + 10)
    first, second, third = (data.prepared(place) for place in (0, 1, 2))
    assert data.prepared(0) is first
    assert data.prepared(1) is second
    assert data.prepared(2) is not third


def test_checking_until_the_memory_is_full_reads_no_further(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(data_room, "AT_A_TIME", 2)
    data = dataset(with_broken_file(tmp_path, toy), cache_bytes=10)
    data.manifest = Manifest(toy.header, (*toy.records[:3], data.manifest.records[1]))
    check_records(data, until_full=True)
    assert data.full


def test_memory_stays_behind_when_samples_travel_to_a_spawned_worker(toy):
    data = dataset(toy, cache_bytes=2**24)
    kept = data.prepared(0)
    assert data.prepared(0) is kept
    travelled = pickle.loads(pickle.dumps(data))
    assert travelled.prepared(0) is not travelled.prepared(0)


def test_nothing_more_is_kept_once_workers_share_the_memory(toy):
    data = dataset(toy, cache_bytes=2**24)
    kept = data.prepared(0)
    data.keep_no_more()
    assert data.prepared(0) is kept
    assert data.prepared(1) is not data.prepared(1)


def test_what_is_in_memory_gives_the_same_samples(toy):
    kept, read = dataset(toy, cache_bytes=2**24, augmentation=VARIED), dataset(toy, augmentation=VARIED)
    check_records(kept)
    assert torch.equal(kept[Draw(1, 20)].values, read[Draw(1, 20)].values)


def test_labels_are_indices_or_rows_of_zeros_and_ones(toy):
    assert dataset(toy.for_task("sign"), task="sign")[Draw(0, 2)].label.ndim == 0
    header = Header(name="m", root=toy.header.root, tasks={"signs": Task(kind="multilabel", classes=("a", "b", "c"))})
    record = toy.records[0].model_copy(update={"labels": {"signs": (0, 2)}})
    label = dataset(Manifest(header, (record,)), task="signs")[Draw(0, 0)].label
    assert label.tolist() == [1.0, 0.0, 1.0]


def test_a_broken_file_travels_as_a_failure_and_is_raised_in_its_own_words(toy, tmp_path):
    data = dataset(with_broken_file(tmp_path, toy))
    failure = data[Draw(0, 1)]
    assert isinstance(failure, Failure)
    batch = Collate(collate_pretraining)([data[Draw(0, 0)], pickle.loads(pickle.dumps(failure))])
    with pytest.raises(ReadError, match=r"broken\.png"):
        refuse_failures(batch)


def test_checking_names_every_record_that_cannot_be_used(toy, tmp_path):
    with pytest.raises(ReadError, match=r"1 of 2 records cannot be used \(broken: "):
        check_records(dataset(with_broken_file(tmp_path, toy)))


def test_checking_shortens_a_long_list(toy, tmp_path):
    header = toy.header
    records = tuple(
        Record(id=f"r{n}", patient_id="p", kind="image", paths=(str(tmp_path / f"{n}.png"),)) for n in range(7)
    )
    done = []
    with pytest.raises(ReadError, match=r"7 of 7 records cannot be used .*; and 2 more\)"):
        check_records(dataset(Manifest(header, records)), threads=2, progress=lambda *numbers: done.append(numbers))
    assert done[-1] == (7, 7)


def test_a_kind_that_the_contract_does_not_know_is_refused(toy):
    images_only = PreprocessingContract(image=CONTRACT.image, source="test")
    batch = Collate(collate_pretraining)([RecordDataset(toy, images_only, PATCHES)[Draw(0, 20)]])
    with pytest.raises(ContractError, match="is a volume, and the contract knows images only"):
        refuse_failures(batch)


def test_batches_carry_the_names_of_the_models_arguments(toy):
    data = dataset(toy.for_task("sign"), task="sign")
    batch = Collate(collate_classification)([data[Draw(0, 0)], data[Draw(0, 1)]])
    assert set(batch) == {"pixel_values", "labels"}
    mixed = Collate(collate_pretraining)([dataset(toy)[Draw(0, place)] for place in (0, 20)])
    assert {"pixel_values", "noise", "padding_mask", "voxel_values", "voxel_noise", "voxel_padding_mask"} == set(mixed)


def test_records_are_sorted_by_kind(toy):
    places = indices_by_kind(toy)
    assert places == {"image": list(range(18)), "volume": list(range(18, 30))}
    assert indices_by_kind(toy.for_task("sign")).keys() == {"image"}


def test_spreading_takes_first_and_last():
    assert spread_evenly([3, 5, 7, 9, 11], 3) == [3, 7, 11]
    assert spread_evenly([3, 5], 4) == [3, 5]


def test_workers_give_the_same_samples_as_the_process_itself(toy):
    data = dataset(toy, augmentation=VARIED)
    draws = [[Draw(0, 0), Draw(0, 19)], [Draw(4, 7), Draw(1, 21)]]
    batches = [
        list(
            torch.utils.data.DataLoader(
                data, batch_sampler=draws, collate_fn=Collate(collate_pretraining), num_workers=n
            )
        )
        for n in (0, 2)
    ]
    for alone, helped in zip(*batches, strict=True):
        assert all(torch.equal(alone[key], helped[key]) for key in alone)


def test_grey_images_fit_a_colour_contract(tmp_path, toy):
    Image.fromarray(np.full((40, 40), 7, np.uint8)).save(tmp_path / "grey.png")
    record = Record(id="g", patient_id="g", kind="image", paths=(str(tmp_path / "grey.png"),))
    assert dataset(Manifest(toy.header, (record,)))[Draw(0, 0)].values.shape == (3, 32, 32)


def test_a_record_of_text_alone_is_refused_by_its_name(toy):
    text = Record(id="talk", patient_id="t", kind="text")
    with pytest.raises(RecipeError, match=r"record 'talk': is text without a file.*Take it out of the manifest"):
        indices_by_kind(Manifest(toy.header, (toy.records[0], text)))
