"""`interp explore`: the explorer in a browser, served on this machine alone."""

import contextlib
import webbrowser
from typing import Annotated

import typer

from interp.cli.options import Controls, Device, Dtype, Model, Steps, Suspects


def explore(
    model: Model = "embedded",
    prompts: Suspects = None,
    controls: Controls = None,
    steps: Steps = 25,
    device: Device = None,
    dtype: Dtype = None,
    port: Annotated[int, typer.Option(help="Of the page; a free one by default.", min=0)] = 0,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Pick a prompt, patch it by clicks, see the image change, copy the line of Python.

    The page is served on 127.0.0.1 only, at an address with a secret in it, until Ctrl-C.
    """
    import interp as ip
    from interp.explore.notebook import explorer
    from interp.explore.server import serve
    from interp.report.cases import chosen

    sd = ip.load(model, dtype, device, steps=steps)
    given = None if prompts is None else chosen(prompts, controls, None)
    asked = {"dtype": dtype, "device": device, "steps": steps}
    options = "".join(f", {name}={value!r}" for name, value in asked.items() if value is not None)
    setup = f"import interp as ip\n\nsd = ip.load({model!r}{options})"
    with serve(explorer(sd, given, setup), port) as server:
        typer.echo(server.address)
        if browser:
            webbrowser.open(server.address)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
