"""The charts of a report as inline SVG, drawn by matplotlib. Numbers in, text out; knows no torch and no runs.

Colours are CSS variables (--series-1 to --series-4) and currentColor, so that one chart serves light and dark
pages. Text stays text. pyplot and its global state are not used.
"""

import html
import io
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

# stand-ins in matplotlib's output, each replaced by a colour of the page
INK = "#010203"
GRID = "#010204"
SERIES = ("#010205", "#010206", "#010207", "#010208")
COLOURS = {INK: "currentColor", GRID: "var(--line)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)
}
LEGEND_LETTERS = 12  # in a line of a legend beside a chart
MARKERS = "osD^"  # beside the colour, for those who do not see it
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.size": 10,
    "grid.color": GRID,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}


@dataclass(frozen=True)
class Answer:
    """A mode's accuracy for its price. low, high: the 95 % interval of top1; all in [0, 1]."""

    mode: str
    forward_passes: int
    top1: float
    low: float
    high: float


def curves(
    name: str, label: str, epochs: Sequence[int], values: Mapping[str, Sequence[float]], *,
    percent: bool = False,
) -> str:  # fmt: skip
    """Lines over the epochs, one a key of `values`; those are named where there are several. Returns an SVG element.

    name: unique in a page. label: what the chart shows, in words. percent: the values are shares in [0, 1].
    """
    with _style():
        figure, axes = _figure(3.6, 2.5)
        for number, (key, line) in enumerate(values.items()):
            marker = MARKERS[number % len(MARKERS)] if len(epochs) <= 30 else ""
            axes.plot(epochs, line, color=_colour(number), marker=marker, markersize=3.5, label=key)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        if len(values) > 1:
            axes.legend()
        return _svg(figure, name, label)


def accuracy_against_passes(name: str, label: str, answers: Sequence[Answer]) -> str:
    """The top-1 of every mode with its interval, by the forward passes that it costs. Returns an SVG element."""
    with _style():
        figure, axes = _figure(3.9, 2.7)
        passes = sorted({answer.forward_passes for answer in answers})
        for number, answer in enumerate(answers):
            same = [a for a in answers if a.forward_passes == answer.forward_passes]
            beside = 0.18 * (same.index(answer) - (len(same) - 1) / 2)  # so that none hides another
            axes.errorbar(
                passes.index(answer.forward_passes) + beside,
                answer.top1,
                yerr=[[answer.top1 - answer.low], [answer.high - answer.top1]],
                color=_colour(number), marker=MARKERS[number % len(MARKERS)], capsize=4,
                linestyle="none", label=textwrap.fill(answer.mode, LEGEND_LETTERS),
            )  # fmt: skip
        axes.set_xticks(range(len(passes)), [str(number) for number in passes])
        axes.set_xlim(-0.6, len(passes) - 0.4)
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("forward passes for one answer")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
        return _svg(figure, name, label)


def reliability(
    name: str,
    label: str,
    *,
    images: Sequence[float],
    confidence: Sequence[float],
    correct: Sequence[float],
) -> str:
    """A reliability diagram (Guo et al. 2017, figure 1) over bins of equal width. Returns an SVG element.

    images, confidence, correct: what evaluate.ConfidenceBins holds, a value a bin. Below it, where the images are.
    """
    with _style():
        figure = Figure(figsize=(3.3, 3.9), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        width = 1 / len(images)
        for place, (count, sure, right) in enumerate(zip(images, confidence, correct, strict=True)):
            if count:
                middle = (place + 0.5) * width
                upper.bar(middle, right / count, 0.92 * width, color=SERIES[0])
                upper.plot([middle - 0.46 * width, middle + 0.46 * width], 2 * [sure / count],
                           color=SERIES[1], linewidth=2, solid_capstyle="butt")  # fmt: skip
                lower.bar(middle, count / sum(images), 0.92 * width, color=GRID)
        upper.plot([0, 1], [0, 1], color=INK, linestyle=":", linewidth=1)
        upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
        lower.set(xlabel="confidence", ylabel="images")
        for axis in (upper.yaxis, lower.yaxis, lower.xaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0))
        lower.yaxis.set_major_locator(MaxNLocator(2))
        return _svg(figure, name, label)


@contextmanager
def _style() -> Iterator[None]:
    """STYLE on matplotlib's own defaults, whatever the user's matplotlibrc says; undone afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _colour(number: int) -> str:
    return SERIES[number % len(SERIES)]


def _svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an element to stand in a page: ids made unique by the name, nothing but the drawing."""
    buffer = io.StringIO()
    about = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=about)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(
        r"<style.*?</style>", "", text, count=1, flags=re.DOTALL
    )  # it is for the whole page
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", text)
    for stand_in, colour in COLOURS.items():
        text = text.replace(stand_in, colour)
    width, height = (round(72 * float(inches)) for inches in figure.get_size_inches())
    opening = (
        f'<svg role="img" aria-label="{html.escape(label)}" viewBox="0 0 {width} {height}" '
        f'style="width: {width * 4 / 3:.0f}px">'
    )
    return opening + text[text.index(">") + 1 :]
