"""Take the documentation's pictures of the page, from families in a store; run by ``make screenshots``.

The store is that of ``MLFLOW_TRACKING_URI``, or ``mlflow.db`` in the working directory; it must hold the
family, by default ``cifar100-small`` as ``lineage grow`` gives it.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

WIDE = {"width": 1280, "height": 720}


def main() -> None:
    """Start the server, take each picture, stop the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder for the pictures")
    parser.add_argument("--prefix", default="", help="first part of the pictures' names")
    parser.add_argument("--family", default="cifar100-small")
    parser.add_argument("--version", type=int, default=3, help="version whose panel is open")
    parser.add_argument("--other", type=int, default=1, help="version to compare with; 0 for no picture")
    options = parser.parse_args()
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        sys.exit("Chromium must be installed, but is not: 'apt-get install chromium'.")
    command = [sys.executable, "-m", "lineage", "ui", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().split()[-1]
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
                page = browser.new_page(viewport=WIDE)
                take(
                    page,
                    f"{address}#/{options.family}/{options.version}",
                    options.folder / f"{options.prefix}tree.png",
                )
                if options.other:
                    page.emulate_media(color_scheme="dark")
                    place = f"{address}#/{options.family}/{options.version}/{options.other}"
                    take(page, place, options.folder / f"{options.prefix}compare-dark.png")
                browser.close()
        finally:
            server.terminate()


def take(page: Page, place: str, file: Path) -> None:
    """Take one picture once everything is drawn and nothing moves."""
    page.goto("about:blank")
    page.goto(place)
    page.locator("#settings h3").first.wait_for(state="attached", timeout=60_000)
    page.wait_for_timeout(300)
    page.screenshot(path=file)


if __name__ == "__main__":
    main()
