"""`interp explore`: the explorer in a browser, served to this machine only."""

import contextlib
import webbrowser
from typing import Annotated

import typer

from interp.cli import options


def explore(
    model: options.Model = "embedded",
    prompts: options.Suspects = None,
    controls: options.Controls = None,
    steps: options.Steps = 25,
    device: options.Device = None,
    dtype: options.Dtype = None,
    port: Annotated[int, typer.Option(help="Port of the page; 0 is a free one.", min=0)] = 0,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Pick a prompt, patch it by clicks, see the image change, copy the line of Python.

    The page is served on 127.0.0.1 only, at an address that contains a secret, until Ctrl-C.
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
