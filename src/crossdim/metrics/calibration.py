"""Do probabilities mean what they say? The expected calibration error and the bins behind it.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, section 2, equation 3: bins of
equal width, each closed on its right. The estimate grows when cases are few or bins many, so it has no bootstrap
interval here (resampling would add to that bias): compare models at equal cases and bins.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

BINS = 15


@dataclass(frozen=True)
class Calibration:
    """Confidence against frequency.

    Attributes:
        error: Mean over bins of |frequency - confidence|, weighted with the bins' cases.
        binning: How the bins were made, and of what, in words.
        edges: Borders of the bins, one more than bins.
        counts: Cases in each bin.
        confidence: Mean probability in each bin; NaN where it is empty.
        frequency: Share of each bin that came true; NaN where it is empty.
    """

    error: float
    binning: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    confidence: tuple[float, ...]
    frequency: tuple[float, ...]


def calibration(
    confidence: Float[np.ndarray, " cases"], correct: Bool[np.ndarray, " cases"], what: str, bins: int = BINS
) -> Calibration:
    """Compare stated probabilities with how often they came true.

    Args:
        confidence: Probability given to a statement, in [0, 1].
        correct: Whether the statement is true.
        what: What the statements are, in words ("probability of the predicted class").
        bins: Number of bins of equal width.
    """
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    filled = np.maximum(counts, 1)
    empty = np.where(counts > 0, 1.0, np.nan)
    stated = np.bincount(place, weights=confidence, minlength=bins) / filled * empty
    happened = np.bincount(place, weights=correct.astype(np.float64), minlength=bins) / filled * empty
    error = float(np.nansum(np.abs(stated - happened) * counts) / len(confidence))
    return Calibration(
        error,
        f"{what}, {bins} bins of equal width",
        tuple(np.linspace(0, 1, bins + 1).tolist()),
        tuple(counts.tolist()),
        tuple(stated.tolist()),
        tuple(happened.tolist()),
    )
