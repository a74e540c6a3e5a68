"""What every figure of every plot test must keep to."""

import re

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

NAMED = re.compile(r"[^\d\s.,:eE%+\-\u2212]")


@pytest.fixture(autouse=True)
def texts_are_literal(monkeypatch):
    """No text of any figure made in a test is parsed as mathematics: it may be a user's prompt."""
    made = []
    init = Figure.__init__

    def kept(self, *args, **kwargs):
        init(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(Figure, "__init__", kept)
    yield
    for figure in made:
        figure.draw_without_rendering()  # some ticks are made only now
        for text in figure.findobj(Text):
            said = text.get_text()
            assert "mathdefault" not in said
            # Numbers of ticks made late do no harm; whatever has a letter may be a user's.
            assert not (NAMED.search(said) and text.get_parse_math()), repr(said)
