import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from crossdim import readers
from crossdim.datasets.manifest import Manifest
from crossdim.datasets.room_furniture import CLASSES, FURNITURE, build
from crossdim.datasets.room_plans import ROOMS, furnish, overlap
from crossdim.datasets.room_rendering import BASELINE_M, RANGE_M, STEPS_M, in_shadow, measured, surface
from crossdim.datasets.room_shapes import SHELL, Part, camera_rays, cast, placed
from crossdim.datasets.rooms import draw_room, make_rooms
from crossdim.datasets.scenes import load_scene
from crossdim.errors import RecipeError
from crossdim.geometry.boxes import as_array, contains, corners, intersection_volume
from crossdim.geometry.camera import LEVEL, project, projection_matrix, unproject
from crossdim.samples import Camera

WHITE = (1.0, 1.0, 1.0)


def level_camera(size=(48, 64), focal=60.0):
    intrinsics = np.array([[focal, 0, (size[1] - 1) / 2], [0, focal, (size[0] - 1) / 2], [0, 0, 1.0]])
    return Camera(intrinsics, size, LEVEL)


def shell_of(size=(6.0, 10.0, 3.0)):
    return placed([((Part((0.0, 0.0, 0.0), size, WHITE),), (0.0, 0.0, 0.0), 0.0)], [-1])


def toy(*parts, yaws=None):
    yaws = yaws or [0.0] * len(parts)
    pieces = [
        ((replace(part, center=(0.0, 0.0, 0.0)),), part.center, yaw) for part, yaw in zip(parts, yaws, strict=True)
    ]
    return placed(pieces, list(range(len(parts))))


@pytest.fixture(scope="module")
def drawn():
    return [draw_room(np.random.default_rng([3, n]), ROOMS[n % 5], (120, 160)) for n in range(15)]


def marched(solids, room, camera, step=0.004):
    """Return depths found by walking along every ray in small steps until something is inside a solid."""
    origin, rays = camera_rays(camera)
    depths = np.full(camera.size, np.nan)
    for depth in np.arange(0.06, 6, step):
        points = origin + depth * rays
        hit = (np.abs(points) > room.halves[0]).any(axis=-1)
        for number in range(len(solids)):
            offset = points - solids.centers[number]
            c, s = np.cos(solids.yaws[number]), np.sin(solids.yaws[number])
            own = np.stack([c * offset[..., 0] + s * offset[..., 1], c * offset[..., 1] - s * offset[..., 0]], axis=-1)
            own = own / solids.halves[number, :2]
            level = np.abs(offset[..., 2]) <= solids.halves[number, 2]
            hit |= level & ((own**2).sum(-1) <= 1 if solids.round[number] else (np.abs(own) <= 1).all(-1))
        depths = np.where(np.isnan(depths) & hit, depth, depths)
    return depths


def test_rays_hit_what_walking_along_them_hits_first():
    solids = toy(
        Part((-0.6, 2.0, -0.2), (0.8, 0.5, 0.7), WHITE),
        Part((0.5, 2.4, 0.1), (0.6, 1.0, 0.9), WHITE, round=True),
        Part((0.3, 3.2, -0.4), (1.8, 0.3, 1.0), WHITE),
        yaws=[0.5, -0.3, 0.1],
    )
    camera, room = level_camera(), shell_of()
    hits = cast(solids, room, camera)
    expected = marched(solids, room, camera)
    near = np.abs(hits.depths - expected) < 0.005 * 1.5
    assert near.mean() > 0.995, "but for rays that graze an edge"
    assert set(np.unique(hits.solids)) == {SHELL, 0, 1, 2}


def test_what_is_hidden_has_no_points_and_its_visible_share_says_so():
    front, behind = Part((0.0, 1.5, 0.0), (0.5, 0.2, 0.5), WHITE), Part((0.3, 3.0, 0.0), (1.2, 0.2, 0.8), WHITE)
    camera = level_camera()
    hits = cast(toy(front, behind), shell_of(), camera)
    alone = cast(toy(behind), shell_of(), camera)
    both = hits.covered[0] & hits.covered[1]
    assert both.sum() > 50
    assert (hits.solids[both] == 0).all()
    assert np.array_equal(hits.covered[1], alone.solids == 0)
    assert ((hits.solids == 1) == (hits.covered[1] & ~hits.covered[0])).all()


