import filecmp
from collections import Counter
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from crossdim import readers
from crossdim.datasets.anatomy_balance import blind_accuracy
from crossdim.datasets.anatomy_cases import Case, find_cases
from crossdim.datasets.anatomy_questions import AnatomyOptions, build_anatomy_questions
from crossdim.datasets.anatomy_seen import Rules
from crossdim.datasets.anatomy_views import Views
from crossdim.datasets.manifest import Manifest
from crossdim.datasets.phantom import make_phantoms
from crossdim.errors import GeometryError, ReadError, RecipeError
from crossdim.geometry.affine import to_patient_mm, to_voxel
from tests.datasets.anatomy_toys import NAMES, label_map, save

BLIND_TYPES = {"presence", "side", "comparison", "volume", "neighbour", "count"}


def turns_of(manifest):
    return [(r, turn) for r in manifest.records for dialogue in r.dialogues for turn in dialogue.turns]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    return make_phantoms(tmp_path_factory.mktemp("phantoms"), 24, 24)


def options(names, **more):
    return AnatomyOptions(names, **{"unnamed": "ignore", "synthetic": 1, "views": Views(0)} | more)


@pytest.fixture(scope="module")
def built(phantoms, tmp_path_factory):
    cases, names = phantoms
    out = tmp_path_factory.mktemp("qa")
    return out, build_anatomy_questions(cases, out, options(names, views=Views(3)))


def test_the_manifest_is_saved_and_its_volumes_can_be_read(built):
    out, manifest = built
    assert Manifest.load(out / "manifest.jsonl").records == manifest.records
    record = manifest.records[0]
    volume = readers.read(manifest.resolve(record)[0])
    assert volume.kind == "volume"
    assert volume.voxels.dtype == np.int16
    files = {path.name for path in (out / "volumes").iterdir()}
    assert files == {Path(record.paths[0]).name for record in manifest.records}


def test_every_type_of_question_is_asked(built):
    types = Counter(turn.type for _, turn in turns_of(built[1]))
    assert BLIND_TYPES - {"neighbour"} | {"slices", "volume in mL", "report"} <= set(types)


def test_parts_are_by_patient(built):
    parts = {}
    for record in built[1].records:
        parts.setdefault(record.patient_id, set()).add(record.split)
    assert all(len(found) == 1 for found in parts.values())
    assert set.union(*parts.values()) == {"train", "val", "test"}


def test_the_words_of_closed_questions_tell_nothing(built):
    for kind, blind in blind_accuracy(built[1]).items():
        if kind in BLIND_TYPES:
            assert blind.accuracy == pytest.approx(blind.chance)
            assert blind.chance <= 0.5
    groups = {}
    for record, turn in turns_of(built[1]):
        if turn.form == "closed":
            groups.setdefault((turn.question, record.split), Counter())[turn.answer] += 1
    assert groups
    assert all(len(answers) > 1 and len(set(answers.values())) == 1 for answers in groups.values())


def test_turns_say_where_to_look_and_what_the_answer_depends_on(built):
    for _, turn in turns_of(built[1]):
        if turn.type == "presence":
            assert (turn.extent_mm is None) == (turn.answer == "no")
        if turn.type in {"side", "comparison", "volume", "slices", "neighbour"}:
            assert turn.extent_mm is not None
        if turn.type == "side":
            assert set(turn.depends_on) == {"side", "size"}
        if turn.type == "slices":
            assert {"place", "plane"} <= set(turn.depends_on)
        if "left" in turn.question:
            assert "side" in turn.depends_on
        if turn.type == "report":
            assert " ".join(turn.findings) == turn.answer


