import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from PIL import Image as Pillow
from torch.nn import functional as F

from crossdim.transforms.resample import AxisMap, index_matrix, place, resample, resample_array
from tests.transforms.toys import noise

lengths = st.integers(1, 40)


def stretch(length, size):
    return AxisMap.placed(length, size, length / size)


@limits(max_examples=40, deadline=None)
@given(rows=lengths, columns=lengths, height=lengths, width=lengths)
def test_resizing_agrees_with_pillow(rows, columns, height, width):
    values = noise(rows, columns)
    ours = resample(torch.from_numpy(values)[None], [stretch(rows, height), stretch(columns, width)])[0]
    theirs = Pillow.fromarray(values).resize((width, height), Pillow.Resampling.BILINEAR)
    np.testing.assert_allclose(ours, np.asarray(theirs), atol=1e-5)


@pytest.mark.parametrize(("size", "target"), [((51, 76), (22, 22)), ((28, 28), (32, 32)), ((50, 40), (97, 17))])
def test_resizing_agrees_with_torch(size, target):
    values = torch.from_numpy(noise(3, *size))
    ours = resample(values, [stretch(*pair) for pair in zip(size, target, strict=True)])
    theirs = F.interpolate(values[None], target, mode="bilinear", antialias=True, align_corners=False)[0]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("size", "target"), [((51, 76), (22, 22)), ((28, 28), (32, 32)), ((50, 40), (97, 17))])
def test_resizing_without_antialiasing_agrees_with_torch(size, target):
    values = torch.from_numpy(noise(3, *size))
    maps = [AxisMap.placed(old, new, old / new, antialias=False) for old, new in zip(size, target, strict=True)]
    theirs = F.interpolate(values[None].double(), target, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(resample(values, maps).double(), theirs, atol=1e-6, rtol=0)


@limits(max_examples=30, deadline=None)
@given(length=st.integers(1, 30), size=st.integers(1, 30))
def test_with_step_one_values_are_copied_and_the_rest_is_padding(length, size):
    axis = AxisMap.placed(length, size, 1.0)
    values = torch.arange(1.0, length + 1)[None]
    result = place(resample(values, [axis]), [axis], [0.0])[0]
    start, stop = axis.valid
    assert stop - start == min(length, size)
    assert torch.equal(result[start:stop], values[0, int(axis.offset) + start :][: stop - start])
    assert not result[:start].any()
    assert not result[stop:].any()
    assert abs(start - (size - stop)) <= 1


@limits(max_examples=30, deadline=None)
@given(length=st.integers(2, 60), size=st.integers(1, 60), scale=st.floats(0.2, 4.0))
def test_a_linear_ramp_stays_linear_inside(length, size, scale):
    axis = AxisMap.placed(length, size, scale)
    inside = (axis.centres - max(1.0, scale) >= 0) & (axis.centres + max(1.0, scale) <= length - 1)
    result = resample(torch.arange(float(length))[None], [axis])[0].numpy()
    # Sampled at whole positions (as in Pillow and torch), a triangle is off by up to 0.086 unless its width is whole.
    np.testing.assert_allclose(result[inside], axis.centres[inside], atol=1e-4 if scale <= 1 else 0.09)


@limits(max_examples=30, deadline=None)
@given(
    sizes=st.tuples(lengths, lengths, lengths),
    targets=st.tuples(lengths, lengths, lengths),
    scales=st.tuples(*[st.floats(0.3, 3.0)] * 3),
)
def test_the_index_map_is_invertible(sizes, targets, scales):
    maps = [AxisMap.placed(*three) for three in zip(sizes, targets, scales, strict=True)]
    matrix = index_matrix(maps)
    np.testing.assert_allclose(np.linalg.inv(matrix) @ matrix, np.eye(4), atol=1e-9)
    for axis, length in zip(maps, sizes, strict=True):
        assert axis.valid[0] < axis.valid[1]
        assert axis.centres.min() >= -0.5 - 1e-9
        assert axis.centres.max() <= length - 0.5 + 1e-9


def test_slabs_change_no_value(monkeypatch):
    values = noise(2, 17, 13, 11)
    maps = [stretch(17, 6), AxisMap.placed(13, 8, 0.9), AxisMap.placed(11, 20, 1.0)]
    whole = resample(torch.from_numpy(values), maps)
    monkeypatch.setattr("crossdim.transforms.resample._SLAB", 300)
    torch.testing.assert_close(resample_array(values, maps, lambda slab: slab), whole)


def test_values_outside_the_crop_are_never_converted():
    seen = []
    values = np.zeros((1, 40, 40), dtype=np.int16)

    def convert(slab):
        seen.append(tuple(slab.shape))
        return slab

    result = resample_array(values, [AxisMap.placed(40, 10, 1.0)] * 2, convert)
    assert seen == [(1, 10, 10)]
    assert result.shape == (1, 10, 10)


def test_a_negative_step_turns_the_axis_round():
    values = torch.arange(5.0)[None]
    assert resample(values, [AxisMap(5, -1.0, 4.0, (0, 5))])[0].tolist() == [4, 3, 2, 1, 0]
    half = resample(values, [AxisMap(5, -0.5, 4.0, (0, 5))])[0]
    assert half.tolist() == [4, 3.5, 3, 2.5, 2]
