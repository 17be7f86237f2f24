"""The contract every detector keeps."""

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForObjectDetection

import crossdim.models.auto  # noqa: F401
from crossdim.errors import ContractError
from crossdim.models.detr3d import Detr3dForObjectDetection, Detr3dModel
from crossdim.models.detr3d_config import PRESETS, Detr3dConfig
from crossdim.models.pimae import PimaeForPreTraining
from crossdim.models.pimae_config import PimaeConfig
from crossdim.tokens.sampling import farthest_points, gather_points

SIZES = {
    "hidden_size": 24,
    "num_attention_heads": 2,
    "image_size": (32, 48),
    "patch_size": 8,
    "image_num_hidden_layers": 2,
    "image_intermediate_size": 48,
    "num_groups": 16,
    "group_size": 6,
    "group_radius": 0.5,
    "points_num_hidden_layers": 2,
    "points_intermediate_size": 32,
    "joint_num_hidden_layers": 1,
    "joint_intermediate_size": 40,
    "num_queries": 7,
    "decoder_hidden_size": 20,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 28,
    "num_labels": 3,
}
OPTIONS = [
    {},
    {"tokenizer": "groups"},
    {"image": True},
    {"tokenizer": "groups", "image": True, "num_channels": 1},
    {"tokenizer": "groups", "unit_m": 0.2, "point_hidden_size": 8},
    {"query_features": "tokens", "scene_range": ((0, 0, 0), (3, 2, 2))},
    {"joint_num_hidden_layers": 0, "angle_bins": 1, "giou_weight": 1.0},
    {"giou": "released", "giou_weight": 0.5, "skip_points_near_origin": True},
]
each_option = pytest.mark.parametrize("options", OPTIONS, ids=str)


def config(**overrides):
    return Detr3dConfig(**{**SIZES, **overrides})


def detector(**overrides):
    torch.manual_seed(0)
    return Detr3dForObjectDetection(config(**overrides))


def scenes(options=None, batch=2, boxes=3, **more):
    generator = torch.Generator().manual_seed(1)
    options = options or {}
    inputs = {"points": torch.rand(batch, 80, 3, generator=generator) * torch.tensor([3, 2, 2])}
    sizes = torch.tensor([3, 2, 2, 1, 1, 1, 6.0])
    inputs["labels"] = [
        {
            "boxes": (torch.rand(boxes, 7, generator=generator) + 0.1) * sizes,
            "classes": torch.randint(3, (boxes,), generator=generator),
        }
        for _ in range(batch)
    ]
    if options.get("image"):
        channels = options.get("num_channels", 3)
        inputs["pixel_values"] = torch.rand(batch, channels, 32, 48, generator=generator)
    return inputs | more


def pretrained(**overrides):
    """Return a PiMAE that the detector's sizes fit, with values of its own in every buffer."""
    names = set(PimaeConfig.__dataclass_fields__)
    sizes = {name: value for name, value in SIZES.items() if name in names}
    torch.manual_seed(5)
    model = PimaeForPreTraining(PimaeConfig(**{**sizes, "decoder_hidden_size": 16, **overrides}))
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape) * 3)
    return model


@each_option
def test_every_parameter_has_a_gradient(options):
    model = detector(**options)
    model(**scenes(options)).loss.backward()
    still = {name for name, each in model.named_parameters() if each.grad is None or not each.grad.abs().sum()}
    still -= {"detr3d.decoder.layers.0.norm1.weight"}  # Queries begin as zeros, which a norm cannot stretch.
    one_bin = options.get("angle_bins") == 1  # It is always the right one.
    assert all(name.startswith("box_heads.heads.angle_class.") and one_bin for name in still)