def test_extents_lie_within_the_volume_and_slices_agree_with_them(built):
    manifest = built[1]
    for record, turn in turns_of(manifest)[::7]:
        if turn.extent_mm is None:
            continue
        header = nibabel.load(manifest.resolve(record)[0])
        affine = header.affine
        low = to_voxel(np.array(turn.extent_mm[::2]), affine)
        high = to_voxel(np.array(turn.extent_mm[1::2]), affine)
        assert (np.minimum(low, high) > -0.51).all()
        assert (np.maximum(low, high) < np.array(header.shape) - 0.49).all()
        if turn.type == "slices":
            centres = to_patient_mm(np.outer(np.arange(header.shape[2]), [0, 0, 1]), affine)[:, 2]
            shown = np.flatnonzero((centres >= turn.extent_mm[4]) & (centres <= turn.extent_mm[5]))
            assert turn.answer in {f"slice {shown[0]}", f"slices {shown[0]} to {shown[-1]}"}


def test_the_same_seed_gives_the_same_files_and_questions(phantoms, tmp_path):
    cases, names = phantoms
    made = [
        build_anatomy_questions(cases[:8], tmp_path / name, options(names, views=Views(2), seed=seed))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert made[0].records == made[1].records != made[2].records
    files = [record.paths[0] for record in made[0].records]
    assert filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", files, shallow=False)[0] == files


def mirror(case, folder):
    """Write the case's map with its voxels mirrored from left to right and the same affine."""
    image = nibabel.load(case.labels)
    path = folder / Path(case.labels).name
    nibabel.save(nibabel.nifti1.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine), path)
    return replace(case, labels=str(path))


def test_mirrored_files_give_the_other_answer_to_every_question_about_sides(phantoms, tmp_path):
    cases, names = phantoms
    (tmp_path / "labels").mkdir()
    mirrored = [mirror(case, tmp_path / "labels") for case in cases]
    chosen = options(names, types=("side",))
    plain = build_anatomy_questions(cases, tmp_path / "plain", chosen)
    turned = build_anatomy_questions(mirrored, tmp_path / "turned", replace(chosen, handedness="geometry"))
    other = {"left": "right", "right": "left"}
    answers = {(r.id, turn.question): other[turn.answer] for r, turn in turns_of(plain)}
    assert len(answers) > 5
    assert answers == {(r.id, turn.question): turn.answer for r, turn in turns_of(turned)}
    for _, turn in turns_of(turned):
        assert (sum(turn.extent_mm[:2]) < 0) == (turn.answer == "left")
    assert any("on the other side than named, and named by geometry" in note for note in turned.notes)
    with pytest.raises(GeometryError, match="structures lie on the other side than named"):
        build_anatomy_questions(mirrored, tmp_path / "refused", chosen)


def test_a_report_states_what_is_seen(built):
    sentences = {finding for _, turn in turns_of(built[1]) for finding in turn.findings}
    assert any(sentence.endswith("is visible on both sides.") for sentence in sentences)
    assert any(sentence.endswith("is visible on the left side.") for sentence in sentences)
    assert any(sentence.endswith("is not visible.") for sentence in sentences)
    assert any(" is larger than the " in sentence for sentence in sentences)
    assert any(sentence.endswith("mL.") for sentence in sentences)


@pytest.fixture
def toy(tmp_path):
    """Return cases of a toy body with images of the same voxels."""
    cases = []
    for number in range(6):
        body = label_map("SPL")
        labels = save(tmp_path / "labels" / f"c{number}.nii.gz", body)
        image = save(tmp_path / "images" / f"c{number}.nii.gz", body)
        cases.append(Case(f"c{number}", f"c{number}", labels, image))
    return cases


def test_images_are_named_as_they_are_without_fields_of_view(toy, tmp_path):
    calls = []
    chosen = AnatomyOptions(NAMES, types=("slices",), views=Views(0))
    manifest = build_anatomy_questions(toy, tmp_path / "out", chosen, lambda *step: calls.append(step))
    assert calls[-1] == (6, 6)
    assert [manifest.resolve(record)[0] for record in manifest.records] == [case.image for case in toy]
    assert not list((tmp_path / "out" / "volumes").iterdir())


