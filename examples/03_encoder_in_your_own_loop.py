"""Use the models like any other of Hugging Face's: in your own loop, with your own loss.

Run: python examples/03_encoder_in_your_own_loop.py
"""

import tempfile

import torch
from transformers import AutoModel

import crossdim.models.auto  # noqa: F401  (makes the Auto classes know Uni4Eye)
from crossdim.models.uni4eye import Uni4EyeForPreTraining, Uni4EyeModel
from crossdim.models.uni4eye_config import Uni4EyeConfig

torch.manual_seed(0)
config = Uni4EyeConfig.preset("tiny", num_hidden_layers=2, image_size=(32, 32), volume_size=(32, 32, 32))
model = Uni4EyeForPreTraining(config)
optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)

images = torch.rand(4, 3, 32, 32)  # (batch, channels, height, width)
volumes = torch.rand(2, 1, 32, 32, 32)  # (batch, channels, depth, height, width)
for step in range(3):
    output = model(pixel_values=images, voxel_values=volumes)  # both kinds in one forward
    output.loss.backward()
    optimiser.step()
    optimiser.zero_grad()
    parts = {name: round(value.item(), 3) for name, value in output.losses.items()}
    print(step, parts)

with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    encoder = AutoModel.from_pretrained(folder)
assert isinstance(encoder, Uni4EyeModel)
features = encoder(volumes).pooler_output
print("features of volumes:", tuple(features.shape))
