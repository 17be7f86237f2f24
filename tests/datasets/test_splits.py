import random
from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossdim.datasets.manifest import SPLITS, Header, Manifest, Record, Task
from crossdim.datasets.splits import carve_validation, split_by_patient
from crossdim.errors import RecipeError

TASKS = {
    "grade": Task(kind="ordinal", classes=("none", "mild", "severe")),
    "signs": Task(kind="multilabel", classes=("drusen", "oedema")),
}


def make(patients, **fields):
    """One record per entry: the patient's name, with the fields a function of the entry's place gives."""
    records = []
    for index, patient in enumerate(patients):
        chosen = {name: value(index) for name, value in fields.items()}
        records.append(
            Record(id=str(index), patient_id=patient, paths=(f"{index}.png",), **({"kind": "image"} | chosen))
        )
    return Manifest(Header(name="m", root="/data", tasks=TASKS), tuple(records))


def splits_of(manifest):
    return {record.id: record.split for record in manifest.records}


names = st.text("abcdefgh", min_size=1, max_size=3)
patient_lists = st.lists(names, min_size=3, max_size=60).filter(lambda patients: len(set(patients)) >= 3)
fractions = st.tuples(*[st.integers(1, 10)] * 3).map(lambda parts: tuple(part / sum(parts) for part in parts))


@given(patient_lists, fractions, st.integers())
def test_every_record_gets_one_part_and_no_patient_two(patients, fractions, seed):
    manifest = make(patients)
    result = split_by_patient(manifest, fractions, seed)
    parts_of = defaultdict(set)
    for record in result.records:
        parts_of[record.patient_id].add(record.split)
    assert all(len(parts) == 1 and parts <= set(SPLITS) for parts in parts_of.values())
    assert {part for parts in parts_of.values() for part in parts} == set(SPLITS)
    assert [r.model_copy(update={"split": None}) for r in result.records] == list(manifest.records)
    assert result.header.split_seed == seed


@given(patient_lists, fractions, st.randoms())
def test_the_order_of_the_records_does_not_matter(patients, fractions, shuffler):
    manifest = make(patients)
    shuffled = list(manifest.records)
    shuffler.shuffle(shuffled)
    other = split_by_patient(Manifest(manifest.header, tuple(shuffled)), fractions, seed=3)
    assert splits_of(other) == splits_of(split_by_patient(manifest, fractions, seed=3))


@given(st.lists(st.integers(1, 4), min_size=20, max_size=60), fractions, st.integers(0, 9))
def test_the_shares_come_within_the_largest_patient_of_what_was_asked(sizes, fractions, seed):
    manifest = make([f"p{patient}" for patient, size in enumerate(sizes) for _ in range(size)])
    counts = Counter(splits_of(split_by_patient(manifest, fractions, seed)).values())
    for name, fraction in zip(SPLITS, fractions, strict=True):
        assert abs(counts[name] - fraction * len(manifest)) <= 2 * max(sizes)


def test_another_seed_gives_another_split_and_the_same_seed_the_same():
    manifest = make([f"p{index}" for index in range(40)])
    assert split_by_patient(manifest, seed=1) == split_by_patient(manifest, seed=1)
    assert splits_of(split_by_patient(manifest, seed=1)) != splits_of(split_by_patient(manifest, seed=2))


@pytest.mark.parametrize("seed", range(5))
def test_stratified_parts_have_their_share_of_every_class_and_of_both_kinds(seed):
    rare = [index % 20 == 0 for index in range(400)]
    manifest = make(
        [f"p{index}" for index in range(400)],
        labels=lambda index: {"grade": 2 if rare[index] else index % 2},
        kind=lambda index: "volume" if index < 100 else "image",
    )
    result = split_by_patient(manifest, (0.5, 0.25, 0.25), seed, stratify="grade")
    severe = Counter(record.split for record in result.records if record.labels["grade"] == 2)
    assert all(abs(severe[name] - 20 * share) <= 1 for name, share in zip(SPLITS, (0.5, 0.25, 0.25), strict=True))
    volumes = Counter(record.split for record in result.records if record.kind == "volume")
    assert all(abs(volumes[name] - 100 * share) <= 2 for name, share in zip(SPLITS, (0.5, 0.25, 0.25), strict=True))


