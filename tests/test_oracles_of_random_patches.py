"""What holds for any patch, on patches drawn at random."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import interp as ip
from interp import Patch, Prompt, encode
from interp.denoiser.hooks import Hooks
from tests.conftest import hook_count
from tests.oracles import LONG, predictions
from tests.runs import TEXTS, latents

categories = st.lists(st.sampled_from(ip.CATEGORIES), min_size=1, max_size=4, unique=True)
wheres = st.fixed_dictionaries(
    {},
    optional={
        "layers": st.sampled_from(["up", "down", "mid", "up.1", 0, slice(2, 5), "all"]),
        "steps": st.sampled_from([0, 1, [0, 1], slice(1, None), range(2)]),
        "heads": st.sampled_from([0, {"up": 0, "mid": 0, "down": 0}]),
        "side": st.sampled_from(["k", "v", "kv"]),
    },
)


@st.composite
def patches(draw: st.DrawFn, a: Prompt, b: Prompt) -> tuple[Patch, Patch]:
    """A patch, and the same edits with prompt A's own embeddings: an identity."""
    made, same = Patch(), Patch()
    for _ in range(draw(st.integers(1, 3))):
        names, where = draw(categories), draw(wheres)
        same &= ip.swap(names, a, **where)
        made &= draw(
            st.sampled_from(
                [
                    ip.zero(names, fraction=draw(st.sampled_from([0.5, 1.0])), **where),
                    ip.swap(names, b, "nearest", **where),
                    ip.copy("eot", to=names, **where),
                    ip.scale(names, draw(st.floats(-2, 2)), **where),
                    ip.noise(names, 0.5, seed=draw(st.integers(0, 9)), **where),
                    ip.mean(names, over=[a, b], **where),
                ]
            )
        )
    if draw(st.booleans()):
        made &= ip.mask("pad")
    return made, same


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_random_patches(make_pipe, kind: str) -> None:
    """Identity, restoration, unconditional rows untouched, JSON, printing: for any patch."""
    pipe = make_pipe(kind)
    a, b = encode(pipe, [TEXTS[0], LONG])
    plain = predictions(pipe, Patch(), TEXTS[0], 2)
    images, hooks = latents(pipe), hook_count(pipe)

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(patches(a, b))
    def check(pair: tuple[Patch, Patch]) -> None:
        made, same = pair
        assert Patch.from_json(made.to_json(), donors=[a, b]) == made
        assert repr(made) == " & ".join(map(repr, made.operations))
        with same.on(pipe):
            assert torch.equal(latents(pipe), images)
        with made.on(pipe, strict=False), Hooks() as spy:
            seen: list[Tensor] = []
            spy.after(pipe.unet, lambda module, args, kwargs, output: seen.append(output[0]))
            latents(pipe, steps=1, num_images_per_prompt=2)
        assert torch.equal(seen[0][:2], plain[:2])
        assert hook_count(pipe) == hooks
        assert torch.equal(latents(pipe), images)

    check()