def test_a_field_of_view_is_the_same_voxels_at_the_same_place(toy, tmp_path):
    manifest = build_anatomy_questions(toy, tmp_path / "out", AnatomyOptions(NAMES, views=Views(4)))
    whole = readers.read(toy[0].image)
    sizes = set()
    for record in manifest.records:
        part = readers.read(manifest.resolve(record)[0])
        corner = to_voxel(to_patient_mm(np.zeros(3), part.affine), whole.affine)
        low = np.rint(corner).astype(int)
        np.testing.assert_allclose(corner, low, atol=1e-4)
        picks = tuple(slice(a, a + n) for a, n in zip(low, part.voxels.shape[1:], strict=True))
        np.testing.assert_array_equal(part.voxels[0], whole.voxels[0][picks])
        sizes.add(part.voxels.shape)
    assert len(sizes) > 5


def test_volumes_are_written_at_the_spacing_that_is_asked_for(toy, tmp_path):
    chosen = AnatomyOptions(NAMES, types=("volume",), views=Views(0), spacing_mm=(4.0, 3.0, 2.0), open_per_volume=9)
    manifest = build_anatomy_questions(toy, tmp_path / "out", chosen)
    shape = readers.read(manifest.resolve(manifest.records[0])[0]).voxels.shape
    assert shape == (1, 8, 10, 12)
    answers = {turn.question: turn.answer for _, turn in turns_of(manifest)}
    assert answers["What is the visible volume of the right kidney in mL?"] == "0.24 mL"


def test_of_a_file_with_several_modalities_the_first_is_shown(toy, tmp_path):
    image = nibabel.load(toy[0].image)
    stored = np.stack([np.asarray(image.dataobj), 200 - np.asarray(image.dataobj)], axis=-1)
    nibabel.save(nibabel.nifti1.Nifti1Image(stored, image.affine), tmp_path / "both.nii.gz")
    both = [replace(case, image=str(tmp_path / "both.nii.gz")) for case in toy]
    chosen = AnatomyOptions(NAMES, types=("slices",), views=Views(0))
    manifest = build_anatomy_questions(both, tmp_path / "out", chosen)
    assert manifest.resolve(manifest.records[0]) == (f"{tmp_path / 'both.nii.gz'}#0",)


def test_a_colour_image_is_refused(toy, tmp_path):
    colours = np.zeros((24, 20, 16), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    nibabel.save(nibabel.nifti1.Nifti1Image(colours, np.eye(4)), tmp_path / "c.nii")
    with pytest.raises(ReadError, match=r"c.nii: is not a volume with one value a voxel"):
        build_anatomy_questions([replace(toy[0], image=str(tmp_path / "c.nii"))], tmp_path, AnatomyOptions(NAMES))


def test_parts_that_cases_tell_are_kept(toy, tmp_path):
    parts = ("train", "train", "train", "test", "test", "val")
    told = [replace(case, split=split) for case, split in zip(toy, parts, strict=True)]
    manifest = build_anatomy_questions(told, tmp_path / "out", AnatomyOptions(NAMES, types=("slices",), views=Views(0)))
    assert tuple(record.split for record in manifest.records) == parts
    with pytest.raises(RecipeError, match="some tell their part"):
        build_anatomy_questions([told[0], toy[1]], tmp_path / "x", AnatomyOptions(NAMES))


def test_a_map_without_an_image_needs_synthetic_contrasts(toy, tmp_path):
    bare = [replace(case, image=None) for case in toy]
    with pytest.raises(RecipeError, match=r"c0.nii.gz: has no image. Give images, or ask for synthetic contrasts"):
        build_anatomy_questions(bare, tmp_path / "out", AnatomyOptions(NAMES))
    chosen = AnatomyOptions(NAMES, types=("slices",), synthetic=2, views=Views(0))
    assert len(build_anatomy_questions(bare, tmp_path / "out", chosen)) == 12


def test_a_map_of_another_shape_than_its_image_is_refused(toy, tmp_path):
    other = save(tmp_path / "other.nii.gz", replace(label_map(), labels=label_map().labels[:-1]))
    with pytest.raises(ReadError, match=r"is 16 x 20 x 24, and its image '.*other.nii.gz' is 23 x 20 x 16"):
        build_anatomy_questions([replace(toy[0], image=other)], tmp_path / "out", AnatomyOptions(NAMES))


def test_questions_that_all_have_one_answer_leave_nothing(toy, tmp_path):
    with pytest.raises(RecipeError, match="leaves no question with more than one answer"):
        build_anatomy_questions(toy, tmp_path / "out", AnatomyOptions(NAMES, types=("presence",), views=Views(0)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"types": ("presense",)}, r"question type 'presense': is unknown. Did you mean 'presence'"),
        ({"types": ()}, "have no structure or no type to ask about"),
        ({"names": {}}, "have no structure or no type to ask about"),
        ({"names": {0: "air"}}, "names value 0, and labels are above 0"),
        ({"spacing_mm": (1.0, 0.0, 1.0)}, r"spacing .*: is not above 0"),
        ({"synthetic": -1}, "synthetic -1: is below 0"),
    ],
)
def test_options_out_of_range_are_refused(wrong, message):
    with pytest.raises(RecipeError, match=message):
        AnatomyOptions(**({"names": NAMES} | wrong))


