"""Pre-train on images and volumes, fine-tune on labelled images, and predict, all from Python.

Run: python examples/02_pretrain_finetune_predict.py
"""

import tempfile
from pathlib import Path

import crossdim
from crossdim.datasets.synthetic import make_images, make_volumes
from crossdim.training import finetune, pretrain
from crossdim.training.recipe import FinetuneRecipe, PretrainRecipe
from crossdim.training.recipe_files import load_recipe

SMALL = (
    "model.num_hidden_layers=2",
    "model.patch_size=[8, 8]",
    "model.volume_patch_size=[8, 8, 8]",
    "contract.image_size=[32, 32]",
    "contract.volume_size=[16, 32, 32]",
    "mixing.images=8",
    "mixing.volumes=2",
    "optimisation.steps=10",
)

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    images = make_images(folder / "clinic" / "photos", count=36, size=32)
    make_volumes(folder / "clinic" / "scans", count=6, size=32)
    labels = folder / "clinic" / "photos" / "manifest.jsonl"

    encoder = pretrain.run(folder / "clinic", folder / "encoder", load_recipe(None, PretrainRecipe, SMALL))
    recipe = load_recipe("finetune-linear", FinetuneRecipe, ["optimisation.epochs=5", "bootstrap=100"])
    grader = finetune.run(labels, folder / "grader", recipe, encoder)

    model = crossdim.load(grader)
    photo = images.resolve(images.records[0])[0]
    prediction = model.predict(photo)
    print(prediction.label, {name: round(chance, 2) for name, chance in prediction.probabilities.items()})
    print("feature:", model.embed(photo).shape)
