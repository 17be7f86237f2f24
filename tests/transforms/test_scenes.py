import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from crossdim.errors import ContractError
from crossdim.geometry.camera import LEVEL, project, projection_matrix, resized
from crossdim.samples import Camera, Image, Origin, PointCloud, Scene
from crossdim.transforms.contract import PreprocessingContract
from crossdim.transforms.image import ImageContract
from crossdim.transforms.scene_augment import SceneAugmentation
from crossdim.transforms.scenes import PointsContract, SceneContract, collate_scenes, draw_points, prepare_scene

ORIGIN = Origin("toy")
CONTRACT = SceneContract(
    image=ImageContract(size=(16, 32), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
    points=PointsContract(drawn=40, kept=20, fewest=8),
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def camera(size: tuple[int, int] = (24, 40)) -> Camera:
    return Camera(np.array([[30.0, 0, 18.0], [0, 28.0, 11.0], [0, 0, 1]]), size, LEVEL)


def cloud(count: int = 60, seed: int = 0) -> PointCloud:
    rng = np.random.default_rng(seed)
    points = rng.uniform((-1, 1.5, -0.5), (1, 4, 0.5), (count, 3)).astype(np.float32)
    return PointCloud(points, ORIGIN)


def picture(size: tuple[int, int] = (24, 40)) -> Image:
    return Image(np.random.default_rng(1).integers(0, 256, (3, *size), dtype=np.uint8), "uint8", ORIGIN)


def scene(**parts) -> Scene:
    return Scene(ORIGIN, **({"points": cloud(), "image": picture(), "camera": camera()} | parts))


def test_points_keep_their_metres_and_the_image_is_stretched_and_normalised():
    prepared = prepare_scene(scene(), CONTRACT)
    assert torch.equal(prepared.points, torch.from_numpy(cloud().points))
    assert prepared.pixel_values.shape == (3, 16, 32)
    assert float(prepared.pixel_values.min()) >= -2
    assert prepared.frame_size == (24, 40)
    assert prepared.nbytes == 60 * 12 + 3 * 16 * 32 * 4


def test_the_authors_frame_is_an_option_and_what_is_seen_stays_the_cameras():
    contract = CONTRACT.model_copy(update={"frame": "released"})
    prepared = prepare_scene(scene(), contract)
    assert prepared.frame_size == (530, 730)
    assert torch.equal(prepared.projection, prepare_scene(scene(), CONTRACT).projection)
    aside = scene(camera=Camera(np.array([[30.0, 0, 400.0], [0, 28.0, 11.0], [0, 0, 1]]), (24, 40), LEVEL))
    with pytest.raises(ContractError, match="has no point that its camera sees"):
        prepare_scene(aside, contract)


def test_points_are_drawn_without_replacement_and_again_for_the_same_generator():
    prepared = prepare_scene(scene(), CONTRACT, generator(3))
    assert prepared.points.shape == (40, 3)
    assert len(torch.unique(prepared.points, dim=0)) == 40
    assert torch.equal(prepared.points, prepare_scene(scene(), CONTRACT, generator(3)).points)
    assert not torch.equal(prepared.points, prepare_scene(scene(), CONTRACT, generator(4)).points)


def test_a_cloud_with_fewer_points_than_are_drawn_gives_all_of_them():
    prepared = draw_points(prepare_scene(scene(points=cloud(30)), CONTRACT), CONTRACT, generator())
    assert {tuple(row) for row in prepared.points.tolist()} == {tuple(row) for row in cloud(30).points.tolist()}


def test_points_that_are_not_finite_are_left_out_and_counted():
    broken = cloud().points.copy()
    broken[:5, 1] = np.nan
    prepared = prepare_scene(scene(points=PointCloud(broken, ORIGIN)), CONTRACT)
    assert len(prepared.points) == 55
    assert prepared.notes == ("5 points that are not finite were left out",)


REGION = ((-0.5, 2.0, -0.4), (0.75, 3.5, 0.25))


def within_region(region=REGION, **sizes) -> SceneContract:
    points = PointsContract(**{"drawn": 40, "kept": 20, "fewest": 8, "region": region} | sizes)
    return SceneContract(image=CONTRACT.image, points=points)


def test_points_out_of_the_region_are_left_out_before_any_are_drawn():
    points = cloud(600).points
    inside = ((points >= REGION[0]) & (points <= REGION[1])).all(axis=1)
    assert 40 < inside.sum() < 300
    prepared = prepare_scene(scene(points=cloud(600)), within_region())
    assert np.array_equal(prepared.points.numpy(), points[inside])
    drawn = draw_points(prepared, within_region(), generator()).points
    assert drawn.shape == (40, 3)
    assert {tuple(row) for row in drawn.tolist()} <= {tuple(row) for row in points[inside].tolist()}


def test_the_faces_of_a_region_belong_to_it():
    corner = np.float32([[-0.1, 2.2, -0.3], [0.7, 3.3, 0.1]])
    beyond = np.float32([[-0.101, 2.2, -0.3], [0.7, 3.301, 0.1], [0.7, 3.3, 0.101]])
    region = ((-0.1, 2.2, -0.3), (0.7, 3.3, 0.1))
    parts = scene(points=PointCloud(np.concatenate([corner, beyond]), ORIGIN), image=None)
    prepared = prepare_scene(parts, within_region(region, fewest=2))
    assert np.array_equal(prepared.points.numpy(), corner)


def test_a_region_moves_no_pixel_and_a_wide_one_changes_nothing():
    wide = prepare_scene(scene(), within_region(((-9, -9, -9), (9, 9, 9))))
    narrow, whole = prepare_scene(scene(), within_region()), prepare_scene(scene(), CONTRACT)
    assert torch.equal(wide.points, whole.points)
    assert torch.equal(narrow.projection, whole.projection)
    assert torch.equal(narrow.pixel_values, whole.pixel_values)


def test_a_region_that_leaves_too_few_points_is_named_and_a_thin_cloud_does_not_blame_it():
    away = within_region(((5, 0, -0.5), (6, 1, 0.5)))
    message = (
        r"toy: has 0 of its 60 points in the region that the model looks at \(x 5 to 6, y 0 to 1, z -0.5 to 0.5 m\)"
    )
    with pytest.raises(ContractError, match=message + r", and the model needs 8 .*contract\.region"):
        prepare_scene(scene(), away)
    with pytest.raises(ContractError, match="has 7 points, and the model needs 8 at least"):
        prepare_scene(scene(points=cloud(7)), away)


def test_a_region_that_the_camera_does_not_see_is_named():
    behind = cloud(60).points
    behind[:30, 1] *= -1
    region = ((-2, -9, -2), (2, 0, 2))
    with pytest.raises(
        ContractError, match=r"no point in the region .*y -9 to 0.* that its camera sees.*contract\.region"
    ):
        prepare_scene(scene(points=PointCloud(behind, ORIGIN)), within_region(region))


@pytest.mark.parametrize(
    ("parts", "contract", "message"),
    [
        ({"points": None, "image": None}, CONTRACT, "has neither points nor an image"),
        ({"points": cloud(7)}, CONTRACT, "has 7 points, and the model needs 8 at least"),
        ({"points": PointCloud(np.full((9, 3), np.nan, np.float32), ORIGIN)}, CONTRACT, r"has 0 points \(9 more are"),
        ({}, SceneContract(image=CONTRACT.image), "has points, and the model knows images only"),
        ({}, SceneContract(points=CONTRACT.points), "has an image, and the model knows points only"),
        ({"camera": camera((12, 40))}, CONTRACT, "has an image of 24 x 40 pixels and a camera of 12 x 40"),
        ({"points": PointCloud(-cloud().points, ORIGIN)}, CONTRACT, "has no point that its camera sees"),
    ],
)
def test_a_scene_that_does_not_fit_is_refused_with_the_reason(parts, contract, message):
    with pytest.raises(ContractError, match=f"toy: {message}"):
        prepare_scene(scene(**parts), contract)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: PointsContract(region=((0, 0, 0), (1, 0, 1))),
            r"\(lowest, highest\) along every axis, and y goes from 0",
        ),
        (lambda: PointsContract(region=((0, 0, 0), (1, 1, math.inf))), "finite number"),
        (lambda: SceneContract(), "neither image nor points is stated"),
        (lambda: SceneContract(image=ImageContract(size=(8, 8), fit="pad")), "images of scenes are stretched"),
        (lambda: PointsContract(drawn=10, kept=20), "needs fewest <= kept <= drawn"),
        (lambda: SceneAugmentation(scale=(2.0, 1.0)), r"scale must be \(smallest, largest\)"),
        (lambda: ImageContract(size=(8, 8), channels=1, channel_order="bgr"), "has no effect on grey images"),
    ],
)
def test_a_contract_that_contradicts_itself_is_refused(make, message):
    with pytest.raises(ValidationError, match=message):
        make()


