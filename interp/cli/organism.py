"""`interp organism`: the embedded model's build, where there is a checkout to build it from."""

from interp.errors import InterpError
from interp.organism.command import app as organism

DRAWINGS = "emoji"


@organism.callback()
def checkout() -> None:
    """Raise if the drawings are missing: an installed package has the model alone."""
    from interp.session.embedded import data_folders

    if not any((folder / DRAWINGS).is_dir() for folder in data_folders()):
        raise InterpError(
            "A build or measurement of the embedded model was asked for.",
            f"Its drawings are in none of {', '.join(map(str, data_folders()))}: "
            "an installed interp brings the model alone.",
            "Work from a checkout of the repository.",
        )
