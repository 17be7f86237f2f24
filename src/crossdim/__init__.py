"""Models that look in two and three dimensions, from raw clinical files to predictions."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossdim.inference import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    if name == "load":
        from crossdim.inference import load

        return load
    raise AttributeError(f"module 'crossdim' has no attribute '{name}'")
