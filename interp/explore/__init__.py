"""To look with one's hands: prompts, patches and their images, in JupyterLab or in a browser.

    ip.explore(sd)              # a widget; `interp explore` serves the same page on this machine

`explorer` answers, whoever asks; `widget` and `server` carry questions and answers to one page.
"""

from interp.explore.explorer import Explorer
from interp.explore.notebook import explore
from interp.explore.server import serve

__all__ = ["Explorer", "explore", "serve"]
