import json
from collections import Counter

import numpy as np
import pytest

from crossdim import readers
from crossdim.datasets.manifest import Manifest
from crossdim.datasets.scenes import load_scene
from crossdim.datasets.table_things import AREA, ARRANGEMENTS, KINDS, TALLEST, THINGS, arrange, thing, top
from crossdim.datasets.table_tops import LEAST_AREA, draw_table_top, make_table_tops, seen_box
from crossdim.errors import RecipeError
from crossdim.geometry.boxes import as_array, contains, intersection_volume
from crossdim.geometry.camera import project, projection_matrix, unproject, visible

SIZE = (120, 160)


@pytest.fixture(scope="module")
def drawn():
    return [draw_table_top(np.random.default_rng([3, n]), ARRANGEMENTS[n % 4], SIZE) for n in range(24)]


@pytest.fixture(scope="module")
def arranged():
    return [arrange(np.random.default_rng([7, n]), ARRANGEMENTS[n % 4]) for n in range(120)]


def solid(standing):
    x, y, z = standing.place
    return np.array([x, y, z + standing.piece.size[2] / 2, *standing.piece.size, standing.yaw])


@pytest.mark.parametrize("name", THINGS)
def test_a_thing_fills_its_box_stands_on_nothing_and_no_two_are_alike(name):
    things = [thing(name, np.random.default_rng(n)) for n in range(8)]
    for piece in things:
        low, high = np.full(3, np.inf), np.full(3, -np.inf)
        for part in piece.parts:
            c, s = abs(np.cos(part.yaw)), abs(np.sin(part.yaw))
            across, along, height = np.array(part.size) / 2
            reach = [across, along, height] if part.round else [c * across + s * along, s * across + c * along, height]
            low, high = np.minimum(low, part.center - np.array(reach)), np.maximum(high, part.center + np.array(reach))
        np.testing.assert_allclose(high - low, piece.size)
        np.testing.assert_allclose([*(low + high)[:2] / 2, low[2]], 0, atol=1e-9)
        assert min(piece.size) > 0.03
        assert max(piece.size) < 0.3
    assert len({piece.size for piece in things}) == 8
    assert len({piece.parts[0].colour for piece in things}) > 1


def test_nothing_is_in_anything_else(arranged):
    for standing in arranged:
        boxes = np.array([solid(each) for each in standing])
        shared = intersection_volume(boxes, boxes)
        np.fill_diagonal(shared, 0)
        assert shared.max() < 1e-9


def test_what_does_not_stand_on_the_table_stands_on_a_thing_that_carries_its_middle(arranged):
    raised = [(each, standing) for standing in arranged for each in standing if each.raised]
    assert len(raised) > 20
    for each, standing in raised:
        below = [other for other in standing if abs(top(other) - each.place[2]) < 1e-9]
        carried = contains(
            np.array([[*each.place[:2], each.place[2] - 1e-4]]), np.array([solid(other) for other in below])
        )
        assert carried.any()
    assert {each.place[2] for standing in arranged for each in standing if not each.raised} == {0.0}


def test_tables_have_two_to_five_things_within_reach_and_not_too_tall_a_stack(arranged):
    counts = Counter(len(standing) for standing in arranged)
    assert set(counts) == {2, 3, 4, 5}
    for standing in arranged:
        places = np.array([each.place[:2] for each in standing])
        assert (places >= AREA[0]).all()
        assert (places <= AREA[1]).all()
        assert max(top(each) for each in standing) <= TALLEST


def test_each_kind_of_arrangement_shows_what_its_name_says(arranged):
    of_kind = {kind: arranged[number::4] for number, kind in enumerate(ARRANGEMENTS)}
    stacked = {kind: np.mean([any(s.raised for s in each) for each in of_kind[kind]]) for kind in KINDS}
    assert stacked["stacked_boxes"] > 0.8
    assert stacked["occluded_objects"] == 0
    assert 0 < stacked["boxes"] < 0.6
    rounds = {"can", "tin", "bowl", "mug"}
    for kind, share in (("boxes", 0), ("stacked_boxes", 0), ("cylindric_objects", 0.85)):
        labels = [each.piece.label for standing in of_kind[kind] for each in standing]
        assert np.mean([label in rounds for label in labels]) == pytest.approx(share, abs=0.1)
    assert {each.piece.label for standing in arranged for each in standing} == set(THINGS)


