"""`interp edits`, and the edits that other commands take by name."""

from __future__ import annotations

from rich.table import Table

import interp as ip
from interp.cli.terminal import console
from interp.errors import InterpError

HELP = "a name of ip.paper.interventions() or ip.paper.mitigations(); `interp edits` lists them"


def edits() -> None:
    """The named edits, and what they do."""
    table = Table("name", "what it does")
    for name, edit in {**ip.paper.interventions(), **ip.paper.mitigations()}.items():
        table.add_row(name, repr(edit))
    console().print(table)


def named(names: list[str]) -> dict[str, ip.Patch | ip.Rewrite]:
    """The edits with these names."""
    known = {**ip.paper.interventions(), **ip.paper.mitigations()}
    for name in names:
        if name not in known:
            raise InterpError(
                f"The edit {name!r} was asked for.",
                f"There are {', '.join(known)}.",
                "Name one of them; `interp edits` says what each does.",
            )
    return {name: known[name] for name in names}
