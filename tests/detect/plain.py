"""Predictions by plain diffusers: text encoded by the pipeline, the UNet called by hand."""

import torch


class Plain:
    """`eps_c` and `eps_u` of one text as functions of latents and timestep, without the toolkit."""

    def __init__(self, pipe, text, size=16):
        self.pipe, self.size = pipe, size
        with torch.no_grad():
            self.c, self.u = pipe.encode_prompt(text, "cpu", 1, True, negative_prompt="")[:2]

    def abar(self, t):
        return float(self.pipe.scheduler.alphas_cumprod[int(t)])

    def eps(self, z, t, embeds):
        out = self.pipe.unet(z, torch.tensor(t), encoder_hidden_states=embeds).sample
        if self.pipe.scheduler.config.prediction_type == "v_prediction":
            return self.abar(t) ** 0.5 * out + (1 - self.abar(t)) ** 0.5 * z
        return out

    def eps_c(self, z, t):
        return self.eps(z, t, self.c)

    def eps_u(self, z, t):
        return self.eps(z, t, self.u)

    def delta(self, z, t):
        return self.eps_c(z, t) - self.eps_u(z, t)

    def timesteps(self, steps):
        self.pipe.scheduler.set_timesteps(steps)
        return self.pipe.scheduler.timesteps.tolist()

    def noise(self, seed):
        return torch.randn(
            1, 4, self.size, self.size, generator=torch.Generator().manual_seed(seed)
        )


def jacobian(f, z):
    """The whole Jacobian of one row, `[out, in]`, by differentiating every output."""
    z = z.detach().requires_grad_()
    out = f(z).flatten()
    rows = [torch.autograd.grad(one, z, retain_graph=True)[0].flatten() for one in out]
    return torch.stack(rows)
