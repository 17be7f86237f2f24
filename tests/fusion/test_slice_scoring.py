"""TG-IS against its definition, written out."""

from dataclasses import replace

import pytest
import torch

from crossdim.errors import ContractError
from crossdim.fusion.connectors import Connector
from crossdim.fusion.features import TowerFeatures, VisualFeatures, check_index
from crossdim.fusion.slice_scoring import SliceScorer, slice_loss, slice_rows, strongest_slices, weighted_slices

DIM, SLICES, ROWS = 6, 8, 4


def scene(volumes=2, slices=SLICES, rows=ROWS):
    torch.manual_seed(0)
    connector = Connector(5, DIM)
    visual = VisualFeatures(torch.randn(volumes, rows * 3, DIM), torch.randn(volumes, slices, 7, DIM), rows)
    return visual, connector, torch.randn(volumes, DIM)


def by_definition(visual, connector, question, volume_index, key="both", temperature=5.0):
    """Concatenate, average, multiply, soften and sum, as the paper writes it."""
    z_2d = connector.fc2(visual.hidden_2d)
    slices = z_2d.shape[1]
    of_rows = visual.z_3d.unflatten(1, (visual.rows, -1))
    logits = torch.empty(len(volume_index), slices)
    for place, volume in enumerate(volume_index.tolist()):
        for j in range(slices):
            row = int((j + 0.5) / slices * visual.rows)
            three = visual.z_3d[volume] if key == "global_3d" else of_rows[volume, row]
            parts = {"3d": [three], "2d": [z_2d[volume, j]]}.get(key, [three, z_2d[volume, j]])
            logits[place, j] = torch.cat(parts).mean(dim=0) @ question[place] / temperature
    scores = logits.softmax(dim=1)
    summed = torch.einsum("pn,pnld->pld", scores, z_2d[volume_index])
    return summed, scores, logits


@pytest.mark.parametrize(
    ("weights", "score_key", "key"),
    [
        ("tgis", "both", "both"),
        ("tgis", "global_3d", "global_3d"),
        ("tgis_2d_only", "2d", "2d"),
        ("tgis_3d_only", "3d", "3d"),
    ],
)
def test_scores_and_the_weighted_sum_are_the_papers(weights, score_key, key):
    visual, connector, question = scene()
    scorer = SliceScorer(weights, score_key, DIM).eval()
    for ours, theirs in zip(
        scorer(visual, connector.fc2, question, torch.arange(2)),
        by_definition(visual, connector, question, torch.arange(2), key),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("slices", "rows"), [(32, 4), (1, 1), (5, 3), (3, 4), (7, 1)])
def test_the_row_of_a_slice_is_found_by_position_for_any_number(slices, rows):
    expected = [int((j + 0.5) / slices * rows) for j in range(slices)]
    assert slice_rows(slices, rows).tolist() == expected
    if (slices, rows) == (32, 4):
        assert expected == [j // 8 for j in range(32)]
    visual, connector, question = scene(2, slices, rows)
    ours = SliceScorer().eval()(visual, connector.fc2, question, torch.arange(2))
    theirs = by_definition(visual, connector, question, torch.arange(2))
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-5, atol=1e-6)


def test_questions_may_share_volumes_in_any_order():
    visual, connector, _ = scene(3)
    index, question = torch.tensor([2, 0, 2, 2]), torch.randn(4, DIM)
    ours = SliceScorer().eval()(visual, connector.fc2, question, index)
    theirs = by_definition(visual, connector, question, index)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-5, atol=1e-6)


def test_no_placeholder_gives_nothing_and_no_error():
    visual, connector, _ = scene()
    z_2d, scores, _ = SliceScorer()(visual, connector.fc2, torch.empty(0, DIM), torch.empty(0, dtype=torch.long))
    assert z_2d.shape == (0, 7, DIM)
    assert scores.shape == (0, SLICES)


def test_dropout_hits_the_weights_only_and_the_bias_counts_what_is_left():
    visual, connector, question = scene()
    scorer = SliceScorer(dropout=0.5).train()
    torch.manual_seed(1)
    z_2d, scores, _ = scorer(visual, connector.fc2, question, torch.arange(2))
    torch.manual_seed(1)
    dropped = torch.nn.functional.dropout(scores, 0.5)
    expected = torch.einsum("pn,pnld->pld", dropped, connector.fc2(visual.hidden_2d))
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(2))
    assert not torch.allclose(dropped.sum(dim=1), torch.ones(2))
    torch.testing.assert_close(z_2d, expected, rtol=1e-5, atol=1e-5)


