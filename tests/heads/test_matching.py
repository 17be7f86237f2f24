"""Which query answers for which box, and what it costs."""

from dataclasses import replace
from itertools import permutations
from math import pi

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crossdim.errors import ContractError, GeometryError
from crossdim.geometry.boxes import giou_3d
from crossdim.heads.detection3d import BoxPredictions, SceneExtent
from crossdim.heads.matching import (
    DetectionWeights,
    box_targets,
    detection_losses,
    generalised_iou,
    match,
    matching_cost,
    mean_over_processes,
    weighted_sum,
)

SUN = DetectionWeights(1.0, 5.0, 5.0, 3.0, 0.1, 1.0, 0.1, 0.5, 5.0, 1.0, 0.0)
EVERYTHING = replace(SUN, giou_weight=1.0)
EXTENT = SceneExtent(torch.tensor([[0.0, 0, 0], [-2, 0, 0]]), torch.tensor([[4.0, 4, 2], [4, 8, 2]]))
CLASSES, BINS = 3, 12


def some_boxes(count, generator):
    boxes = torch.rand(count, 7, generator=generator) * torch.tensor([4, 4, 2, 1, 1, 1, 2 * pi])
    boxes[:, 3:6] += 0.2
    return boxes


def labels(counts=(3, 2), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        {"boxes": some_boxes(count, generator), "classes": torch.randint(CLASSES, (count,), generator=generator)}
        for count in counts
    ]


def random_predictions(layers=2, queries=5, seed=1):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(layers, 2, queries, *shape, generator=generator)

    centers, sizes = draw(3) + 1.5, draw(3).sigmoid()
    return BoxPredictions(
        draw(CLASSES + 1),
        centers,
        EXTENT.shares(centers),
        sizes * EXTENT.size[:, None],
        sizes,
        draw(BINS),
        draw(BINS),
    )


def predictions_of(targets, none=2):
    """Return predictions that say the targets, and ``none`` queries that say nothing."""
    batch = len(targets.classes)
    certain = torch.nn.functional.one_hot(torch.where(targets.present, targets.classes, CLASSES), CLASSES + 1) * 50.0
    bins = torch.nn.functional.one_hot(targets.angle_classes, BINS) * 50.0
    values = (
        certain,
        targets.boxes[..., :3],
        targets.centers_normalized,
        targets.boxes[..., 3:6],
        targets.sizes_normalized,
        bins,
        targets.angle_residuals_normalized[..., None].expand(-1, -1, BINS),
    )
    silent = [torch.zeros(batch, none, *each.shape[2:]) for each in values]
    silent[0][..., CLASSES], silent[3] = 50, silent[3] + 1
    return BoxPredictions(*(torch.cat(pair, dim=1)[None] for pair in zip(values, silent, strict=True)))


def targets(*args, **options):
    return box_targets(labels(*args, **options), EXTENT, CLASSES, BINS)


def test_the_least_costs_in_all_are_found():
    predictions, wanted = random_predictions(), targets()
    assignment, cost = match(predictions, wanted, SUN), matching_cost(predictions, wanted, SUN)
    for layer in range(2):
        for scene, count in enumerate((3, 2)):
            of = cost[layer, scene, :, :count]
            best = min(permutations(range(5), count), key=lambda rows: sum(of[r, c] for c, r in enumerate(rows)))
            matched = assignment.matched[layer, scene]
            assert sorted(best) == matched.nonzero()[:, 0].tolist()
            assert [assignment.box[layer, scene, query].item() for query in best] == list(range(count))
            assert (assignment.box[layer, scene][~matched] == 0).all()


def test_every_part_of_the_cost_counts():
    predictions, wanted = random_predictions(layers=1), targets()
    whole = matching_cost(predictions, wanted, SUN)
    parts = {
        "class_cost": -predictions.class_probabilities.gather(-1, wanted.classes[None, :, None].expand(1, 2, 5, 3)),
        "objectness_cost": -predictions.objectness[..., None].expand(1, 2, 5, 3),
        "center_cost": torch.cdist(predictions.centers_normalized, wanted.centers_normalized[None], p=1),
        "giou_cost": -giou_3d(predictions.boxes, wanted.boxes),
    }
    torch.testing.assert_close(whole, sum(getattr(SUN, name) * part for name, part in parts.items()))
    for name, part in parts.items():
        torch.testing.assert_close(
            matching_cost(predictions, wanted, replace(SUN, **{name: 0.0})), whole - getattr(SUN, name) * part
        )


