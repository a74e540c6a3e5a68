"""Fixtures of all tests, and shape checking of the whole library."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from jaxtyping import install_import_hook

import tests.shapes  # noqa: F401  (the hook finds the checker only in a loaded module)

# Before anything imports interp: every annotated shape is then checked at every call.
install_import_hook("interp", "tests.shapes.checked")

from tests.pipelines import KINDS, pipeline
from tests.runs import latents

torch.set_num_threads(1)


@cache
def _pipeline(kind: str, dtype: torch.dtype) -> Any:
    pipe = pipeline(kind, dtype)
    # transformers hooks an encoder for good when its hidden states are first asked for.
    latents(pipe, steps=1)
    return pipe


def hook_count(pipe: Any) -> int:
    """All hooks on all modules of the UNet and the text encoders."""
    modules = [pipe.unet, pipe.text_encoder, getattr(pipe, "text_encoder_2", None)]
    return sum(
        len(part._forward_hooks) + len(part._forward_pre_hooks)
        for module in modules
        if module is not None
        for part in module.modules()
    )


@pytest.fixture
def make_pipe() -> Iterator[Any]:
    """Shared pipelines by kind and dtype; a test that leaves one changed fails."""
    used = {}

    def make(kind: str, dtype: torch.dtype = torch.float32) -> Any:
        pipe = _pipeline(kind, dtype)
        used.setdefault((kind, dtype), (pipe, hook_count(pipe), dict(pipe.components)))
        return pipe

    yield make
    for pipe, hooks, components in used.values():
        assert hook_count(pipe) == hooks
        left = [name for name, part in pipe.components.items() if part is not components[name]]
        assert not left, "a shared pipeline has other parts now"


@pytest.fixture(params=KINDS)
def pipe(request: pytest.FixtureRequest, make_pipe: Any) -> Any:
    """A pipeline of each kind."""
    return make_pipe(request.param)


@pytest.fixture
def sd1(make_pipe: Any) -> Any:
    return make_pipe("sd1")


@pytest.fixture
def sd2(make_pipe: Any) -> Any:
    return make_pipe("sd2")


@pytest.fixture
def sdxl(make_pipe: Any) -> Any:
    return make_pipe("sdxl")
