"""A report as one page that needs no network: styles and pictures are inside; readable on light, dark and paper."""

from base64 import b64encode
from html import escape
from itertools import groupby

from crossdim.outputs.blocks import Block, Document, Facts, Paragraph, Picture, Section, Table, Warnings

STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --quiet: #59636e; --line: #d9dee3; --page: #ffffff;
  --band: #f6f8fa; --mark: #9a6700; --marked: #fff8e5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --quiet: #9da7b1; --line: #343b43; --page: #14181d;
  --band: #1b2127; --mark: #e3b341; --marked: #2a2414; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 62rem; color: var(--ink); background: var(--page);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: .5rem 0; overflow-wrap: anywhere; }
.summary { font-size: 1.1rem; color: var(--quiet); }
.scroll { overflow-x: auto; margin: .75rem 0 1.25rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
table.wide { font-size: .85rem; } table.wide th, table.wide td { padding-right: .7rem; }
caption { text-align: left; color: var(--quiet); font-size: .9rem; padding-bottom: .35rem; }
th, td { padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; }
th:first-child { text-align: left; overflow-wrap: anywhere; min-width: 8rem; }
thead th { color: var(--quiet); font-weight: 600; font-size: .9rem; }
tbody th { font-weight: 500; }
tbody tr:hover { background: var(--band); }
ul.warnings { list-style: none; margin: 1rem 0; padding: .6rem 1rem; background: var(--marked);
  border-left: 4px solid var(--mark); max-width: 46rem; }
ul.warnings li { margin: .2rem 0; overflow-wrap: anywhere; }
ul.warnings li::before { content: "\\26A0\\FE0E\\00A0\\00A0"; color: var(--mark); }
dl { display: grid; grid-template-columns: minmax(9rem, max-content) 1fr; gap: .25rem 1.25rem; margin: .75rem 0;
  font-size: .92rem; }
dt { color: var(--quiet); } dd { margin: 0; overflow-wrap: anywhere; }
.pictures { display: flex; flex-wrap: wrap; gap: 1.25rem; align-items: flex-start; }
figure { margin: .75rem 0; max-width: 100%; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 6px; padding: 6px; }
figcaption { color: var(--quiet); font-size: .9rem; margin-top: .4rem; max-width: 46rem; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .5rem; } }
@media print { :root { --ink: #000; --quiet: #444; --line: #bbb; --page: #fff; --band: #fff; --marked: #fff; }
  body { max-width: none; padding: 0; font-size: 10pt; } h2 { break-after: avoid; }
  table.wide { font-size: 7.5pt; } table.wide th:first-child { min-width: 4rem; }
  .pictures { display: block; } figure { display: inline-block; } figure img { max-height: 11cm; width: auto; }
  figure, table, ul.warnings { break-inside: avoid; } .scroll { overflow: visible; } }
"""

NARROW_COLUMNS = 5
"""Tables with more of them are set smaller, so that they fit on paper."""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Even if a text were not escaped, the page could load nothing and run nothing."""


def to_html(document: Document) -> str:
    """Return a report as a page.

    Args:
        document: The report.
    """
    title = escape(document.title)
    return (
        "<!doctype html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="generator" content="crossdim">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<header>\n<h1>{title}</h1>\n<p class="summary">{escape(document.summary)}</p>\n</header>\n<main>\n'
        + "".join(_section(section) for section in document.sections)
        + "</main>\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    parts = []
    for pictures, blocks in groupby(section.blocks, key=lambda block: isinstance(block, Picture)):
        inner = "".join(_block(block) for block in blocks)
        parts.append(f'<div class="pictures">\n{inner}</div>\n' if pictures else inner)
    return f"<section>\n<h2>{escape(section.title)}</h2>\n{''.join(parts)}</section>\n"


def _block(block: Block) -> str:
    match block:
        case Paragraph(text):
            return f"<p>{escape(text)}</p>\n"
        case Warnings(texts):
            return f'<ul class="warnings">{"".join(f"<li>{escape(text)}</li>" for text in texts)}</ul>\n'
        case Facts(items):
            pairs = (f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in items.items())
            return f"<dl>{''.join(pairs)}</dl>\n"
        case Table():
            return _table(block)
        case Picture():
            return _picture(block)


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    rows = []
    for first, *others in table.rows:
        cells = "".join(f"<td>{escape(cell).replace(' to ', '&nbsp;to&nbsp;')}</td>" for cell in others)
        rows.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>\n')
    wide = ' class="wide"' if len(table.columns) > NARROW_COLUMNS else ""
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    return (
        f'<div class="scroll"><table{wide}>{caption}<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{''.join(rows)}</tbody></table></div>\n"
    )


def _picture(picture: Picture) -> str:
    source = f"data:image/png;base64,{b64encode(picture.png).decode()}"
    return (
        f'<figure><img src="{source}" alt="{escape(picture.alt)}" width="{picture.width}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>\n"
    )
