"""Photographs of the console's main pages for the documentation, light and dark, wide and narrow.

    PASSWORD=… make screenshots

It looks at what `make up` runs (PORT, 8000) as the operator whose password that prints, and writes to docs/console.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "console"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
ROW = "#result_list tbody a[href*='/change/']"
# A look: what its pictures' names end in, its width and colours, and of which pages there is one; empty: of all.
LOOKS: tuple[tuple[str, int, Any, tuple[str, ...]], ...] = (
    ("", 1440, "light", ()),
    ("-dark", 1440, "dark", ("home", "node", "leakage")),
    ("-phone", 390, "light", ("home", "job", "jobs")),
    ("-phone-dark", 390, "dark", ("home", "node")),
)
# Pages that are photographed longer than a screen, by how many pixels.
LONG = {"home": 2000, "leakage": 1800, "job": 1400, "node": 1500}
# Name of a picture: the page, and on it the first link that is followed.
PAGES = {
    "home": ("", ""),
    "leakage": ("leakage/?days=30", ""),
    "jobs": ("jobs/job/", ""),
    "job": ("jobs/job/?status__exact=running", ROW),
    "waiting-job": ("jobs/job/?status__exact=queued", ROW),
    "node": ("clusters/node/", ROW),
    "tenant": ("tenants/tenant/", ROW),
    "invoice": ("billing/invoice/", ROW),
    "incident": ("alerts/alertevent/", ROW),
}


def log_in(page: Page, base: str, password: str) -> None:
    """As the operator of the demo."""
    page.goto(f"{base}/admin/login/?next=/admin/")
    page.fill("#id_username", os.environ.get("CONSOLE_USER", "operator"))
    page.fill("#id_password", password)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{base}/admin/")


def photograph(page: Page, base: str, look: str, width: int, names: Sequence[str]) -> Iterator[Path]:
    """Each page, once its parts have come."""
    for name in names or PAGES:
        path, link = PAGES[name]
        page.set_viewport_size({"width": width, "height": LONG.get(name, 1000)})
        page.goto(f"{base}/admin/{path}")
        page.wait_for_load_state("networkidle")
        if link:
            found = page.locator(link)
            if not found.count():
                continue
            page.goto(base + str(found.first.get_attribute("href")))
            page.wait_for_load_state("networkidle")
        page.wait_for_timeout(500)
        file = FOLDER / f"{name}{look}.png"
        page.screenshot(path=file)
        yield file


def main() -> None:
    """Each look's pages."""
    base = f"http://127.0.0.1:{os.environ.get('PORT', '8000')}"
    FOLDER.mkdir(parents=True, exist_ok=True)
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        for look, width, scheme, names in LOOKS:
            context = browser.new_context(color_scheme=scheme)
            page = context.new_page()
            log_in(page, base, os.environ["PASSWORD"])
            for file in photograph(page, base, look, width, names):
                print(file.relative_to(FOLDER.parent.parent))
        browser.close()


if __name__ == "__main__":
    main()