def test_a_patient_with_several_classes_counts_for_the_rarest():
    shuffler = random.Random(0)
    manifest = make(
        [f"p{index // 2}" for index in range(200)],
        labels=lambda index: {"signs": (0, 1) if index % 40 == 0 else (0,) if shuffler.random() < 0.5 else ()},
    )
    result = split_by_patient(manifest, (0.4, 0.2, 0.4), 0, stratify="signs")
    oedema = Counter(record.split for record in result.records if 1 in record.labels["signs"])
    assert oedema == {"train": 2, "val": 1, "test": 2}


def test_records_without_the_label_are_shared_out_too():
    manifest = make([f"p{index}" for index in range(20)], labels=lambda index: {"grade": 1} if index < 10 else {})
    result = split_by_patient(manifest, (0.5, 0.0, 0.5), stratify="grade")
    assert Counter(record.split for record in result.records if not record.labels) == {"train": 5, "test": 5}


def test_a_part_without_a_share_stays_empty():
    result = split_by_patient(make([f"p{index}" for index in range(9)]), (1.0, 0.0, 0.0))
    assert set(splits_of(result).values()) == {"train"}


def test_the_shares_are_seven_one_and_two_tenths_unless_told_otherwise():
    result = splits_of(split_by_patient(make([f"p{index}" for index in range(100)])))
    assert Counter(result.values()) == {"train": 70, "val": 10, "test": 20}


@pytest.mark.parametrize("bad", [(0.5, 0.5, 0.5), (1.2, -0.1, -0.1), (0.0, 0.5, 0.5), (0.7, 0.2, float("nan"))])
def test_fractions_that_are_no_shares_are_refused(bad):
    with pytest.raises(RecipeError, match=r"are not three shares of train, val, test that sum to 1"):
        split_by_patient(make(["a", "b", "c"]), bad)


def test_too_few_patients_are_refused_with_both_numbers():
    with pytest.raises(RecipeError, match=r"2 patients cannot fill 3 parts \(train, val, test\)"):
        split_by_patient(make(["a", "a", "b"]))


def test_an_unknown_task_is_refused():
    with pytest.raises(RecipeError, match=r"Did you mean 'grade'"):
        split_by_patient(make(["a", "b", "c"]), stratify="grades")


def test_validation_is_carved_from_training_and_leaves_the_test_part_alone():
    manifest = make(
        [f"p{index}" for index in range(50)],
        split=lambda index: "test" if index >= 40 else "train",
        labels=lambda index: {"grade": index % 2},
    )
    result = carve_validation(manifest, 0.25, seed=5, stratify="grade")
    assert Counter(splits_of(result).values()) == {"train": 30, "val": 10, "test": 10}
    assert result.split("test").records == manifest.split("test").records
    assert Counter(record.labels["grade"] for record in result.split("val").records) == {0: 5, 1: 5}
    assert result.header.split_seed == 5


def test_a_training_patient_who_is_also_in_the_test_part_is_not_moved_to_validation():
    manifest = make(["a", "a", "b", "c"], split=lambda index: "test" if index == 1 else "train")
    for seed in range(8):
        assert splits_of(carve_validation(manifest, 0.5, seed))["0"] == "train"


@pytest.mark.parametrize("bad", [0.0, 1.0, -0.5])
def test_a_validation_fraction_that_is_no_share_is_refused(bad):
    with pytest.raises(RecipeError, match=r"is not above 0 and below 1"):
        carve_validation(make(["a", "b"], split=lambda index: "train"), bad)


def test_validation_needs_two_training_patients():
    with pytest.raises(RecipeError, match=r"1 patients cannot fill 2 parts \(train, val\)"):
        carve_validation(make(["a", "b"], split=lambda index: "train" if index else "test"), 0.5)
