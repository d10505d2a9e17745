"""Tables as Markdown."""

from collections.abc import Iterable, Sequence


def grid(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table, its headings first."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (headings, *rows)]
    return [lines[0], "|" + "---|" * len(headings), *lines[1:]]


def section(table: Sequence[str], note: str) -> str:
    """The lines of a table, and below it what it was measured on."""
    return "\n".join([*table, "", note]) + "\n"
