"""The sessions that mitigations are tested on."""

import pytest

from interp.session import Session

TEXTS = ["Antique Church Poster in Berlin", "a goat"]


@pytest.fixture
def sd(pipe):
    return Session(pipe, steps=2)


@pytest.fixture
def one(sd1):
    return Session(sd1, steps=2)