def test_uniform_weights_give_the_mean():
    visual, connector, _ = scene()
    z_2d, scores, logits = SliceScorer("uniform")(visual, connector.fc2, None, torch.tensor([1, 0]))
    torch.testing.assert_close(z_2d, connector.fc2(visual.hidden_2d).mean(dim=1)[[1, 0]], rtol=1e-5, atol=1e-6)
    assert torch.equal(scores, torch.full((2, SLICES), 1 / SLICES))
    assert logits is None


def test_max_takes_each_features_largest_value_and_scores_are_the_shares_supplied():
    visual, connector, _ = scene()
    z_2d, scores, logits = SliceScorer("max")(visual, connector.fc2, None, torch.tensor([1, 0]))
    z = connector.fc2(visual.hidden_2d)
    assert torch.equal(z_2d, z.max(dim=1).values[[1, 0]])
    expected = torch.stack([(z.argmax(dim=1) == j).float().mean(dim=(1, 2)) for j in range(SLICES)], dim=1)
    torch.testing.assert_close(scores, expected[[1, 0]])
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(2))
    assert logits is None
    torch.testing.assert_close(strongest_slices(z)[1], expected)


@pytest.mark.parametrize("kept", [1, 3, 20])
def test_top_k_renormalises_the_scores_of_the_best(kept):
    visual, connector, question = scene()
    _, scores, logits = SliceScorer("top_k", top_k=kept).eval()(visual, connector.fc2, question, torch.arange(2))
    full = by_definition(visual, connector, question, torch.arange(2))[1]
    best = full.topk(min(kept, SLICES), dim=1)
    expected = torch.zeros_like(full).scatter(1, best.indices, best.values / best.values.sum(dim=1, keepdim=True))
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits.softmax(dim=1), full, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("key", ["both", "3d", "2d", "global_3d"])
def test_learned_scores_come_from_the_slice_whatever_the_question(key):
    visual, connector, _ = scene()
    scorer = SliceScorer("learned", key, DIM, temperature=1.0).eval()
    scores = scorer(visual, connector.fc2, None, torch.tensor([0, 1, 0]))[1]
    weight = scorer.linear.weight[0].expand(3, -1)
    theirs = by_definition(visual, connector, weight, torch.tensor([0, 1, 0]), key, 1.0)[1]
    torch.testing.assert_close(scores, theirs, rtol=1e-5, atol=1e-6)


