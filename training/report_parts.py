"""The pieces of HTML that a report is made of: sections, tables, heat maps, pictures. What is text is escaped here."""

import base64
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from PIL import Image
from torch import Tensor

from serving.images import encode_png

NO_BREAK, NARROW_SPACE = "\N{NO-BREAK SPACE}", "\N{NARROW NO-BREAK SPACE}"
SHORT_NAME = 4  # letters that stand side by side above a column
MOST_CLASSES = (
    30  # of more, a table folds the others away, and a matrix gives way to the worst pairs
)
TINY_PX = 64  # pictures up to this side are enlarged without smoothing


def percent(share: float) -> str:
    """A share in [0, 1] in words."""
    return f"{100 * share:.2f}{NARROW_SPACE}%"


def interval(low: float, high: float) -> str:
    """An interval of shares in [0, 1] in words."""
    return f"{100 * low:.2f} to {percent(high)}".replace(" ", NO_BREAK)


def section(name: str, title: str, body: str) -> str:
    """A part of the page under a heading. body is HTML."""
    heading = f'<h2 id="{name}">{escape(title)}</h2>'
    return f'<section aria-labelledby="{name}">\n{heading}\n{body}\n</section>'


def figure(svg: str, caption: str) -> str:
    """A chart and what it shows."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table, its cells HTML; the first column names the rows. Where it is too wide, it scrolls."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    thead = f"<thead><tr>{head}</tr></thead>" if header else ""
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>\n'
        for first, *rest in rows
    )
    return _scrolling(
        f"<table>{_caption(caption)}{thead}\n<tbody>\n{body}</tbody></table>", caption
    )


def class_table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A table with a row for each class; of many classes the later rows are folded away."""
    shown, hidden = rows[:MOST_CLASSES], rows[MOST_CLASSES:]
    body = table(header, shown, caption)
    if hidden:
        more = table(header, hidden)
        body += f"<details><summary>{len(hidden)} more classes</summary>{more}</details>"
    return body


def heat_map(counts: Sequence[Sequence[int]], classes: Sequence[str], caption: str) -> str:
    """A confusion matrix, rows the truth, coloured by the share of the row that a cell holds."""
    names = [escape(name) for name in classes]
    upright = ' class="upright"' if max(map(len, classes)) > SHORT_NAME else ""
    head = "".join(f'<th scope="col" title="{name}"><span>{name}</span></th>' for name in names)
    rows = []
    for truth, row in enumerate(counts):
        total = max(1, sum(row))
        cells = "".join(_cell(n, n / total, own=k == truth) for k, n in enumerate(row))
        rows.append(f'<tr><th scope="row" title="{names[truth]}">{names[truth]}</th>{cells}</tr>')
    body = "\n".join(rows)
    return _scrolling(
        f'<table class="heat">{_caption(caption)}<thead{upright}><tr><td class="none"></td>{head}</tr></thead>'
        f"\n<tbody>\n{body}\n</tbody></table>",
        caption,
    )


def meter(share: float | None) -> str:
    """A share in [0, 1] as a bar and in words; None where there was nothing to measure."""
    if share is None:
        return '<span class="soft">no images</span>'
    words = percent(share)
    return f'<meter value="{share:.4f}" min="0" max="1" aria-hidden="true"></meter> {words}'


def picture(pixels: Tensor, alt: str, *, style: str, most_px: int) -> str:
    """Pixels as an image inside the page, made smaller where a side is above most_px. pixels: (H, W, 3) uint8."""
    image = Image.fromarray(np.ascontiguousarray(pixels.numpy()))
    image.thumbnail((most_px, most_px), Image.Resampling.LANCZOS)
    tiny = " tiny" if max(image.size) <= TINY_PX else ""
    data = base64.b64encode(encode_png(image)).decode()
    return (
        f'<img class="{style}{tiny}" src="data:image/png;base64,{data}" alt="{escape(alt)}" '
        f'width="{image.width}" height="{image.height}">'
    )


def _cell(count: int, share: float, *, own: bool) -> str:
    if not count:
        return '<td class="none"></td>'
    kind = ' class="own"' if own else ""
    return f'<td{kind} style="--share: {share:.3f}">{count}</td>'


def _caption(caption: str) -> str:
    return f"<caption>{escape(caption)}</caption>" if caption else ""


def _scrolling(content: str, label: str) -> str:
    named = f' role="region" aria-label="{escape(label)}"' if label else ""
    return f'<div class="wide" tabindex="0"{named}>\n{content}</div>'
