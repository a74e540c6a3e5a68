"""A user's text escaped for LaTeX and Markdown, so that none of it is read as markup.

HTML has `html.escape`, figures have `plot.style.literal`, and terminals `cli.terminal`.
"""

import re

LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\char34{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}  # fmt: skip
MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|$~&#])")


def latex(text: str) -> str:
    r"""The text for a cell of a LaTeX table.

    Example:
        >>> latex("50 % of $5_a")
        '50 \\% of \\$5\\_a'
    """
    # One pass: what stands for a mark has marks of its own.
    return "".join(LATEX.get(mark, mark) for mark in _line(text))


def markdown(text: str) -> str:
    r"""The text for a cell of a Markdown table; GitHub's mathematics and HTML are text too.

    Example:
        >>> markdown("a|b *c* <d>")
        'a\\|b \\*c\\* \\<d\\>'
    """
    return MARKDOWN.sub(r"\\\1", _line(text))


def _line(text: str) -> str:
    """Cells have one line, and no control characters."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", text)
