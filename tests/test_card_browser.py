"""The card in headless Chromium: it looks as it is meant to, light and dark, and the browser complains of nothing."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from support.program import Cli

pytestmark = pytest.mark.browser
NAMES = ("chromium", "chromium-browser", "google-chrome")
THEMES = {"light": ("1", (0xF7, 0xF6, 0xF3)), "dark": ("0", (0x13, 0x14, 0x16))}  # Blink's number, --paper in card.html
BOX = (0xFF, 0x7A, 0x1A)


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    assert found, f"this needs one of {', '.join(NAMES)}: apt-get install chromium"
    return found


def shot(browser: str, page: Path, scheme: str, width: int) -> tuple[Image.Image, str]:
    """The page as it appears, and what the browser says of it."""
    to = page.with_name(f"{scheme}-{width}.png")
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
         f"--blink-settings=preferredColorScheme={scheme}", f"--user-data-dir={page.parent / 'profile'}",
         f"--window-size={width},2400", f"--screenshot={to}", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return Image.open(io.BytesIO(to.read_bytes())).convert("RGB"), done.stderr


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", [1100, 700, 400])
def test_the_card_in_a_browser(cli: Cli, tmp_path: Path, browser: str, theme: str, width: int) -> None:
    assert cli("-d", "tsinghua", "--sample", "--to", tmp_path).returncode == 0
    scheme, paper = THEMES[theme]
    image, said = shot(browser, tmp_path / "_extraction/tsinghua/card.html", scheme, width)
    assert "CONSOLE" not in said, said
    assert image.getpixel((2, 2)) == image.getpixel((width - 3, 1200)) == paper  # it is not wider than the window
    colours = {colour for _, colour in image.getcolors(1 << 24) or []}
    assert BOX in colours  # the boxes over the thumbnails
    assert len(colours) > 200  # the thumbnails themselves: the rest of the page has few
