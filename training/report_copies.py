"""The section of a report that shows how well the transformed copies of an image are told apart."""

import math
from collections.abc import Sequence
from html import escape

from training.copies import CopyAccuracy
from training.report_parts import class_table, meter, section, table


def copies_section(
    found: CopyAccuracy,
    transformations: Sequence[str],
    classes: Sequence[str],
    split: str,
    whose: str,
) -> str:
    """How often the transformation of a copy is told, and its class. whose: what looked at them, in a word."""
    words = (
        f"<p>The {whose} looked at every image under each transformation. Joint labels can be learnt where the "
        "transformation of a copy can be told. A class of which it seldom can looks the same under several, or is "
        "seen under several in the data; where most classes are such, other <code>--transformations</code> suit the "
        "data better.</p>"
    )
    header = ["its transformation told", "its class told"]
    counts = (found.transformation.double(), found.label.double())  # (N, M) each
    n = int(found.images.sum())
    by_copy = zip(*((right.sum(0) / n).tolist() for right in counts), strict=True)
    of_copies = [
        (escape(name), *map(meter, shares))
        for name, shares in zip(transformations, by_copy, strict=True)
    ]
    by_class = list(
        zip(*((right.mean(1) / found.images).tolist() for right in counts), strict=True)
    )
    images = found.images.tolist()
    order = sorted(range(len(classes)), key=lambda k: by_class[k][0] if images[k] else math.inf)
    of_classes = [
        (escape(classes[k]), *(meter(share if images[k] else None) for share in by_class[k]))
        for k in order
    ]
    body = table(["copy", *header], of_copies, f"{n:,} images of the {split} split")
    body += class_table(["class", *header], of_classes, "all copies, the least told first")
    return section("copies", "Transformed copies", f'{words}<div class="row">{body}</div>')
