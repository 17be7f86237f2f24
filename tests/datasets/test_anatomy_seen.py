import numpy as np
import pytest

from crossdim.datasets.anatomy_map import take_apart
from crossdim.datasets.anatomy_seen import EDGE, Frame, Rules, look
from crossdim.errors import GeometryError, RecipeError
from crossdim.geometry.affine import spacing_mm, to_patient_mm
from tests.datasets.anatomy_toys import (
    NAMES,
    ORIENTATIONS,
    WHOLE,
    anatomy,
    asked,
    frame_of,
    label_map,
    ras_labels,
    sight_of,
)

RIGHT_HALF = ((11, 24), (0, 20), (0, 16))
UPPER = ((0, 24), (0, 20), (7, 16))
VOXEL_ML = 1.0 * 1.5 * 2.0 / 1000


def test_volumes_extents_and_slices_of_a_whole_map_are_exact():
    seen = sight_of(anatomy()).of("right kidney")
    assert seen.status == "visible"
    assert seen.volume_ml == pytest.approx(5 * 4 * 4 * VOXEL_ML)
    assert seen.extent_mm == (5.5, 10.5, -8.75, -2.75, -6.0, 2.0)


def test_what_is_cut_off_is_measured_where_it_is_visible():
    box = ((0, 24), (0, 20), (4, 16))
    kidney = sight_of(anatomy(), box).of("right kidney")
    assert kidney.status == "visible"
    assert kidney.volume_ml == pytest.approx(5 * 4 * 2 * VOXEL_ML)
    assert kidney.extent_mm[4:] == (-2.0, 2.0)


def test_presence_is_yes_no_or_not_asked():
    answers = asked(sight_of(anatomy(), UPPER), "presence")
    assert answers["Is the liver visible in this scan?"] == "yes"
    assert answers["Is the bladder visible in this scan?"] == "no"
    # the kidneys end 2 mm below the field of view: neither visible nor absent with a margin of 3 mm
    assert "Is the left kidney visible in this scan?" not in answers
    assert "Is the left kidney visible in this scan?" in asked(
        sight_of(anatomy(), UPPER, Rules(margin_mm=1.0)), "presence"
    )


def test_too_small_a_part_is_neither_visible_nor_absent():
    one_slice = ((0, 24), (0, 20), (5, 16))
    assert sight_of(anatomy(), one_slice).of("left kidney").status == "unclear"
    assert sight_of(anatomy(), one_slice, Rules(min_slices=1, min_share=0.2)).of("left kidney").status == "visible"
    assert sight_of(anatomy(), WHOLE, Rules(min_slices=3)).of("bladder").status == "unclear"


def test_the_side_is_asked_where_one_of_a_pair_is_visible():
    assert asked(sight_of(anatomy(), RIGHT_HALF), "side") == {"On which side is the kidney visible?": "right"}
    assert asked(sight_of(anatomy()), "side") == {}


def test_the_larger_of_two_is_asked_in_both_orders_and_near_ties_are_not():
    answers = asked(sight_of(anatomy()), "comparison")
    assert answers["Which is larger in this scan, the left kidney or the right kidney?"] == "right kidney"
    assert answers["Which is larger in this scan, the right kidney or the left kidney?"] == "right kidney"
    labels = ras_labels()
    labels[21:22, 4:8, 2:4] = 0  # 64 against 72 voxels: 11 % apart
    near = asked(sight_of(anatomy(labels=labels)), "comparison")
    assert "Which is larger in this scan, the left kidney or the right kidney?" not in near
    assert near["Which is larger in this scan, the liver or the left kidney?"] == "liver"


def test_volumes_are_told_in_millilitres():
    assert asked(sight_of(anatomy()), "volume")["What is the visible volume of the liver in mL?"] == "1.9 mL"
    assert asked(sight_of(anatomy()), "volume")["What is the visible volume of the left kidney in mL?"] == "0.19 mL"


