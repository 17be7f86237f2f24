"""Pinhole cameras: scene points to pixels and back, sizes, and the calibrations of SUN RGB-D and KITTI.

The scene is right-handed, in metres, z up; a camera looks along its z, with x to the right and y down. Pixel centres
are whole numbers: (column, row) = (0, 0) is the centre of the top left pixel, so an image covers columns from -0.5 to
width - 0.5. PiMAE places its point tokens on the image this way.

Differs from the authors' code:

* a camera knows the size of its image, and ``resized`` keeps both together; the authors stretch every image to 730x530
  and keep the intrinsics of the original, which is right only where that was its size;
* points that are not in front of the camera have no pixel; the authors test neither depth nor border.
"""

from typing import Any

import numpy as np
from array_api_compat import array_namespace
from jaxtyping import Bool, Float, Num

from crossdim.errors import GeometryError
from crossdim.samples import Camera

LEVEL = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
"""``camera_from_scene`` of a level camera at the origin: scene x is its right, scene y its forward, scene z its up."""

RIGID_TOLERANCE = 1e-3
"""How far a rotation may miss orthogonality: calibration files are rounded to as few as five digits."""


def check_camera(camera: Camera, subject: str = "camera") -> None:
    """Check that a camera maps metres to pixels of a real image and keeps distances and handedness.

    Args:
        camera: To be checked.
        subject: What the error names.

    Raises:
        GeometryError: If the size, the intrinsics or ``camera_from_scene`` cannot be those of a camera.
    """
    height, width = camera.size
    if height < 1 or width < 1:
        raise GeometryError(
            subject, f"its image size {height} x {width} is not positive", "Give (height, width) in pixels"
        )
    k = camera.intrinsics
    if not np.isfinite(k).all() or not np.array_equal(k[2], (0, 0, 1)):
        reason = f"its intrinsics {k.tolist()} do not end in the row 0 0 1 or are not finite"
    elif k[0, 0] <= 0 or k[1, 1] <= 0 or np.linalg.det(k) <= 0:
        reason = f"its intrinsics are singular or mirrored (focal lengths {k[0, 0]:g} and {k[1, 1]:g} pixels)"
    else:
        _check_rigid(camera.camera_from_scene, subject)
        return
    raise GeometryError(subject, reason, "Give [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels")


def _check_rigid(camera_from_scene: Float[np.ndarray, "4 4"], subject: str) -> None:
    """Refuse what is not a rotation and a shift.

    Args:
        camera_from_scene: To be checked.
        subject: What the error names.
    """
    rotation = camera_from_scene[:3, :3]
    if not np.isfinite(camera_from_scene).all() or not np.array_equal(camera_from_scene[3], (0, 0, 0, 1)):
        reason = "camera_from_scene does not end in the row 0 0 0 1 or is not finite"
    elif (miss := float(np.abs(rotation @ rotation.T - np.eye(3)).max())) > RIGID_TOLERANCE:
        reason = f"camera_from_scene is not rigid: its axes miss unit length or right angles by {miss:.2g}"
    elif np.linalg.det(rotation) < 0:
        reason = "camera_from_scene is left-handed: it mirrors the scene"
    else:
        return
    raise GeometryError(
        subject, reason, "Give a rotation and a shift in metres from the scene to x right, y down, z forward"
    )


def projection_matrix(camera: Camera) -> Float[np.ndarray, "3 4"]:
    """Return the matrix from homogeneous scene metres to (column * depth, row * depth, depth).

    Args:
        camera: Of the picture.

    Raises:
        GeometryError: If it is no camera (see ``check_camera``).
    """
    check_camera(camera)
    return camera.intrinsics @ camera.camera_from_scene[:3]


def project(
    points: Num[Any, "*batch points 3"], projection: Num[Any, "*batch 3 4"]
) -> tuple[Float[Any, "*batch points"], Float[Any, "*batch points"], Float[Any, "*batch points"]]:
    """Return (columns, rows, depths) of scene points: where they are in the picture, and how far along the view.

    Columns and rows are NaN for points that are not in front of the camera; their gradients stay finite.

    Args:
        points: In scene metres; numpy or torch.
        projection: From ``projection_matrix``, of the same library and type.
    """
    xp = array_namespace(points, projection)
    scaled = points @ xp.matrix_transpose(projection[..., :3]) + projection[..., None, :, 3]
    depths = scaled[..., 2]
    front = depths > 0
    divisor = xp.where(front, depths, xp.ones_like(depths))
    nowhere = xp.full_like(depths, float("nan"))
    columns = xp.where(front, scaled[..., 0] / divisor, nowhere)
    rows = xp.where(front, scaled[..., 1] / divisor, nowhere)
    return columns, rows, depths


