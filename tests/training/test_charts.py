import re
from collections.abc import Callable

import matplotlib
import pytest

from training import charts

NUMBERS = {"loss": [2.0, 1.0, 0.5], "other": [0.5, 0.4, 0.3]}


def curves(name: str = "curve", label: str = "a label") -> str:
    return charts.curves(name, label, [1, 2, 3], NUMBERS, percent=True)


def accuracy() -> str:
    answers = [charts.Answer("single", 1, 0.5, 0.4, 0.6), charts.Answer("plain", 1, 1.0, 0.8, 1.0)]
    answers.append(charts.Answer("aggregated", 4, 0.7, 0.6, 0.75))
    return charts.accuracy_against_passes("passes", "a label", answers)


def diagram() -> str:
    images, correct = [0.0, 3.0, 0.0, 7.0], [0.0, 1.0, 0.0, 7.0]
    confidence = [0.0, 1.2, 0.0, 6.5]
    return charts.reliability(
        "bins", "a label", images=images, confidence=confidence, correct=correct
    )


@pytest.mark.parametrize("draw", [curves, accuracy, diagram])
def test_chart_is_an_element_that_stands_alone(draw: Callable[[], str]):
    svg = draw()
    assert svg.startswith('<svg role="img" aria-label="a label" viewBox="0 0 ')
    assert svg.endswith("</svg>")
    assert "http" not in svg
    assert "<style" not in svg
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', svg)) <= set(ids)


@pytest.mark.parametrize("draw", [curves, accuracy, diagram])
def test_colours_are_those_of_the_page(draw: Callable[[], str]):
    svg = draw()
    assert re.findall(r"#[0-9a-f]{6}\b", svg) == []
    assert {"currentColor", "var(--line)", "var(--series-1)"} <= set(
        re.findall(r"currentColor|var\(--[\w-]+\)", svg)
    )


def test_text_stays_text_and_series_are_named():
    assert ">epoch</text>" in curves()
    assert ">other</text>" in curves()
    for word in ("single", "aggregated", "forward passes for one answer"):
        assert f">{word}</text>" in accuracy()


def test_two_charts_share_no_ids():
    ids = [set(re.findall(r'\bid="([^"]+)"', curves(name))) for name in ("one", "two")]
    assert ids[0] & ids[1] == set()


def test_the_same_numbers_make_the_same_chart_and_leave_no_settings_behind():
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"axes.facecolor": "red", "lines.linewidth": 9}):
        assert curves() == curves()
        other = curves()
    assert other == curves()
    assert dict(matplotlib.rcParams) == before


def test_a_label_is_escaped():
    assert 'aria-label="&lt;b&gt;&amp;&quot;"' in curves(label='<b>&"')


def test_one_epoch_is_enough():
    assert "<svg" in charts.curves("one", "a label", [1], {"loss": [2.0]})
