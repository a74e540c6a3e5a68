"""The page that says which pipelines work, from what the tests of this folder expect of each.

`python -m tests.matrix.table` writes it; a test compares it.
"""

from pathlib import Path

from tests.matrix.families import BY_NAME, FAMILIES
from tests.matrix.test_options import OPTIONS
from tests.matrix.test_schedulers import SCHEDULERS, UNTRACED
from tests.transformers import PIPELINES as TRANSFORMERS

PAGE = Path(__file__).parent.parent.parent / "docs" / "pipelines.md"
UNTESTED = (
    "GLIGEN with images", "pix2pix zero", "LDM3D", "latent upscale", "Kolors", "DeepFloyd IF",
    "Kandinsky", "video pipelines other than AnimateDiff",
)  # fmt: skip
HEAD = """# Which pipelines work

*Exact*: with a patch, the latents are bit for bit those of the same pipeline whose text encoder
returns edited embeddings; what is recorded is, to 1e-6, the attention worked out from the layers'
own queries and keys. *Refused*: an error says why, before the batch runs that can not be patched.
The tests in `tests/matrix` see that every line of this page is so, with diffusers' pipelines, small
ones with random weights; those in `tests/transformer` do for [transformers](transformers.md).
"""
SHARED = """
Pipelines derived from these behave the same. Pipelines that share modules through `from_pipe` have
their own patches and recordings, and may run in two threads.

Not tested: {untested}.

## Samplers

Steps are calls of the UNet, counted correctly from the start of a run with all of these. `trace`
converts predictions to noise, which is possible where the last column says yes.

| scheduler | calls in three steps | `trace` |
|---|---|---|
"""
CALLED = """
## Arguments of a pipeline's call

Exact, as above, with

"""


def table() -> str:
    """The page."""
    verdict = {True: "exact", False: "refused"}
    rows = [
        (name, family.refused is None, family.unrecorded is None, family.session)
        for name, family in FAMILIES.items()
    ]
    rows += [(name, True, True, True) for name in TRANSFORMERS]
    rows += [(name, False, False, False) for name in BY_NAME]
    pipelines = [f"| {name} | {' | '.join(verdict[is_so] for is_so in so)} |" for name, *so in rows]
    samplers = [
        f"| {name} | {calls} | {'refused' if name in UNTRACED else 'yes'} |"
        for name, calls in SCHEDULERS.items()
    ]
    return "\n".join(
        [
            HEAD,
            "| pipeline | patch | record | `Session` |\n|---|---|---|---|",
            *pipelines,
            SHARED.format(untested=", ".join(UNTESTED)) + "\n".join(samplers),
            CALLED + "\n".join(f"- {name}" for name in OPTIONS),
            "",
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(table(), encoding="utf-8")
