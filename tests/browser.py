"""A headless browser for the tests of pages, and what it saw while it showed one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def start_browser() -> Iterator[Browser]:
    """Starts the machine's Chromium; skips the test where there is none, unless CI wants it."""
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is None:
        if os.environ.get("NCC_REQUIRE_BROWSER"):
            pytest.fail(f"none of {', '.join(_BROWSERS)} is installed")
        pytest.skip("no Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found)
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page that is open, and what happened since it was opened.

    Attributes:
        page: The page.
        requests: Where it asked for something, but for what is within it.
        complaints: Errors and warnings on the console, and dialogs.
    """

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@contextmanager
def visit(
    browser: Browser,
    path: Path,
    *,
    width: int = 1280,
    scheme: Literal["light", "dark"] = "light",
    scripts: bool = True,
) -> Iterator[Visit]:
    """Opens a file as a person would."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
        java_script_enabled=scripts,
    )
    seen = Visit(context.new_page())

    def on_dialog(dialog: object) -> None:
        seen.complaints.append(f"dialog {dialog}")

    seen.page.on("dialog", on_dialog)
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    seen.page.on(
        "console",
        lambda message: (
            seen.complaints.append(message.text) if message.type in ("error", "warning") else None
        ),
    )
    seen.page.on(
        "request",
        lambda request: (
            None if request.url.startswith("data:") else seen.requests.append(request.url)
        ),
    )
    seen.page.goto(path.as_uri())
    yield seen
    context.close()