def test_neighbours_are_told_from_all_six_directions():
    answers = asked(sight_of(anatomy()), "neighbour")
    assert answers["What lies directly superior to the right kidney?"] == "liver"
    assert answers["What lies directly inferior to the right kidney?"] == EDGE
    assert answers["What lies directly to the left of the right kidney?"] == "left kidney"
    assert answers["What lies directly to the right of the left kidney?"] == "right kidney"
    assert answers["What lies directly posterior to the heart?"] == EDGE
    assert answers["What lies directly to the right of the liver?"] == EDGE
    assert "What lies directly superior to the left kidney?" not in answers  # nothing within reach
    nearer = sight_of(anatomy(), rules=Rules(reach_mm=6.0)).neighbours
    assert ("left kidney", "right") not in nearer


def test_a_neighbour_that_is_met_by_few_lines_is_not_told():
    # half of the lines up from the bladder meet the heart, and half of them meet the liver or nothing
    assert ("bladder", "superior") not in sight_of(anatomy(), rules=Rules(reach_mm=40.0)).neighbours


def test_slices_are_numbered_as_in_the_file_from_zero():
    body = anatomy()
    sight = sight_of(body, ((0, 24), (0, 20), (1, 16)))
    answers = asked(sight, "slices")
    assert answers["In which axial slices, counted from 0, is the right kidney visible?"] == "slices 1 to 4"
    coronal = sight_of(body, rules=Rules(plane="coronal"))
    answers = asked(coronal, "slices", plane="coronal")
    assert answers["In which coronal slices, counted from 0, is the right kidney visible?"] == "slices 4 to 7"


def test_slices_of_a_coarser_volume_are_those_whose_centre_lies_in_the_extent():
    body = anatomy()
    frame = frame_of(body, wanted_mm=(4.0, 4.0, 4.0))
    assert frame.size == (6, 8, 8)
    seen = look(body, frame, Rules(min_slices=1))
    for name in NAMES.values():
        low, high = seen[name].extent_mm[4:]
        centres = to_patient_mm(np.stack([np.zeros(8), np.zeros(8), np.arange(8)], axis=1), frame.affine)[:, 2]
        inside = np.flatnonzero((centres >= low) & (centres <= high))
        assert seen[name].slices == (inside[0], inside[-1])


def test_an_extent_holds_exactly_the_slices_of_the_structure():
    body = anatomy()
    for value, name in NAMES.items():
        low, high = sight_of(body).of(name).extent_mm[4:]
        centres = -9.0 + 2.0 * np.arange(16)
        shown = np.flatnonzero((body.map.labels == value).any(axis=(0, 1)))
        np.testing.assert_array_equal(np.flatnonzero((centres > low) & (centres < high)), shown)


@pytest.mark.parametrize("code", ORIENTATIONS)
def test_answers_do_not_depend_on_the_order_and_direction_of_the_axes(code):
    types = ("presence", "side", "comparison", "volume", "neighbour")
    for box in (WHOLE, RIGHT_HALF, UPPER):
        plain, turned = sight_of(anatomy(), box), sight_of(anatomy(code), box)
        assert asked(turned, *types) == asked(plain, *types)
        for name in NAMES.values():
            assert turned.of(name).extent_mm == plain.of(name).extent_mm
            assert turned.of(name).volume_ml == pytest.approx(plain.of(name).volume_ml)


@pytest.mark.parametrize("code", ["SPL", "IRA", "PIR", "LAI"])
def test_slice_numbers_follow_the_files_own_axis(code):
    turned = anatomy(code)
    axis = next(place for place, letter in enumerate(code) if letter in "SI")
    seen = sight_of(turned).of("right kidney")
    shown = np.flatnonzero((turned.map.labels == 2).any(axis=tuple({0, 1, 2} - {axis})))
    assert seen.slices == (shown[0], shown[-1])


SWAPPED = {"left": "right", "right": "left"}


def mirrored_words(text):
    return " ".join(SWAPPED.get(word, word) for word in text.split())


