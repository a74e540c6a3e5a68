"""Detectors of the density's shape, against whole Jacobians, and Gaussians known in closed form."""

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard

import interp as ip
from interp.denoiser.derivatives import signs
from interp.detect import Case, convergence, flipd, low_dimension, p_laplacian
from tests.detect.plain import Plain, jacobian
from tests.runs import TEXTS

SEEDS, STEPS, SIZE = (0, 5), 5, (4, 4, 4)


@pytest.fixture(params=["sd1", "sd2"])
def sd(request):
    pipe = request.getfixturevalue(request.param)
    return ip.Session(pipe, steps=STEPS, height=8, width=8)


@pytest.fixture
def case(sd):
    return Case(sd, TEXTS[0], SEEDS)


def on_the_way(pipe, step):
    """What the UNet was given at one step of a stock run, for every seed."""
    seen = []
    handle = pipe.unet.register_forward_pre_hook(lambda _, args: seen.append((args[0], args[1])))
    for seed in SEEDS:
        draw = torch.Generator().manual_seed(seed)
        pipe(TEXTS[0], num_inference_steps=STEPS, generator=draw, output_type="latent",
             height=8, width=8)  # fmt: skip
    handle.remove()
    return [(latents[:1], int(t)) for latents, t in seen[step::STEPS]]


def test_low_dimension_is_minus_flipd(sd, case):
    plain = Plain(sd.pipe, TEXTS[0], size=4)
    probes = signs(SIZE, 3, seed=1)

    def eps(z, t):
        return plain.eps_u(z, t) + 7.5 * plain.delta(z, t)

    expected = []
    for z, t in on_the_way(sd.pipe, step=4):
        sigma = (1 - plain.abar(t)) ** 0.5
        whole = -jacobian(lambda x, t=t: eps(x, t), z) / sigma
        trace = torch.stack([v.flatten() @ whole @ v.flatten() for v in probes]).mean()
        square = (eps(z, t) / sigma).square().sum()
        expected.append(-(64 + sigma**2 * (trace + square)).item())
    found = low_dimension(case, probes=3, probe_seed=1)
    np.testing.assert_allclose(found, expected, rtol=2e-3)
    assert not np.allclose(found, low_dimension(case, step=1, probes=3, probe_seed=1))


def test_convergence_is_minus_the_divergence(sd, case):
    """With the probes of a whole Hadamard matrix the trace is exact, and so is the divergence."""
    plain = Plain(sd.pipe, TEXTS[0], size=4)
    probes = torch.from_numpy(hadamard(64)).reshape(64, *SIZE).float()
    for (z, t), seed in zip(on_the_way(sd.pipe, step=4), range(2), strict=True):
        sigma = (1 - plain.abar(t)) ** 0.5
        for p in (1, 2, 3.5):

            def flow(x, t=t, sigma=sigma, p=p):
                score = -plain.eps_c(x, t) / sigma
                return score.norm() ** (p - 2) * score

            expected = jacobian(flow, z).trace().item()
            eps = plain.eps_c(z, t).detach()
            given = (lambda x, t=t: plain.eps_c(x, t), z, eps, plain.abar(t), p)
            assert p_laplacian(*given, probes).item() == pytest.approx(expected, rel=5e-3)
            few = -p_laplacian(*given, signs(SIZE, 2, 7)).item()
            found = convergence(case, p, probes=2, probe_seed=7)
            assert found[seed].item() == pytest.approx(few, rel=5e-3)


@pytest.mark.parametrize("dimension", [0, 3, 20, 64])
def test_flipd_is_the_dimension_of_a_plane(dimension):
    """Images of a normal distribution on a plane, whose score is known."""
    draw = torch.Generator().manual_seed(dimension)
    axes = torch.linalg.qr(torch.randn(64, 64, generator=draw, dtype=torch.float64))[0]
    plane = axes[:, :dimension] @ axes[:, :dimension].T
    abar = 1 - 1e-6
    sigma = (1 - abar) ** 0.5
    covariance = abar * plane + sigma**2 * torch.eye(64)
    inverse = torch.linalg.inv(covariance)

    def eps(z):
        return sigma * (z.reshape(-1, 64) @ inverse.T).reshape(z.shape)

    image = (torch.randn(2, 64, generator=draw, dtype=torch.float64) @ plane).reshape(2, *SIZE)
    z = abar**0.5 * image
    probes = torch.from_numpy(hadamard(64)).reshape(64, *SIZE).double()
    found = flipd(eps, z, eps(z), abar, probes)
    torch.testing.assert_close(found, torch.full((2,), float(dimension)), atol=1e-2, rtol=0)


@pytest.mark.parametrize("p", [1, 2, 3.5])
def test_the_p_laplacian_of_a_normal_density_is_known(p):
    """`-||z||^(p-2) (64 + p - 2) / tau^(2p-2)`, exact with a single probe."""
    abar, tau = 0.3, 1.7
    sigma = (1 - abar) ** 0.5
    z = torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(0))
    found = p_laplacian(
        lambda x: sigma * x / tau**2, z, sigma * z / tau**2, abar, p, signs(SIZE, 1)
    )
    length = z.flatten(1).norm(dim=1)
    expected = -(length ** (p - 2)) * (64 + p - 2) / tau ** (2 * p - 2)
    torch.testing.assert_close(found, expected)