def test_only_the_sides_that_face_the_camera_have_points():
    cube = toy(Part((0.2, 2.0, -0.5), (0.6, 0.6, 0.6), WHITE), yaws=[0.6])
    camera, room = level_camera(), shell_of()
    hits = cast(cube, room, camera)
    seen = surface(hits, cube, room, np.zeros(3))
    on_cube = hits.solids == 0
    assert on_cube.sum() > 100
    assert ((seen.normals * hits.rays).sum(-1) < 0).all()
    normals = np.unique(seen.normals[on_cube].round(6), axis=0)
    assert len(normals) == 3, "two sides and the top"
    assert np.abs(seen.local[on_cube]).max(axis=-1) == pytest.approx(0.3)


def test_a_solid_that_reaches_behind_the_camera_is_seen_where_it_is_in_front():
    hits = cast(toy(Part((0.0, 0.0, -0.5), (2.0, 6.0, 0.2), WHITE)), shell_of(), level_camera())
    assert (hits.solids[-1] == 0).all()
    assert hits.depths[-1, 32] == pytest.approx(0.4 * 60 / 23.5)


def test_the_noise_of_the_depth_grows_with_its_square_and_comes_in_steps():
    generator = np.random.default_rng(0)
    spread = {}
    for depth in (1.0, 2.0, 4.0):
        true = np.full((200, 200), depth) + generator.uniform(0, 0.05, (200, 200))
        read, read_at = measured(true, np.ones_like(true), 290.0, generator)
        error = (read - true[read_at[0], read_at[1]])[np.isfinite(read)]
        spread[depth] = error.std()
        assert abs(error.mean()) < 0.1 * error.std()
        steps = STEPS_M / read[np.isfinite(read)]
        np.testing.assert_allclose(steps, steps.round(), atol=1e-9)
    assert spread[2.0] / spread[1.0] == pytest.approx(4, rel=0.1)
    assert spread[4.0] / spread[2.0] == pytest.approx(4, rel=0.1)
    assert 0.01 < spread[4.0] < 0.02


def test_grazing_far_and_near_surfaces_and_edges_give_fewer_readings():
    generator = np.random.default_rng(0)
    flat = np.full((100, 100), 2.0)

    def lost(depths, facing=1.0):
        return np.isnan(measured(depths, np.full((100, 100), facing), 290.0, generator)[0])

    assert lost(flat).mean() < 0.01
    assert lost(flat, facing=0.05).all()
    assert lost(np.full((100, 100), RANGE_M[1] + 1)).all()
    assert lost(np.full((100, 100), RANGE_M[0] - 0.1)).all()
    step = flat.copy()
    step[50:] = 3.0
    assert lost(step)[49:51].mean() > 0.25
    assert lost(step)[:40].mean() < 0.02


def test_what_the_projector_does_not_reach_lies_left_of_near_things_as_wide_as_geometry_says():
    depths = np.full((3, 200), 3.0)
    depths[:, 100:150] = 1.0
    shadow = in_shadow(depths, 290.0)
    wide = 290.0 * BASELINE_M * (1 / 1.0 - 1 / 3.0)
    assert shadow[0].sum() == pytest.approx(wide, abs=1)
    assert shadow[:, 99].all()
    assert not shadow[:, 100:].any()
    assert not in_shadow(np.full((3, 200), 2.0), 290.0).any()


def test_points_of_an_object_lie_in_its_box_to_the_noise(drawn):
    for room in drawn:
        points = unproject(room.depth_m, room.camera)
        boxes = as_array(room.boxes)
        for number, box in enumerate(boxes):
            own = points[(room.owners == number) & np.isfinite(room.depth_m)]
            margin = 3 * 0.0045 * np.median(np.linalg.norm(own, axis=-1)) ** 2 + 0.04
            roomy = box + np.array([0, 0, 0, *[2 * margin] * 3, 0])
            assert contains(own, roomy[None])[0].mean() > 0.99


