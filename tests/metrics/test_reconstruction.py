import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio
from sklearn.neighbors import KNeighborsClassifier

from crossdim.errors import ContractError
from crossdim.metrics.reconstruction import (
    effective_rank,
    knn_accuracy,
    leave_one_out_knn_accuracy,
    masked_reconstruction,
)


def clusters(count: int, seed: int, dim: int = 8, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, count)
    centres = np.random.default_rng(99).normal(size=(3, dim)) * 3
    return (centres[labels] + generator.normal(size=(count, dim)) + offset).astype(np.float32), labels


def test_only_hidden_patches_count():
    generator = np.random.default_rng(0)
    target = generator.random((2, 4, 6))
    prediction = target + 0.1
    mask = np.array([[1, 0, 0, 1], [0, 0, 0, 1]])
    prediction[mask == 0] = 1e6
    score = masked_reconstruction(prediction, target, mask, data_range=1.0)
    assert score.patches == 3
    assert score.mse == pytest.approx(0.01)
    assert score.psnr_db == pytest.approx(peak_signal_noise_ratio(target[0, 0], prediction[0, 0], data_range=1.0))


def test_a_perfect_reconstruction_has_an_infinite_ratio():
    patches = np.ones((1, 2, 3))
    assert masked_reconstruction(patches, patches, np.ones((1, 2)), 1.0).psnr_db == float("inf")


def test_a_reconstruction_without_hidden_patches_is_refused():
    patches = np.ones((1, 2, 3))
    with pytest.raises(ContractError, match="hides no patch"):
        masked_reconstruction(patches, patches, np.zeros((1, 2)), 1.0)


@pytest.mark.parametrize("dimensions", [1, 3, 8])
def test_the_rank_of_features_that_fill_some_dimensions_equally_is_their_number(dimensions):
    features = np.random.default_rng(0).normal(size=(4000, dimensions)) @ np.eye(dimensions, 12)
    assert effective_rank(features + 100) == pytest.approx(dimensions, rel=0.02)


def test_the_rank_does_not_depend_on_scale_or_offset():
    features = clusters(50, 0)[0].astype(np.float64)
    assert effective_rank(1000 * features - 7) == pytest.approx(effective_rank(features))


def test_collapsed_features_have_rank_zero_even_with_rounding_noise():
    noise = np.random.default_rng(0).normal(scale=1e-7, size=(30, 8)).astype(np.float32)
    assert effective_rank(np.full((30, 8), 3.0, dtype=np.float32) + noise) == 0
    assert effective_rank(np.zeros((5, 4))) == 0
    assert effective_rank(np.ones((1, 4))) == 0


def test_neighbours_find_clusters_despite_a_large_common_offset():
    train, train_labels = clusters(90, 0, offset=50)
    test, test_labels = clusters(60, 1, offset=50)
    assert knn_accuracy(train, train_labels, test, test_labels, k=5) > 0.9
    assert knn_accuracy(train, train_labels, test, np.random.default_rng(0).permutation(test_labels), k=5) < 0.6


def test_one_neighbour_agrees_with_scikit_learn():
    train, train_labels = clusters(80, 2, dim=3)
    test, test_labels = clusters(70, 3, dim=3)
    mean = train.mean(axis=0)
    reference = KNeighborsClassifier(1, metric="cosine").fit(train - mean, train_labels)
    ours = knn_accuracy(train, train_labels, test, test_labels, k=1)
    assert ours == pytest.approx(reference.score(test - mean, test_labels))


def test_more_neighbours_than_samples_means_all_of_them():
    train, labels = clusters(10, 0)
    assert 0 <= knn_accuracy(train, labels, train, labels, k=500) <= 1


def test_leaving_one_out_never_asks_a_sample_about_itself():
    features = np.random.default_rng(0).normal(size=(40, 6))
    labels = np.arange(40)
    assert knn_accuracy(features, labels, features, labels, k=1) == 1
    assert leave_one_out_knn_accuracy(features, labels, k=1) == 0


def test_too_few_samples_for_neighbours_are_refused():
    features, labels = clusters(1, 0)
    with pytest.raises(ContractError, match="too few for neighbours"):
        leave_one_out_knn_accuracy(features, labels)


@pytest.mark.parametrize("measure", [effective_rank, lambda each: leave_one_out_knn_accuracy(each, np.zeros(9, int))])
def test_features_that_are_not_finite_are_refused(measure):
    features = np.ones((9, 4))
    features[3, 1] = np.nan
    with pytest.raises(ContractError, match="1 of 9 hold NaN or infinity"):
        measure(features)