@pytest.mark.parametrize("wrong", [(0.0, 0.5), (0.6, 0.5), (0.5, 1.5)])
def test_fields_of_view_out_of_range_are_refused(wrong):
    with pytest.raises(RecipeError, match="are not shares, the first rising"):
        Views(4, wrong)
    with pytest.raises(RecipeError, match="fields of view -1: are below 0"):
        Views(-1)


def test_no_cases_and_two_of_one_name_are_refused(toy, tmp_path):
    with pytest.raises(RecipeError, match="gets no cases"):
        build_anatomy_questions([], tmp_path, AnatomyOptions(NAMES))
    with pytest.raises(RecipeError, match="case 'c0': is there twice"):
        build_anatomy_questions([toy[0], toy[0]], tmp_path, AnatomyOptions(NAMES))


def test_hippocampi_give_balanced_questions_about_what_their_labels_show(crossdim_data, tmp_path):
    (tmp_path / "n.json").write_text('{"1": "anterior hippocampus", "2": "posterior hippocampus"}')
    cases, names = find_cases(str(crossdim_data / "hippocampus"), None, str(tmp_path / "n.json"))
    manifest = build_anatomy_questions(cases[:30], tmp_path / "out", AnatomyOptions(names, rules=Rules("coronal")))
    for kind, blind in blind_accuracy(manifest).items():
        if kind in BLIND_TYPES:
            assert blind.accuracy == pytest.approx(blind.chance)
    labels = {case.id: readers.read(case.labels) for case in cases[:30]}
    checked = 0
    for record, turn in turns_of(manifest):
        if turn.type != "volume in mL":
            continue
        label = labels[record.patient_id]
        part = nibabel.load(manifest.resolve(record)[0])
        start = np.rint(to_voxel(part.affine[:3, 3], label.affine)).astype(int)
        stop = start + np.array(part.shape[::-1])
        value = 1 if "anterior" in turn.question else 2
        inside = label.voxels[0][tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] == value
        assert float(turn.answer.removesuffix(" mL")) == pytest.approx(inside.sum() / 1000, abs=0.0501)
        checked += 1
    assert checked > 50


def test_heads_have_their_left_on_the_left(crossdim_data, tmp_path):
    folder = crossdim_data / "synthseg_labelmaps"
    cases, names = find_cases(None, str(folder / "training_label_maps"), str(folder / "labels table.txt"))
    chosen = AnatomyOptions(
        names, types=("side", "presence", "slices"), unnamed="ignore", synthetic=3, spacing_mm=(4.0, 4.0, 4.0),
        views=Views(2, lateral=1.0), fractions=(0.5, 0.0, 0.5),
    )  # fmt: skip
    manifest = build_anatomy_questions(cases[:2], tmp_path / "out", chosen)
    sides = [(turn.answer, turn.extent_mm) for _, turn in turns_of(manifest) if turn.type == "side"]
    assert len(sides) > 4
    assert all((extent[0] + extent[1] < 0) == (answer == "left") for answer, extent in sides)
    assert max(readers.read(manifest.resolve(r)[0]).voxels.size for r in manifest.records) < 64**3