def test_right_answers_cost_nothing():
    of = labels()
    for each in of:
        each["boxes"][:, 6] = (
            0  # The box around two turned boxes is larger than they are, even where they are the same.
        )
    wanted = box_targets(of, EXTENT, CLASSES, BINS)
    predictions = predictions_of(wanted)
    losses = detection_losses(predictions, wanted, match(predictions, wanted, EVERYTHING), EVERYTHING)
    assert set(losses) == {"classes", "angle_class", "angle_residual", "center", "size", "giou", "cardinality"}
    for name, part in losses.items():
        assert part.item() == pytest.approx(0, abs=1e-5), name
    assert weighted_sum(losses, EVERYTHING).item() == pytest.approx(0, abs=1e-4)


@given(st.floats(-10, 10), st.integers(2, 24))
def test_targets_and_predictions_mean_the_same_angle(yaw, bins):
    box = torch.tensor([[1.0, 1, 1, 1, 1, 1, yaw]])
    of = [{"boxes": box, "classes": torch.tensor([0])}]
    extent = SceneExtent(EXTENT.low[:1], EXTENT.size[:1])
    wanted = box_targets(of, extent, CLASSES, bins)
    assert wanted.angle_residuals_normalized.abs().item() <= 1 + 1e-5
    logits = torch.nn.functional.one_hot(wanted.angle_classes, bins).float()
    parts = predictions_of(targets((1, 1)))
    found = parts._replace(
        angle_logits=logits, angle_residuals_normalized=wanted.angle_residuals_normalized[..., None].expand(1, 1, bins)
    ).yaws
    assert torch.cos(found - yaw).item() == pytest.approx(1, abs=1e-5)


def test_with_a_single_bin_yaws_are_not_asked_for():
    wanted = box_targets(labels(), EXTENT, CLASSES, 1)
    assert (wanted.boxes[..., 6] == 0).all()
    assert (wanted.angle_classes == 0).all()
    assert (wanted.angle_residuals_normalized == 0).all()


@pytest.mark.parametrize("counts", [(0, 0), (0, 2), (9, 1)])
def test_scenes_may_hold_no_boxes_or_more_than_there_are_queries(counts):
    predictions, wanted = random_predictions(), targets(counts)
    assignment = match(predictions, wanted, SUN)
    assert assignment.matched.sum(-1).tolist() == [[min(5, count) for count in counts]] * 2
    losses = detection_losses(predictions, wanted, assignment, EVERYTHING)
    assert all(torch.isfinite(part).all() for part in losses.values())
    if not any(counts):
        assert losses["center"].tolist() == [0, 0]
        assert losses["classes"].min() > 0


def test_the_parts_are_sums_over_matched_queries_as_shares_of_the_boxes():
    predictions, wanted = random_predictions(), targets()
    assignment = match(predictions, wanted, EVERYTHING)
    losses = detection_losses(predictions, wanted, assignment, EVERYTHING)
    for layer in range(2):
        expected = dict.fromkeys(("angle_class", "angle_residual", "center", "size", "giou"), 0.0)
        entropies, weights = 0.0, 0.0
        of = predictions.layer(layer)
        for scene in range(2):
            for query in range(5):
                box = assignment.box[layer, scene, query]
                there = bool(assignment.matched[layer, scene, query])
                number = wanted.classes[scene, box] if there else CLASSES
                weight = 1 if there else 0.1
                entropies -= weight * of.class_logits[scene, query].log_softmax(0)[number].item()
                weights += weight
                if not there:
                    continue
                bin_ = wanted.angle_classes[scene, box]
                expected["angle_class"] -= of.angle_logits[scene, query].log_softmax(0)[bin_].item()
                rest = of.angle_residuals_normalized[scene, query, bin_] - wanted.angle_residuals_normalized[scene, box]
                expected["angle_residual"] += (0.5 * rest**2 if rest.abs() < 1 else rest.abs() - 0.5).item()
                apart = of.centers_normalized[scene, query] - wanted.centers_normalized[scene, box]
                expected["center"] += apart.abs().sum().item()
                expected["size"] += (
                    (of.sizes_normalized[scene, query] - wanted.sizes_normalized[scene, box]).abs().sum().item()
                )
                pair = of.boxes[scene, query], wanted.boxes[scene, box]
                expected["giou"] += 1 - giou_3d(*pair, pairwise=False).item()
        assert losses["classes"][layer].item() == pytest.approx(entropies / weights, rel=1e-5)
        for name, value in expected.items():
            assert losses[name][layer].item() == pytest.approx(value / 5, rel=1e-4), name


def test_the_loss_is_the_weighted_sum_over_parts_and_layers():
    predictions, wanted = random_predictions(), targets()
    losses = detection_losses(predictions, wanted, match(predictions, wanted, SUN), EVERYTHING)
    expected = sum(
        weight * losses[name].sum()
        for name, weight in {
            "classes": 1,
            "angle_class": 0.1,
            "angle_residual": 0.5,
            "center": 5,
            "size": 1,
            "giou": 1,
        }.items()
    )
    torch.testing.assert_close(weighted_sum(losses, EVERYTHING), expected)
    assert "giou" not in detection_losses(predictions, wanted, match(predictions, wanted, SUN), SUN)