def test_true_points_of_an_object_lie_exactly_in_its_box(drawn):
    room = drawn[1]
    hits_points = unproject(room.true_depth_m, room.camera)
    generator = np.random.default_rng([3, 1])
    again = draw_room(generator, ROOMS[1], (120, 160))
    np.testing.assert_array_equal(again.true_depth_m, room.true_depth_m)
    inside = contains(hits_points.reshape(-1, 3), as_array(room.boxes) + np.array([0, 0, 0, 1e-3, 1e-3, 1e-3, 0]))
    shown = inside.sum(axis=1)
    assert (shown >= [(room.owners == number).sum() * 0.9 for number in range(len(room.boxes))]).all()


def test_the_projected_corners_of_a_box_surround_the_pixels_of_its_object(drawn):
    for room in drawn:
        matrix = projection_matrix(room.camera)
        for number in range(len(room.boxes)):
            box = corners(room.boxes.centers_m, room.boxes.sizes_m, room.boxes.yaws_rad)[number]
            columns, rows, depths = project(box, matrix)
            if (depths < 0.05).any():
                continue
            found = np.argwhere(room.owners == number)
            low, high = np.array([rows.min(), columns.min()]), np.array([rows.max(), columns.max()])
            inside = ((found >= low - 2.5) & (found <= high + 2.5)).all(axis=1)
            assert inside.mean() > 0.999


def test_boxes_are_of_what_can_be_seen_and_reach_beyond_it(drawn):
    for room in drawn:
        pixels = np.array([(room.owners == number).sum() for number in range(len(room.boxes))])
        assert (pixels >= 0.8 * 120 * 160 / 640).all()
        assert ((room.visible_shares >= 0.1) & (room.visible_shares <= 1)).all()
    assert min(room.visible_shares.min() for room in drawn) < 0.6, "something is hidden in part"


def test_furniture_stands_inside_the_room_and_in_nothing_else():
    for n in range(40):
        plan = furnish(np.random.default_rng(n), ROOMS[n % 5])
        standing = [each for each in plan.standing if not each.raised]
        boxes = np.array([[*each.place[:2], each.piece.size[2] / 2, *each.piece.size, each.yaw] for each in standing])
        volume = np.asarray(intersection_volume(boxes, boxes))
        assert np.abs(volume - np.diag(np.diag(volume))).max() < 1e-9
        for each in plan.standing:
            assert (np.abs(each.corners()) <= np.array(plan.size[:2]) / 2 + 1e-9).all()
        for each in plan.standing:
            if each.raised:
                assert each.place[2] in [other.piece.size[2] for other in standing]


def test_rectangles_overlap_where_their_common_area_is_not_nothing():
    generator = np.random.default_rng(0)
    found = []
    for _ in range(200):
        boxes = np.c_[generator.uniform(-1, 1, (2, 2)), [0, 0], generator.uniform(0.3, 1.5, (2, 2)), [1, 1]]
        boxes = np.c_[boxes, generator.uniform(-3, 3, 2)]
        flat = [np.asarray(corners(box[:3], box[3:6], box[6]))[:4, :2] for box in boxes]
        found.append((overlap(*flat), float(intersection_volume(boxes[:1], boxes[1:])[0, 0]) > 1e-9))
    assert all(ours == exact for ours, exact in found)
    assert 20 < sum(ours for ours, _ in found) < 180


@pytest.mark.parametrize("name", FURNITURE)
def test_a_piece_fills_its_box_and_no_two_are_alike(name):
    pieces = [build(name, np.random.default_rng(n)) for n in range(4)]
    for piece in pieces:
        centers, halves = np.array([p.center for p in piece.parts]), np.array([p.size for p in piece.parts]) / 2
        low, high = (centers - halves).min(axis=0), (centers + halves).max(axis=0)
        np.testing.assert_allclose(high - low, piece.size)
        np.testing.assert_allclose([*(low + high)[:2], low[2]], 0, atol=1e-9)
        assert (halves > 0).all()
        assert 0.2 < max(piece.size) < 2.4
        assert len(piece.parts) >= 2
    assert len({piece.size for piece in pieces}) == 4
    assert len({piece.parts[0].colour for piece in pieces}) > 1