def test_some_things_touch(arranged):
    nearest = []
    for standing in arranged:
        boxes = np.array([solid(each) for each in standing if not each.raised])
        grown = boxes + np.array([0, 0, 0, 0.02, 0.02, 0, 0])
        shared = intersection_volume(grown, grown)
        np.fill_diagonal(shared, 0)
        nearest.append(shared.max() > 0)
    assert 0.15 < np.mean(nearest) < 0.85


def test_points_of_a_thing_lie_in_its_box_and_reach_its_sides(drawn):
    for table in drawn:
        points = unproject(table.depth_m, table.camera)
        for number, box in enumerate(as_array(table.boxes)):
            own = points[table.owners == number]
            assert np.isfinite(own).all()
            margin = np.array([0, 0, 0, 0.01, 0.01, 0.02, 0])
            assert contains(own, (box + margin)[None])[0].mean() > 0.96
            assert contains(own, (box - margin)[None])[0].mean() < 0.98


def test_boxes_rest_on_what_their_thing_stands_on_and_reach_no_higher_than_it(drawn):
    for table in drawn:
        assert set(table.boxes.labels) <= {"object"}
        assert len(table.standing) == len(table.boxes)
        feet = table.boxes.centers_m[:, 2] - table.boxes.sizes_m[:, 2] / 2
        np.testing.assert_allclose(feet, [each.place[2] for each in table.standing], atol=1e-4)
        tops = table.boxes.centers_m[:, 2] + table.boxes.sizes_m[:, 2] / 2
        assert (tops <= [top(each) + 0.015 for each in table.standing]).all()


def test_a_box_covers_what_is_seen_so_it_is_smaller_where_a_thing_is_hidden(drawn):
    shares = np.array(
        [
            box[3] * box[4] / np.prod(each.piece.size[:2])
            for table in drawn
            for box, each in zip(as_array(table.boxes), table.standing, strict=True)
        ]
    )
    assert 0.8 < np.median(shares) < 1.1
    assert shares.min() < 0.5


def test_a_thing_that_is_hardly_seen_has_no_box(drawn):
    least = LEAST_AREA * SIZE[0] * SIZE[1]
    for table in drawn:
        counts = np.bincount(table.owners[table.owners >= 0], minlength=len(table.boxes))
        assert (counts >= least).all()
    kinds = np.array([len(arrange(np.random.default_rng([3, n]), ARRANGEMENTS[n % 4])) for n in range(24)])
    found = np.array([len(table.boxes) for table in drawn])
    assert (found <= kinds).all()
    assert (found >= 1).all()


def test_the_box_of_points_is_the_smallest_upright_one_down_to_the_foot():
    generator = np.random.default_rng(0)
    own = generator.uniform(-0.5, 0.5, (5000, 3)) * (0.2, 0.08, 0.1) + (0, 0, 0.15)
    for yaw in (-0.6, 0.0, 0.3):
        c, s = np.cos(yaw), np.sin(yaw)
        points = own @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + (0.3, -0.1, 0)
        box = seen_box(points, foot=0.05)
        np.testing.assert_allclose(box[:6], (0.3, -0.1, 0.125, 0.2, 0.08, 0.15), atol=0.006)
        assert box[6] == pytest.approx(yaw, abs=0.03)


def test_the_box_of_a_disc_has_yaw_0_and_that_of_one_point_has_a_size():
    angle = np.linspace(0, 2 * np.pi, 300, endpoint=False)
    disc = np.stack([0.05 * np.cos(angle), 0.05 * np.sin(angle), np.full(300, 0.1)], axis=1)
    assert seen_box(disc, 0.0)[6] == 0
    assert (seen_box(np.zeros((1, 3)), 0.0)[3:6] > 0).all()


