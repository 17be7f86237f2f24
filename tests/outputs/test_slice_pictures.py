import numpy as np
import pytest
from matplotlib.text import Text

from crossdim.errors import RecipeError
from crossdim.outputs.pictures import Look, figure_bytes, slice_scores_figure

SCORES = [0.05, 0.3, 0.2, 0.1, 0.15, 0.05, 0.15]


def volume(slices: int = 7, rows: int = 12, columns: int = 8) -> np.ndarray:
    return np.random.default_rng(0).random((slices, rows, columns)).astype(np.float32)


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_the_best_slices_are_shown_with_their_numbers_in_the_file_and_scores():
    figure = slice_scores_figure(volume(), SCORES, [10, 12, 14, 16, 18, 20, 22], title="Which $side?")
    figure_bytes(figure)
    panels = figure.axes[1:]
    assert [axes.get_title() for axes in panels] == ["slice 12", "slice 14", "slice 18", "slice 22", "slice 16"]
    assert [axes.get_xlabel() for axes in panels] == [f"score {score}" for score in (0.3, 0.2, 0.15, 0.15, 0.1)]
    assert np.allclose(panels[0].images[0].get_array(), volume()[1])
    assert "Which $side?" in texts(figure)
    assert "slice 12" in [text.get_text() for text in figure.axes[0].texts], "the peak is named"
    assert any("5 best of 7 slices" in text for text in texts(figure))


def test_the_curve_runs_over_slice_numbers_whatever_their_order():
    figure = slice_scores_figure(volume(), SCORES, [6, 5, 4, 3, 2, 1, 0])
    numbers, scores = figure.axes[0].lines[0].get_data()
    assert numbers.tolist() == list(range(7))
    assert scores.tolist() == SCORES[::-1]


def test_the_true_range_is_shaded_and_slices_in_it_are_counted():
    figure = slice_scores_figure(volume(), SCORES, list(range(7)), truth=(1, 2))
    (shade,) = [patch for patch in figure.axes[0].patches if patch.get_width() == 2]
    assert shade.get_x() == 0.5
    assert any("true range, 1 to 2" in text for text in texts(figure))
    assert any("2 of 5 lie in the true range" in text for text in texts(figure))


def test_padding_is_not_shown():
    figure = slice_scores_figure(volume(3), [0.6, 0.3, 0.1], [None, 0, 1])
    assert [axes.get_title() for axes in figure.axes[1:] if axes.get_visible()] == ["slice 0", "slice 1"]
    with pytest.raises(RecipeError, match="belong to no slice of a file"):
        slice_scores_figure(volume(1), [1.0], [None])


@pytest.mark.parametrize("slices", [1, 2, 5, 300])
def test_any_number_of_slices_is_drawn_without_warnings(slices, recwarn):
    scores = np.full(slices, 1 / slices)
    figure_bytes(slice_scores_figure(volume(slices), scores, list(range(slices))))
    assert not [str(each.message) for each in recwarn]


def test_slices_of_different_sizes_and_voxels_that_are_not_square_keep_their_proportions():
    planes = [np.zeros((10, 20)), np.ones((20, 10))]
    figure = slice_scores_figure(planes, [0.4, 0.6], [0, 1], look=Look((2.0, 1.0), ("R", "L", "A", "P"), (0.0, 1.0)))
    figure_bytes(figure)
    boxes = [axes.get_window_extent() for axes in figure.axes[1:3]]
    assert [box.height / box.width for box in boxes] == pytest.approx([4.0, 1.0], rel=0.02)
    assert {"R", "L", "A", "P"} <= set(texts(figure))


def test_equal_or_zero_scores_and_constant_slices_are_drawn():
    figure_bytes(slice_scores_figure(np.zeros((3, 4, 4)), np.zeros(3), [0, 1, 2]))


def test_scores_that_do_not_fit_the_slices_are_refused():
    with pytest.raises(RecipeError, match="are 2 for 3 slices, 3 numbers"):
        slice_scores_figure(volume(3), [0.5, 0.5], [0, 1, 2])
