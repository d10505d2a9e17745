"""The tables of the documents, made from benchmarks/results/: `python -m benchmarks.tables` writes them.

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`; tests compare it with the results.
"""

import json
import re
from pathlib import Path

from benchmarks import tables_training
from benchmarks.tables_gpu import GPU, GPU_NOT_RUN
from benchmarks.tables_serving import SERVING

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (
    "README.md",
    "benchmarks/README.md",
    "docs/augself.md",
    "docs/bundle.md",
    "docs/images.md",
    "docs/serving.md",
    "docs/sla.md",
)
TABLES = tables_training.TRAINING | GPU | SERVING
NOT_RUN = tables_training.NOT_RUN | GPU_NOT_RUN
_TABLE = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def main() -> None:
    """Write every table anew."""
    for name in DOCUMENTS:
        path = ROOT / name
        path.write_text(filled(path.read_text()))


def filled(text: str) -> str:
    """The document with every table made from its results."""
    return _TABLE.sub(lambda found: found[1] + table(found["name"]) + found[3], text)


def table(name: str) -> str:
    """A table as Markdown, with what it was measured on; or that it has not been measured, where nobody has yet.

    Raises:
        FileNotFoundError: there are no results of that name, and there have to be.
    """
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    if name in NOT_RUN and not path.is_file():
        return f"Not run yet: {NOT_RUN[name]}.\n"
    results = json.loads(path.read_text())
    return TABLES[name](results)


if __name__ == "__main__":
    main()
