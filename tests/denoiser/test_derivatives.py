"""Derivatives of stock UNets: against each other, finite differences and whole Jacobians."""

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from scipy.linalg import hadamard

from interp.denoiser import unet_call
from interp.denoiser.derivatives import diagonal, jvp, signs, vjp
from interp.errors import InterpError
from interp.text.encoding import encode
from tests.runs import processor

ROWS = 2


@pytest.fixture(params=["sd1", "sd2"])
def at(request, make_pipe):
    """A UNet in double precision and a point: functions of latents and of embeddings."""
    unet = make_pipe(request.param, torch.float64).unet
    draw = torch.Generator().manual_seed(1)
    latents = torch.randn(ROWS, 4, 4, 4, generator=draw, dtype=torch.float64)
    embeds = torch.randn(ROWS, 77, 32, generator=draw, dtype=torch.float64)
    t = torch.tensor(500.0)

    def of_latents(z):
        return unet(z, t, encoder_hidden_states=embeds).sample

    def of_embeds(e):
        return unet(latents, t, encoder_hidden_states=e).sample

    return {"latents": (of_latents, latents), "embeds": (of_embeds, embeds)}


def directions(x, value):
    draw = torch.Generator().manual_seed(2)
    return tuple(torch.randn(like.shape, generator=draw, dtype=x.dtype) for like in (x, value))


@pytest.mark.parametrize("what", ["latents", "embeds"])
def test_exact_derivatives_are_finite_differences_and_each_others_transposes(at, what):
    f, x = at[what]
    with torch.no_grad():
        v, u = directions(x, f(x))
        plain = (f(x + 1e-5 * v) - f(x - 1e-5 * v)) / 2e-5
    along = jvp(f, x, v)
    torch.testing.assert_close(along, plain, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(jvp(f, x, v, difference=1e-4), plain, rtol=1e-6, atol=1e-8)
    back = vjp(f, x, u)
    per_row = (u * along).flatten(1).sum(1), (back * v).flatten(1).sum(1)
    torch.testing.assert_close(*per_row)
    assert not along.requires_grad
    assert not x.requires_grad


def test_a_row_that_does_not_move_does_not_change(at):
    f, x = at["latents"]
    v = torch.zeros_like(x)
    v[1] = x[1]
    for difference in (None, 1e-3):
        found = jvp(f, x, v, difference)
        assert not bool(found[0].any())
        assert bool(found[1].any())


# torch's own remark on how it takes a whole Jacobian.
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_the_diagonal_is_the_jacobians(at):
    f, x = at["latents"]
    size = x[0].numel()
    whole = torch.func.jacrev(f)(x).reshape(x.numel(), x.numel())
    probes = torch.from_numpy(hadamard(size)).reshape(size, *x.shape[1:])
    expected = torch.diagonal(whole).reshape(x.shape)
    torch.testing.assert_close(diagonal(f, x, probes), expected)


def test_few_probes_are_exact_where_elements_do_not_mix_and_unbiased_where_they_do():
    x = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(diagonal(torch.sin, x, signs((2, 5), 1)), x.cos())
    mix = torch.randn(10, 10, generator=torch.Generator().manual_seed(1))
    probes = signs((10,), 4000, seed=3)
    found = diagonal(lambda rows: rows @ mix.T, torch.zeros(1, 10), probes)[0]
    error = (mix.square().sum(1) - mix.diagonal().square()).sqrt() / 4000**0.5
    assert bool(((found - mix.diagonal()).abs() < 4 * error).all())
    assert torch.equal(probes, signs((10,), 4000, seed=3))
    assert set(probes.unique().tolist()) == {-1.0, 1.0}


def test_predictions_as_noise_have_derivatives_with_every_kernel(pipe):
    """What the toolkit differentiates, in float32; `predict` changes velocities into noise."""
    (prompt,) = encode(pipe, "a goat")
    where = unet_call.first_step(pipe, [0, 1], 3, 32, 32)
    width = pipe.unet.config.cross_attention_dim
    embeds = torch.randn(2, 77, width, generator=torch.Generator().manual_seed(1))

    def f(latents):
        return unet_call.predict(pipe, latents, *where[1:], embeds, prompt)

    x = where[0]
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    found = jvp(f, x, v)
    for kind in ("eager", "sliced", "fused"):
        with processor(pipe, kind):
            torch.testing.assert_close(jvp(f, x, v), found, rtol=1e-3, atol=1e-4)
    differences = jvp(f, x, v, difference=0.1)
    assert float((differences - found).norm() / found.norm()) < 0.01


class Foreign(AttnProcessor2_0):
    """A kernel without a forward derivative, as those of xFormers are."""

    class Kernel(torch.autograd.Function):
        @staticmethod
        def forward(context, values):
            return values.clone()

        @staticmethod
        def backward(context, gradient):
            return gradient

    def __call__(self, *args, **kwargs):
        return self.Kernel.apply(super().__call__(*args, **kwargs))


def test_without_a_forward_derivative_finite_differences_are_named_and_work(sd1):
    (prompt,) = encode(sd1, "a goat")
    where = unet_call.first_step(sd1, [0], 3, 32, 32)
    embeds = torch.randn(1, 77, 32, generator=torch.Generator().manual_seed(1))

    def f(latents):
        return unet_call.predict(sd1, latents, *where[1:], embeds, prompt)

    x = where[0]
    expected = jvp(f, x, x)
    sd1.unet.set_attn_processor(Foreign())
    try:
        with pytest.raises(InterpError, match="difference=0.1"):
            jvp(f, x, x)
        found = jvp(f, x, x, difference=0.1)
    finally:
        sd1.unet.set_attn_processor(AttnProcessor2_0())
    assert float((found - expected).norm() / expected.norm()) < 0.01


@pytest.mark.parametrize("difference", [0, -1.0, float("nan")])
def test_lengths_that_are_none_are_refused(difference):
    x = torch.zeros(1, 3)
    with pytest.raises(InterpError, match="positive"):
        jvp(torch.sin, x, x, difference)
    with pytest.raises(InterpError, match="at least one"):
        signs((3,), 0)
