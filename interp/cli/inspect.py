"""`interp inspect`: look at one prompt."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import interp as ip
from interp.cli.options import Device, Dtype, Model, Seeds, Steps


def inspect(
    prompt: Annotated[str, typer.Argument(help="The prompt to look at.")],
    model: Model = "embedded",
    seeds: Seeds = 4,
    steps: Steps = 50,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """A prompt's tokens, the attention that each category gets, and every detector's score."""
    sd = ip.load(model, dtype, device, steps=steps)
    encoded = sd.encode(prompt)
    trace = sd.trace(encoded, range(seeds), record=(ip.mass, *ip.detect.recorders(sd.pipe)))
    mass = trace.mass.mean([dim for dim in trace.mass.dims if dim != "category"])
    console = Console()

    tokens = Table("category", "tokens", "attention mass", "per token", "what", title=prompt)
    for name in ip.CATEGORIES:
        words = [w for w, code in zip(encoded.words, encoded.category, strict=True)
                 if ip.CATEGORIES[code] == name]  # fmt: skip
        share = float(mass.sel(category=name))
        each = f"{share / len(words):.4f}" if words else ""
        said = " ".join(words) if name == "prompt" else " ".join(dict.fromkeys(words))
        tokens.add_row(name, str(len(words)), f"{share:.3f}", each, said)
    console.print(tokens)

    scores = Table("detector", "mean", "over seeds", title="the larger, the more memorized")
    for detector, score in ip.detect.scores(trace).data_vars.items():
        spread = f"{float(score.min()):.4g} to {float(score.max()):.4g}"
        scores.add_row(str(detector), f"{float(score.mean()):.4g}", spread)
    console.print(scores)
