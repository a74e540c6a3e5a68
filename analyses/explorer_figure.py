"""The explorer's picture in the documentation: the page in a real browser, on the embedded model.

    python -m analyses.explorer_figure --out docs/explorer.png

Needs Chromium (`apt-get install chromium chromium-driver`), so the picture is kept, and drawn again
by hand when the page or the model changes. `--width 390` and `--dark` show the page on phones, and
at night.
"""

import io
import shutil
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from selenium import webdriver

import interp as ip
from interp.explore.notebook import explorer
from interp.explore.server import serve

PATIENCE = 300


def main(
    out: Annotated[Path, typer.Option(help="The picture.")] = Path("docs/explorer.png"),
    width: int = 1100,
    dark: bool = False,
    steps: int = 25,
) -> None:
    """Open the page, set the pads to zero, open the attention, and take a picture."""
    sd = ip.load(steps=steps)
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
        options.add_argument(argument)
    chrome = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    with serve(explorer(sd)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            screen(chrome, width, 900, dark)
            chrome.get(server.address)
            drawn(chrome)
            click(chrome, ".category.pad")
            click(chrome, ".explorer > details > summary")
            height = chrome.execute_script("return document.documentElement.scrollHeight")
            screen(chrome, width, height, dark)
            out.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.open(io.BytesIO(chrome.get_screenshot_as_png())).convert("RGB")
            picture.quantize(256).save(out, optimize=True)
        finally:
            chrome.quit()
            server.shutdown()


def screen(chrome: Any, width: int, height: int, dark: bool) -> None:
    """A screen of this size, narrower than a window may be."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def click(chrome: Any, selector: str) -> None:
    """Click, and wait for the answer."""
    script = "document.querySelector('.status').textContent = ''"
    chrome.execute_script(f"{script}; document.querySelector(arguments[0]).click()", selector)
    drawn(chrome)


def drawn(chrome: Any) -> None:
    """Wait until the page says that it is drawn."""
    end = time.monotonic() + PATIENCE
    said = "return document.querySelector('.status')?.textContent ?? ''"
    while not (status := chrome.execute_script(said)).startswith("Drawn"):
        if time.monotonic() > end:
            raise SystemExit(f"The explorer did not draw anything: {status}")
        time.sleep(0.1)


if __name__ == "__main__":
    typer.run(main)