def test_cardinality_is_how_many_objects_are_seen_too_much_or_too_few():
    wanted = targets((3, 0))
    predictions = predictions_of(wanted)
    logits = predictions.class_logits.clone()
    logits[0, 0, 0], logits[0, 1, 1] = torch.tensor([0.0, 0, 0, 9]), torch.tensor([9.0, 0, 0, 0])
    changed = predictions._replace(class_logits=logits)
    assert detection_losses(changed, wanted, match(changed, wanted, SUN), SUN)["cardinality"].tolist() == [1]


def test_every_part_has_a_gradient_where_boxes_are_matched_only():
    predictions, wanted = random_predictions(), targets()
    leaves = [each.clone().requires_grad_() for each in predictions]
    of = BoxPredictions(*leaves)
    assignment = match(of, wanted, EVERYTHING)
    weighted_sum(detection_losses(of, wanted, assignment, EVERYTHING), EVERYTHING).backward()
    for name, leaf in zip(of._fields, leaves, strict=True):
        moved = leaf.grad.abs().sum(-1) > 0
        assert moved.any(), name
        assert name == "class_logits" or not (moved & ~assignment.matched).any(), name


def test_the_released_overlap_is_exact_for_upright_boxes_and_forgets_some_turned_ones():
    generator = torch.Generator().manual_seed(0)
    one, other = some_boxes(40, generator), some_boxes(30, generator)
    exact, released = (generalised_iou(one, other, rule) for rule in ("exact", "released"))
    assert (released <= exact + 1e-6).all()
    assert 0 < (released < exact - 1e-3).sum() < exact.numel()
    one[:, 6], other[:, 6] = 0, 0
    exact, released = (generalised_iou(one, other, rule) for rule in ("exact", "released"))
    torch.testing.assert_close(released, exact)


def test_overlaps_one_by_one_are_those_of_all_pairs():
    generator = torch.Generator().manual_seed(0)
    one, other = some_boxes(20, generator), some_boxes(20, generator)
    for rule in ("exact", "released"):
        pairs = generalised_iou(one, other, rule).diagonal()
        torch.testing.assert_close(generalised_iou(one, other, rule, pairwise=False), pairs)


def test_predictions_that_are_no_numbers_are_an_error_with_a_remedy():
    predictions = random_predictions()
    predictions.class_logits[1, 0, 2] = float("nan")
    with pytest.raises(ContractError, match=r"predicted boxes: are NaN or infinite\. Train with a lower learning rate"):
        match(predictions, targets(), SUN)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"classes": torch.tensor([0, 1, 3])}, ContractError, "labels of scene 0: have class 3, and there are 3"),
        ({"classes": torch.tensor([0, -1, 1])}, ContractError, "have class -1"),
        ({"classes": torch.tensor([0, 1])}, ContractError, "have boxes of shape .3, 7. and classes of shape .2,"),
        ({"boxes": torch.ones(3, 6)}, ContractError, "boxes of shape .3, 6."),
        ({"boxes": torch.tensor([[1.0, 1, 1, 1, -1, 1, 0]] * 3)}, GeometryError, "a size that is not positive"),
        ({"boxes": torch.tensor([[1.0, 1, 1, 1, 0, 1, 0]] * 3)}, GeometryError, "a size that is not positive"),
        ({"boxes": torch.full((3, 7), float("nan"))}, GeometryError, "is not finite"),
    ],
)
def test_labels_that_are_wrong_are_named(changes, error, message):
    wrong = labels()
    wrong[0] |= changes
    with pytest.raises(error, match=message):
        box_targets(wrong, EXTENT, CLASSES, BINS)


def test_labels_are_needed_for_every_scene():
    with pytest.raises(ContractError, match="labels of 1 scenes: for 2 scenes"):
        box_targets(labels((1,)), EXTENT, CLASSES, BINS)


def test_boxes_outside_of_the_scene_are_labels_like_others():
    of = labels()
    of[0]["boxes"][0, :3] = 50
    wanted = box_targets(of, EXTENT, CLASSES, BINS)
    assert wanted.centers_normalized[0, 0].min() > 10
    assert torch.isfinite(matching_cost(random_predictions(), wanted, SUN)).all()


def test_the_number_of_boxes_is_a_mean_over_processes(tmp_path):
    assert mean_over_processes(torch.tensor(3)).item() == 3
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        assert mean_over_processes(torch.tensor(3)).item() == 3
    finally:
        torch.distributed.destroy_process_group()
