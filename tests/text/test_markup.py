"""A user's text in LaTeX, Markdown, HTML and terminals is text."""

import html
import io
import re
from pathlib import Path

import pytest
from rich.table import Table

import interp as ip
from interp.cli.terminal import console, shown
from interp.report import tables
from interp.text.html import LITERAL
from interp.text.markup import latex, markdown

HOSTILE = [
    "ba$$in cover", "$5 or $6", "\\input{secret}", "a\\b^c~d_e{f}g", "50 % & #1", "a|b",
    "*a* _b_ `c`", "[a](javascript:b)", "<script>alert(1)</script>", "![x](y)", "a <- b", '"',
    ":goat: [bold]x[/]",
]  # fmt: skip


def read_latex(text: str) -> str:
    """What LaTeX would print: every command that the escaping may use, and no other."""
    names = {
        "textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<",
        "textgreater": ">", "textbar": "|", "char34": '"',
    }  # fmt: skip
    pattern = re.compile(r"\\([a-z]+\d*){}|\\([&%$#_{}])|([^\\&%$#_{}~^])", re.DOTALL)
    assert pattern.sub("", text) == "", f"{text} holds a mark that means something"
    return pattern.sub(lambda m: names[m[1]] if m[1] else m[2] or m[3], text)


@pytest.mark.parametrize("text", HOSTILE)
def test_latex_prints_the_text(text):
    assert read_latex(latex(text)) == text


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_shows_the_text(text):
    """Every mark that could begin something is escaped, by one backslash that is no text."""
    escaped = markdown(text)
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_{}\[\]<>|$~&#]", escaped)
    assert re.sub(r"\\(.)", r"\1", escaped) == text


def test_cells_have_one_line():
    assert latex("a\nb\u2028c") == markdown("a\nb\u2028c") == "a b c"


@pytest.mark.parametrize("text", [*HOSTILE, "[/] [link=https://a]b[/link]"])
def test_a_terminal_shows_the_text(text):
    file = io.StringIO()
    screen = console(file=file, width=200, force_terminal=False)
    table = Table("what", title=text)
    table.add_row(text)
    screen.print(table)
    screen.print(text)
    lines = file.getvalue().splitlines()
    assert sum(text in line for line in lines) == 3


def test_a_terminal_does_not_obey_the_text():
    assert shown("a\x1b[31m\x07\x7f\x9b\n") == "a␛[31m␇␡\N{REPLACEMENT CHARACTER}␊"
    assert shown("goat \U0001f410 ü") == "goat \U0001f410 ü"


def test_there_is_no_other_console():
    for path in Path(ip.__file__).parent.rglob("*.py"):
        if path.name != "terminal.py":
            assert "Console(" not in path.read_text(encoding="utf-8"), path


def test_tables_hold_names_as_they_are(tmp_path):
    row = {"kind": "$k$", "value": "to unedited", "mean": 0.1, "low": 0.1, "high": 0.1}
    names = [*HOSTILE, "g"]
    long = tables.pd.DataFrame([{"patch": name, **row, "prompts": 3} for name in names])
    wide = tables.pd.DataFrame({"patch": names, "a_b (x|y)": "0.10"})
    _, md, tex = tables.write(long, wide, tmp_path, "t")
    first = [
        line.split(" & ")[0].strip() for line in tex.read_text().splitlines() if " & 0" in line
    ]
    assert first == [*map(latex, HOSTILE), r"g: prompt, eot $\leftarrow$ mean pad"]
    cells = [line.split("|", 1)[1].rsplit("|", 2) for line in md.read_text().splitlines()[2:]]
    assert [cell[0].strip() for cell in cells][:-1] == list(map(markdown, HOSTILE))
    assert {cell[1].strip() for cell in cells} == {"0.10"}


def test_notebooks_set_no_mathematics(sd1):
    text = "$5 or $6"
    sd = ip.Session(sd1, steps=1, negative=text)
    (prompt,) = ip.encode(sd1, [text])
    for shown_as in (prompt, sd, ip.swap("eot", prompt)):
        page = shown_as._repr_html_()
        assert re.match(rf'<\w+ class="{LITERAL}">', page)
        assert "$" in html.unescape(page)
