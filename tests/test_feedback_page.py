"""The page in a real browser, against a real server that is killed."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageFilter

from qinsight_plugin.feedback.store import Answer, Store

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]

PICTURES, PAIRS = 40, 60
TOTAL = PICTURES + PAIRS
PATIENCE = 20_000  # ms


def make_pictures(folder: Path, count: int = PICTURES) -> None:
    """Windows of photographs, blurred more and more."""
    photographs = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]
    rng = np.random.default_rng(0)
    for k in range(count):
        photograph = photographs[k % 3]
        top, left = (int(rng.integers(0, side - 256)) for side in photograph.shape[:2])
        window = Image.fromarray(photograph[top : top + 256, left : left + 256])
        window.filter(ImageFilter.GaussianBlur(k / 10)).save(folder / f"{k:02}.jpg", quality=90)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Server:
    """`qinsight label` as a process, again and again on one port."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.command = [sys.executable, "-m", "qinsight_plugin", "label", str(folder), *arguments]
        self.command += ["--port", str(free_port()), "--rater", "ann"]
        self.process: subprocess.Popen[str] | None = None
        self.said = ""

    def start(self) -> str:
        """Ann's link."""
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.match(r"ann: (\S+)", line):
                return found[1]
        raise AssertionError("no link was printed")

    def stop(self, how: signal.Signals = signal.SIGKILL) -> int:
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.send_signal(how)
        with self.process.stdout:
            self.said = self.process.stdout.read()
        return self.process.wait(30)


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Server]:
    server = Server(folder, *arguments)
    try:
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def dismiss(page: Page) -> None:
    """Read what is on a card, and go on, until a question can be answered."""
    while True:
        page.locator("footer button:enabled, dialog[open], h1:text('All done')").first.wait_for(
            timeout=PATIENCE
        )
        if not page.locator("dialog[open]").count():
            return
        page.keyboard.press("Enter")


def give(page: Page, count: int) -> None:
    """Answer that many questions by keyboard."""
    for _ in range(count):
        dismiss(page)
        where = page.locator("#where").inner_text()
        is_pair = "better" in page.locator("h1").inner_text()
        page.keyboard.press("ArrowLeft" if is_pair else "4")
        page.locator("#where").filter(has_not_text=re.compile(f"^{where}$")).wait_for(
            timeout=PATIENCE, state="attached"
        )


def answers_in(folder: Path) -> list[Answer]:
    with closing(Store(folder / "qinsight-answers.sqlite", must_exist=True)) as store:
        return store.answers()


def test_forty_ratings_and_sixty_pairs_survive_two_kills_and_each_is_there_once(
    browser: Browser, tmp_path: Path
) -> None:
    make_pictures(tmp_path)
    settings = ("--ratings", str(PICTURES), "--pairs", str(PAIRS), "--practice", "0")
    with serving(tmp_path, *settings, "--repeat", "0", "--rest", "30") as server:
        page = browser.new_page()
        page.goto(server.start())
        give(page, 25)
        server.stop()  # in the middle of the ratings; the page stays open
        dismiss(page)
        page.keyboard.press("2")
        page.locator("#note:text('No connection')").wait_for(timeout=PATIENCE)
        link = server.start()
        page.locator("#where", has_text=f"27 of {TOTAL}").wait_for(timeout=PATIENCE)
        give(page, 30)
        page.close()  # a closed laptop, in the middle of the pairs
        server.stop()
        server.start()
        page = browser.new_page()
        page.goto(link)
        give(page, TOTAL - 56)
        page.locator("h1:text('All done')").wait_for(timeout=PATIENCE)
        page.close()
        assert server.stop(signal.SIGINT) == 0
        assert f"Stopped. {TOTAL} answers are in" in server.said
    answers = answers_in(tmp_path)
    kinds = Counter(answer.question.kind for answer in answers)
    assert kinds == {"rating": PICTURES, "pair": PAIRS}
    rated = [a.question.pictures[0].path for a in answers if a.question.kind == "rating"]
    assert sorted(rated) == [f"{k:02}.jpg" for k in range(PICTURES)]
    pairs = [
        frozenset(p.path for p in a.question.pictures) for a in answers if a.question.kind == "pair"
    ]
    assert len(set(pairs)) == PAIRS
    values = [answer.value for answer in answers if answer.question.kind == "rating"]
    assert Counter(values) == {4: PICTURES - 1, 2: 1}  # the answer given without a connection
    assert {answer.value for answer in answers if answer.question.kind == "pair"} == {"left"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    make_pictures(folder, 8)
    large = skimage.data.astronaut().repeat(4, 0).repeat(4, 1)
    Image.fromarray(large).save(folder / "large.png")
    import pillow_heif

    pillow_heif.from_pillow(Image.fromarray(skimage.data.coffee())).save(folder / "phone.heic")
    return folder


def place(page: Page, index: int) -> tuple[float, float, float]:
    """Scale of a picture, and which share of it is in the middle of its pane."""
    found: list[float] = page.evaluate(
        """index => {
            const pane = document.querySelectorAll(".pane")[index];
            const image = pane.querySelector("img");
            const a = pane.getBoundingClientRect(), b = image.getBoundingClientRect();
            const middle = (s, l, t, m) => (s + l / 2 - t) / m;
            return [b.width / image.naturalWidth, middle(a.left, a.width, b.left, b.width),
                    middle(a.top, a.height, b.top, b.height)];
        }""",
        index,
    )
    return found[0], found[1], found[2]


def test_both_sides_zoom_to_one_pixel_a_pixel_in_step(browser: Browser, folder: Path) -> None:
    with serving(
        folder, "--adjust", "exposure=20", "--practice", "0", "--answers", str(folder / "z.sqlite")
    ) as server:
        page = browser.new_page(viewport={"width": 1000, "height": 700}, device_scale_factor=2)
        page.goto(server.start())
        dismiss(page)
        while page.locator(".pane img").first.evaluate("image => image.naturalWidth") != 2048:
            page.keyboard.press("Enter")
            dismiss(page)
        assert place(page, 0)[0] < 0.5
        box = page.locator(".pane").first.bounding_box()
        assert box is not None
        page.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + 0.5 * box["height"])
        first, second = place(page, 0), place(page, 1)
        assert first[0] == 0.5  # of CSS pixels: one pixel of the picture is one of the screen
        assert first == pytest.approx(second, abs=1e-3)
        page.mouse.move(box["x"] + 200, box["y"] + 200)
        page.mouse.down()
        page.mouse.move(box["x"] + 120, box["y"] + 150, steps=4)
        page.mouse.up()
        moved = place(page, 0)
        assert moved[1] - first[1] == pytest.approx(80 / 1024, abs=0.002)
        assert moved == pytest.approx(place(page, 1), abs=1e-3)
        page.keyboard.press("z")
        assert place(page, 0)[0] < 0.5
        page.close()