def test_a_scene_without_an_image_or_a_camera_has_no_projection():
    assert prepare_scene(scene(image=None), CONTRACT).projection is None
    assert prepare_scene(scene(camera=None), CONTRACT).projection is None
    assert prepare_scene(scene(points=None), CONTRACT).points is None


def test_the_projection_finds_the_pixel_of_a_point_in_the_prepared_image():
    """A place in the frame as a share of its size is the same place in the image that was stretched."""
    prepared = prepare_scene(scene(), CONTRACT)
    columns, rows, _ = project(prepared.points.double(), prepared.projection)
    small = resized(camera(), CONTRACT.image.size)
    wanted_columns, wanted_rows, _ = project(cloud().points.astype(np.float64), projection_matrix(small))
    height, width = prepared.frame_size
    assert np.allclose((columns + 0.5) / width * 32 - 0.5, wanted_columns)
    assert np.allclose((rows + 0.5) / height * 16 - 0.5, wanted_rows)


@settings(max_examples=50, deadline=None)
@given(
    flip=st.sampled_from((0.0, 1.0)),
    degrees=st.floats(0, 180),
    low=st.floats(0.2, 1.0),
    high=st.floats(1.0, 3.0),
    seed=st.integers(0, 2**31),
)
def test_every_varied_point_keeps_its_pixel(flip, degrees, low, high, seed):
    augmentation = SceneAugmentation(flip_x=flip, rotation_deg=degrees, scale=(low, high))
    prepared = prepare_scene(scene(), CONTRACT)
    varied = augmentation.vary(prepared, generator(seed))
    before = project(prepared.points.double(), prepared.projection)
    after = project(varied.points.double(), varied.projection)
    for one, other in zip(before, after, strict=True):
        assert torch.allclose(one, other, atol=1e-4)
    assert varied.pixel_values is prepared.pixel_values


