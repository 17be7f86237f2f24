"""Is pre-training learning anything? Error of the hidden patches, and the rank and usefulness of features (numpy).

Features are always centred first: transformer features share a large common offset, which would make every cosine
almost one and would count as a dimension of its own.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Num, Shaped

from crossdim.errors import ContractError

TEMPERATURE = 0.07
"""Of the neighbours' votes; the value of Wu et al. 2018."""

QUERIES_AT_A_TIME = 1024


@dataclass(frozen=True)
class ReconstructionScore:
    """How well the hidden patches of one modality were reconstructed.

    Attributes:
        mse: Mean squared error over the values of hidden patches.
        psnr_db: Peak signal-to-noise ratio in decibels; infinite for a perfect reconstruction.
        patches: How many patches were hidden.
    """

    mse: float
    psnr_db: float
    patches: int


def masked_reconstruction(
    prediction: Float[np.ndarray, "batch tokens values"],
    target: Float[np.ndarray, "batch tokens values"],
    mask: Num[np.ndarray, "batch tokens"],
    data_range: float,
) -> ReconstructionScore:
    """Measure a reconstruction where it was hidden; call it once per modality, whose patches differ in size.

    Args:
        prediction: Patches that the decoder gave.
        target: Patches as they are, on the same scale.
        mask: 1 where a patch was hidden, 0 where it was seen (or is padding).
        data_range: Largest minus smallest value that a target can take (1 for intensities in [0, 1]).

    Raises:
        ContractError: If nothing was hidden.
    """
    hidden = mask > 0
    patches = int(hidden.sum())
    if patches == 0:
        raise ContractError("mask", "hides no patch, so there is nothing to measure", "Raise the mask ratio")
    error = prediction[hidden].astype(np.float64) - target[hidden].astype(np.float64)
    mse = float(np.mean(error**2))
    psnr = float("inf") if mse == 0 else 20 * np.log10(data_range) - 10 * np.log10(mse)
    return ReconstructionScore(mse, float(psnr), patches)


def effective_rank(features: Float[np.ndarray, "samples dim"]) -> float:
    """Return over how many dimensions features spread: 1 for a line, at most ``min(samples - 1, dim)``.

    0 if all features are equal up to the rounding of float32 (their spread is below a millionth of their size).

    The exponential of the entropy of the normalised singular values (Roy and Vetterli, "The effective rank", EUSIPCO
    2007, definition 1); as a measure of pre-trained features it is RankMe (Garrido et al., ICML 2023, equation 1).
    Differs from RankMe in that features are centred; no column is rescaled.

    Args:
        features: One row per sample.

    Raises:
        ContractError: If a feature is not finite.
    """
    _refuse_infinite(features)
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    singular = np.linalg.svd(centred, compute_uv=False)
    if singular[0] <= 1e-6 * np.linalg.norm(features):
        return 0.0
    shares = singular[singular > 1e-12 * singular[0]] / singular.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def knn_accuracy(
    train_features: Float[np.ndarray, "train dim"],
    train_labels: Int[np.ndarray, " train"],
    test_features: Float[np.ndarray, "test dim"],
    test_labels: Int[np.ndarray, " test"],
    k: int = 20,
) -> float:
    """Return the accuracy of a nearest-neighbour classifier on features, in [0, 1].

    Features are centred by the training mean and scaled to length one; the ``k`` most similar training samples vote
    with weight ``exp(cosine / 0.07)`` (Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance
    Discrimination", CVPR 2018, section 3.4).

    Args:
        train_features: Those that vote.
        train_labels: Class indices from 0.
        test_features: Those that are classified.
        test_labels: Class indices from 0.
        k: Number of neighbours; all training samples if there are fewer.

    Raises:
        ContractError: If there is nothing to vote or to classify, or a feature is not finite.
    """
    return _knn(train_features, train_labels, test_features, test_labels, k, leave_one_out=False)


def leave_one_out_knn_accuracy(
    features: Float[np.ndarray, "samples dim"], labels: Int[np.ndarray, " samples"], k: int = 20
) -> float:
    """Return the accuracy of :func:`knn_accuracy` where every sample is classified by all others.

    Args:
        features: One row per sample, at least two.
        labels: Class indices from 0.
        k: Number of neighbours.

    Raises:
        ContractError: If there are fewer than two samples, or a feature is not finite.
    """
    return _knn(features, labels, features, labels, k, leave_one_out=True)


def _knn(
    train_features: Float[np.ndarray, "train dim"],
    train_labels: Int[np.ndarray, " train"],
    test_features: Float[np.ndarray, "test dim"],
    test_labels: Int[np.ndarray, " test"],
    k: int,
    leave_one_out: bool,
) -> float:
    voters = len(train_features) - leave_one_out
    if voters < 1 or len(test_features) == 0:
        raise ContractError(
            "features",
            f"{len(train_features)} to vote and {len(test_features)} to classify are too few for neighbours",
            "Give labelled samples to both sides",
        )
    _refuse_infinite(train_features)
    _refuse_infinite(test_features)
    mean = train_features.mean(axis=0)
    train, test = _unit(train_features - mean), _unit(test_features - mean)
    ballots = train_labels[:, None] == np.arange(max(int(train_labels.max()), int(test_labels.max())) + 1)
    right = 0
    for start in range(0, len(test), QUERIES_AT_A_TIME):
        similarity = test[start : start + QUERIES_AT_A_TIME] @ train.T
        rows = np.arange(len(similarity))
        if leave_one_out:
            similarity[rows, rows + start] = -np.inf
        nearest = np.argpartition(-similarity, min(k, voters) - 1, axis=1)[:, : min(k, voters)]
        votes = np.exp(np.take_along_axis(similarity, nearest, axis=1) / TEMPERATURE)
        polls = np.einsum("qn,qnc->qc", votes, ballots[nearest])
        right += int((polls.argmax(axis=1) == test_labels[start : start + QUERIES_AT_A_TIME]).sum())
    return right / len(test)


def _unit(features: Float[np.ndarray, "samples dim"]) -> Float[np.ndarray, "samples dim"]:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _refuse_infinite(features: Shaped[np.ndarray, "samples dim"]) -> None:
    broken = int((~np.isfinite(features)).any(axis=1).sum())
    if broken:
        raise ContractError(
            "features",
            f"{broken} of {len(features)} hold NaN or infinity",
            "Look for a diverged run: load an earlier checkpoint",
        )