def test_rooms_show_many_classes_at_many_angles_and_typical_furniture():
    rooms = [draw_room(np.random.default_rng([5, n]), ROOMS[n % 5], (60, 80)) for n in range(60)]
    counts = Counter(label for room in rooms for label in room.boxes.labels)
    assert set(counts) == set(CLASSES)
    assert len(CLASSES) >= 8
    yaws = np.concatenate([room.boxes.yaws_rad for room in rooms])
    assert (np.histogram(yaws, bins=8, range=(-np.pi, np.pi))[0] > 0).all()
    typical = {"bedroom": "bed", "office": "desk", "living_room": "sofa", "dining_room": "table", "bathroom": "bathtub"}
    for kind, label in typical.items():
        shown = np.mean([label in room.boxes.labels for room in rooms if room.kind == kind])
        elsewhere = np.mean([label in room.boxes.labels for room in rooms if room.kind != kind])
        assert shown > 0.6
        assert shown > elsewhere + 0.4
    assert np.mean([len(room.boxes) for room in rooms]) > 3


def test_the_camera_stands_at_eye_height_looks_ahead_and_a_little_down(drawn):
    for room in drawn:
        forward = room.camera.camera_from_scene[2, :3]
        assert np.rad2deg(np.arctan2(forward[0], forward[1])) == pytest.approx(0, abs=1e-6)
        assert 7 < np.rad2deg(-np.arcsin(forward[2])) < 27
        floor = np.nanpercentile(unproject(room.depth_m, room.camera)[..., 2], 0.5)
        assert -1.75 < floor < -0.3


def test_scene_folders_are_read_back_as_they_were_drawn(tmp_path):
    manifest = make_rooms(tmp_path / "rooms", 5, (60, 80), seed=2, fractions=(1.0, 0.0, 0.0))
    assert Manifest.load(tmp_path / "rooms" / "manifest.jsonl") == manifest
    assert json.loads((tmp_path / "rooms" / "manifest.jsonl").read_text().splitlines()[0])["root"] == "."
    record = manifest.records[3]
    room = draw_room(np.random.default_rng([2, 3]), ROOMS[3], (60, 80))
    assert record.labels == {"room": 3}
    for scene in (load_scene(manifest, record), readers.read(tmp_path / "rooms" / "rooms" / "r0003")):
        np.testing.assert_array_equal(scene.image.pixels, np.moveaxis(room.image, -1, 0))
        expected = unproject(room.depth_m, room.camera)[np.isfinite(room.depth_m)]
        np.testing.assert_allclose(scene.points.points, expected, atol=0.002)
        assert scene.boxes.labels == room.boxes.labels
        np.testing.assert_array_equal(as_array(scene.boxes), as_array(room.boxes))
        np.testing.assert_allclose(scene.camera.camera_from_scene, room.camera.camera_from_scene)


def test_the_same_seed_gives_the_same_bytes_and_a_larger_set_begins_with_the_smaller(tmp_path):
    sets = {}
    for name, count, seed in (("few", 5, 4), ("many", 7, 4), ("other", 5, 5)):
        make_rooms(tmp_path / name, count, (48, 64), seed=seed)
        sets[name] = {path.relative_to(tmp_path / name): path.read_bytes() for path in tmp_path.glob(f"{name}/*/*/*")}
    assert len(sets["few"]) == 5 * 4
    assert sets["few"].items() <= sets["many"].items()
    assert all(sets["few"][path] != sets["other"][path] for path in sets["few"] if path.suffix == ".png")


def test_progress_is_told_after_each_room(tmp_path):
    calls = []
    make_rooms(tmp_path, 5, (48, 48), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(n, 5) for n in range(1, 6)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 4}, r"count 4: is fewer than the 5 kinds of rooms. Take 5 or more"),
        ({"size": (240, 32)}, r"size 240 x 32: is too small to see furniture. Take at least 48 x 48"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, arguments, message):
    with pytest.raises(RecipeError, match=message):
        make_rooms(tmp_path, **arguments)