def visible(
    columns: Float[Any, "*points"], rows: Float[Any, "*points"], depths: Float[Any, "*points"], size: tuple[int, int]
) -> Bool[Any, "*points"]:
    """Return which projected points lie in front of the camera and on one of the image's pixels.

    Args:
        columns: From ``project``.
        rows: From ``project``.
        depths: From ``project``.
        size: (height, width) of the image in pixels.
    """
    height, width = size
    across = (columns >= -0.5) & (columns < width - 0.5)
    return (depths > 0) & across & (rows >= -0.5) & (rows < height - 0.5)


def unproject(depth_m: Float[np.ndarray, "height width"], camera: Camera) -> Float[np.ndarray, "height width 3"]:
    """Return the scene point of every pixel of a depth picture, in the depth's own type; NaN where it has no reading.

    Args:
        depth_m: Metres along the camera's z; zero, negative and non-finite values are no readings.
        camera: Whose image has the depth's size.

    Raises:
        GeometryError: If the sizes differ, or it is no camera (see ``check_camera``).
    """
    check_camera(camera)
    if depth_m.shape != camera.size:
        height, width = camera.size
        raise GeometryError(
            "depth picture",
            f"has {depth_m.shape[0]} x {depth_m.shape[1]} pixels, its camera {height} x {width}",
            "Give the camera of the depth picture, or change its size with crossdim.geometry.camera.resized",
        )
    rows, columns = np.indices(camera.size, dtype=np.float64)
    rays = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ np.linalg.inv(camera.intrinsics).T
    reading = np.isfinite(depth_m) & (depth_m > 0)
    in_camera = rays * np.where(reading, depth_m, np.nan)[..., None]
    scene_from_camera = np.linalg.inv(camera.camera_from_scene)
    return (in_camera @ scene_from_camera[:3, :3].T + scene_from_camera[:3, 3]).astype(depth_m.dtype)


def resized(camera: Camera, size: tuple[int, int]) -> Camera:
    """Return the camera of the same picture stretched to another size; pixels are areas, so corners stay corners.

    Args:
        camera: Of the original picture.
        size: (height, width) in pixels.
    """
    down, across = size[0] / camera.size[0], size[1] / camera.size[1]
    stretch = np.array([[across, 0, (across - 1) / 2], [0, down, (down - 1) / 2], [0, 0, 1]])
    return Camera(stretch @ camera.intrinsics, size, camera.camera_from_scene)


def from_sunrgbd(
    rtilt: Float[np.ndarray, "3 3"] | Float[np.ndarray, "9"],
    k: Float[np.ndarray, "3 3"] | Float[np.ndarray, "9"],
    size: tuple[int, int],
) -> Camera:
    """Return the camera of a SUN RGB-D frame; its scene is SUN's "upright depth" (x right, y forward, z up).

    Args:
        rtilt: The tilt: 3x3, or the nine numbers of a ``calib`` file's first line (column by column).
        k: The intrinsics, likewise from the second line. They count pixels from 1, so one is subtracted.
        size: (height, width) of the image in pixels.

    Raises:
        GeometryError: If these are no camera (see ``check_camera``).
    """
    tilt = np.eye(4)
    tilt[:3, :3] = rtilt.reshape(3, 3, order="F").T
    intrinsics = k.reshape(3, 3, order="F").astype(np.float64)
    intrinsics[:2, 2] -= 1
    camera = Camera(intrinsics, size, LEVEL @ tilt)
    check_camera(camera, "SUN RGB-D calibration")
    return camera


def from_kitti(
    p2: Float[np.ndarray, "3 4"] | Float[np.ndarray, "12"],
    r0: Float[np.ndarray, "3 3"] | Float[np.ndarray, "9"],
    tr: Float[np.ndarray, "3 4"] | Float[np.ndarray, "12"],
    size: tuple[int, int],
) -> Camera:
    """Return KITTI's left colour camera; its scene is the laser scanner's (x forward, y left, z up).

    The fourth column of ``p2`` is the way from the rectified reference camera to this one, in pixels times metres; it
    becomes part of ``camera_from_scene``, so that ``projection_matrix`` equals KITTI's ``P2 R0 Tr``.

    Args:
        p2: Rectified projection: 3x4, or the twelve numbers of a ``calib`` file's line (row by row).
        r0: Rotation of the reference camera into the rectified frame, ``R0_rect``.
        tr: Laser scanner to reference camera, ``Tr_velo_to_cam``.
        size: (height, width) of the image in pixels.

    Raises:
        GeometryError: If these are no camera (see ``check_camera``).
    """
    projection = p2.reshape(3, 4).astype(np.float64)
    intrinsics = projection[:, :3]
    rectify, reference, sideways = np.eye(4), np.eye(4), np.eye(4)
    rectify[:3, :3] = r0.reshape(3, 3)
    reference[:3] = tr.reshape(3, 4)
    check_camera(Camera(intrinsics, size, rectify @ reference), "KITTI calibration")
    sideways[:3, 3] = np.linalg.solve(intrinsics, projection[:, 3])
    return Camera(intrinsics, size, sideways @ rectify @ reference)
