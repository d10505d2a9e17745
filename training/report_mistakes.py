"""The section of a report that shows the worst mistakes as pictures, with what each transformed copy voted."""

from collections.abc import Sequence
from html import escape

from torch import Tensor

from training.mistakes import Gallery, Mistake, Vote
from training.report_parts import percent, picture, section

PICTURE_PX = 256
COPY_PX = 64
VOTES = (
    '<thead><tr><th scope="col" colspan="2">copy</th><th scope="col">votes</th>'
    '<th scope="col">confidence</th></tr></thead>'
)


def mistakes_section(gallery: Gallery, classes: Sequence[str], mode: str, split: str) -> str:
    """The pictures of a gallery, the most confident mistake first."""
    title = "The worst mistakes"
    if gallery.copies is None:
        return section(
            "mistakes", title, f"<p>No mistake of {mode} on the {split} split is shown.</p>"
        )
    articles = [
        _mistake(mistake, name, images, votes, gallery.transformations, classes)
        for mistake, name, images, votes in zip(
            gallery.mistakes,
            gallery.names,
            gallery.copies.images,
            gallery.copies.votes,
            strict=True,
        )
    ]
    voted = any(gallery.copies.votes)
    words = f"Where {mode} was most confident of a wrong class, on the {split} split, as the network saw the image."
    if voted and gallery.by_teacher:
        words += (
            " Below it, what the teacher votes of each transformed copy, given its own transformation; "
            f"{mode} looks at no copies."
        )
    elif voted:
        words += " Below it, what each transformed copy votes, given its own transformation."
    body = f'<p>{words}</p>\n<div class="mistakes">\n{"".join(articles)}</div>'
    return section("mistakes", title, body)


def _mistake(
    mistake: Mistake,
    name: str,
    images: Tensor,
    votes: Sequence[Vote],
    transformations: Sequence[str],
    classes: Sequence[str],
) -> str:
    """images: (M, H, W, 3) uint8, the image as it is first."""
    truth, first = classes[mistake.truth], mistake.top[0]
    alt = f"{name}: {truth}, taken for {classes[first.label]}"
    shown = picture(images[0], alt, style="picture", most_px=PICTURE_PX)
    top = "".join(
        f"<li>{escape(classes[v.label])}: {percent(v.confidence)}</li>" for v in mistake.top
    )
    copies = "".join(
        _vote(image, transformation, vote, mistake.truth, classes)
        for image, transformation, vote in zip(images, transformations, votes, strict=False)
    )
    table = f"<table>{VOTES}\n<tbody>\n{copies}</tbody></table>" if votes else ""
    return (
        f"<article>\n<header>{shown}<div><h3>{escape(truth)}, "
        f'taken for <span class="bad">{escape(classes[first.label])}</span></h3>'
        f'<ol>{top}</ol><p class="soft">{escape(name)}</p></div></header>\n{table}</article>\n'
    )


def _vote(
    image: Tensor, transformation: str, vote: Vote, truth: int, classes: Sequence[str]
) -> str:
    thumbnail = picture(image, "", style="copy", most_px=COPY_PX)
    right = vote.label == truth
    said = f'<span class="{"good" if right else "bad"}">{escape(classes[vote.label])}{" ✓" if right else ""}</span>'
    return (
        f'<tr><td>{thumbnail}</td><th scope="row">{escape(transformation)}</th>'
        f"<td>{said}</td><td>{percent(vote.confidence)}</td></tr>\n"
    )
