"""Pictures of scenes are looked at by people; what can be checked is checked on the drawn figure."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from crossdim.geometry.boxes import EDGES
from crossdim.geometry.camera import LEVEL, project, projection_matrix
from crossdim.outputs.pictures import (
    ImageReconstruction,
    PatchAttention,
    PointsReconstruction,
    SceneReconstruction,
    figure_bytes,
    scene_picture,
    scene_reconstruction,
)
from crossdim.outputs.pictures.space import (
    ABOVE,
    MOST_POINTS,
    OBLIQUE,
    box_corners,
    colours_of,
    draw_points,
    limits_of,
    projected_edges,
    seen_from,
    thin,
)
from crossdim.samples import Boxes3D, Camera, Image, Origin, PointCloud, Scene

ORIGIN = Origin("rooms/r0001")
CAMERA = Camera(np.array([[60.0, 0, 31.5], [0, 60.0, 23.5], [0, 0, 1]]), (48, 64), LEVEL)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def boxes(*centers, labels=None, scores=None) -> Boxes3D:
    count = len(centers)
    names = labels or tuple(f"thing {n}" for n in range(count))
    return Boxes3D(np.array(centers, float).reshape(-1, 3), np.full((count, 3), 0.6), np.zeros(count), names, scores)


def scene(**parts) -> Scene:
    generator = np.random.default_rng(0)
    points = generator.uniform((-1, 1.5, -1), (1, 4, 1), (500, 3)).astype(np.float32)
    image = Image(generator.integers(0, 255, (3, 48, 64), dtype=np.uint8), "uint8", ORIGIN)
    whole = Scene(ORIGIN, PointCloud(points, ORIGIN), image, CAMERA, boxes((0, 2, 0), (0.5, 3, 0.2)))
    return replace(whole, **parts)


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes]


def test_a_whole_scene_is_a_picture_with_boxes_and_two_views_of_the_points():
    figure = scene_picture(scene())
    assert titles(figure) == ["", "from above", "obliquely"]
    picture, above, oblique = figure.axes
    for axes in figure.axes:
        assert len([c for c in axes.collections if isinstance(c, LineCollection)]) == 2
    assert not [c for c in picture.collections if isinstance(c, PathCollection)]
    assert len([c for c in above.collections if isinstance(c, PathCollection)]) == 1
    assert above.get_aspect() == oblique.get_aspect() == 1
    assert above.lines, "the camera"
    assert texts(figure).count("thing 0") == 2, "in the picture and from above"
    assert "48 × 64 pixels, 500 points, 2.00 × 2.48 × 2.00 m, 2 boxes" in texts(figure)
    assert "rooms/r0001" in texts(figure)
    figure_bytes(figure)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"image": None, "camera": None, "boxes": None}, ["from above", "obliquely"]),
        ({"image": None}, ["from above", "obliquely"]),
        ({"points": None}, ["", "from above", "obliquely"]),
        ({"points": None, "boxes": None}, [""]),
        ({"points": None, "boxes": boxes()}, [""]),
        ({"camera": None}, ["", "from above", "obliquely"]),
        ({"points": PointCloud(np.zeros((0, 3), np.float32), ORIGIN)}, ["", "from above", "obliquely"]),
        ({"points": PointCloud(np.full((4, 3), np.nan, np.float32), ORIGIN)}, ["", "from above", "obliquely"]),
    ],
)
def test_what_is_not_there_is_left_out(parts, expected):
    figure = scene_picture(scene(**parts))
    assert titles(figure) == expected
    figure_bytes(figure)


def test_a_cloud_alone_is_drawn_in_its_own_colours():
    cloud = PointCloud(scene().points.points, ORIGIN, np.full((500, 3), (255, 0, 51), np.uint8))
    figure = scene_picture(cloud)
    assert titles(figure) == ["from above", "obliquely"]
    drawn = figure.axes[0].collections[0].get_facecolors()
    np.testing.assert_allclose(drawn[:, :3], np.tile([1, 0, 0.2], (500, 1)))
    assert "no camera" in " ".join(texts(figure))


def test_points_without_colours_take_those_of_the_picture_where_the_camera_sees_them():
    pixels = np.zeros((3, 48, 64), np.uint8)
    pixels[0, :, :32] = 255
    pixels[2, :, 32:] = 255
    points = np.array([[-0.3, 2, 0], [0.3, 2, 0], [0, -1, 0]], np.float32)
    drawn = scene_picture(scene(points=PointCloud(points, ORIGIN), image=Image(pixels, "uint8", ORIGIN)))
    found = {tuple(color[:3].round(2)) for color in drawn.axes[1].collections[0].get_facecolors()}
    assert {(1.0, 0.0, 0.0), (0.0, 0.0, 1.0)} < found
    assert len(found) == 3, "the point behind the camera has a colour for its height"


def test_a_wide_picture_has_a_row_of_its_own():
    camera = Camera(CAMERA.intrinsics, (48, 160), LEVEL)
    image = Image(np.zeros((3, 48, 160), np.uint8), "uint8", ORIGIN)
    figure = scene_picture(scene(image=image, camera=camera))
    picture, above, _ = figure.axes
    assert picture.get_position().y0 > above.get_position().y1


def test_labels_have_scores_and_are_taken_literally():
    named = boxes((0, 2, 0), labels=("$\\frac{",), scores=np.array([0.871]))
    figure = scene_picture(scene(boxes=named))
    assert "$\\frac{ 87%" in texts(figure)
    figure_bytes(figure)


def test_labels_do_not_cover_one_another_and_too_many_are_left_out():
    crowd = [(0.02 * n, 3, 0.01 * n) for n in range(12)]
    figure = scene_picture(scene(boxes=boxes(*crowd)))
    for axes in figure.axes[:2]:
        written = [text for text in axes.texts if text.get_text().startswith("thing")]
        assert 2 <= len(written) < 12
        frames = [text.get_window_extent() for text in written]
        assert not any(a.overlaps(b) for n, a in enumerate(frames) for b in frames[:n])


def test_edges_of_a_box_are_where_its_corners_project():
    box = box_corners(boxes((0.2, 2, 0.1)))[0]
    columns, rows, _ = project(box, projection_matrix(CAMERA))
    places = np.stack([columns, rows], axis=1)
    expected = np.array([[places[a], places[b]] for a, b in EDGES])
    np.testing.assert_allclose(projected_edges(box, CAMERA), expected)


def test_edges_behind_the_camera_are_cut_off_and_a_box_behind_it_is_not_drawn():
    around = box_corners(boxes((0.3, 0.0, -0.5)))[0]
    edges = projected_edges(around, CAMERA)
    assert len(edges) == 4 + 4, "the far face whole, and the edges to it in part"
    assert np.isfinite(edges).all()
    matrix = projection_matrix(CAMERA)
    far = [project((around[a] + around[b])[None] / 2, matrix)[2][0] for a, b in EDGES]
    assert max(far) == pytest.approx(0.3)
    assert len(projected_edges(box_corners(boxes((0, -2, 0)))[0], CAMERA)) == 0


def test_above_is_a_map_and_oblique_keeps_up_upwards():
    axes = np.eye(3)
    np.testing.assert_allclose(seen_from(axes, ABOVE), np.eye(3), atol=1e-12)
    right, up, towards = seen_from(axes, OBLIQUE).T
    assert right[0] > 0
    assert up[2] > 0.8
    assert abs(right[2]) < 1e-12
    assert towards[1] < 0, "what lies ahead is farther away"
    np.testing.assert_allclose((seen_from(axes, OBLIQUE) ** 2).sum(axis=1), 1)


def test_many_points_are_thinned_the_same_way_every_time_and_few_are_all_kept():
    kept = thin(10 * MOST_POINTS)
    assert len(np.unique(kept)) == MOST_POINTS
    np.testing.assert_array_equal(kept, thin(10 * MOST_POINTS))
    np.testing.assert_array_equal(thin(7), np.arange(7))


def test_stray_points_do_not_shrink_the_rest():
    points = np.concatenate([np.random.default_rng(0).uniform(-1, 1, (1000, 3)), [[500.0, 500.0, 500.0]]])
    (left, right), (bottom, top) = limits_of(points, np.zeros((0, 3)), ABOVE)
    assert -1.3 < left < right < 1.3
    assert -1.3 < bottom < top < 1.3
    assert limits_of(np.zeros((0, 3)), np.array([[2.0, 3.0, 0.0]]), ABOVE)[0][1] > 2.0


def test_a_class_has_one_colour_whatever_the_order_of_the_boxes():
    assert colours_of(("chair", "bed", "chair")) == colours_of(("bed", "chair"))
    assert len(set(colours_of([f"c{n}" for n in range(8)]).values())) == 8


def test_near_points_are_drawn_over_far_ones():
    axes = Figure().add_subplot()
    points = np.array([[0.0, 0.0, 5.0], [0.0, 0.0, 1.0]])
    draw_points(axes, points, np.array([[1.0, 0, 0], [0, 0, 1.0]]), ABOVE)
    assert tuple(axes.collections[0].get_facecolors()[-1][:3]) == (1, 0, 0)


def reconstructed(image=True, points=True, attention=True) -> SceneReconstruction:
    generator = np.random.default_rng(0)
    hidden = np.zeros((8, 12), bool)
    hidden[:4] = True
    groups = generator.uniform(-1, 1, (6, 5, 3))
    weights = generator.random((2, 3))
    weights[0, 0] = np.nan
    return SceneReconstruction(
        "r0001 $1",
        ImageReconstruction(generator.random((3, 8, 12)), hidden, np.zeros((3, 8, 12))) if image else None,
        PointsReconstruction(groups, np.arange(6) < 4, groups + 5) if points else None,
        PatchAttention(2, weights, (3.0, 4.0)) if attention else None,
    )


def test_a_reconstructed_scene_shows_picture_and_points_before_hidden_and_filled_in():
    sample = reconstructed()
    figure = scene_reconstruction([sample])
    assert len(figure.axes) == 8
    assert titles(figure)[:4] == ["as it is", "what the model saw", "filled in", "attention of group 2"]
    whole, seen, filled = (axes.images[0].get_array() for axes in figure.axes[:3])
    np.testing.assert_allclose(whole, np.moveaxis(sample.image.values, 0, -1))
    assert len(np.unique(seen[:4].reshape(-1, 3), axis=0)) == 1
    assert (filled[:4] == 0).all()
    np.testing.assert_allclose(filled[4:], whole[4:])
    counts = [[len(c.get_offsets()) for c in axes.collections] for axes in figure.axes[4:]]
    assert counts == [[30], [10], [10, 20], [30, 5]]
    assert "50% of the picture hidden (grey), 67% of the groups of points hidden" in " ".join(texts(figure))
    figure_bytes(figure)


def test_hidden_patches_have_no_attention_and_the_group_is_marked_where_it_lies():
    axes = scene_reconstruction([reconstructed()]).axes[3]
    shown = axes.images[1].get_array()
    assert np.ma.getmaskarray(shown)[0, 0]
    assert shown.count() == 5
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[3, 4]])


@pytest.mark.parametrize(
    ("parts", "panels"),
    [
        ({"attention": False}, 6),
        ({"image": False, "attention": False}, 3),
        ({"points": False, "attention": False}, 3),
    ],
)
def test_a_reconstruction_without_a_modality_or_attention_leaves_it_out(parts, panels):
    figure = scene_reconstruction([reconstructed(**parts)])
    assert len(figure.axes) == panels
    figure_bytes(figure)


def test_scenes_with_and_without_attention_share_a_picture():
    figure = scene_reconstruction([reconstructed(), reconstructed(attention=False)])
    assert len(figure.axes) == 16
    assert [axes.axison for axes in figure.axes[11::4]] == [False, False]
    figure_bytes(figure)


def test_values_in_another_scale_are_shown_from_dark_to_bright():
    sample = reconstructed(points=False, attention=False)
    scaled = replace(sample, image=replace(sample.image, values=sample.image.values * 9 - 4))
    shown = scene_reconstruction([scaled]).axes[0].images[0].get_array()
    assert shown.min() == 0
    assert shown.max() == 1
