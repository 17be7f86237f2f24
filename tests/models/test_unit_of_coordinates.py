"""In its own units a model finds in a small scene what it finds in a large one; networks are as wide as told."""

import pytest
import torch

from crossdim.errors import ContractError
from crossdim.models.detr3d import Detr3dForObjectDetection
from crossdim.models.detr3d_config import Detr3dConfig
from crossdim.models.pimae import PimaeModel
from tests.models import test_detr3d as detr3d
from tests.models import test_pimae as pimae

QUARTER = 0.25
"""A scale that floating point multiplies by without rounding: everything has to be equal to the last bit."""
FIFTH = 0.2

IN_METRES = {"centers", "sizes"}
LENGTHS = {"group_radius", "scene_range"}
TOKENS = [
    {"tokenizer": "groups"},
    {"tokenizer": "set_abstraction", "group_radius": 0.5},
    {"tokenizer": "groups", "image": True, "angle_bins": 1, "giou": "released"},
    {"tokenizer": "groups", "query_features": "tokens", "scene_range": [[-1.0, -1.0, -1.0], [4.0, 3.0, 3.0]]},
]


def smaller(inputs, scale):
    """Return a scene and its boxes, scaled."""
    boxes = torch.tensor([scale] * 6 + [1.0])
    labels = [each | {"boxes": each["boxes"] * boxes.to(each["boxes"])} for each in inputs.get("labels", ())]
    return inputs | {"points": inputs["points"] * scale} | ({"labels": labels} if labels else {})


def in_units(options, scale):
    """Return the options of a model that sees a scaled scene as the other one sees the scene."""
    lengths = {key: (torch.tensor(options[key]).double() * scale).tolist() for key in LENGTHS & set(options)}
    return options | lengths | {"unit_m": scale}


@pytest.fixture(params=[False, True], ids=["a room", "a flat scene"])
def scene(request):
    inputs = detr3d.scenes({"image": True})
    return inputs | {"points": inputs["points"] * torch.tensor([1, 1, 0.01])} if request.param else inputs


@pytest.mark.parametrize("options", TOKENS, ids=str)
def test_in_its_units_a_detector_finds_in_a_small_scene_what_it_finds_in_a_large_one(options, scene):
    large = detr3d.detector(giou_weight=1.0, **options).eval()
    small = detr3d.detector(giou_weight=1.0, **in_units(options, QUARTER)).eval()
    assert all(torch.equal(*pair) for pair in zip(large.parameters(), small.parameters(), strict=True))
    images = {} if options.get("image") else {"pixel_values": None}
    one, other = large(**scene | images), small(**smaller(scene, QUARTER) | images)
    for name in one.predictions._fields:
        found, scaled = getattr(one.layer_predictions, name), getattr(other.layer_predictions, name)
        assert torch.equal(found * QUARTER if name in IN_METRES else found, scaled), name
    assert torch.equal(one.model.query_places * QUARTER, other.model.query_places)
    assert torch.equal(one.assignment.matched, other.assignment.matched)
    torch.testing.assert_close(other.losses, one.losses)
    torch.testing.assert_close(other.loss, one.loss)


@pytest.mark.parametrize("options", TOKENS, ids=str)
def test_units_may_be_any_length(options, scene):
    large = detr3d.detector(**options).eval().double()
    small = detr3d.detector(**in_units(options, FIFTH)).eval().double()
    points = scene["points"].double()
    one, other = large(points).predictions, small(points * FIFTH).predictions
    torch.testing.assert_close(other.boxes[..., :6], one.boxes[..., :6] * FIFTH)
    torch.testing.assert_close(other.class_logits, one.class_logits)
    torch.testing.assert_close(other.yaws, one.yaws)


@pytest.mark.parametrize("options", TOKENS[:2], ids=str)
def test_without_its_units_a_detector_finds_something_else_in_a_small_scene(options):
    model, points = detr3d.detector(**options).eval(), detr3d.scenes()["points"]
    large, small = model(points).predictions, model(points * QUARTER).predictions
    assert not torch.allclose(large.centers * QUARTER, small.centers, atol=0.01)


def test_the_smallest_box_is_a_thousandth_of_a_unit():
    model = detr3d.detector(unit_m=QUARTER).eval()
    with torch.no_grad():
        model.box_heads.heads["size"].linear.bias.fill_(-1000)
    sizes = model(detr3d.scenes()["points"]).predictions.boxes[..., 3:6]
    assert torch.equal(sizes, torch.full_like(sizes, 0.001 * QUARTER))