def test_the_camera_looks_down_at_the_table_from_half_a_metre_or_more_and_sees_what_stands_there(drawn):
    for table in drawn:
        pose = table.camera.camera_from_scene
        eye = -pose[:3, :3].T @ pose[:3, 3]
        assert -0.8 < eye[1] < -0.5
        assert 0.5 < eye[2] < 0.7
        assert pose[2, 0] == pytest.approx(0, abs=1e-9), "no heading: it looks along +y"
        assert 25 < np.rad2deg(-np.arcsin(pose[2, 2])) < 50
        assert table.camera.intrinsics[0, 0] == pytest.approx(160 * 525 / 640)
        bases = np.array([each.place for each in table.standing])
        assert visible(*project(bases, projection_matrix(table.camera)), SIZE).all()
        heights = unproject(table.true_depth_m, table.camera)[..., 2]
        assert (np.abs(heights) < 1e-6).mean() > 0.25, "the table's top is z = 0"


def test_nothing_hangs_over_the_edge_of_the_table(drawn):
    for table in drawn:
        feet = [each.corners() for each in table.standing if not each.raised]
        feet = np.column_stack([np.concatenate(feet or [np.zeros((0, 2))]), np.zeros(4 * len(feet))])
        columns, rows, depths = project(feet, projection_matrix(table.camera))
        shown = visible(columns, rows, depths, SIZE)
        there = table.true_depth_m[rows[shown].round().astype(int), columns[shown].round().astype(int)]
        assert (there < depths[shown] + 0.02).all(), "the table, or something before it"


def test_scene_folders_are_read_back_as_they_were_drawn(tmp_path):
    manifest = make_table_tops(tmp_path / "set", 4, (60, 80), seed=2, fractions=(1.0, 0.0, 0.0))
    assert Manifest.load(tmp_path / "set" / "manifest.jsonl") == manifest
    assert json.loads((tmp_path / "set" / "manifest.jsonl").read_text().splitlines()[0])["root"] == "."
    record = manifest.records[3]
    table = draw_table_top(np.random.default_rng([2, 3]), ARRANGEMENTS[3], (60, 80))
    assert record.labels == {"category": 3}
    for scene in (load_scene(manifest, record), readers.read(tmp_path / "set" / "tables" / "t0003")):
        np.testing.assert_array_equal(scene.image.pixels, np.moveaxis(table.image, -1, 0))
        expected = unproject(table.depth_m, table.camera)[np.isfinite(table.depth_m)]
        np.testing.assert_allclose(scene.points.points, expected, atol=0.002)
        np.testing.assert_array_equal(as_array(scene.boxes), as_array(table.boxes))


def test_the_same_seed_gives_the_same_bytes_and_a_larger_set_begins_with_the_smaller(tmp_path):
    sets = {}
    for name, count, seed in (("few", 4, 4), ("many", 6, 4), ("other", 4, 5)):
        make_table_tops(tmp_path / name, count, (48, 64), seed=seed, fractions=(1.0, 0.0, 0.0))
        sets[name] = {path.relative_to(tmp_path / name): path.read_bytes() for path in tmp_path.glob(f"{name}/*/*/*")}
    assert len(sets["few"]) == 4 * 4
    assert sets["few"].items() <= sets["many"].items()
    assert all(sets["few"][path] != sets["other"][path] for path in sets["few"] if path.suffix == ".png")


def test_progress_is_told_after_each_table(tmp_path):
    calls = []
    make_table_tops(tmp_path, 4, (48, 48), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(n, 4) for n in range(1, 5)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 3}, r"count 3: is fewer than the 4 kinds of table tops. Take 4 or more"),
        ({"size": (240, 32)}, r"size 240 x 32: is too small to see things. Take at least 48 x 48"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, arguments, message):
    with pytest.raises(RecipeError, match=message):
        make_table_tops(tmp_path, **arguments)
