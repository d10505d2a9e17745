"""The page in a real browser: Chromium through Playwright, skipped where one of them is missing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.bundles import write_bundle, write_embedder
from tests.pictures import GREEN, RED, plain
from tests.serving.servers import free_port, serving, start_command

CHROMIUM = Path("/usr/bin/chromium")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}"),
]


@pytest.fixture(scope="module")
def url(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    log = tmp_path_factory.mktemp("page") / "log"
    with serving(start_command(colours, port, device="cpu"), port, log) as started:
        yield started


@pytest.fixture
def page(url: str) -> Iterator[Any]:
    """The page, opened; every request and every complaint of the browser is kept on it."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1000, "height": 900})
        opened.requested, opened.complaints = [], []
        opened.on("request", lambda request: opened.requested.append(request.url))
        opened.on("console", lambda message: opened.complaints.append(message.text))
        opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
        opened.goto(url)
        opened.get_by_label("aggregated").wait_for()
        yield opened
        browser.close()


def upload(page: Any, data: bytes, name: str = "picture.png") -> None:
    file = {"name": name, "mimeType": "image/png", "buffer": data}
    page.locator("input[type=file]").set_input_files(files=[file])


def test_image_is_answered_and_the_mode_can_be_switched(page: Any, tmp_path: Path):
    upload(page, plain(GREEN))
    page.get_by_text("distilled: 1 pass,").wait_for()
    assert page.locator("#label").inner_text() == "green"
    assert page.locator("#top li").count() == 3
    page.get_by_label("aggregated").check()
    page.get_by_text("aggregated: 4 passes,").wait_for()
    page.screenshot(path=str(tmp_path / "page.png"), full_page=True)
    upload(page, plain(RED))
    page.locator("#label", has_text="red").wait_for()
    assert page.complaints == []


def test_nothing_is_asked_of_another_host(page: Any, url: str):
    upload(page, plain(GREEN))
    page.get_by_text("distilled: 1 pass,").wait_for()
    here = urlsplit(url).netloc
    web = [urlsplit(address) for address in page.requested if address.startswith(("http", "ws"))]
    assert {address.netloc for address in web} == {here}
    assert {address.path for address in web} == {"/", "/models", "/docs.json", "/predict"}


def test_error_is_shown_and_the_next_image_replaces_it(page: Any):
    upload(page, b"not an image", "fake.png")
    page.get_by_role("alert").filter(has_text="not an image in a known format").wait_for()
    assert not page.locator("#result").is_visible()
    upload(page, plain(RED))
    page.locator("#label", has_text="red").wait_for()
    assert page.get_by_role("alert").inner_text() == ""


def test_page_can_be_used_with_the_keyboard(page: Any):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.value") == "distilled"
    page.keyboard.press("ArrowRight")
    assert page.locator("input[name=mode]:checked").get_attribute("value") == "single"


@pytest.fixture
def embedder(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    bundle = write_embedder(tmp_path / "means")
    with serving(start_command(bundle, port, device="cpu"), port, tmp_path / "log") as started:
        yield started


def test_encoder_shows_the_vector_as_bars_and_numbers(embedder: str, page: Any, tmp_path: Path):
    page.goto(embedder)
    page.get_by_text("embeddings of 3 numbers").wait_for()
    upload(page, plain((255, 51, 0)))
    page.get_by_text("1.0000, 0.2000, 0.0000").wait_for()
    assert page.locator("#label").inner_text() == "3 numbers"
    assert page.locator("#bar").get_attribute("d").startswith("M0 0V-1h1V0ZM1 0V-0.2")
    assert page.locator("#top li").count() == 0
    page.get_by_label("normalize: length 1").check()
    page.get_by_text("0.9806, 0.1961, 0.0000").wait_for()
    page.screenshot(path=str(tmp_path / "page.png"), full_page=True)
    assert "/embed?mode=embed" in page.locator("#curl").inner_text()
    upload(page, b"not an image", "fake.png")
    page.get_by_role("alert").filter(has_text="not an image in a known format").wait_for()
    assert ["415" in complaint for complaint in page.complaints] == [True]


def test_classifier_offers_no_options_of_an_encoder(page: Any):
    assert not page.get_by_label("normalize: length 1").is_visible()
    upload(page, plain(GREEN))
    page.get_by_text("distilled: 1 pass,").wait_for()
    assert not page.locator("#bars").is_visible()


@pytest.fixture
def several(tmp_path: Path) -> Iterator[str]:
    models = tmp_path / "models"
    write_bundle(models / "colours")
    write_embedder(models / "means")
    port = free_port()
    with serving(start_command(models, port, device="cpu"), port, tmp_path / "log") as started:
        yield started


def test_one_of_several_models_can_be_chosen(several: str, page: Any):
    page.goto(several)
    page.get_by_label("aggregated").wait_for()
    upload(page, plain(GREEN))
    page.get_by_text("distilled: 1 pass,").wait_for()
    assert "predict?model=colours&mode=distilled" in page.locator("#curl").inner_text()
    page.get_by_label("Model").select_option("means")
    page.get_by_text("embed: ").wait_for()
    page.get_by_label("normalize: length 1").check()
    assert page.locator("#name").inner_text() == "means"
    assert page.locator("#top li").count() == 0
    assert "embed?model=means&mode=embed" in page.locator("#curl").inner_text()
    page.get_by_label("Model").select_option("colours")
    page.get_by_text("distilled: 1 pass,").wait_for()
    assert page.locator("#label").inner_text() == "green"
    assert not page.locator("#bars").is_visible()
    assert page.complaints == []


def test_one_model_needs_no_choice(page: Any):
    assert not page.get_by_label("Model").is_visible()
