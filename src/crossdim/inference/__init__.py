"""Trained models and new files: load a run, then predict, embed, detect or ask.

>>> import crossdim
>>> model = crossdim.load("runs/grading")                       # doctest: +SKIP
>>> model.predict("photo.jpg").label                            # doctest: +SKIP
>>> model.embed(["photo.jpg", "scan.nii.gz"]).shape             # doctest: +SKIP
>>> model = crossdim.load("runs/scenes")                        # doctest: +SKIP
>>> model.embed("kitchen/").shape                               # doctest: +SKIP
>>> model = crossdim.load("runs/boxes")                         # doctest: +SKIP
>>> model.detect("kitchen/").boxes.labels                       # doctest: +SKIP
>>> model = crossdim.load("runs/answers")                       # doctest: +SKIP
>>> model.ask("scan.nii.gz", "Is the left kidney larger?").text  # doctest: +SKIP
"""

from crossdim.inference.answerer import Answerer
from crossdim.inference.detector import Detector
from crossdim.inference.language import Decoding
from crossdim.inference.loading import (
    load,
    load_answerer,
    load_detector,
    load_encoder,
    load_predictor,
    load_scene_embedder,
)
from crossdim.inference.predictor import Predictor
from crossdim.inference.scene_embedder import SceneEmbedder

__all__ = [
    "Answerer",
    "Decoding",
    "Detector",
    "Predictor",
    "SceneEmbedder",
    "load",
    "load_answerer",
    "load_detector",
    "load_encoder",
    "load_predictor",
    "load_scene_embedder",
]
