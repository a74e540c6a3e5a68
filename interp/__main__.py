"""`python -m interp`: the same as `interp`."""

from interp.cli import main

main()
