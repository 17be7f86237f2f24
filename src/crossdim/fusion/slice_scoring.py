"""Text-guided inter-slice scoring (TG-IS): how much each slice of a volume matters to a question.

Shi et al., "Med-2E3: A 2D-Enhanced 3D Medical Multimodal Large Language Model", 2024. For slice j,
``z^j = mean([z_3D^j ; z_2D^j])`` over tokens, where ``z_3D^j`` is the row of 3D tokens at the slice's depth;
``s = softmax_j(z^j . z_T / temperature)``; the slices' 2D tokens are summed with these weights.

Nothing of the size of the concatenation is built: means are weighted by their numbers of tokens. A softmax sums to one
and the 2D connector's second map is linear, so it may follow the weighted sum (its bias then counts ``sum(s)`` times,
which matters only under dropout).

Differs from the authors' code: rows are found by position, for any number of slices and rows (theirs are 8 slices to a
row, 4 rows); several questions may ask about one volume; slices that are padding
have no score; the softmax is taken in float32.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from crossdim.fusion.features import VisualFeatures

SliceWeights = Literal["tgis", "tgis_2d_only", "tgis_3d_only", "learned", "uniform", "max", "top_k"]
"""How slices are weighted.

``tgis``, ``tgis_2d_only``, ``tgis_3d_only``: by the question, from both encoders' tokens or one's. ``learned``: by a
linear map of the slice, whatever the question. ``uniform``: their mean. ``max``: the largest value of each feature over
the slices; a slice's score is then the share of the features that it supplies. ``top_k``: ``tgis`` scores of the k best
slices, renormalised.
"""

ScoreKey = Literal["both", "3d", "2d", "global_3d"]
"""What a slice's key is the mean of.

