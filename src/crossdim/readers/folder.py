"""What a folder holds that can be read: files, and DICOM series and scenes as one each."""

import os
from collections.abc import Sequence

from crossdim.errors import ReadError
from crossdim.readers.content import pair_member
from crossdim.readers.formats import content_format, ending_format, is_readable
from crossdim.readers.limits import Limits


def find_readable(folder: str | os.PathLike[str], *, limits: Limits | None = None) -> list[str]:
    """Return what ``read`` takes in a folder and all folders below it, sorted; hidden ones are left out.

    A scene's folder is returned as one, and a folder of frames with ``#name`` for each frame; see ``scene_folder``.
    Slices of a DICOM series are returned as one: their folder, with ``#SeriesInstanceUID`` if it holds other DICOM
    pictures too. DICOM pictures that are no slices are returned one by one, as are damaged files, so that reading
    them says what is wrong.

    Args:
        folder: The folder.
        limits: What is allowed.

    Raises:
        ReadError: If it is no folder.
    """
    root = os.fspath(folder)
    if not os.path.isdir(root):
        raise ReadError(root, "is not a folder", "Name a folder")
    found: list[str] = []
    for place, folders, names in os.walk(root):
        scenes = _scene_sources(place) if "camera.json" in names else []
        if scenes:
            folders.clear()
            found += scenes
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [os.path.join(place, name) for name in sorted(names) if not name.startswith(".")]
        dicom = [path for path in paths if _is_dicom(path)]
        known = set(dicom)
        found += [path for path in paths if path not in known and is_readable(path) and not _is_second_of_pair(path)]
        if dicom:
            found += _dicom_sources(place, dicom, limits or Limits())
    return sorted(found)


def _scene_sources(folder: str) -> list[str]:
    from crossdim.readers.scene_folder import frame_names, scene_layout

    match scene_layout(folder):
        case "scene":
            return [folder]
        case "frames":
            return [f"{folder}#{name}" for name in frame_names(folder)]
    return []


def dicom_files(folder: str) -> list[str]:
    """Return the DICOM files that lie directly in a folder.

    Args:
        folder: The folder.
    """
    paths = sorted(entry.path for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith("."))
    return [path for path in paths if _is_dicom(path)]


def _is_dicom(path: str) -> bool:
    if ending_format(path) not in (None, "dicom"):
        return False
    try:
        return os.path.isfile(path) and content_format(path) == "dicom"
    except OSError:
        return False


def _is_second_of_pair(path: str) -> bool:
    """Tell whether a file is the .img of a pair, which its .hdr stands for."""
    return path.lower().removesuffix(".gz").endswith(".img") and pair_member(path, ".hdr") is not None


def _dicom_sources(folder: str, files: Sequence[str], limits: Limits) -> list[str]:
    from crossdim.readers.dicom_header import NoPictureError, read_header
    from crossdim.readers.dicom_series import makes_a_volume, parts_of

    series: dict[str, list] = {}
    alone = []
    for path in files:
        try:
            header = read_header(path, limits)
        except NoPictureError:
            continue
        except ReadError:
            alone.append(path)
        else:
            series.setdefault(header.series_uid, []).append(header)
    volumes = [uid for uid, headers in series.items() if makes_a_volume(headers)]
    alone += [header.path for uid, headers in series.items() if uid not in volumes for header in headers]
    found = list(alone)
    for uid in volumes:
        parts = parts_of(series[uid])
        if "" in parts:
            found.append(folder if len(series) == 1 else f"{folder}#{uid}")
        else:
            found += [f"{folder}#{uid}/{part}" for part in parts]
    return found
