"""Pictures of scenes: boxes laid over the image, and the points from above and obliquely.

The proof that a data set's cameras and boxes are read rightly, to be looked at: boxes lie on their objects in both
views. Takes whatever holds scenes (a manifest, `manifest.jsonl#id`, scene folders), and made the pictures of the docs:

    crossdim prepare rooms --count 20 --out rooms
    python -m benchmarks.scene_pictures docs/images rooms/manifest.jsonl#r0003 --dpi 90 --colours 96

With ``--run``, what a pre-trained PiMAE fills in of these scenes when most of them is hidden:

    python -m benchmarks.scene_pictures docs/images rooms/manifest.jsonl#r0003 --run RUN --dpi 90 --colours 96

Licences of real pictures seldom allow to publish them: only drawn rooms are in the docs.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from crossdim.datasets.manifest import Manifest
from crossdim.datasets.scenes import find_scenes
from crossdim.models.pimae import PimaeForPreTraining
from crossdim.models.pimae_config import PimaeConfig
from crossdim.outputs.files import write_atomic
from crossdim.outputs.pictures import figure_bytes, scene_picture, scene_reconstruction
from crossdim.training.health_scenes import reconstruct_scenes
from crossdim.training.progress import quiet_transformers
from crossdim.training.scenes import SceneDataset
from crossdim.transforms.contract import PreprocessingContract


def main() -> None:
    """Draw every scene that was named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the pictures")
    parser.add_argument("scenes", nargs="+", help="manifest, manifest.jsonl#id, scene folder, file of points")
    parser.add_argument("--dpi", type=int, default=150)
    parser.add_argument(
        "--colours", type=int, help="colours of the PNG, at most 256, for a small file; all if left out"
    )
    parser.add_argument("--run", type=Path, help="a pre-trained PiMAE: draw what it fills in of records of a manifest")
    parser.add_argument("--most", type=int, default=12, help="scenes of each path")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in arguments.scenes:
        run, most = arguments.run, arguments.most
        drawn = pictures(path, most) if run is None else filled_in(path, most, run)
        for name, figure in drawn:
            content = figure_bytes(figure, dpi=arguments.dpi)
            target = arguments.out / f"{name.replace('/', '-')}.png"
            write_atomic(target, content if arguments.colours is None else fewer_colours(content, arguments.colours))
            print(f"{target}: {target.stat().st_size / 1000:.0f} kB")


def pictures(path: str, most: int) -> Iterator[tuple[str, Figure]]:
    """Yield scenes as ``crossdim inspect`` shows them.

    Args:
        path: What holds scenes.
        most: Scenes that are drawn.
    """
    for name, load in find_scenes(path)[:most]:
        yield name, scene_picture(load())


def filled_in(path: str, most: int, run: Path) -> Iterator[tuple[str, Figure]]:
    """Yield scenes as they are, as a model saw them, and filled in.

    Args:
        path: A manifest, or one of its records.
        most: Scenes that are drawn.
        run: Of PiMAE's pre-training.
    """
    with quiet_transformers():
        model, config = PimaeForPreTraining.from_pretrained(run), PimaeConfig.from_pretrained(run)
    file, _, record = path.partition("#")
    manifest = Manifest.load(file)
    chosen = [each for each in manifest.records if record in ("", each.id)][:most]
    contract = PreprocessingContract.from_pretrained(run)
    dataset = SceneDataset(replace(manifest, records=tuple(chosen)), contract, config, seed=0)
    for place, each in enumerate(chosen):
        yield f"{each.id}-filled-in", scene_reconstruction(reconstruct_scenes(model, dataset, [place]))


def fewer_colours(png: bytes, colours: int) -> bytes:
    """Return a picture with a palette.

    Args:
        png: The picture.
        colours: Size of the palette.
    """
    stream = BytesIO()
    with Image.open(BytesIO(png)) as image:
        image.convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(stream, format="PNG", optimize=True)
    return stream.getvalue()


if __name__ == "__main__":
    main()
