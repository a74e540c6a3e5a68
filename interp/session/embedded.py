"""Where the embedded model is, and its names, which can not be hub ids.

Only this file knows. An installed package contains its data, a checkout has `data/`, and folders in
`INTERP_DATA` take precedence over both.
"""

import os
from pathlib import Path

from interp.errors import InterpError

NAME = "embedded"
"""The embedded model; `embedded:bang` is its twin that pads with "!"."""
FOLDER = "organism"
PLAIN = "eot"
INDEX = "model_index.json"

_PACKAGE = Path(__file__).resolve().parents[1] / "data"
_CHECKOUT = Path(__file__).resolve().parents[2] / "data"


def data_folders() -> list[Path]:
    """Return the data folders: those in `INTERP_DATA`, then the package's or the checkout's."""
    named = os.environ.get("INTERP_DATA", "")
    given = (Path(part).expanduser() for part in named.split(os.pathsep) if part)
    return [*given, _PACKAGE if _PACKAGE.is_dir() else _CHECKOUT]


def data_file(name: str | Path) -> Path:
    """Return the first file of that name in the data folders.

    Example:
        >>> data_file("organism/memorized.csv")
        PosixPath('.../data/organism/memorized.csv')

    Raises:
        InterpError: none of them has it.
    """
    for folder in data_folders():
        if (folder / name).is_file():
            return folder / name
    raise InterpError(
        f"The data file {str(name)!r} was asked for.",
        f"It is in none of {', '.join(map(str, data_folders()))}.",
        "Set INTERP_DATA to a data folder of interp, or install interp again.",
    )


def is_embedded(name: str | Path) -> bool:
    """Whether a name denotes an embedded model, rather than a path or a hub id.

    Example:
        >>> is_embedded("embedded:bang"), is_embedded("./embedded")
        (True, False)
    """
    return isinstance(name, str) and name.partition(":")[0] == NAME


def embedded() -> list[str]:
    """Return the names of the available embedded models.

    Example:
        >>> embedded()
        ['embedded']
    """
    found = {
        path.parent.name for root in data_folders() for path in (root / FOLDER).glob(f"*/{INDEX}")
    }
    names = [NAME] if PLAIN in found else []
    return names + sorted(f"{NAME}:{twin}" for twin in found - {PLAIN})


def embedded_folder(name: str) -> Path:
    """Return the folder of an embedded model.

    Example:
        >>> embedded_folder("embedded")
        PosixPath('.../data/organism/eot')

    Raises:
        InterpError: it is not available.
    """
    twin = name.partition(":")[2] or PLAIN
    for root in data_folders():
        if (root / FOLDER / twin / INDEX).is_file():
            return root / FOLDER / twin
    raise InterpError(
        f"The model {name!r} was asked for.",
        f"Embedded models: {', '.join(embedded()) or 'none found'}; looked for in "
        f"{', '.join(str(root / FOLDER) for root in data_folders())}.",
        "Pass one of them, or set INTERP_DATA to the folder that contains organism/.",
    )
