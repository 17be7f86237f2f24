"""A small model of a report: what :mod:`crossdim.outputs.document` turns into a page, Markdown or JSON."""

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from crossdim.errors import RecipeError
from crossdim.outputs.pictures.house import DPI, figure_bytes

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True)
class Warnings:
    """What a reader must not overlook."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """Names and values, such as where a result comes from."""

    items: Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """Rows under headings; the first column names the row, the others hold numbers."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A PNG.

    Attributes:
        png: The file's content.
        caption: Under the picture.
        alt: What it shows, for those who cannot see it.
        width: In CSS pixels.
    """

    png: bytes
    caption: str
    alt: str
    width: int

    @classmethod
    def from_figure(cls, figure: Figure, caption: str, alt: str) -> "Picture":
        """Return a drawn figure as a picture.

        Args:
            figure: What was drawn.
            caption: Under the picture.
            alt: What it shows.
        """
        return cls(figure_bytes(figure), caption, alt, round(figure.get_figwidth() * 96))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], caption: str, alt: str) -> "Picture":
        """Return a PNG that was written by :func:`crossdim.outputs.pictures.save_figure`.

        Args:
            path: The file.
            caption: Under the picture.
            alt: What it shows.

        Raises:
            RecipeError: If it is no PNG.
        """
        content = Path(path).read_bytes()
        if not content.startswith(PNG_SIGNATURE) or len(content) < 24:
            raise RecipeError(path, "is no PNG picture", "Save it with save_figure under a name that ends in .png")
        (pixels,) = struct.unpack(">I", content[16:20])
        return cls(content, caption, alt, round(pixels * 96 / DPI))


Block = Paragraph | Warnings | Facts | Table | Picture


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        title: Of the whole.
        summary: The result in one or two sentences.
        sections: In reading order.
        data: The numbers behind it, for machines; only plain lists, dicts, strings and numbers.
    """

    title: str
    summary: str
    sections: tuple[Section, ...]
    data: Mapping[str, Any] = field(default_factory=dict)
