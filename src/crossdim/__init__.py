"""Models that look in two and three dimensions, from raw clinical files to predictions and answers."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossdim.inference import Answerer, Detector, Predictor, load

__version__ = "0.1.0"
__all__ = ["Answerer", "Detector", "Predictor", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name in ("Answerer", "Detector", "Predictor", "load"):
        from crossdim import inference

        return getattr(inference, name)
    raise AttributeError(f"module 'crossdim' has no attribute '{name}'")
