"""Modules that were exchanged for others while hooks were on them: those hooks never run again.

A copy of a layer has none of our hooks, so what was to be patched or recorded there would be left
out without a word.
"""

from collections.abc import Mapping

from torch import nn

from interp.denoiser.layers import Site
from interp.errors import InterpError


def must_be_there(denoiser: nn.Module, layers: Mapping[Site, nn.Module]) -> None:
    """Raise if a denoiser's layers are other modules than those that were hooked.

    Example:
        >>> layers = {site: pipe.unet.get_submodule(site.path) for site in ip.sites(pipe.unet)}
        >>> must_be_there(pipe.unet, layers)

    Raises:
        InterpError: naming the layer.
    """
    for site, layer in layers.items():
        if denoiser.get_submodule(site.path) is not layer:
            raise InterpError(
                f"A {type(denoiser).__name__} was called while it was patched or recorded.",
                f"Its layer {site.name} is another module than at the beginning, and has no hook.",
                "Exchange modules before patching and recording.",
            )


def must_be_the_same(now: list[nn.Module], then: list[nn.Module], what: str) -> None:
    """Raise if a pipeline runs other denoisers than those that were hooked.

    Example:
        >>> must_be_the_same([pipe.unet], [pipe.unet], "A recording")

    Raises:
        InterpError: if some were exchanged.
    """
    if [*map(id, now)] != [*map(id, then)]:
        raise InterpError(
            f"{what} was put on a pipeline.",
            "Its UNet or ControlNet was exchanged for another module since, which has no hooks: "
            "what that one did was neither patched nor recorded.",
            "Exchange modules before patching and recording; ip.remove(pipe) takes patches off.",
        )
