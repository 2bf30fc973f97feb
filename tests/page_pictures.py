"""Takes the picture of the server's page for the README: `python -m tests.page_pictures`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from .browser import launched
from .pictures import FOLDER, faulty
from .serving import serving


def main(target: Path = FOLDER / "page.jpg") -> None:
    with tempfile.TemporaryDirectory() as folder, serving("--min-score", "3.2") as server:
        photo, shot = Path(folder) / "photo.jpg", Path(folder) / "page.png"
        Image.fromarray(faulty()).save(photo, quality=95)
        with sync_playwright() as driver, launched(driver) as browser:
            page = browser.new_page(viewport={"width": 1060, "height": 760})
            page.goto(server.url)
            page.set_input_files("#file", photo)
            page.wait_for_selector("#result:not([hidden])")
            page.check("#show")
            page.screenshot(path=shot, full_page=True)
        Image.open(shot).convert("RGB").save(target, quality=85)


if __name__ == "__main__":
    main()
