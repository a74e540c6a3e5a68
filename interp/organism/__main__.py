"""`python -m interp.organism build | evaluate`."""

from interp.organism.command import app

app(prog_name="python -m interp.organism")
