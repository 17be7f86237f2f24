"""Slices to stacks: the order, the affine, and every way in which slices contradict one another."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdim.errors import GeometryError
from crossdim.geometry.affine import orientation_code, spacing_mm, to_patient_mm
from crossdim.readers.slices import Slice, stack
from tests.geometry.test_affine import angles, rotation


def triple(values) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def changed(one: Slice, **changes) -> Slice:
    floats = {name: value if name in ("name", "size", "marks") else triple(value) for name, value in changes.items()}
    return replace(one, **floats)


def axial(heights, **changes) -> list[Slice]:
    """Return slices named by their number, at these heights."""
    return [
        changed(
            Slice(f"{number}.dcm", (5, 4), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.5, 0.75)),
            **{"position": (-10, -20, height), **changes},
        )
        for number, height in enumerate(heights)
    ]


def test_slices_are_ordered_by_their_place_whatever_their_names():
    made = stack("series", axial([10.0, 0.0, 7.5, 2.5, 5.0]))
    assert made.order == (1, 3, 4, 2, 0)
    assert orientation_code(made.affine) == "SPL"
    assert spacing_mm(made.affine) == (2.5, 0.5, 0.75)
    np.testing.assert_allclose(
        to_patient_mm(np.array([[0, 0, 0], [4, 0, 0]]), made.affine), [[10, 20, 0], [10, 20, 10]]
    )


@settings(max_examples=30)
@given(angles, angles, angles, st.permutations(range(6)), st.floats(0.4, 6), st.integers(0, 5))
def test_any_order_and_any_obliqueness_gives_each_slice_its_own_place(x, y, z, order, step, which):
    turn = rotation(x, y, z)
    row, column, normal = (turn[:, axis] for axis in range(3))
    start = np.array([3.0, -4.0, 5.0])
    slices = [
        Slice(f"{place}", (5, 4), triple(start + step * place * normal), triple(row), triple(column), (0.5, 0.75))
        for place in order
    ]
    made = stack("series", slices)
    assert [slices[at].name for at in made.order] == [str(place) for place in range(6)]
    mm = to_patient_mm(np.array([which, 0, 0]), made.affine)
    np.testing.assert_allclose(mm, (start + step * which * normal) * [-1, -1, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("slices", "reason"),
    [
        (
            axial([0, 1, 2, 5, 6, 7]),
            r"lacks 2 slices: they are 1.00 mm apart, but it is 3.00 mm from '2.dcm' to '3.dcm'",
        ),
        (axial([0, 1, 2, 2, 3]), "has 1 pair of slices at the same place: '2.dcm' and '3.dcm'"),
        (axial([4, 4, 4]), "has 2 pairs of slices at the same place: '0.dcm' and '1.dcm', '1.dcm' and '2.dcm'"),
        (
            axial([0, 1, 2, 3.4, 4.4]),
            "unevenly spaced: mostly 1.00 mm apart, but it is 1.40 mm from '2.dcm' to '3.dcm'",
        ),
        (axial([0, 1, 2.04, 3.08, 4.12, 5.0]), "unevenly spaced"),
        (
            [*axial([0, 1, 2]), changed(axial([3])[0], name="odd.dcm", size=(9, 9))],
            r"different sizes: \(5, 4\) in most, but 'odd.dcm' \(9, 9\)",
        ),
        (
            [*axial([0, 1, 2]), changed(axial([3])[0], name="odd.dcm", spacing=(0.5, 0.8))],
            r"different pixel spacings: \(0.5, 0.75\) in most, but 'odd.dcm' \(0.5, 0.8\)",
        ),
        (
            [
                *axial([0, 1, 2]),
                changed(axial([3])[0], name="scout.dcm", along_row=(0, 1.0, 0), along_column=(0, 0, -1.0)),
            ],
            r"different orientations: \(1, 0, 0, 0, 1, 0\) in most, but 'scout.dcm' \(0, 1, 0, 0, 0, -1\)",
        ),
        (axial([0, 1, 2], along_column=(0.5, 0.8, 0)), "rows and columns of '0.dcm' are not at right angles"),
        (axial([0, 1, 2], along_row=(0.0, 0, 0)), "rows and columns of '0.dcm' are not at right angles"),
        (
            [changed(one, position=(0, 0.2 * at, at)) for at, one in enumerate(axial(range(9)))],
            r"shifted against one another by 11.3 degrees \(a tilted gantry\), 1.6 mm from '0.dcm' to '8.dcm'",
        ),
        (
            [changed(one, position=(3.0 * (at == 2), 0, at)) for at, one in enumerate(axial(range(6)))],
            "'2.dcm' lies 3.00 mm beside the line of the other slices",
        ),
    ],
)
def test_slices_that_contradict_one_another_are_refused_by_name(slices, reason):
    with pytest.raises(GeometryError, match=rf"series: .*{reason}"):
        stack("series", slices)


def test_an_error_names_three_slices_and_counts_the_rest():
    odd = [changed(one, name=f"odd{at}.dcm", size=(1, 1)) for at, one in enumerate(axial(range(5)))]
    with pytest.raises(GeometryError, match=r"'odd2.dcm' \(1, 1\) and 2 more\."):
        stack("series", [*axial(range(5, 15)), *odd])


def test_slices_at_the_same_place_say_in_what_they_differ():
    first, second = axial([0, 1], marks=(("EchoTime", "10"),)), axial([0, 1], marks=(("EchoTime", "80"),))
    with pytest.raises(GeometryError, match=r"they differ in EchoTime \(10, 80\)"):
        stack("series", [*first, *second])


@pytest.mark.parametrize("step", [0.625, 1.25, 2.5])
def test_positions_rounded_to_a_tenth_of_a_millimetre_are_even(step):
    made = stack("series", axial([round(step * number, 1) for number in range(40)]))
    assert spacing_mm(made.affine)[0] == pytest.approx(step, rel=0.01)


def test_directions_that_differ_by_rounding_are_the_same():
    slices = axial(range(4))
    slices[2] = changed(slices[2], along_row=(0.9999999, 0.0009, 0.0), along_column=(-0.0009, 0.9999999, 0.0))
    assert len(stack("series", slices).order) == 4