def test_scores_are_taken_in_float32_whatever_the_features_are():
    visual, connector, question = scene()
    half = VisualFeatures(visual.z_3d.bfloat16(), visual.hidden_2d.bfloat16(), ROWS)
    z_2d, scores, logits = SliceScorer()(half, connector.bfloat16().fc2, question.bfloat16(), torch.arange(2))
    assert (z_2d.dtype, scores.dtype, logits.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    double = VisualFeatures(visual.z_3d.double(), visual.hidden_2d.double(), ROWS)
    scores = SliceScorer()(double, connector.double().fc2, question.double(), torch.arange(2))[1]
    assert scores.dtype == torch.float64


def test_shared_volumes_add_up_their_gradients():
    slices = torch.randn(2, 3, 4, 5, requires_grad=True)
    scores = torch.rand(3, 3)
    weighted_slices(scores, slices, torch.tensor([1, 0, 1])).sum().backward()
    expected = torch.stack([scores[1], scores[0] + scores[2]])[..., None, None].expand(2, 3, 4, 5)
    torch.testing.assert_close(slices.grad, expected)


def test_the_slice_loss_is_the_divergence_from_equal_weight_on_the_true_slices():
    logits = torch.randn(4, 5, requires_grad=True)
    targets = torch.tensor([[0, 1, 1, 0, 0], [-1, -1, -1, -1, -1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]).float()
    targets[1, 0] = float("nan")
    loss = slice_loss(logits, targets)
    found, equal = logits.softmax(1), torch.tensor([[0, 0.5, 0.5, 0, 0], [0.2] * 5])
    divergence = torch.nn.functional.kl_div(found[[0, 3]].log(), equal, reduction="batchmean")
    torch.testing.assert_close(loss, divergence)
    loss.backward()
    assert logits.grad.isfinite().all()
    torch.testing.assert_close(slice_loss(logits, targets.nan_to_num(-1).long()), loss)


def test_the_slice_loss_vanishes_where_the_true_slices_share_the_weight():
    logits = torch.tensor([[-99.0, 3.0, 3.0, -99.0]])
    assert slice_loss(logits, torch.tensor([[0, 1, 1, 0]])) < 1e-6
    assert slice_loss(torch.tensor([[-99.0, 9.0, 0.0, -99.0]]), torch.tensor([[0, 1, 1, 0]])) > 1


def test_without_true_slices_the_slice_loss_is_zero_and_still_has_a_graph():
    logits = torch.randn(2, 3, requires_grad=True)
    loss = slice_loss(logits, -torch.ones(2, 3))
    assert loss == 0
    loss.backward()
    assert torch.equal(logits.grad, torch.zeros(2, 3))


def test_features_of_several_volumes_become_one_batch_and_move_together():
    one = TowerFeatures(torch.rand(1, 4, 3), torch.rand(1, 8, 2, 3), 2)
    two = TowerFeatures(torch.rand(2, 4, 3), torch.rand(2, 8, 2, 3), 2, torch.rand(1, 2, 3))
    both = TowerFeatures.cat([one, two])
    assert both.tokens_3d.shape == (3, 4, 3)
    assert both.tokens_2d.shape == (3, 8, 2, 3)
    assert (both.rows, both.images.shape) == (2, (1, 2, 3))
    moved = both.to(torch.float64)
    assert moved.tokens_3d.dtype == moved.images.dtype == torch.float64
    assert moved.rows == 2


def test_an_index_or_a_question_that_does_not_fit_is_refused():
    index, question = torch.tensor([0, 2]), torch.rand(2, DIM)
    with pytest.raises(ContractError, match=r"volume_index \[0, 2\]: names more than the 2 volumes"):
        check_index(index, 2, question, asks=True)
    with pytest.raises(ContractError, match="scores slices by the question, and there is none"):
        check_index(index, 3, None, asks=True)
    with pytest.raises(ContractError, match="2 questions: guide 1 volume placeholders"):
        check_index(index[:1], 3, question, asks=True)
    check_index(index, 3, None, asks=False)


@pytest.mark.parametrize("weights", ["tgis", "tgis_2d_only", "tgis_3d_only", "learned", "uniform", "max", "top_k"])
def test_padding_has_no_weight_and_changes_nothing_behind_the_scores(weights):
    visual, connector, question = scene()
    padded = torch.zeros(2, SLICES, dtype=torch.bool)
    padded[0, :2] = padded[1, 5:] = True
    scorer = SliceScorer(weights, "2d" if weights == "tgis_2d_only" else "both", DIM, top_k=SLICES).eval()
    z_2d, scores, _ = scorer(replace(visual, padded=padded), connector.fc2, question, torch.arange(2))
    assert not scores[padded].any()
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(2))
    other = visual.hidden_2d.masked_fill(padded[..., None, None], 7.0)
    again = scorer(replace(visual, hidden_2d=other, padded=padded), connector.fc2, question, torch.arange(2))
    torch.testing.assert_close(again[0], z_2d)
    torch.testing.assert_close(again[1], scores)


def test_without_padding_the_mask_changes_nothing():
    visual, connector, question = scene()
    scorer = SliceScorer("tgis", "both", DIM).eval()
    plain = scorer(visual, connector.fc2, question, torch.arange(2))
    nothing = torch.zeros(2, SLICES, dtype=torch.bool)
    masked = scorer(replace(visual, padded=nothing), connector.fc2, question, torch.arange(2))
    assert all(torch.equal(one, other) for one, other in zip(plain, masked, strict=True))


def test_the_slice_loss_is_finite_where_slices_are_padding():
    visual, connector, question = scene()
    padded = torch.arange(SLICES).expand(2, -1) >= 6
    logits = SliceScorer("tgis", "both", DIM)(replace(visual, padded=padded), connector.fc2, question, torch.arange(2))[
        2
    ]
    targets = torch.zeros(2, SLICES)
    targets[:, 3] = 1
    assert torch.isfinite(slice_loss(logits, targets))
