"""The explorer in a real JupyterLab, on a real kernel."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.browsing import browser, resize
from tests.explore.test_browser import click, drawn, image, one, status, until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TOKEN = "explorer"
CELL = """
import interp as ip
from tests.pipelines import pipeline

sd = ip.Session(pipeline("sd1"), steps=4)
explorer = ip.explore(sd, ["a photo of a goat"])
explorer
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab with one notebook, and its folder of running kernels."""
    pytest.importorskip("anywidget")
    pytest.importorskip("jupyterlab")
    folder = tmp_path_factory.mktemp("lab")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL.strip())])
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, folder / "book.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = (
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_RUNTIME_DIR",
        "JUPYTERLAB_SETTINGS_DIR",
        "JUPYTERLAB_WORKSPACES_DIR",
    )
    own = {name: str(folder / name.lower()) for name in places}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--port={port}", "--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={folder}"]
    command += [f"--IdentityProvider.token={TOKEN}", "--LabApp.news_url="]
    environment = {**os.environ, **own, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        until(lambda: answers(address), "JupyterLab does not start")
        yield address, Path(own["JUPYTER_RUNTIME_DIR"])
    finally:
        server.terminate()
        server.wait(30)


def answers(address, path="/api/status", method="GET"):
    """What JupyterLab says, or nothing while it is not there."""
    asked = urllib.request.Request(
        address + path, method=method, headers={"Authorization": f"token {TOKEN}"}
    )
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return json.loads(answer.read() or "{}")
    except OSError:
        return None


@pytest.fixture(scope="module")
def chrome():
    with browser() as found:
        yield found


@pytest.fixture
def cell(chrome, lab):
    """The notebook after its cell ran, the explorer drawn below it."""
    address, _ = lab
    resize(chrome, 1280, 1400)
    chrome.get(f"{address}/lab/tree/book.ipynb?token={TOKEN}")
    until(lambda: kernel(chrome) == "idle", "no kernel")
    until(lambda: begun(chrome), "the cell does not run")
    until(lambda: chrome.find_elements("css selector", ".explorer"), "no explorer", 120)
    drawn(chrome)
    return chrome


def begun(chrome):
    """Run the first cell by its keys, unless it ran already; JupyterLab takes a while to listen."""
    if one(chrome, ".jp-InputPrompt").text.strip("[]: "):
        return True
    one(chrome, ".jp-Notebook .cm-content").click()
    keys = ActionChains(chrome).key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(Keys.SHIFT)
    keys.perform()
    time.sleep(1)
    return False


def kernel(chrome):
    found = chrome.find_elements("css selector", ".jp-Notebook-ExecutionIndicator")
    return found[0].get_attribute("data-status") if found else None


def in_kernel(runtime, code):
    """What code prints in the notebook's own kernel."""
    from jupyter_client import BlockingKernelClient

    client = BlockingKernelClient()
    client.load_connection_file(str(max(runtime.glob("kernel-*.json"), key=os.path.getmtime)))
    client.start_channels()
    said = []
    try:
        client.wait_for_ready(timeout=60)
        client.execute_interactive(code, timeout=60, output_hook=said.append)
    finally:
        client.stop_channels()
    printed = [m["content"]["text"] for m in said if m["content"].get("name") == "stdout"]
    assert printed, said
    return "".join(printed).strip()


def test_pick_patch_run_the_line_in_the_kernel_and_restart_it(cell, lab):
    address, runtime = lab
    click(cell, ".explorer .category.pad")
    assert (image(cell, "with") != image(cell, "without")).any()
    line = one(cell, ".python code").text
    assert in_kernel(runtime, "print(explorer.line)") == line
    digest = f"import hashlib; print(hashlib.sha256({line}.tobytes()).hexdigest(), explorer.patch)"
    made, patch = in_kernel(runtime, digest).split()
    assert made == hashlib.sha256(image(cell, "with").tobytes()).hexdigest()
    assert patch == "zero('pad')"
    assert in_kernel(runtime, "print(explorer.run.image.sizes['patch'])") == "2"

    # JupyterLab's colours decide, not the system's.
    resize(cell, 1280, 1400, dark=True)
    paper = "return getComputedStyle(document.querySelector('.explorer')).colorScheme"
    assert cell.execute_script(paper) == "light"

    (running,) = answers(address, "/api/kernels")
    answers(address, f"/api/kernels/{running['id']}/restart", "POST")
    cell.execute_script("document.querySelector('.explorer .category.eot').click()")
    until(lambda: restarted(cell), f"nothing said: {status(cell)}")


def restarted(chrome):
    """Whether the explorer, asked for something else, says why nothing happens."""
    return "run the cell again" in status(chrome)
