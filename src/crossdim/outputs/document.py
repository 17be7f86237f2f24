"""Reports: what they are made of, and their files: one page, Markdown with pictures beside it, or JSON."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from crossdim.errors import RecipeError
from crossdim.outputs.blocks import Block, Document, Facts, Paragraph, Picture, Section, Table, Warnings
from crossdim.outputs.files import write_atomic
from crossdim.outputs.html import to_html

__all__ = [
    "Block",
    "Document",
    "Facts",
    "Paragraph",
    "Picture",
    "Section",
    "Table",
    "Warnings",
    "save_document",
    "to_json",
    "to_markdown",
]


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
