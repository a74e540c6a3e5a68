"""A user's text escaped for LaTeX and Markdown, so that none of it is read as markup.

For HTML use `html.escape`, for figures `plot.style.literal`, for terminals `cli.terminal`.
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
    # In one pass, because replacements contain special characters themselves.
    return "".join(LATEX.get(mark, mark) for mark in _line(text))


def markdown(text: str) -> str:
    r"""The text for a cell of a Markdown table, with GitHub's mathematics and HTML escaped.

    Example:
        >>> markdown("a|b *c* <d>")
        'a\\|b \\*c\\* \\<d\\>'
    """
    return MARKDOWN.sub(r"\\\1", _line(text))


def _line(text: str) -> str:
    """The text on one line, without control characters."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", text)