@pytest.mark.parametrize("options", pimae.OPTIONS, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_in_its_units_pre_training_on_small_scenes_is_that_on_large_ones(options, training):
    still = {"dropout": 0.0, "points_decoder_drop_path_rate": 0.0}
    large, small = (pimae.pretraining(**options, **still, unit_m=unit).train(training) for unit in (1.0, QUARTER))
    inputs = pimae.scenes(pixel_values=torch.rand(2, options.get("num_channels", 3), 32, 48))
    one, other = large(**inputs), small(**smaller(inputs, QUARTER))  # The camera is in the origin: it sees the same.
    assert torch.equal(other.loss, one.loss)
    assert {name: part.item() for name, part in one.losses.items()} == {
        name: part.item() for name, part in other.losses.items()
    }
    assert torch.equal(other.points_prediction, one.points_prediction * QUARTER)
    assert torch.equal(other.points_target, one.points_target * QUARTER)
    assert torch.equal(other.encoded.pooler_output, one.encoded.pooler_output)
    for each in (one, other):
        each.loss.backward()
    grads = ([parameter.grad for parameter in model.parameters()] for model in (large, small))
    torch.testing.assert_close(*grads)


def test_without_its_units_pre_training_on_small_scenes_is_another():
    model, inputs = pimae.pretraining().eval(), pimae.scenes()
    losses = [model(**each).losses["points"].item() for each in (inputs, smaller(inputs, QUARTER))]
    assert losses[0] != pytest.approx(losses[1], rel=0.01)


@pytest.mark.parametrize("config", [pimae.config, detr3d.config])
@pytest.mark.parametrize("unit_m", [0, -1.0, float("inf"), float("nan")])
def test_a_unit_that_is_no_length_is_refused(config, unit_m):
    with pytest.raises(ContractError, match=rf"unit_m {unit_m}: is no length\. Give metres"):
        config(unit_m=unit_m)


@pytest.mark.parametrize("config", [pimae.config, detr3d.config])
def test_a_network_without_a_width_is_refused(config):
    with pytest.raises(ContractError, match="point_hidden_size 0: is no width"):
        config(point_hidden_size=0)


def test_the_network_of_groups_is_as_wide_as_the_config_says():
    narrow = [
        PimaeModel(pimae.config(point_hidden_size=8)).point_tokens,
        detr3d.detector(tokenizer="groups", point_hidden_size=8).detr3d.point_tokens,
    ]
    for tokens in narrow:
        shapes = [tuple(tokens.get_parameter(f"{name}.weight").shape) for name in ("first_conv.0", "first_conv.3")]
        shapes += [tuple(tokens.get_parameter(f"{name}.weight").shape) for name in ("second_conv.0", "second_conv.3")]
        assert shapes == [(8, 3), (16, 8), (32, 32), (24, 32)]


def test_a_detector_has_the_unit_and_the_widths_of_the_pretrained_model():
    source = detr3d.pretrained(unit_m=0.2, point_hidden_size=8)
    chosen = Detr3dConfig.for_pimae(source.config, num_queries=7)
    assert (chosen.unit_m, chosen.point_hidden_size) == (0.2, 8)
    model = Detr3dForObjectDetection(chosen)
    assert "pimae.point_tokens.second_conv.3.weight" in model.transfer(source.config, source.state_dict()).moved


def test_a_model_pretrained_on_rooms_finds_things_on_tables():
    source = detr3d.pretrained().eval()
    options = {"num_queries": 7, "image": True, "num_labels": 3}
    models = [Detr3dConfig.for_pimae(source.config, **options, **unit) for unit in ({}, {"unit_m": QUARTER})]
    rooms, tables = (Detr3dForObjectDetection(each).eval() for each in models)
    tables.load_state_dict(rooms.state_dict())
    for model in (rooms, tables):
        assert len(model.transfer(source.config, source.state_dict()).moved) == len(source.pimae.state_dict())
    points = detr3d.scenes()["points"]
    one, other = rooms(points).predictions, tables(points * QUARTER).predictions
    assert torch.equal(one.boxes[..., :6] * QUARTER, other.boxes[..., :6])


def test_a_pretrained_model_with_other_widths_is_refused_unless_nothing_of_them_is_taken():
    source = detr3d.pretrained(point_hidden_size=8)
    message = (
        r"^pre-trained model with point_hidden_size 8: the detector has 128\. Build the detector with Detr3dConfig"
    )
    with pytest.raises(ContractError, match=message) as caught:
        detr3d.detector(tokenizer="groups").transfer(source.config, source.state_dict())
    assert "\n" not in str(caught.value)
    assert detr3d.detector(tokenizer="set_abstraction").transfer(source.config, source.state_dict()).moved
    official = detr3d.detector(tokenizer="groups").transfer(source.config, source.state_dict(), official_transfer=True)
    assert official.moved
