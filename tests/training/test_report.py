"""The page of `viewfold report`, as a program reads it."""

import csv
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.data_sets import striped, write_npz
from tests.training.runs import interrupt_after, settings
from training import report_parts
from training.checkpoint import Run, open_run
from training.classify import train
from training.config import AugmentConfig, ReportConfig
from training.confusion import confusion_matrix
from training.copies import CopyAccuracy
from training.errors import CheckpointError, ConfigError, DataError
from training.report import report
from training.report_copies import copies_section
from training.report_parts import heat_map, picture

CHROMIUM = Path("/usr/bin/chromium")
VOID = {"meta", "link", "img", "br"}
HOSTILE = '<b>&"'


class Page(HTMLParser):
    """What a page holds: its text, ids, addresses, tables; complains of tags that do not match."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.headings: list[str] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name.split(":")[-1] in ("href", "src", "srcset", "action"):
                self.addresses.append(value or "")
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}>"

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["h2"]:
            self.headings.append(data)
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


ALL = [
    *("Settings and provenance", "Training curves", "Accuracy against forward passes"),
    *("Reliability diagrams", "Confusion matrix", "Per-class accuracy", "Transformed copies"),
    "The worst mistakes",
]


def hostile_data(folder: Path) -> Path:
    """Two classes, one of a name that is no HTML, and labels that cannot all be right."""
    images, labels = striped(20, seed=1)
    labels[:6] = 1 - labels[:6]
    return write_npz(
        folder / "set.npz",
        classes=np.array([HOSTILE, "two"]),
        test_images=images,
        test_labels=labels,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A complete run of each objective. Not to be changed: copy it first."""
    found = {}
    for objective in ("sla-sd", "sla", "mt", "da", "baseline"):
        folder = tmp_path_factory.mktemp(objective)
        hostile_data(folder)
        found[objective] = train(settings(folder, objective=objective, epochs=1))
    return found


@pytest.mark.parametrize("objective", ["sla-sd", "sla", "mt", "da", "baseline"])
def test_page_of_a_complete_run_is_whole_and_loads_nothing(
    runs: dict[str, Run], objective: str, tmp_path: Path
):
    run = runs[objective]
    path = report(ReportConfig(run.folder, out=tmp_path / "page.html"))
    found = Page(path)
    assert path == tmp_path / "page.html"
    untold = {"Transformed copies"} if objective in ("da", "baseline") else set()
    assert found.headings == [heading for heading in ALL if heading not in untold]
    assert len(found.ids) == len(set(found.ids))
    assert "http" not in found.source
    assert all(address.startswith(("data:", "#")) for address in found.addresses)
    assert all(image["alt"] is not None for image in found.images)
    assert HOSTILE in found.text
    assert HOSTILE not in found.source
    assert str(run.folder.parent) not in found.source
    copies = {"sla-sd": 4, "sla": 4, "mt": 4, "da": 4, "baseline": 0}[objective]
    mistakes = found.source.count("<article>")
    assert 0 < mistakes <= 12
    assert len(found.images) == mistakes * (1 + copies)
    assert ("rotation-270" in found.text) == (copies > 0)


def test_numbers_are_those_of_the_run(runs: dict[str, Run], tmp_path: Path):
    run = runs["sla-sd"]
    text = Page(report(ReportConfig(run.folder, out=tmp_path / "page.html"))).text
    for values in run.result()["test"].values():
        assert f"{100 * values['top1']:.2f}\N{NARROW NO-BREAK SPACE}%" in text
        assert f"{values['nll']:.4f}" in text
        assert f"{values['ece']:.4f}" in text
    assert "20 images of the test split" in text
    assert run.problem.versions["torch"] in text
    assert run.result()["hardware"] in text


