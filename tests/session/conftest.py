"""The sessions of this folder, and the prompts and patches that they run."""

import pytest
import torch

from interp.patch import copy, mask, repad, scale, zero
from interp.session import Session

TEXTS = ["Antique Church Poster in Berlin", "a goat!"]
#: SDXL's own default guidance is another one.
CALL = {"num_inference_steps": 3, "guidance_scale": 7.5}
PATCHES = {
    "none": None,
    "zero": zero("pad"),
    "repad": repad("<|startoftext|>"),
    "head": scale("eot", 3.0, layers="up", heads=[0], side="k"),
    "mask": mask("eot", steps=slice(1, 3)),
    "copy": copy("eot", to="prompt", layers="mid"),
}
#: Enough to see batches of several rows, mixed patches and an unpatched row among them.
FEW = {name: PATCHES[name] for name in ("none", "zero", "head")}


@pytest.fixture
def sd(pipe):
    return Session(pipe, steps=3)


@pytest.fixture
def one(sd1):
    """A session with the pipeline shaped like SD 1 only, for what does not depend on the kind."""
    return Session(sd1, steps=3)


def generator(seed):
    return torch.Generator().manual_seed(seed)