@each_option
def test_a_saved_detector_finds_the_same(options, tmp_path):
    model = detector(**options)
    model(**scenes(options))  # Moves the statistics of batch normalisation.
    model.eval().save_pretrained(tmp_path)
    again = AutoModelForObjectDetection.from_pretrained(tmp_path)
    assert isinstance(again, Detr3dForObjectDetection)
    assert {**AutoConfig.from_pretrained(tmp_path).to_dict(), "_name_or_path": ""} == model.config.to_dict()
    first, second = (each(**scenes(options)) for each in (model, again))
    assert torch.equal(first.loss, second.loss)
    assert all(torch.equal(*pair) for pair in zip(first.predictions, second.predictions, strict=True))


def test_the_body_alone_can_be_loaded(tmp_path):
    model = detector().eval()
    model.save_pretrained(tmp_path)
    body = AutoModel.from_pretrained(tmp_path)
    assert isinstance(body, Detr3dModel)
    points = scenes()["points"]
    assert torch.equal(body(points).last_hidden_state, model(points).model.last_hidden_state)


def test_the_published_sizes_have_as_many_parameters_as_the_authors_model():
    with torch.device("meta"):
        model = Detr3dForObjectDetection(Detr3dConfig.preset("sunrgbd"))
    assert sum(each.numel() for each in model.parameters()) == 8_299_625


@pytest.mark.parametrize("name", PRESETS)
def test_presets_can_be_built_with_other_keys(name):
    chosen = Detr3dConfig.preset(name, task="object")
    assert chosen.task == "object"
    with torch.device("meta"):
        Detr3dForObjectDetection(chosen)


def test_the_settings_for_scannet_are_the_authors():
    chosen = Detr3dConfig.preset("scannet")
    weights = chosen.weights()
    assert (weights.class_cost, weights.objectness_cost, weights.center_cost, weights.giou_cost) == (1, 0, 0, 2)
    assert (weights.no_object_weight, weights.giou_weight) == (0.25, 1)
    assert (len(chosen.id2label), chosen.angle_bins, chosen.num_queries) == (18, 1, 256)


def test_a_detector_learns_a_scene():
    model = detector(dropout=0.0, decoder_dropout=0.0, head_dropout=0.0, giou_weight=1.0, num_queries=16)
    inputs = scenes(batch=1, boxes=1)
    inputs["labels"][0]["boxes"] = torch.tensor([[1.5, 1, 1, 1, 0.8, 0.6, 0.5]])
    points = inputs["points"].expand(2, -1, -1)
    labels = inputs["labels"] * 2
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(80):
        optimiser.zero_grad()
        model(points, labels).loss.backward()
        optimiser.step()
    found = model.eval()(points, labels)
    best = found.predictions.objectness[0].argmax()
    assert found.predictions.class_probabilities[0, best].argmax() == labels[0]["classes"][0]
    assert found.losses["center"] < 0.08
    assert found.assignment.matched[-1, 0, best]


def test_every_layer_is_matched_and_pays_for_itself():
    found = detector()(**scenes())
    assert found.assignment.matched.shape == (2, 2, 7)
    assert {part.shape for part in found.layer_losses.values()} == {(2,)}
    assert all(found.losses[name] == part[-1] for name, part in found.layer_losses.items())
    assert torch.equal(found.predictions.centers, found.layer_predictions.centers[-1])


def test_without_labels_there_are_boxes_and_no_loss():
    inputs = scenes()
    found = detector()(inputs["points"])
    assert found.loss is None
    assert found.predictions.boxes.shape == (2, 7, 7)


def test_queries_are_the_points_that_a_second_sampling_would_choose():
    points = scenes()["points"]
    inside = detector()(points).model
    assert torch.equal(inside.query_places, inside.token_places[:, :7])
    again = gather_points(inside.token_places, farthest_points(inside.token_places, 7))
    assert torch.equal(inside.query_places, again)


def test_the_first_token_is_where_sampling_starts():
    points = scenes()["points"]
    model = detector().eval()
    assert model(points, fps_start=5).model.token_index[:, 0].tolist() == [5, 5]
    moved = torch.cat([points[:, 5:], points[:, :5]], dim=1)
    torch.testing.assert_close(model(points, fps_start=5).model.token_places, model(moved).model.token_places)