def test_points_are_mirrored_turned_about_the_vertical_and_scaled():
    augmentation = SceneAugmentation(flip_x=1.0, rotation_deg=30, scale=(0.85, 1.15))
    prepared = prepare_scene(scene(), CONTRACT)
    varied = augmentation.vary(prepared, generator(5))
    draws = torch.rand(3, generator=generator(5), dtype=torch.float64).tolist()
    angle, factor = math.radians(60 * draws[1] - 30), 0.85 + 0.3 * draws[2]
    x, y, z = prepared.points.double().unbind(1)
    turned = (-x * math.cos(angle) - y * math.sin(angle), -x * math.sin(angle) + y * math.cos(angle), z)
    assert torch.allclose(varied.points.double(), factor * torch.stack(turned, dim=1), atol=1e-6)


def test_switching_one_variation_off_leaves_the_draws_of_the_others():
    prepared = prepare_scene(scene(), CONTRACT)
    scaled = SceneAugmentation(scale=(0.5, 2.0)).vary(prepared, generator(2)).points
    both = SceneAugmentation(scale=(0.5, 2.0), rotation_deg=90).vary(prepared, generator(2)).points
    assert torch.allclose(scaled.norm(dim=1), both.norm(dim=1), atol=1e-5)
    assert torch.allclose(scaled[:, 2], both[:, 2])


def test_no_variation_returns_the_same_scene():
    prepared = prepare_scene(scene(), CONTRACT)
    assert SceneAugmentation().vary(prepared, generator()) is prepared


def test_an_image_alone_has_nothing_to_vary():
    prepared = prepare_scene(scene(points=None), CONTRACT)
    assert SceneAugmentation(flip_x=1.0).vary(prepared, generator()) is prepared


def test_scenes_are_stacked_into_the_model_s_arguments():
    batch = collate_scenes([prepare_scene(scene(), CONTRACT, generator(seed)) for seed in range(3)])
    assert {name: tuple(value.shape) for name, value in batch.items()} == {
        "points": (3, 40, 3), "pixel_values": (3, 3, 16, 32), "projection": (3, 3, 4), "frame_size": (3, 2),
    }  # fmt: skip
    assert batch["projection"].dtype == torch.float32


def test_a_missing_part_is_left_out_of_the_batch():
    batch = collate_scenes([prepare_scene(scene(image=None), CONTRACT, generator())])
    assert set(batch) == {"points"}


def test_scenes_of_different_compositions_are_not_stacked():
    mixed = [prepare_scene(scene(image=image), CONTRACT, generator()) for image in (None, picture())]
    with pytest.raises(ContractError, match="has 'pixel_values' for 1 of 2 scenes"):
        collate_scenes(mixed)


def test_blue_comes_first_where_the_contract_says_so():
    turned = SceneContract(image=CONTRACT.image.model_copy(update={"channel_order": "bgr"}))
    rgb = prepare_scene(scene(points=None), SceneContract(image=CONTRACT.image)).pixel_values
    assert torch.equal(prepare_scene(scene(points=None), turned).pixel_values, rgb.flip(0))


def test_a_contract_of_scenes_survives_being_saved(tmp_path):
    for part in (CONTRACT, within_region()):
        contract = PreprocessingContract(scene=part, source="a test")
        contract.save_pretrained(tmp_path)
        assert PreprocessingContract.from_pretrained(tmp_path) == contract


def test_contracts_without_scenes_are_written_as_before():
    contract = PreprocessingContract(image=ImageContract(size=(8, 8)), source="a test")
    assert "scene" not in contract.model_dump_json()
    assert "channel_order" not in contract.model_dump_json()


def test_contracts_without_a_region_are_read_and_written_as_before():
    text = (
        '{"version":1,"scene":{"image":null,"points":{"drawn":9,"kept":9,"fewest":9},"frame":"camera"},"source":"old"}'
    )
    contract = PreprocessingContract.parse(text)
    assert contract.scene.points.region is None
    assert "region" not in contract.model_dump_json()


def test_a_contract_of_scenes_alone_refuses_an_image_file():
    contract = PreprocessingContract(scene=CONTRACT, source="a test")
    with pytest.raises(ContractError, match="is an image, and the contract knows scenes only"):
        contract.prepare(picture())
