"""Prompts and patches as coloured chips, for notebooks.

They show what each of a prompt's 77 positions is, and which categories a patch touches in which
order. Plain HTML with inline colours survives GitHub's notebook viewer and exported pages.
"""

from collections.abc import Sequence
from html import escape
from itertools import groupby

COLOURS = {"sot": "#d9d9d9", "prompt": "#a6cee3", "eot": "#fdbf6f", "pad": "#cab2d6"}
#: The same hues for lines and dots on white. The colour-blind can tell them apart: at least 29 in
#: CIELAB for protan, deutan and tritan vision (Machado et al. 2009).
INK = {"sot": "#999999", "prompt": "#3a9ad0", "eot": "#e07000", "pad": "#5b2a86"}
#: Notebooks typeset text between dollar signs as mathematics, unless a class says not to.
LITERAL = "tex2jax_ignore mathjax_ignore"
CHIP = (
    '<span title="{title}" style="background:{colour};color:#111;border-radius:0.4em;'
    'padding:0.1em 0.4em;margin:0.1em;display:inline-block">{label}</span>'
)


def chips(words: Sequence[str], categories: Sequence[str], ids: Sequence[int], note: str) -> str:
    """The positions of a prompt as HTML, each run of pads folded into one chip.

    Example:
        >>> chips(["<sot>", "goat", "<eot>"], ["sot", "prompt", "eot"], [49406, 9530, 49407], "")
    """
    parts = []
    positions = range(len(words))
    for category, run in groupby(positions, key=lambda position: categories[position]):
        places = list(run)
        groups = [places] if category == "pad" else [[place] for place in places]
        for group in groups:
            times = f" &times; {len(group)}" if len(group) > 1 else ""
            span = f"{group[0]}" if len(group) == 1 else f"{group[0]}-{group[-1]}"
            title = f"{category}, position {span}, id {ids[group[0]]}"
            label = escape(words[group[0]]) + times
            parts.append(CHIP.format(title=title, colour=COLOURS[category], label=label))
    legend = "".join(
        CHIP.format(title=name, colour=colour, label=name) for name, colour in COLOURS.items()
    )
    shown = f"<div>{''.join(parts)}</div><small>{legend} {escape(note)}</small>"
    return f'<div class="{LITERAL}">{shown}</div>'


def listed(operations: Sequence[tuple[Sequence[str], str]]) -> str:
    """The operations of a patch as an HTML list: categories as chips, then the call.

    Example:
        >>> listed([(("pad",), "zero('pad', fraction=0.7)")])
    """
    items = (
        "<li>"
        + "".join(CHIP.format(title=name, colour=COLOURS[name], label=name) for name in categories)
        + f" <code>{escape(call)}</code></li>"
        for categories, call in operations
    )
    return f'<ol class="{LITERAL}">{"".join(items)}</ol>'
