"""Every example of the documentation runs as it is written, page by page, offline."""

import re
import shlex
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from interp.cli.app import COMMANDS, command

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
# A fenced block, with the comment before it that says why it is not run.
BLOCK = re.compile(r"^(<!-- not run: .+ -->\n)?```(\w+)\n(.*?)^```$", re.M | re.S)


def blocks(page, language):
    """The blocks of a page that are to be run, with the lines on which they begin."""
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        if found[2] == language and not found[1]:
            yield text[: found.start(3)].count("\n"), found[3]


def name(page):
    return page.relative_to(DOCS).with_suffix("").as_posix()


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page, "python"))], ids=name)
def test_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    world = {"__name__": "page"}
    for line, code in blocks(page, "python"):
        # Blank lines in front, so that a traceback names the line of the page.
        exec(compile("\n" * line + code, str(page), "exec"), world)
    plt.close("all")


def test_every_command_that_a_page_shows_exists_with_its_options():
    shown = [
        (name(page), line)
        for page in PAGES
        for _, block in blocks(page, "sh")
        for line in block.replace("\\\n", "").splitlines()
        if line.startswith("interp ")
    ]
    assert shown
    for page, line in shown:
        _, asked, *words = shlex.split(line, comments=True)
        assert asked in COMMANDS, f"{page}: {line}"
        known = {option for each in command(asked).params for option in each.opts}
        assert {word for word in words if word.startswith("--")} <= known, f"{page}: {line}"


@pytest.mark.parametrize("language", ["", "py", "pycon", "console", "bash", "shell"])
def test_examples_are_marked_python_or_sh_and_nothing_else(language):
    """A block in another language would be run by nobody."""
    fence = re.compile(rf"^```{language}$(?=\n(?!\n*\Z).*?^```$)", re.M | re.S)
    for page in PAGES:
        text = BLOCK.sub("", page.read_text(encoding="utf-8"))
        assert not fence.search(text), name(page)
