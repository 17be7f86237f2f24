"""Pictures of samples, reconstructions and results, drawn by matplotlib without any global state.

Every function returns a :class:`matplotlib.figure.Figure`; :func:`save_figure` writes it.
"""

from crossdim.outputs.pictures.charts import Panel, confusion, curves, reliability, roc, training_curves
from crossdim.outputs.pictures.house import figure_bytes, save_figure
from crossdim.outputs.pictures.preview import preview
from crossdim.outputs.pictures.reconstruction import Reconstruction, reconstruction_2d, reconstruction_3d
from crossdim.outputs.pictures.scene_reconstruction import (
    ImageReconstruction,
    PatchAttention,
    PointsReconstruction,
    SceneReconstruction,
    scene_reconstruction,
)
from crossdim.outputs.pictures.scenes import scene_picture
from crossdim.outputs.pictures.slices import Look, slice_scores_figure

__all__ = [
    "ImageReconstruction",
    "Look",
    "Panel",
    "PatchAttention",
    "PointsReconstruction",
    "Reconstruction",
    "SceneReconstruction",
    "confusion",
    "curves",
    "figure_bytes",
    "preview",
    "reconstruction_2d",
    "reconstruction_3d",
    "reliability",
    "roc",
    "save_figure",
    "scene_picture",
    "scene_reconstruction",
    "slice_scores_figure",
    "training_curves",
]
