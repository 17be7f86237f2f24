"""Predictions of a made-up classifier that is right more often than not."""

import numpy as np


def exclusive(cases: int, classes: int, seed: int, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities that sum to one, and labels; with ties, few distinct values."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, cases)
    labels[:classes] = np.arange(classes)
    scores = generator.gamma(1.0, size=(cases, classes)) + 1.5 * (labels[:, None] == np.arange(classes))
    if ties:
        scores = np.round(scores) + 1
    return scores / scores.sum(axis=1, keepdims=True), labels


def several(cases: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return multi-label probabilities and 0/1 labels; every class holds and does not hold somewhere."""
    generator = np.random.default_rng(seed)
    labels = (generator.random((cases, classes)) < 0.4).astype(int)
    labels[0], labels[1] = 0, 1
    return (generator.random((cases, classes)) + 0.5 * labels) / 1.5, labels
