"""Which prompts a report is about: memorized ones, controls, and what is known of them.

The embedded model brings its own table, where memorization is known. For any other model there are
two prompt files, and memorized is what their author says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from interp.errors import InterpError
from interp.session.embedded import FOLDER, data_file, is_embedded
from interp.text.files import PromptRow, read_prompts

TABLE = f"{FOLDER}/memorized.csv"
HELD_OUT = f"{FOLDER}/held_out.csv"
EVERY = 1000
"""More levels of views than there are."""
UNKNOWN = -1
"""Views of an image where the number is unknown."""


@dataclass(frozen=True)
class Case:
    """One prompt: what it is, its training image if there is one, and how often that was shown."""

    text: str
    kind: str
    group: str
    image: Image.Image | None = None
    views: int = UNKNOWN


def chosen(memorized: Path | None, controls: Path | None, limit: int | None) -> list[Case]:
    """The prompts of the files, or those of the embedded model where no file is given.

    Example:
        >>> chosen(None, None, limit=8)
    """
    return known(limit) if memorized is None else from_files(memorized, controls, limit)


def known(limit: int | None = None, levels: int = 3) -> list[Case]:
    """The embedded model's captions of its most shown levels (all memorized), and as many controls.

    Example:
        >>> [case.kind for case in known(limit=1)]
        ['memorized', 'control']

    Args:
        limit: at most this many of each kind, taken from the levels in turn.
        levels: how many levels of views to take from.

    Raises:
        InterpError: there is no embedded model.
    """
    file = read_prompts(data_file(TABLE))
    rows = list(zip(file, file.pictures(), strict=True))
    by_level: dict[int, list[Case]] = {}
    controls = []
    for row, picture in rows:
        views = int(row.columns["views"])
        if row.columns["kind"] == "verbatim":
            case = Case(row.text, "memorized", row.group, picture, views)
            by_level.setdefault(views, []).append(case)
        elif row.columns["kind"] == "control":
            controls.append(Case(row.text, "control", row.group, picture, views))
    top = [by_level[views] for views in sorted(by_level, reverse=True)[:levels]]
    memorized = [case for each in zip(*top, strict=True) for case in each]
    return memorized[:limit] + controls[:limit]


def population(limit: int | None = None) -> list[Case]:
    """The embedded model's titles at every level of views, its controls, and titles it never saw.

    Example:
        >>> {case.kind for case in population(limit=1)}
        {'memorized', 'control', 'held_out'}

    Args:
        limit: at most so many of each level and of the controls, and of the titles it never saw
            three times as many, because every level is compared with them.
    """
    everything = known(levels=EVERY)
    by_level: dict[tuple[str, int], list[Case]] = {}
    for case in everything:
        by_level.setdefault((case.kind, case.views), []).append(case)
    chosen = [case for level in by_level.values() for case in level[:limit]]
    try:
        unseen = read_prompts(data_file(HELD_OUT)).texts
    except InterpError:
        unseen = []
    unseen = unseen[: None if limit is None else 3 * limit]
    return chosen + [Case(text, "held_out", text, None, 0) for text in unseen]


def top(cases: Sequence[Case], levels: int = 2) -> list[Case]:
    """The cases without memorized ones of lower levels of views, of which some are no copies.

    Example:
        >>> sorted({case.views for case in top(population()) if case.kind == "memorized"})[:1]
        [960]
    """
    views = sorted({case.views for case in cases if case.kind == "memorized"})[-levels:]
    return [case for case in cases if case.kind != "memorized" or case.views in views]


def from_files(
    memorized: str | Path, controls: str | Path | None = None, limit: int | None = None
) -> list[Case]:
    """Prompts of one or two files, the first said to be memorized.

    Example:
        >>> from_files("extended_mv_458_sd1.csv", "controls.txt", limit=16)

    Args:
        memorized, controls: files for `read_prompts`.
        limit: at most this many groups of each, the first prompt of each group before second ones.
    """
    cases = []
    for path, kind in ((memorized, "memorized"), (controls, "control")):
        if path is None:
            continue
        file = read_prompts(path)
        order = first_of_each_group(file.rows)[:limit]
        pictures = file.pictures()
        cases += [
            Case(
                file.rows[n].text,
                kind,
                f"{kind} {file.rows[n].group}",
                pictures[n],
                views(file.rows[n]),
            )
            for n in order
        ]
    return cases


def first_of_each_group(rows: Sequence[PromptRow]) -> list[int]:
    """Row numbers, so ordered that any number of leading ones has as many groups as possible."""
    seen: dict[str, int] = {}
    turns = []
    for number, row in enumerate(rows):
        turns.append((seen.get(row.group, 0), number))
        seen[row.group] = seen.get(row.group, 0) + 1
    return [number for _, number in sorted(turns)]


def views(row: PromptRow) -> int:
    """How often the training image was shown, where the file has a column `views`."""
    found = str(row.columns.get("views") or "")
    return int(found) if found.isdigit() else UNKNOWN


def ordinary(model: str, controls: Path | None) -> list[str]:
    """Prompts that are not memorized: the file's, or the embedded model's own.

    Those are the titles that its training never saw, where its build wrote them down, or else its
    controls, which were shown once.

    Example:
        >>> ordinary("embedded", None)[:1]

    Raises:
        InterpError: there is no file, and the model is not the embedded one.
    """
    if controls is not None:
        return list(dict.fromkeys(read_prompts(controls).texts))
    if not is_embedded(model):
        raise InterpError(
            f"Prompts that {model} has not memorized were asked for.",
            "Only the embedded model brings some.",
            "Give a file of them: --controls controls.csv.",
        )
    try:
        return list(read_prompts(data_file(HELD_OUT)).texts)
    except InterpError:
        return [case.text for case in known() if case.kind == "control"]


def suspects(model: str, prompts: Path | None) -> list[str]:
    """Prompts that are memorized: the file's, or the embedded model's own, or none.

    Example:
        >>> len(suspects("embedded", None))
        36
    """
    if prompts is not None:
        return list(dict.fromkeys(read_prompts(prompts).texts))
    return [c.text for c in known() if c.kind == "memorized"] if is_embedded(model) else []
