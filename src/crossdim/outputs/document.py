"""A small model of a report, and its Markdown and JSON; :mod:`crossdim.outputs.html` makes the page of it."""

import json
import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from crossdim.errors import RecipeError
from crossdim.outputs.files import write_atomic
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


def save_document(document: Document, path: str | os.PathLike[str]) -> None:
    """Write a report; the suffix says as what.

    Args:
        document: The report.
        path: ``.html`` is one self-contained page; ``.md`` has its pictures in a folder beside it; ``.json`` has the
            texts, tables and numbers, and no pictures.

    Raises:
        RecipeError: If the suffix is another one, or nothing can be written there.
    """
    place = Path(path)
    match place.suffix.lower():
        case ".html" | ".htm":
            from crossdim.outputs.html import to_html

            write_atomic(place, to_html(document))
        case ".md":
            folder = f"{place.stem}-pictures"
            for number, picture in enumerate(_pictures(document), 1):
                write_atomic(place.parent / folder / f"{number:02d}.png", picture.png)
            write_atomic(place, to_markdown(document, folder))
        case ".json":
            write_atomic(place, to_json(document))
        case suffix:
            raise RecipeError(path, f"'{suffix}' is no format for reports", "Use one of: .html, .md, .json")


def to_json(document: Document) -> str:
    """Return a report as JSON, without the pictures' pixels; numbers that are not finite are null.

    Args:
        document: The report.
    """
    sections = [
        {"title": section.title, "blocks": [_plain_block(block) for block in section.blocks]}
        for section in document.sections
    ]
    whole = {"title": document.title, "summary": document.summary, "sections": sections, "data": document.data}
    return json.dumps(_finite(whole), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_markdown(document: Document, pictures: str) -> str:
    """Return a report as Markdown.

    Args:
        document: The report.
        pictures: Folder of the pictures, relative to the file; they are named 01.png, 02.png, ... in reading order.
    """
    parts = [f"# {_escaped(document.title)}", _escaped(document.summary)]
    number = 0
    for section in document.sections:
        parts.append(f"## {_escaped(section.title)}")
        for block in section.blocks:
            if isinstance(block, Picture):
                number += 1
                target = f"<{pictures}/{number:02d}.png>"
                parts.append(f"![{_escaped(block.alt)}]({target})\n\n*{_escaped(block.caption)}*")
            else:
                parts.append(_markdown_block(block))
    return "\n\n".join(part for part in parts if part) + "\n"


def _pictures(document: Document) -> list[Picture]:
    return [block for section in document.sections for block in section.blocks if isinstance(block, Picture)]


def _markdown_block(block: Paragraph | Warnings | Facts | Table) -> str:
    match block:
        case Paragraph(text):
            return _escaped(text)
        case Warnings(texts):
            return "\n".join(["> **Look out**", ">", *(f"> - {_escaped(text)}" for text in texts)])
        case Facts(items):
            return "\n".join(f"- {_escaped(name)}: {_escaped(value)}" for name, value in items.items())
        case Table(caption, columns, rows):
            head = [_row(columns), "|" + " --- |" + " ---: |" * (len(columns) - 1)]
            return "\n".join([*([f"{_escaped(caption)}\n"] if caption else []), *head, *map(_row, rows)])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_escaped(cell) for cell in cells) + " |"


def _escaped(text: str) -> str:
    """Return text that Markdown shows as it is, in one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$!&])", r"\\\1", " ".join(text.split()))


def _plain_block(block: Block) -> dict[str, Any]:
    match block:
        case Paragraph(text):
            return {"kind": "paragraph", "text": text}
        case Warnings(texts):
            return {"kind": "warnings", "texts": list(texts)}
        case Facts(items):
            return {"kind": "facts", "items": dict(items)}
        case Table(caption, columns, rows):
            return {"kind": "table", "caption": caption, "columns": list(columns), "rows": [list(row) for row in rows]}
        case Picture(caption=caption, alt=alt):
            return {"kind": "picture", "caption": caption, "alt": alt}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value
