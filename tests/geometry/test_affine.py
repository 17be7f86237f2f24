"""Spacing, orientation, reorientation: exact on toys, and as properties on random affines."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossdim.errors import GeometryError
from crossdim.geometry.affine import (
    ASSUMED_AFFINE,
    LPS_TO_RAS,
    check_affine,
    farthest_corner_mm,
    orientation_code,
    reorient,
    shear_deg,
    spacing_mm,
    to_patient_mm,
    to_voxel,
)

CODES = ["".join(code) for pairs in permutations(("RL", "AP", "SI")) for code in product(*pairs)]
codes = st.sampled_from(CODES)
angles = st.floats(-0.35, 0.35)


def rotation(x: float, y: float, z: float) -> np.ndarray:
    (cx, sx), (cy, sy), (cz, sz) = ((np.cos(angle), np.sin(angle)) for angle in (x, y, z))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_x @ about_y @ about_z


@st.composite
def affines(draw: st.DrawFn) -> np.ndarray:
    """Any of the 48 orientations, slightly oblique, with any spacing and origin."""
    axes = np.zeros((3, 3))
    for column, letter in enumerate(draw(codes)):
        row = next(index for index, pair in enumerate(("RL", "AP", "SI")) if letter in pair)
        axes[row, column] = 1 if letter in "RAS" else -1
    spacing = np.array([draw(st.floats(0.3, 6)) for _ in range(3)])
    affine = np.eye(4)
    affine[:3, :3] = rotation(draw(angles), draw(angles), draw(angles)) @ axes * spacing
    affine[:3, 3] = [draw(st.floats(-200, 200)) for _ in range(3)]
    return affine


def test_spacing_is_the_length_of_each_axis():
    affine = np.array([[0, 0, -0.5, 7], [0, -0.75, 0, 8], [3.0, 0, 0, 9], [0, 0, 0, 1]])
    assert spacing_mm(affine) == (3.0, 0.75, 0.5)
    assert orientation_code(affine) == "SPL"


def test_the_assumed_place_is_axial_slices_in_radiological_view_with_1_mm():
    assert orientation_code(ASSUMED_AFFINE) == "SPL"
    assert spacing_mm(ASSUMED_AFFINE) == (1, 1, 1)


def test_left_posterior_superior_becomes_right_anterior_superior():
    assert (LPS_TO_RAS @ [1, 2, 3, 1]).tolist() == [-1, -2, 3, 1]


@given(affines(), codes)
def test_reorienting_keeps_every_voxel_at_its_place_in_the_patient(affine, code):
    voxels = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    turned, turned_affine = reorient(voxels, affine, code)
    assert orientation_code(turned_affine) == code
    assert sorted(spacing_mm(turned_affine)) == pytest.approx(sorted(spacing_mm(affine)))
    indices = np.array(list(np.ndindex(*turned.shape[1:])))
    back = to_voxel(to_patient_mm(indices, turned_affine), affine)
    before = np.rint(back).astype(int)
    np.testing.assert_allclose(back, before, atol=1e-6)
    np.testing.assert_array_equal(turned[:, *indices.T], voxels[:, *before.T])


@given(affines(), codes)
def test_reorienting_there_and_back_changes_nothing(affine, code):
    voxels = np.arange(3 * 4 * 5).reshape(1, 3, 4, 5)
    turned, turned_affine = reorient(voxels, affine, code)
    back, back_affine = reorient(turned, turned_affine, orientation_code(affine))
    np.testing.assert_array_equal(back, voxels)
    np.testing.assert_allclose(back_affine, affine, atol=1e-9)


def test_reorienting_gives_a_view():
    voxels = np.zeros((1, 2, 3, 4))
    assert reorient(voxels, np.eye(4), "SPL")[0].base is not None
    assert np.shares_memory(reorient(voxels, np.eye(4), "SPL")[0], voxels)


@pytest.mark.parametrize("code", ["SP", "SPLX", "SSL", "abc", "", "SPP"])
def test_an_orientation_that_is_none_is_refused_by_name(code):
    with pytest.raises(GeometryError, match=f"orientation '{code}': is not one letter each of R/L, A/P and S/I"):
        reorient(np.zeros((1, 2, 2, 2)), np.eye(4), code)


@given(affines(), st.lists(st.tuples(*[st.floats(-50, 50)] * 3), min_size=1, max_size=5))
def test_voxels_to_millimetres_and_back(affine, points):
    indices = np.array(points)
    np.testing.assert_allclose(to_voxel(to_patient_mm(indices, affine), affine), indices, atol=1e-6)


@given(affines())
def test_a_box_has_no_shear(affine):
    assert shear_deg(affine) < 1e-4


def test_shear_is_the_angle_by_which_slices_are_shifted():
    affine = np.eye(4)
    affine[1, 0] = np.tan(np.radians(12))
    assert shear_deg(affine) == pytest.approx(12)


def test_the_farthest_corner_of_two_affines():
    moved = np.eye(4)
    moved[2, 3] = 2.0
    assert farthest_corner_mm(np.eye(4), moved, (5, 5, 5)) == 2.0
    stretched = np.diag([1.5, 1, 1, 1])
    assert farthest_corner_mm(np.eye(4), stretched, (5, 9, 9)) == 2.0


@pytest.mark.parametrize(
    ("affine", "reason"),
    [
        (np.diag([1.0, np.nan, 1, 1]), "values that are not finite"),
        (np.diag([1.0, 0, 1, 1]), "flattens the volume"),
        (np.array([[1.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "flattens the volume"),
    ],
)
def test_an_affine_that_cannot_be_inverted_is_refused(affine, reason):
    with pytest.raises(GeometryError, match=f"brain.nii: its affine {'holds ' if 'finite' in reason else ''}{reason}"):
        check_affine(affine, "brain.nii")


def test_a_usable_affine_passes():
    check_affine(ASSUMED_AFFINE, "brain.nii")