def test_a_scene_moved_as_a_whole_moves_its_boxes():
    model, points = detector().eval(), scenes()["points"].double()
    model.double()
    shift = torch.tensor([3.0, -2, 0.5]).double()
    first, second = model(points), model(points + shift)
    torch.testing.assert_close(second.predictions.centers, first.predictions.centers + shift, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(second.predictions.sizes, first.predictions.sizes, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tokenizer", ["set_abstraction", "groups"])
def test_an_image_changes_what_is_found_and_may_be_left_out(tokenizer):
    model = detector(image=True, tokenizer=tokenizer).eval()
    inputs = scenes({"image": True})
    with_image = model(inputs["points"], pixel_values=inputs["pixel_values"])
    other = model(inputs["points"], pixel_values=1 - inputs["pixel_values"])
    without = model(inputs["points"])
    assert not torch.equal(with_image.predictions.centers, other.predictions.centers)
    assert not torch.equal(with_image.predictions.centers, without.predictions.centers)
    assert with_image.model.image_hidden_state.shape == (2, 24, 24)
    assert without.model.image_hidden_state is None


def test_images_of_any_multiple_of_the_patch_are_taken():
    model = detector(image=True).eval()
    assert model(scenes()["points"], pixel_values=torch.rand(2, 3, 16, 80)).model.image_hidden_state.shape[1] == 20


@pytest.mark.parametrize(
    ("options", "images", "message"),
    [
        ({}, torch.rand(2, 3, 32, 48), "this model takes no images"),
        ({"image": True}, torch.rand(2, 1, 32, 48), "this model takes 3 channels"),
        ({"image": True}, torch.rand(2, 3, 30, 48), "30"),
    ],
)
def test_images_that_do_not_fit_are_refused(options, images, message):
    with pytest.raises(ContractError, match=message):
        detector(**options)(scenes()["points"], pixel_values=images)


def test_a_stated_range_of_the_scene_replaces_that_of_the_points():
    model, points = detector().eval(), scenes()["points"]
    edges = torch.stack([points.amin(1), points.amax(1)], dim=1)
    assert torch.equal(model(points, scene_range=edges).predictions.sizes, model(points).predictions.sizes)
    wide = model(points, scene_range=edges * 2).predictions
    assert not torch.allclose(wide.sizes, model(points).predictions.sizes)


def test_activation_checkpointing_changes_no_gradient():
    grads = []
    for checkpointing in (False, True):
        model = detector(dropout=0.0, decoder_dropout=0.0, head_dropout=0.0).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(**scenes()).loss.backward()
        grads.append({name: each.grad for name, each in model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad)


def test_losses_are_full_precision_under_autocast():
    model = detector()
    with torch.autocast("cpu", torch.bfloat16):
        found = model(**scenes())
    assert found.loss.dtype == torch.float32
    assert torch.isfinite(found.loss)
    found.loss.backward()


def test_the_same_seed_gives_the_same_detector():
    first, second = detector().state_dict(), detector().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    torch.manual_seed(1)
    assert not torch.equal(first["detr3d.positions.waves"], Detr3dForObjectDetection(config()).detr3d.positions.waves)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_querys": 3}, "Detr3dConfig.num_querys=....: no such key. Did you mean 'num_queries'"),
        ({"num_hidden_layers": 3}, "no such key"),
        ({"num_queries": 17}, "num_queries 17: is not between 1 and 16"),
        ({"num_queries": 0}, "num_queries 0"),
        ({"scene_range": ((0, 0), (1, 1))}, "scene_range .* is not the lowest and then the highest"),
        ({"scene_range": ((0, 0, 1), (1, 1, 0))}, "scene_range .* is not the lowest and then the highest"),
        ({"scene_range": ((0, 0, 0), (1, 1, float("inf")))}, "scene_range .* is not the lowest and then the highest"),
        ({"decoder_hidden_size": 21, "decoder_num_attention_heads": 1}, "widths 24 and 21"),
        ({"hidden_size": 26, "image": True}, "widths 26 and 20"),
        ({"image": True, "joint_num_hidden_layers": 0}, "no layer sees points and image together"),
        ({"angle_bins": 0}, "angle_bins 0: is too few"),
    ],
)
def test_sizes_that_fit_nothing_are_refused(changes, message):
    with pytest.raises(ContractError, match=message):
        config(**changes)


def test_unknown_settings_are_refused():
    with pytest.raises(ContractError, match=r"preset 'scanet': no such settings\. Did you mean 'scannet'"):
        Detr3dConfig.preset("scanet")


def test_layers_add_up():
    assert config().num_hidden_layers == 3


# From a pre-trained PiMAE.


def test_sizes_for_a_pretrained_model_are_its_own():
    pimae = pretrained().config
    chosen = Detr3dConfig.for_pimae(pimae, num_labels=3)
    assert (chosen.tokenizer, chosen.num_groups, chosen.group_size) == ("groups", 16, 6)
    assert (chosen.hidden_size, chosen.decoder_hidden_size, chosen.num_queries) == (24, 24, 16)
    more = Detr3dConfig.for_pimae(pimae, num_groups=300)
    assert (more.num_groups, more.num_queries) == (300, 128)
    balls = Detr3dConfig.for_pimae(pimae, tokenizer="set_abstraction")
    assert (balls.num_groups, balls.group_size, balls.num_points) == (2048, 64, 20000)


def test_everything_that_has_a_place_is_transferred():
    pimae = pretrained()
    model = Detr3dForObjectDetection(Detr3dConfig.for_pimae(pimae.config, image=True, num_queries=7))
    outcome = model.transfer(pimae.config, pimae.state_dict())
    body = {f"pimae.{name}" for name in pimae.pimae.state_dict()}
    assert set(outcome.moved) == body
    for theirs, ours in outcome.moved.items():
        assert torch.equal(model.state_dict()[ours], pimae.state_dict()[theirs])
    stems = {name.split(".")[1] if name.startswith("detr3d") else "heads" for name in outcome.fresh}
    assert stems == {"projection", "positions", "query_projection", "decoder", "heads"}


def test_a_transferred_detector_encodes_as_the_pretrained_model_does():
    pimae = pretrained().eval()
    torch.nn.init.zeros_(pimae.pimae.points_embedding)
    model = Detr3dForObjectDetection(Detr3dConfig.for_pimae(pimae.config, image=True)).eval()
    model.transfer(pimae.config, pimae.state_dict())
    inputs = scenes({"image": True})
    for images in (inputs["pixel_values"], None):
        theirs = pimae.pimae(inputs["points"], images)
        ours = model(inputs["points"], pixel_values=images).model
        torch.testing.assert_close(ours.encoded, theirs.last_hidden_state[:, -16:])


def test_the_authors_move_the_layers_of_two_encoders_only():
    pimae = pretrained()
    model = Detr3dForObjectDetection(Detr3dConfig.for_pimae(pimae.config, image=True))
    outcome = model.transfer(pimae.config, pimae.state_dict(), official_transfer=True)
    assert len(outcome.moved) == 12 * 3
    assert {name.rsplit(".layers.")[0] for name in outcome.moved} == {"pimae.points_encoder", "pimae.joint"}


def test_the_authors_move_72_tensors_of_1_98_million_numbers():
    with torch.device("meta"):
        pimae = PimaeForPreTraining(PimaeConfig())
        model = Detr3dForObjectDetection(Detr3dConfig())
    moved = model.transfer(pimae.config, pimae.state_dict(), official_transfer=True).moved
    assert len(moved) == 72
    assert 1.97e6 < sum(pimae.state_dict()[name].numel() for name in moved) < 1.99e6


def test_layers_keep_their_order_whichever_encoder_they_are_in():
    pimae = pretrained()
    model = detector(joint_num_hidden_layers=0, points_num_hidden_layers=3, joint_intermediate_size=32)
    other = pretrained(joint_intermediate_size=32)
    moved = model.transfer(other.config, other.state_dict()).moved
    assert moved["pimae.joint.layers.0.mlp.fc1.weight"] == "detr3d.points_encoder.layers.2.mlp.fc1.weight"
    shallow = detector(joint_num_hidden_layers=0, points_num_hidden_layers=1)
    assert len(shallow.transfer(pimae.config, pimae.state_dict()).moved) == 12
    deep = detector(joint_num_hidden_layers=4)
    fresh = deep.transfer(pimae.config, pimae.state_dict()).fresh
    assert [name for name in fresh if name.startswith("detr3d.joint.layers.1")]
    assert not [name for name in fresh if name.startswith("detr3d.joint.layers.0")]


def test_weights_of_the_body_alone_are_transferred_too():
    pimae = pretrained()
    model = detector(tokenizer="groups")
    assert "point_tokens.first_conv.0.weight" in model.transfer(pimae.config, pimae.pimae.state_dict()).moved


@pytest.mark.parametrize(
    ("of_pimae", "of_detector", "message"),
    [
        ({"hidden_size": 32, "num_attention_heads": 2}, {}, "with hidden_size 32: the detector has 24"),
        ({"joint_num_attention_heads": 4}, {}, "with joint_num_attention_heads 4: the detector has 2"),
        ({"points_num_attention_heads": 4}, {}, "with points_num_attention_heads 4: the detector has 2"),
        (
            {"num_attention_heads": 4, "points_num_attention_heads": 2, "joint_num_attention_heads": 2},
            {"image": True},
            "with num_attention_heads 4: the detector has 2",
        ),
        ({"points_intermediate_size": 16}, {}, "has shape .16, 24. where the detector has .32, 24."),
        ({"points_num_hidden_layers": 1}, {"image": True}, "encoders of 1 and 1 layers: the detector has 2 and 1"),
    ],
)
def test_a_pretrained_model_of_other_sizes_is_refused(of_pimae, of_detector, message):
    pimae = pretrained(**of_pimae)
    with pytest.raises(ContractError, match=message):
        detector(**of_detector).transfer(pimae.config, pimae.state_dict())


def test_weights_that_are_no_pretrained_model_are_refused():
    with pytest.raises(ContractError, match="holds nothing that a detector could begin with"):
        detector().transfer(pretrained().config, {"something": torch.zeros(3)})


def test_queries_may_begin_with_what_the_encoders_say_of_their_tokens():
    plain, informed = (detector(query_features=features).eval() for features in ("none", "tokens"))
    informed.load_state_dict(plain.state_dict())
    points = scenes()["points"]
    with torch.no_grad():
        first, second = (model.detr3d(points) for model in (plain, informed))
        codes = informed.detr3d.positions(second.extent.shares(second.token_places))
        queries = second.memory[:, : SIZES["num_queries"]]
        expected = informed.detr3d.decoder(second.memory, second.query_positions, codes, queries)
    torch.testing.assert_close(first.memory, second.memory)
    torch.testing.assert_close(second.hidden_states, expected)
    assert not torch.allclose(first.hidden_states, second.hidden_states)


def test_a_range_of_the_config_is_what_sizes_are_shares_of_unless_a_call_states_another():
    model, points = detector(scene_range=((-1.0, -1.0, 0.0), (3.0, 1.0, 2.0))).eval(), scenes()["points"]
    other = torch.tensor([[[0.0, 0, 0], [1.0, 1, 1]]]).expand(len(points), -1, -1)
    with torch.no_grad():
        own, stated = model(points), model(points, scene_range=other)
    shares = own.predictions.sizes_normalized
    torch.testing.assert_close(own.predictions.sizes, shares * torch.tensor([4.0, 2.0, 2.0]))
    torch.testing.assert_close(stated.predictions.sizes, stated.predictions.sizes_normalized)