def test_a_phone_shows_all_and_heic_is_converted(browser: Browser, folder: Path) -> None:
    with serving(
        folder,
        "--pairs",
        "6",
        "--ratings",
        "10",
        "--practice",
        "0",
        "--answers",
        str(folder / "p.sqlite"),
    ) as server:
        phone = browser.new_context(
            viewport={"width": 390, "height": 844},
            device_scale_factor=3,
            is_mobile=True,
            has_touch=True,
        )
        page = phone.new_page()
        page.goto(server.start())
        page.locator("dialog button").tap()
        seen = set()
        for _ in range(10):
            dismiss(page)
            for part in ("footer", "header", "main"):
                box = page.locator(part).bounding_box()
                assert box is not None
                assert box["x"] >= 0
                assert box["x"] + box["width"] <= 390
                assert box["y"] + box["height"] <= 844
            seen.add(page.locator(".pane img").evaluate("image => `${image.naturalWidth}`"))
            page.locator("footer button").nth(3).tap()
            page.wait_for_timeout(50)
        assert {"600", "2048", "256"} <= seen  # the HEIC picture is 600 wide
        page.close()
        phone.close()
    paths = [a.question.pictures[0].path for a in _answers(folder / "p.sqlite")]
    assert "phone.heic" in paths


def _answers(path: Path) -> list[Answer]:
    with closing(Store(path)) as store:
        return store.answers()


def test_the_last_answer_can_be_taken_back(browser: Browser, folder: Path) -> None:
    path = folder / "u.sqlite"
    with serving(folder, "--ratings", "4", "--practice", "0", "--answers", str(path)) as server:
        page = browser.new_page()
        page.goto(server.start())
        give(page, 2)
        dismiss(page)
        page.keyboard.press("Backspace")
        page.locator("#where", has_text="2 of").wait_for(timeout=PATIENCE)
        dismiss(page)
        page.keyboard.press("1")
        page.locator("#where", has_text="3 of").wait_for(timeout=PATIENCE)
        page.close()
    assert [answer.value for answer in _answers(path)] == [4, 1]


def test_a_link_opened_twice_is_handed_over(browser: Browser, folder: Path) -> None:
    path = folder / "w.sqlite"
    with serving(folder, "--ratings", "4", "--practice", "0", "--answers", str(path)) as server:
        link = server.start()
        first, second = browser.new_page(), browser.new_page()
        first.goto(link)
        dismiss(first)
        second.goto(link)
        dismiss(second)
        first.keyboard.press("3")
        first.locator("dialog[open] >> text=Open in another window").wait_for(timeout=PATIENCE)
        assert _answers(path) == []
        give(second, 1)
        first.close()
        second.close()
    assert [answer.value for answer in _answers(path)] == [4]
