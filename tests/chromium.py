"""Debian's Chromium, for tests of pages."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

EXECUTABLE = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = "no Chromium on this machine (Debian: apt install chromium)"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# The number of lines on which each header that names a data source writes that name.
LINES_OF_EACH_SOURCE = """headers => headers.filter(each => each.textContent.includes("divek/")).map(header => {
    const text = document.createTreeWalker(header, NodeFilter.SHOW_TEXT)
    let node = text.nextNode()
    while (!node.data.includes("divek/")) node = text.nextNode()
    const name = /divek\\/\\S*/.exec(node.data)
    const word = document.createRange()
    word.setStart(node, name.index)
    word.setEnd(node, name.index + name[0].length)
    return new Set([...word.getClientRects()].map(rectangle => rectangle.top)).size
})"""


@contextmanager
def launched() -> Iterator[Any]:
    """The browser, without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=EXECUTABLE, args=ARGUMENTS)
        yield started
        started.close()
