"""Pictures of scenes: boxes laid over the image, and the points from above and obliquely.

The proof that a data set's cameras and boxes are read rightly, to be looked at: boxes lie on their objects in both
views. Takes whatever holds scenes (a manifest, `manifest.jsonl#id`, scene folders), and made the pictures of the docs:

    crossdim prepare rooms --count 20 --out rooms
    python -m benchmarks.scene_pictures docs/images rooms/manifest.jsonl#r0003 --dpi 90 --colours 96

Licences of real pictures seldom allow to publish them: only drawn rooms are in the docs.
"""

import argparse
from io import BytesIO
from pathlib import Path

from PIL import Image

from crossdim.datasets.scenes import find_scenes
from crossdim.outputs.files import write_atomic
from crossdim.outputs.pictures import figure_bytes, scene_picture


def main() -> None:
    """Draw every scene that was named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the pictures")
    parser.add_argument("scenes", nargs="+", help="manifest, manifest.jsonl#id, scene folder, file of points")
    parser.add_argument("--dpi", type=int, default=150)
    parser.add_argument(
        "--colours", type=int, help="colours of the PNG, at most 256, for a small file; all if left out"
    )
    parser.add_argument("--most", type=int, default=12, help="scenes of each path")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in arguments.scenes:
        for name, load in find_scenes(path)[: arguments.most]:
            content = figure_bytes(scene_picture(load()), dpi=arguments.dpi)
            target = arguments.out / f"{name.replace('/', '-')}.png"
            write_atomic(target, content if arguments.colours is None else fewer_colours(content, arguments.colours))
            print(f"{target}: {target.stat().st_size / 1000:.0f} kB")


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
