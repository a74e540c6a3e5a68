"""`interp organism`: build the embedded model, from a checkout."""

from interp.errors import InterpError
from interp.organism.command import app as organism

DRAWINGS = "emoji"


@organism.callback()
def checkout() -> None:
    """Raise if the drawings are missing: an installed package contains only the model."""
    from interp.session.embedded import data_folders

    if not any((folder / DRAWINGS).is_dir() for folder in data_folders()):
        raise InterpError(
            "A build or measurement of the embedded model was asked for.",
            f"Its drawings are in none of {', '.join(map(str, data_folders()))}: "
            "an installed interp contains only the model.",
            "Work from a checkout of the repository.",
        )