@pytest.fixture(scope="module")
def folded(runs: dict[str, Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that learnt what another one says. Not to be changed."""
    folder = tmp_path_factory.mktemp("folded")
    hostile_data(folder)
    augment = AugmentConfig(cutmix=1.0)
    teacher = str(runs["sla"].folder)
    return train(settings(folder, objective="distill", epochs=1, teacher=teacher, augment=augment))


@pytest.fixture(scope="module")
def tuned(runs: dict[str, Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that began with another one's weights. Not to be changed."""
    folder = tmp_path_factory.mktemp("tuned")
    hostile_data(folder)
    weights = runs["sla"].folder
    return train(settings(folder, objective="baseline", epochs=1, weights=weights))


@pytest.mark.parametrize("kind", ["folded", "tuned"])
def test_page_names_no_folder_of_the_machine(
    kind: str,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
):
    run: Run = request.getfixturevalue(kind)
    found = Page(report(ReportConfig(run.folder, out=tmp_path / "page.html")))
    assert str(tmp_path_factory.getbasetemp()) not in found.source
    assert not re.search(r"(^|[^\w.])/\w+/", found.text)
    assert {"folded": "teacher = run", "tuned": "weights = run"}[kind] in found.text


def test_changed_settings_are_named_by_their_flags(folded: Run, tmp_path: Path):
    found = Page(report(ReportConfig(folded.folder, out=tmp_path / "page.html")))
    row = re.search(r"changed settings</th><td>(.*?)</td>", found.source)
    assert row is not None
    changed = re.findall("<code>(.*?)</code>", row[1])
    assert {"cutmix = 1", "optim.lr = 0.05", "objective = distill"} <= set(changed)
    assert not [setting for setting in changed if setting.startswith(("mixup", "flip", "beta"))]
    assert '<th scope="row">crop-padding</th><td><code>0.125</code>' in found.source
    assert "{" not in "".join(re.findall("<code>(.*?)</code>", found.source))


def test_a_folded_runs_page_says_that_its_teacher_votes(
    folded: Run, runs: dict[str, Run], tmp_path: Path
):
    found = Page(report(ReportConfig(folded.folder, out=tmp_path / "page.html")))
    assert "what the teacher votes of each transformed copy" in found.text
    assert "distilled looks at no copies" in found.text
    # the table of the modes, the chart's legend in two lines, the diagram's caption, the table of the classes
    words = " ".join(found.text.split())
    assert words.count("aggregated (teacher)") == words.count("aggregated") == 4
    said = re.search(r'aria-label="Top-1 by forward passes\.(.*?)"', found.source)
    assert said is not None
    assert "aggregated (teacher), 4 passes" in said[1]
    own = Page(report(ReportConfig(runs["sla-sd"].folder, out=tmp_path / "own.html")))
    assert "what each transformed copy votes" in own.text
    assert "teacher votes" not in own.text
    assert "(teacher)" not in own.source


def test_page_says_who_looked_at_the_copies(folded: Run, runs: dict[str, Run], tmp_path: Path):
    for run, whose in ((runs["sla"], "network"), (folded, "teacher")):
        found = Page(report(ReportConfig(run.folder, out=tmp_path / f"{whose}.html")))
        assert f"The {whose} looked at every image under each transformation" in found.text


def test_a_class_without_images_is_told_last():
    right = torch.tensor([[0, 0], [1, 0], [2, 1]])
    accuracy = CopyAccuracy(torch.tensor([0, 2, 2]), right, right.flip(1))
    section = copies_section(
        accuracy, ("identity", "turned"), ["none", "worse", "<better>"], "val", "network"
    )
    names = re.findall('<tr><th scope="row">(.*?)</th>', section)
    assert names == ["identity", "turned", "worse", "&lt;better&gt;", "none"]
    told = [float(share) for share in re.findall('<meter value="(.*?)"', section)]
    assert told == [3 / 4, 1 / 4, 1 / 4, 3 / 4, 1 / 4, 1 / 4, 3 / 4, 3 / 4]
    assert section.count("no images") == 2
    assert "4 images of the val split" in section


def test_page_lies_in_the_run_which_stays_one(runs: dict[str, Run], tmp_path: Path):
    folder = shutil.copytree(runs["baseline"].folder, tmp_path / "run")
    assert report(ReportConfig(folder)) == folder / "report.html"
    report(ReportConfig(folder))
    assert open_run(folder).complete
    assert not list(folder.glob("*.part"))


def test_no_mistakes_are_shown_where_none_are_asked_for(runs: dict[str, Run], tmp_path: Path):
    config = ReportConfig(runs["sla-sd"].folder, out=tmp_path / "page.html", mistakes=0)
    found = Page(report(config))
    assert found.headings == ALL
    assert found.images == []


def test_validation_split_can_be_asked_for_and_is_said_to_flatter(
    runs: dict[str, Run], tmp_path: Path
):
    config = ReportConfig(runs["sla-sd"].folder, out=tmp_path / "page.html", split="val")
    text = Page(report(config)).text
    assert "images of the val split" in text
    assert "these numbers flatter it" in text


def unfinished(folder: Path, monkeypatch: pytest.MonkeyPatch, steps: int) -> Path:
    interrupt_after(monkeypatch, steps)
    return train(settings(folder)).folder


def test_unfinished_run_is_measured_on_the_validation_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = unfinished(tmp_path, monkeypatch, 12)
    found = Page(report(ReportConfig(folder)))
    assert found.headings == ALL
    assert "This run is unfinished: 1 of 2 epochs" in found.text
    assert "images of the val split" in found.text
    with pytest.raises(
        ConfigError, match=r"unfinished, and the test split is seen once.*\n.*--resume"
    ):
        report(ReportConfig(folder, split="test"))


def test_run_without_a_checkpoint_shows_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = unfinished(tmp_path, monkeypatch, 3)
    found = Page(report(ReportConfig(folder)))
    assert found.headings == ALL[:1]
    assert "0 of 2 epochs" in found.text
    assert "There is no checkpoint to measure yet" in found.text


def test_a_row_that_is_being_written_is_left_out_and_a_broken_file_refused(
    runs: dict[str, Run], tmp_path: Path
):
    folder = shutil.copytree(runs["baseline"].folder, tmp_path / "run")
    with (folder / "metrics.csv").open("a") as file:
        file.write("2,18,0.0")
    assert "Training loss over 1 epochs" in Page(report(ReportConfig(folder))).source
    (folder / "metrics.csv").write_text("epoch,train_loss\none,two\n")
    with pytest.raises(CheckpointError, match=r"metrics\.csv is malformed"):
        report(ReportConfig(folder))


def test_data_that_has_moved_can_be_named(runs: dict[str, Run], tmp_path: Path):
    folder = shutil.copytree(runs["baseline"].folder, tmp_path / "run")
    config = ReportConfig(folder, data=f"npz:{tmp_path / 'elsewhere.npz'}")
    with pytest.raises(DataError, match="does not exist"):
        report(config)
    hostile_data(tmp_path).rename(tmp_path / "elsewhere.npz")
    text = Page(report(config)).text
    assert "images now" not in text


def test_other_numbers_of_images_are_said(runs: dict[str, Run], tmp_path: Path):
    images, labels = striped(7)
    labels[:] = 0  # and one class has no images
    names = np.array([HOSTILE, "two"])
    write_npz(tmp_path / "new.npz", classes=names, test_images=images, test_labels=labels)
    config = ReportConfig(
        runs["sla"].folder, out=tmp_path / "page.html", data=f"npz:{tmp_path / 'new.npz'}"
    )
    text = Page(report(config)).text
    assert "The test split has 7 images now, but 20 when the run began" in text
    assert "no images" in text


def test_data_of_other_classes_is_refused(runs: dict[str, Run], tmp_path: Path):
    config = ReportConfig(runs["sla"].folder, out=tmp_path / "page.html", data="digits")
    with pytest.raises(DataError, match="has other classes"):
        report(config)
    assert not (tmp_path / "page.html").exists()


def test_many_classes_are_listed_by_their_most_confused_pairs(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(report_parts, "MOST_CLASSES", 1)
    found = Page(report(ReportConfig(runs["sla"].folder, out=tmp_path / "page.html")))
    assert "taken for" in found.text
    assert 'class="heat"' not in found.source
    assert found.text.count("1 more classes") == 2  # by mode, and by what is told of the copies


def test_heat_map_holds_every_count_and_no_markup_of_names():
    given = torch.eye(3)[[0, 0, 1, 2, 2, 2]]
    matrix = confusion_matrix(given, torch.tensor([0, 1, 1, 1, 2, 2])).tolist()
    html = heat_map(matrix, (HOSTILE, "b", "c"), "a caption")
    assert HOSTILE not in html
    rows = re.findall(r"<tr><th scope=.row.*?</tr>", html)
    cells = [[int(n or 0) for n in re.findall(r"<td[^>]*>(\d*)</td>", row)] for row in rows]
    assert cells == matrix
    assert "--share: 0.333" in rows[1]


@pytest.mark.parametrize(
    ("side", "tiny", "width"), [(8, True, 8), (64, True, 64), (300, False, 100)]
)
def test_pictures_are_made_smaller_never_larger(side: int, tiny: bool, width: int):
    html = picture(torch.zeros(side, side, 3, dtype=torch.uint8), HOSTILE, style="a", most_px=100)
    assert (" tiny" in html) == tiny
    assert f'width="{width}"' in html
    assert HOSTILE not in html


def test_history_of_a_real_run_is_drawn(runs: dict[str, Run], tmp_path: Path):
    with (runs["sla-sd"].folder / "metrics.csv").open(newline="") as file:
        row: dict[str, Any] = next(csv.DictReader(file))
    source = report(ReportConfig(runs["sla-sd"].folder, out=tmp_path / "page.html")).read_text()
    assert f"at the end distilled {100 * float(row['val_distilled_top1']):.2f}" in source


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}")
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (360, "dark")])
def test_page_in_a_browser_is_quiet_and_fits(
    runs: dict[str, Run], tmp_path: Path, width: int, scheme: Any
):
    path = report(ReportConfig(runs["sla-sd"].folder, out=tmp_path / "page.html"))
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        requested: list[str] = []
        complaints: list[str] = []
        page.on("request", lambda request: requested.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for chart in page.locator("svg").all():
            assert chart.bounding_box()["height"] > 100
        browser.close()
    assert complaints == []
    assert [url for url in requested if not url.startswith("data:")] == [path.as_uri()]