def test_a_mirrored_volume_turns_every_answer_about_sides_round():
    mirrored = anatomy(handedness="geometry", labels=ras_labels()[::-1])
    left_half = ((0, 13), (0, 20), (0, 16))
    assert asked(sight_of(mirrored, left_half), "side") == {"On which side is the kidney visible?": "left"}
    plain = asked(sight_of(anatomy()), "neighbour", "comparison", "presence")
    turned = asked(sight_of(mirrored), "neighbour", "comparison", "presence")
    for question, answer in plain.items():
        assert turned[mirrored_words(question)] == mirrored_words(answer)
    assert turned["What lies directly to the right of the left kidney?"] == "right kidney"
    assert plain["What lies directly to the right of the liver?"] == EDGE
    assert turned["What lies directly to the left of the liver?"] == EDGE


def test_a_map_that_is_mirrored_by_its_names_is_refused():
    message = r"toy.nii.gz: 2 of 2 structures lie on the other side than named \(left kidney, right kidney\)"
    with pytest.raises(GeometryError, match=message):
        anatomy(labels=ras_labels()[::-1])
    assert anatomy(labels=ras_labels()[::-1], handedness="geometry").mirrored == ("left kidney", "right kidney")
    assert anatomy().mirrored == ()


def test_a_single_structure_on_the_wrong_side_is_not_asked_about():
    names = NAMES | {6: "left lung", 7: "right lung", 8: "left eye", 9: "right eye", 10: "left ear"}
    labels = ras_labels()
    for value, x in ((6, 4), (7, 18), (8, 8), (9, 15), (10, 20)):
        labels[x : x + 2, 17:19, 12:15] = value
    body = take_apart(label_map(labels=labels, names=names), whole=True)
    assert body.doubtful == ("left ear",)
    assert sight_of(body).of("left ear").status == "unclear"
    assert sight_of(body).of("left lung").status == "visible"


def test_without_a_pair_the_midline_is_the_middle_of_what_is_labelled():
    labels = ras_labels()
    labels[labels == 1] = 0
    labels[0, 0, 0] = 4
    body = take_apart(label_map(labels=labels), whole=True)
    assert body.mirrored == ()
    with pytest.raises(GeometryError, match="1 of 1 structures"):
        take_apart(label_map(labels=labels[::-1]), whole=True)


def test_a_frame_keeps_the_edges_of_its_field_of_view():
    body = anatomy("SPL")
    frame = Frame.of(((1, 2, 3), (15, 18, 20)), body.map.affine, (5.0, 3.0, 3.0))
    assert frame.size == (6, 8, 6)
    old = to_patient_mm(np.array([[0.5, 1.5, 2.5], [14.5, 17.5, 19.5]]), body.map.affine)
    new = to_patient_mm(np.array([[-0.5, -0.5, -0.5], np.array(frame.size) - 0.5]), frame.affine)
    np.testing.assert_allclose(new, old)
    assert spacing_mm(frame.affine) == pytest.approx((28 / 6, 24 / 8, 17 / 6))


def test_resampled_intensities_keep_their_mean_and_a_ramp_stays_a_ramp():
    values = np.random.default_rng(0).normal(size=(12, 10, 8)).astype(np.float32)
    frame = Frame.of(((0, 0, 0), values.shape), np.eye(4), (2.0, 2.0, 2.0))
    assert frame.resample(values).mean() == pytest.approx(values.mean(), abs=1e-5)
    ramp = np.broadcast_to(np.arange(6, dtype=np.float32)[:, None, None], (6, 2, 2))
    finer = Frame.of(((0, 0, 0), (6, 2, 2)), np.eye(4), (0.5, 1.0, 1.0)).resample(ramp)
    np.testing.assert_allclose(finer[1:-1, 0, 0], np.arange(12)[1:-1] / 2 - 0.25)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_slices": 0}, r"min_slices is below 1"),
        ({"min_share": 0.0}, r"min_share not in \(0, 1\]"),
        ({"neighbour_share": 0.4}, r"neighbour_share not in \(0.5, 1\]"),
        ({"margin_mm": -1.0}, r"margin_mm or reach_mm is below 0"),
    ],
)
def test_rules_out_of_range_are_refused(values, message):
    with pytest.raises(RecipeError, match=message):
        Rules(**values)
