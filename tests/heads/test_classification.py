"""Losses and probabilities of the three kinds of problem."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdim.heads.classification import ClassificationHead, classification_loss, probabilities


@settings(max_examples=30, deadline=None)
@given(classes=st.integers(2, 6), seed=st.integers(0, 99))
def test_ordinal_probabilities_are_a_distribution_for_any_logits(classes, seed):
    logits = torch.randn(4, classes - 1, generator=torch.Generator().manual_seed(seed)) * 5
    chances = probabilities(logits, "ordinal")
    assert chances.shape == (4, classes)
    assert (chances >= 0).all()
    torch.testing.assert_close(chances.sum(1), torch.ones(4))


def test_an_ordinal_logit_is_the_log_odds_of_a_label_above_it():
    above = torch.tensor([[3.0, 0.0, -3.0]])
    chances = probabilities(above, "ordinal")
    torch.testing.assert_close(chances[:, 2:].sum(1), above[:, 1].sigmoid())


@pytest.mark.parametrize("problem", ["multiclass", "multilabel", "ordinal"])
def test_gradient_descent_on_each_loss_learns_the_labels(problem):
    torch.manual_seed(0)
    labels = torch.arange(12) % 3
    features = torch.nn.functional.one_hot(labels, 3).float() + 0.01 * torch.randn(12, 3)
    if problem == "ordinal":
        features = features @ torch.tensor([[0.0], [1.0], [2.0]])
    head = ClassificationHead(features.shape[1], 3, problem, norm_eps=None)
    target = torch.nn.functional.one_hot(labels, 3).float() if problem == "multilabel" else labels
    optimiser = torch.optim.Adam(head.parameters(), lr=0.1)
    for _ in range(150):
        optimiser.zero_grad()
        classification_loss(head(features), target, problem).backward()
        optimiser.step()
    assert torch.equal(probabilities(head(features), problem).argmax(1), labels)


def test_class_weights_move_every_loss_towards_the_heavier_class():
    labels = torch.tensor([0, 1])
    for problem, logits in (("multiclass", torch.tensor([[0.0, 2.0]] * 2)), ("ordinal", torch.tensor([[2.0]] * 2))):
        plain = classification_loss(logits, labels, problem)
        weighted = classification_loss(logits, labels, problem, class_weights=torch.tensor([9.0, 1.0]))
        assert weighted > plain
    both = torch.eye(2)
    logits = torch.full((2, 2), -2.0)
    weighted = classification_loss(logits, both, "multilabel", class_weights=torch.tensor([9.0, 1.0]))
    assert weighted > classification_loss(logits, both, "multilabel")


def test_label_smoothing_punishes_certainty():
    certain = {"multiclass": torch.tensor([[9.0, -9.0]]), "ordinal": torch.tensor([[-9.0]])}
    for problem, logits in certain.items():
        plain = classification_loss(logits, torch.tensor([0]), problem)
        assert classification_loss(logits, torch.tensor([0]), problem, label_smoothing=0.2) > plain + 0.5
    smooth = classification_loss(torch.tensor([[9.0]]), torch.ones(1, 1), "multilabel", label_smoothing=0.2)
    assert smooth > 0.5
