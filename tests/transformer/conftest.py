"""Pipelines that the tests of this folder share."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.transformers import KINDS, shared


def _hooks(pipe: Any) -> int:
    parts = [pipe.components[name] for name in pipe.components]
    modules = [m for part in parts if isinstance(part, torch.nn.Module) for m in part.modules()]
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def _kept(kind: str) -> Iterator[Any]:
    """A pipeline; a test that leaves hooks on it, or its sampler changed, fails."""
    pipe = shared(kind)
    before = _hooks(pipe)
    yield pipe
    assert _hooks(pipe) == before
    assert "step" not in vars(pipe.scheduler)


@pytest.fixture(params=KINDS)
def pipe(request: pytest.FixtureRequest) -> Iterator[Any]:
    """One of each kind."""
    yield from _kept(request.param)


@pytest.fixture(params=("sd3", "dev", "pixart"))
def family(request: pytest.FixtureRequest) -> Iterator[Any]:
    """One of each family."""
    yield from _kept(request.param)
