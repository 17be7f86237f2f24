"""Make furnished rooms, pre-train PiMAE on their points and pictures, and get features and a picture of what it makes.

It learns for some steps only, so what it fills in is coarse. Run: python examples/05_pretrain_on_scenes.py
"""

import tempfile
from pathlib import Path

import numpy as np

import crossdim
from crossdim.datasets.rooms import make_rooms
from crossdim.datasets.scenes import load_scene
from crossdim.outputs.pictures import save_figure, scene_picture
from crossdim.training import pretrain_scenes
from crossdim.training.recipe_files import load_recipe
from crossdim.training.recipe_pimae import PimaeRecipe

SMALL = (
    "model.num_groups=32",
    "contract.image_tokens=48",
    "contract.num_points=512",
    "batch.scenes=8",
    "optimisation.epochs=null",
    "optimisation.steps=20",
    "optimisation.base_learning_rate=0.1",
    "logging.log_every=5",
    "health.picture_every=20",
    "health.pictures=2",
)

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    rooms = make_rooms(folder / "furnished", count=40, size=(96, 128))
    scene = load_scene(rooms, rooms.records[0])
    print(f"{len(scene.points.points)} points, picture {scene.image.pixels.shape}, {', '.join(scene.boxes.labels)}")
    save_figure(scene_picture(scene), folder / "room.png")  # boxes over the picture, points from above

    recipe = load_recipe("pimae-tiny", PimaeRecipe, SMALL)
    run = pretrain_scenes.run(folder / "furnished" / "manifest.jsonl", folder / "run", recipe)
    print("filled in:", *(path.name for path in sorted((run / "pictures").iterdir())))

    model = crossdim.load(run)
    test = [f"{folder}/furnished/manifest.jsonl#{record.id}" for record in rooms.split("test").records]
    features = model.embed(test)  # (scenes, dim), through the contract of the run
    photo = model.embed(rooms.absolute(rooms.records[0].scene.image))  # the picture alone, without points
    print("features:", features.shape, photo.shape)
    nearest = np.linalg.norm(features[1:] - features[0], axis=1).argmin()
    print(f"most like {rooms.split('test').records[0].id}: {rooms.split('test').records[nearest + 1].id}")