``both``: its 3D row and its 2D tokens; ``3d``: its 3D row; ``2d``: its 2D tokens; ``global_3d``: all 3D tokens and its
2D tokens.
"""


def slice_rows(slices: int, rows: int) -> Int[Tensor, " slices"]:
    """Return the row of 3D tokens at each slice's depth: ``floor((j + 1/2) / slices * rows)``.

    Args:
        slices: Number of slices.
        rows: Rows of 3D tokens along the slice axis, equally spaced.
    """
    return (2 * torch.arange(slices) + 1) * rows // (2 * slices)


def slice_keys(
    key: ScoreKey,
    z_3d: Float[Tensor, "volumes tokens dim"] | None,
    rows: int,
    means_2d: Float[Tensor, "volumes slices dim"],
    tokens_2d: int,
) -> Float[Tensor, "volumes slices dim"]:
    """Return the mean of the tokens that speak for each slice.

    Args:
        key: Which tokens these are.
        z_3d: Connected 3D tokens, depth-major; not needed for ``2d``.
        rows: Rows of 3D tokens along the slice axis.
        means_2d: Mean of each slice's connected 2D tokens.
        tokens_2d: 2D tokens of a slice.
    """
    if key == "2d":
        return means_2d
    assert z_3d is not None
    depth = 1 if key == "global_3d" else rows
    means_3d = z_3d.unflatten(1, (depth, -1)).mean(dim=2)
    of_slice = means_3d[:, slice_rows(means_2d.shape[1], depth).to(means_3d.device)]
    if key == "3d":
        return of_slice
    tokens_3d = z_3d.shape[1] // depth
    return (tokens_3d * of_slice + tokens_2d * means_2d) / (tokens_3d + tokens_2d)


def weighted_slices(
    scores: Float[Tensor, "placeholders slices"],
    slices: Float[Tensor, "volumes slices tokens dim"],
    volume_index: Int[Tensor, " placeholders"],
) -> Float[Tensor, "placeholders tokens dim"]:
    """Return the sum of a volume's slices for each placeholder that shows it, weighted by its scores.

    Args:
        scores: One weight for each slice.
        slices: Tokens of the slices; shared by all placeholders of a volume, never repeated.
        volume_index: Which volume each placeholder shows.
    """
    order = torch.argsort(volume_index, stable=True)
    counts = torch.bincount(volume_index, minlength=len(slices)).tolist()
    parts = scores[order].split(counts)
    sums = [part @ volume.flatten(1) for part, volume in zip(parts, slices.unbind(0), strict=True)]
    return torch.cat(sums)[torch.argsort(order)].unflatten(1, slices.shape[2:])


def slice_loss(
    logits: Float[Tensor, "placeholders slices"],
    targets: Float[Tensor, "placeholders slices"] | Int[Tensor, "placeholders slices"],
) -> Float[Tensor, ""]:
    """Return how far scores are from equal weight on the true slices, averaged over placeholders that have some.

    It is the Kullback-Leibler divergence of the scores from that distribution: zero only if the true slices share all
    the weight equally. (The mass on the true slices alone would be content with a single one of them.)

    Args:
        logits: Scores before the softmax.
        targets: 1 for a true slice, 0 for another one, -1 or NaN where nothing is known.
    """
    true = targets > 0.5
    known = true.any(dim=1)
    logits, true = logits[known], true[known]
    count = true.sum(dim=1)
    mean = logits.masked_fill(~true, 0).sum(dim=1) / count
    return (logits.logsumexp(dim=1) - mean - count.log()).sum() / max(1, len(logits))


def strongest_slices(
    slices: Float[Tensor, "volumes slices tokens dim"], padded: Bool[Tensor, "volumes slices"] | None = None
) -> tuple[Float[Tensor, "volumes tokens dim"], Float[Tensor, "volumes slices"]]:
    """Return the largest value of each feature over the slices, and the share of them that each slice supplied.

    Args:
        slices: Connected 2D tokens.
        padded: True where a slice is padding and does not count.
    """
    if padded is not None:
        slices = slices.masked_fill(padded[..., None, None], torch.finfo(slices.dtype).min)
    largest, place = slices.max(dim=1)
    place = place.flatten(1)
    counts = torch.zeros(slices.shape[:2], device=slices.device).scatter_add(1, place, torch.ones_like(place).float())
    return largest, counts / place.shape[1]


class SliceScorer(nn.Module):
    """Features of volumes and questions → the weighted sum of the slices, and the scores it was weighted by.

    Args:
        weights: How slices are weighted.
        key: What speaks for a slice; the ``_only`` ways have their own.
        dim: Width of the keys.
        temperature: Divides the relevance (5 as released, 1 in the paper).
        top_k: Slices that are kept by ``top_k``.
        dropout: Dropout on the scores while training; what is left is not renormalised.
    """

    def __init__(
        self,
        weights: SliceWeights = "tgis",
        key: ScoreKey = "both",
        dim: int = 1,
        temperature: float = 5.0,
        top_k: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.weights, self.key = weights, key
        self.temperature, self.top_k, self.dropout = temperature, top_k, dropout
        self.linear = nn.Linear(dim, 1) if weights == "learned" else None

    def scores(
        self,
        keys: Float[Tensor, "volumes slices dim"],
        question: Float[Tensor, "placeholders dim"] | None,
        volume_index: Int[Tensor, " placeholders"],
        padded: Bool[Tensor, "volumes slices"] | None = None,
    ) -> tuple[Float[Tensor, "placeholders slices"], Float[Tensor, "placeholders slices"]]:
        """Score the slices; padding gets nothing.

        Args:
            keys: What speaks for each slice.
            question: Text feature of each placeholder's question.
            volume_index: Which volume each placeholder shows.
            padded: True where a slice is padding.

        Returns:
            Scores, and the logits whose softmax they are (before a choice of the k best), at least float32.
        """
        if self.linear is not None:
            relevance = self.linear(keys)[..., 0][volume_index]
        else:
            assert question is not None
            relevance = torch.einsum("psd,pd->ps", keys[volume_index], question.to(keys.dtype))
        logits = relevance.to(torch.promote_types(relevance.dtype, torch.float32)) / self.temperature
        if padded is not None:
            logits = logits.masked_fill(padded[volume_index], torch.finfo(logits.dtype).min)
        if self.weights != "top_k":
            return logits.softmax(dim=1), logits
        best = logits.topk(min(self.top_k, logits.shape[1]), dim=1)
        return torch.zeros_like(logits).scatter(1, best.indices, best.values.softmax(dim=1)), logits

    def forward(
        self,
        visual: VisualFeatures,
        second_map: nn.Linear,
        question: Float[Tensor, "placeholders dim"] | None,
        volume_index: Int[Tensor, " placeholders"],
    ) -> tuple[
        Float[Tensor, "placeholders tokens dim"],
        Float[Tensor, "placeholders slices"],
        Float[Tensor, "placeholders slices"] | None,
    ]:
        """Weight the slices.

        Args:
            visual: Connected features, the slices' before the connector's second map.
            second_map: This second map.
            question: Text feature of each placeholder's question.
            volume_index: Which volume each placeholder shows.

        Returns:
            ``z_2D``; the scores, without dropout (for ``max``, the share of features that each slice supplied); their
            logits, None for ``uniform`` and ``max``.
        """
        hidden = visual.hidden_2d
        assert hidden is not None
        if self.weights == "max":
            largest, share = strongest_slices(second_map(hidden), visual.padded)
            return largest[volume_index], share[volume_index], None
        logits = None
        if self.weights == "uniform":
            counted = hidden.new_ones(hidden.shape[:2]) if visual.padded is None else (~visual.padded).to(hidden)
            weights = scores = (counted / counted.sum(dim=1, keepdim=True).clamp_min(1))[volume_index]
        else:
            means = second_map(hidden.mean(dim=2))
            keys = slice_keys(self.key, visual.z_3d, visual.rows, means, hidden.shape[2])
            scores, logits = self.scores(keys, question, volume_index, visual.padded)
            weights = F.dropout(scores, self.dropout, self.training).to(hidden.dtype)
        summed = weighted_slices(weights, hidden, volume_index)
        z_2d = F.linear(summed, second_map.weight) + weights.sum(dim=1)[:, None, None] * second_map.bias
        return z_2d, scores, logits
