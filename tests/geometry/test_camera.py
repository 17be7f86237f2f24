"""Cameras: exact on toys, round trips as properties, and the calibrations of real frames."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.io import loadmat
from scipy.spatial.transform import Rotation

from crossdim.errors import GeometryError
from crossdim.geometry.boxes import contains, corners
from crossdim.geometry.camera import (
    LEVEL,
    check_camera,
    from_kitti,
    from_sunrgbd,
    project,
    projection_matrix,
    resized,
    unproject,
    visible,
)
from crossdim.samples import Camera

SIZE = (6, 8)
seeds = st.integers(0, 2**32 - 1)


def level_camera(intrinsics=((10.0, 0, 3.5), (0, 12.0, 2.5), (0, 0, 1)), size=SIZE) -> Camera:
    return Camera(np.array(intrinsics, dtype=np.float64), size, LEVEL)


def any_camera(seed: int, size=SIZE) -> Camera:
    """Return a camera somewhere, looking anywhere, with its own pixel shape, skew and principal point."""
    random = np.random.default_rng(seed)
    intrinsics = np.array([[random.uniform(3, 30), random.normal(), random.uniform(0, 8)], [0, 0, 0], [0, 0, 1]])
    intrinsics[1] = [0, random.uniform(3, 30), random.uniform(0, 6)]
    pose = np.eye(4)
    pose[:3, :3] = Rotation.random(rng=random).as_matrix()
    pose[:3, 3] = random.normal(0, 5, 3)
    return Camera(intrinsics, size, pose)


def grid(size) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.indices(size, dtype=np.float64)
    return columns, rows


def test_a_level_camera_sees_right_as_right_up_as_up_and_forward_as_depth():
    points = np.array([[0.0, 2, 0], [1, 2, 0], [0, 2, 1], [0, 3, 0]])
    columns, rows, depths = project(points, projection_matrix(level_camera()))
    np.testing.assert_allclose(columns, [3.5, 8.5, 3.5, 3.5])
    np.testing.assert_allclose(rows, [2.5, 2.5, -3.5, 2.5])
    np.testing.assert_allclose(depths, [2, 2, 2, 3])


@given(seeds)
def test_projecting_what_was_unprojected_finds_every_pixel_and_its_depth(seed):
    camera = any_camera(seed)
    depth_m = np.random.default_rng(seed).uniform(0.1, 9, SIZE)
    points = unproject(depth_m, camera)
    columns, rows, depths = project(points.reshape(-1, 3), projection_matrix(camera))
    np.testing.assert_allclose(np.stack([columns, rows]).reshape(2, *SIZE), grid(SIZE), atol=1e-8)
    np.testing.assert_allclose(depths.reshape(SIZE), depth_m, rtol=1e-10)


def test_a_depth_picture_keeps_its_number_type_and_has_no_points_without_a_reading():
    depth_m = np.ones(SIZE, dtype=np.float32)
    depth_m[0, :4] = [0, -1, np.nan, np.inf]
    points = unproject(depth_m, level_camera())
    assert points.dtype == np.float32
    without = np.isnan(points).all(axis=-1)
    assert without[0, :4].all()
    assert without.sum() == np.isnan(points).any(axis=-1).sum() == 4


def test_numpy_and_torch_project_alike_and_in_batches():
    cameras = [any_camera(seed) for seed in range(3)]
    projections = np.stack([projection_matrix(camera) for camera in cameras])
    points = np.random.default_rng(0).normal(0, 5, (3, 20, 3))
    together = project(torch.tensor(points), torch.tensor(projections))
    for number in range(3):
        alone = project(points[number], projections[number])
        for one, batch in zip(alone, together, strict=True):
            np.testing.assert_allclose(batch[number].numpy(), one, rtol=1e-9, atol=1e-9)
    assert project(torch.tensor(points).float(), torch.tensor(projections).float())[0].dtype == torch.float32


def test_points_behind_the_camera_or_in_its_plane_have_no_pixel():
    points = np.array([[0.0, -2, 0], [1, 0, 1], [0, 0, 0], [0, 1, 0]])
    columns, rows, depths = project(points, projection_matrix(level_camera()))
    assert np.isnan(columns).tolist() == np.isnan(rows).tolist() == [True, True, True, False]
    np.testing.assert_allclose(depths, [-2, 0, 0, 1])
    assert visible(columns, rows, depths, SIZE).tolist() == [False, False, False, True]


def test_gradients_of_a_projection_are_finite_behind_the_camera_too():
    points = torch.tensor([[0.0, -2, 0], [1, 0, 1], [0.5, 1, 0]], requires_grad=True)
    columns, rows, _ = project(points, torch.tensor(projection_matrix(level_camera())).float())
    (columns.nansum() + rows.nansum()).backward()
    assert points.grad is not None
    assert torch.isfinite(points.grad).all()
    assert points.grad[2].abs().sum() > 0


def test_an_image_reaches_half_a_pixel_beyond_the_centres_of_its_border():
    columns = np.array([-0.5, -0.51, 7.49, 7.5, 0, 0, 0, 0])
    rows = np.array([0, 0, 0, 0, -0.5, -0.51, 5.49, 5.5])
    seen = visible(columns, rows, np.ones(8), SIZE)
    assert seen.tolist() == [True, False, True, False, True, False, True, False]


@given(seeds, st.integers(1, 40), st.integers(1, 40))
def test_a_resized_camera_puts_points_at_the_same_share_of_the_image(seed, height, width):
    camera = any_camera(seed)
    points = unproject(np.full(SIZE, 2.0), camera).reshape(-1, 3)
    before = project(points, projection_matrix(camera))
    after = project(points, projection_matrix(resized(camera, (height, width))))
    np.testing.assert_allclose((after[0] + 0.5) / width, (before[0] + 0.5) / SIZE[1], atol=1e-8)
    np.testing.assert_allclose((after[1] + 0.5) / height, (before[1] + 0.5) / SIZE[0], atol=1e-8)
    np.testing.assert_allclose(after[2], before[2])


@given(seeds)
def test_resizing_there_and_back_changes_nothing(seed):
    camera = any_camera(seed)
    back = resized(resized(camera, (17, 3)), camera.size)
    assert back.size == camera.size
    np.testing.assert_allclose(back.intrinsics, camera.intrinsics, atol=1e-10)


def test_an_image_halved_by_means_of_four_pixels_agrees_with_its_resized_camera():
    columns, rows = grid(SIZE)
    halved = columns.reshape(3, 2, 4, 2).mean(axis=(1, 3)), rows.reshape(3, 2, 4, 2).mean(axis=(1, 3))
    camera = level_camera()
    points = unproject(np.full((3, 4), 2.0), resized(camera, (3, 4)))
    seen = project(points.reshape(-1, 3), projection_matrix(camera))
    np.testing.assert_allclose(np.stack(seen[:2]).reshape(2, 3, 4), halved, atol=1e-12)


def test_sun_rgbd_counts_columns_of_the_matrix_first_and_pixels_from_one():
    tilt = Rotation.from_euler("x", 20, degrees=True).as_matrix()
    k = np.array([[500.0, 0, 321], [0, 510, 241], [0, 0, 1]])
    camera = from_sunrgbd(tilt, k, (480, 640))
    as_text = from_sunrgbd(tilt.flatten(order="F"), k.flatten(order="F"), (480, 640))
    np.testing.assert_array_equal(camera.camera_from_scene, as_text.camera_from_scene)
    np.testing.assert_array_equal(camera.intrinsics, as_text.intrinsics)
    np.testing.assert_array_equal(camera.intrinsics[:2, 2], [320, 240])
    straight_ahead = tilt @ [0, 3, 0]  # the tilt takes level camera axes to the scene
    columns, rows, depths = project(straight_ahead[None], projection_matrix(camera))
    np.testing.assert_allclose([columns[0], rows[0], depths[0]], [320, 240, 3], atol=1e-9)


@given(seeds)
def test_kitti_s_three_matrices_become_one_camera_with_the_same_projection(seed):
    camera, random = any_camera(seed), np.random.default_rng(seed)
    p2 = np.c_[camera.intrinsics, random.normal(0, 50, 3)]
    r0 = Rotation.random(rng=random).as_matrix()
    tr = camera.camera_from_scene[:3]
    ours = from_kitti(p2, r0, tr, SIZE)
    np.testing.assert_allclose(projection_matrix(ours), p2 @ np.r_[np.c_[r0 @ tr], [[0, 0, 0, 1]]], atol=1e-8)
    assert ours.intrinsics.tolist() == camera.intrinsics.tolist()
    in_rows = from_kitti(p2.reshape(-1), r0.reshape(-1), tr.reshape(-1), SIZE)
    np.testing.assert_array_equal(in_rows.camera_from_scene, ours.camera_from_scene)


@pytest.mark.parametrize(
    "intrinsics",
    [[[0.0, 0, 3], [0, 9, 3], [0, 0, 1]], [[-9.0, 0, 3], [0, -9, 3], [0, 0, 1]], [[9.0, 9, 3], [9, 9, 3], [0, 0, 1]]],
    ids=["no width", "mirrored twice", "both axes alike"],
)
def test_singular_or_mirrored_intrinsics_are_refused(intrinsics):
    with pytest.raises(GeometryError, match=r"^camera: its intrinsics are singular or mirrored"):
        projection_matrix(level_camera(intrinsics))


@pytest.mark.parametrize("last", [[0.0, 0, 2], [0.0, 0, np.nan]])
def test_intrinsics_of_something_else_are_refused(last):
    with pytest.raises(GeometryError, match=r"do not end in the row 0 0 1 or are not finite.*Give \[\[fx, 0, cx\]"):
        projection_matrix(level_camera([[9.0, 0, 3], [0, 9, 3], last]))


def test_intrinsics_with_an_infinite_value_are_refused():
    with pytest.raises(GeometryError, match="do not end in the row 0 0 1 or are not finite"):
        unproject(np.ones(SIZE), level_camera([[np.inf, 0, 3], [0, 9, 3], [0, 0, 1]]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (np.diag([2.0, 2, 2, 1]), "not rigid: its axes miss unit length or right angles by 3"),
        (np.diag([-1.0, 1, 1, 1]), "left-handed: it mirrors the scene"),
        (np.diag([1.0, 1, 1, 2]), "does not end in the row 0 0 0 1"),
        (np.array([[1.0, 0.1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "not rigid.* by 0.1"),
        (np.diag([1.0, 1, np.nan, 1]), "is not finite"),
    ],
    ids=["scaled", "mirrored", "projective", "sheared", "not finite"],
)
def test_a_camera_from_scene_that_is_no_rotation_and_shift_is_refused(change, reason):
    camera = Camera(level_camera().intrinsics, SIZE, LEVEL @ change)
    with pytest.raises(GeometryError, match=f"camera_from_scene.*{reason}"):
        check_camera(camera)


def test_rotations_rounded_to_five_digits_are_rigid_enough():
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("xyz", [12.3, -4.5, 67.8], degrees=True).as_matrix().round(5)
    check_camera(Camera(level_camera().intrinsics, SIZE, pose))


def test_an_image_without_pixels_is_refused():
    with pytest.raises(GeometryError, match="image size 0 x 8 is not positive"):
        projection_matrix(resized(level_camera(), (0, 8)))


def test_a_depth_picture_of_another_size_is_refused():
    with pytest.raises(GeometryError, match=r"depth picture: has 8 x 6 pixels, its camera 6 x 8.*resized"):
        unproject(np.ones(SIZE[::-1]), level_camera())


def test_bad_calibrations_are_refused_by_their_source():
    with pytest.raises(GeometryError, match=r"^SUN RGB-D calibration: .*not rigid"):
        from_sunrgbd(np.full((3, 3), 0.5), level_camera().intrinsics, SIZE)
    with pytest.raises(GeometryError, match=r"^KITTI calibration: .*singular"):
        from_kitti(np.eye(3, 4) * [[0], [1], [1]], np.eye(3), np.eye(3, 4), SIZE)


def test_sun_rgbd_s_own_points_have_the_colours_of_the_pixels_they_project_to(crossdim_data):
    folder = crossdim_data / "sunrgbd" / "sunrgbd_trainval"
    rtilt, k = np.loadtxt(folder / "calib" / "000001.txt")
    pixels = np.asarray(Image.open(folder / "image" / "000001.jpg")) / 255
    points = loadmat(folder / "depth" / "000001.mat")["instance"].astype(np.float64)
    camera = from_sunrgbd(rtilt, k, pixels.shape[:2])
    columns, rows, depths = project(points[:, :3], projection_matrix(camera))
    assert visible(columns, rows, depths, camera.size).all()
    whole_columns, whole_rows = np.rint(columns).astype(int), np.rint(rows).astype(int)
    assert np.abs(columns - whole_columns).max() < 0.01
    np.testing.assert_allclose(pixels[whole_rows, whole_columns], points[:, 3:], atol=1e-6)

    depth_m = np.zeros(camera.size)
    depth_m[whole_rows, whole_columns] = depths
    found = unproject(depth_m, camera)[whole_rows, whole_columns]
    assert np.abs(found - points[:, :3]).max() < 1e-3


def kitti_frame(folder, name) -> tuple[Camera, np.ndarray, list[tuple[str, np.ndarray, np.ndarray]]]:
    """Return the camera, the laser's points, and class, 2D box and seven numbers of each labelled object."""
    lines = (folder / "calib" / f"{name}.txt").read_text().splitlines()
    calib = {line.split(":")[0]: np.array(line.split(":")[1].split(), float) for line in lines if ":" in line}
    width, height = Image.open(folder / "image_2" / f"{name}.png").size
    camera = from_kitti(calib["P2"], calib["R0_rect"], calib["Tr_velo_to_cam"], (height, width))
    rotation, reference = np.eye(4), np.eye(4)
    rotation[:3, :3], reference[:3] = calib["R0_rect"].reshape(3, 3), calib["Tr_velo_to_cam"].reshape(3, 4)
    objects = []
    for line in (folder / "label_2" / f"{name}.txt").read_text().splitlines():
        kind, *numbers = line.split()
        values = np.array(numbers, float)
        if kind != "DontCare":
            size_h, size_w, size_l = values[7:10]
            in_camera = np.append(values[10:13] - [0, size_h / 2, 0], 1)
            center = np.linalg.solve(rotation @ reference, in_camera)[:3]
            box = np.array([*center, size_l, size_w, size_h, -values[13] - np.pi / 2])
            objects.append((kind, values[3:7], box))
    points = np.fromfile(folder / "velodyne" / f"{name}.bin", np.float32).reshape(-1, 4)[:, :3]
    return camera, points.astype(np.float64), objects


@pytest.mark.parametrize("name", ["000000", "000134"])
def test_kitti_s_labelled_boxes_hold_laser_points_and_project_onto_their_2d_boxes(crossdim_data, name):
    camera, points, objects = kitti_frame(crossdim_data / "kitti_mini" / "training", name)
    boxes = np.stack([box for _, _, box in objects])
    inside = contains(points, boxes)
    assert (inside.sum(axis=1) >= 3).all()
    columns, rows, depths = project(points, projection_matrix(camera))
    for (kind, drawn, box), held in zip(objects, inside, strict=True):
        across, down, _ = project(corners(box[:3], box[3:6], box[6]), projection_matrix(camera))
        found = np.array([across.min(), down.min(), across.max(), down.max()])
        border = np.array([camera.size[1] - 1, camera.size[0] - 1] * 2)
        miss = np.abs(np.clip(found, 0, border) - drawn)
        assert miss.max() < (1.5 if kind in {"Car", "Cyclist"} else 15), f"{kind} {found} {drawn}"
        assert miss[[1, 3]].max() < 1.5
        assert visible(columns, rows, depths, camera.size)[held].mean() > 0.9
