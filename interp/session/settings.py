"""What results depend on besides prompt, seed and patch; recorded in their provenance.

The base of `Session`, in its own file because a sweep compares settings without running.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

import torch

from interp import results
from interp.denoiser.epsilon import prediction
from interp.denoiser.pipelines import denoiser
from interp.errors import InterpError
from interp.session.call import IMAGES, described, must_pass
from interp.session.quiet import StableDiffusionPipeline, StableDiffusionXLPipeline
from interp.text.encoding import encode
from interp.text.html import LITERAL
from interp.text.prompt import Prompt
from interp.transformer.family import calls, families, family


class Settings:
    """A stock pipeline, and how it is called.

    Example:
        >>> Settings(pipe, steps=50, guidance=7.5).provenance()["scheduler"]["class"]
        'DDIMScheduler'

    Args:
        pipe: a text-to-image pipeline of Stable Diffusion 1.x, 2.x, SDXL, Stable Diffusion 3, FLUX
            or PixArt-alpha; it is used, never changed.
        steps: denoising steps.
        guidance: classifier-free guidance; at most 1 runs without unconditional rows. FLUX is told
            it, and has unconditional rows where `true_cfg_scale` is above 1.
        height, width: pixels; the model's own size by default.
        negative: the unconditional prompt. None is the pipeline's default: `""` for SD, all zeros
            for most SDXL models.
        budget: GiB of activations that a batch may take; see `memory.images_at_once`.
        source: where the model is from, to be written down: `id`, and `revision` of a hub's. What
            it is now is found out anew whenever it is asked for.
        call: other arguments of the pipeline's call, such as `guidance_rescale`, `clip_skip` and
            `max_sequence_length` (of prompts that the session encodes) or `ip_adapter_image`; they
            are written down too.

    Raises:
        InterpError: the pipeline is of another kind, or a setting is invalid.
    """

    def __init__(
        self,
        pipe: Any,
        steps: int = 50,
        guidance: int | float = 7.5,
        *,
        height: int | None = None,
        width: int | None = None,
        negative: str | None = None,
        budget: int | float | None = None,
        source: Mapping[str, Any] | None = None,
        **call: Any,
    ) -> None:
        _check(pipe, steps, guidance, height, width)
        must_pass(pipe, call)
        size = denoiser(pipe).config.get("sample_size") or pipe.default_sample_size
        tall, wide = size if isinstance(size, list | tuple) else (size, size)
        self.pipe, self.steps, self.guidance = pipe, steps, float(guidance)
        self.height = height or tall * pipe.vae_scale_factor
        self.width = width or wide * pipe.vae_scale_factor
        self.negative, self.budget = negative, budget
        self.source, self.call = dict(source or {}), call

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that recreate this session from the same pipeline."""
        names = ("steps", "guidance", "height", "width", "negative", "budget")
        return {**{name: getattr(self, name) for name in names}, **self.call}

    @property
    def guided(self) -> bool:
        """Whether there are unconditional rows."""
        return calls(self.pipe).guided(denoiser(self.pipe), self.guidance, self.call)

    @property
    def uncond_policy(self) -> str:
        """The input of the unconditional rows: a prompt in quotes, "zeros", or "none"."""
        if not self.guided:
            return "none"
        zeros = getattr(self.pipe.config, "force_zeros_for_empty_prompt", False)
        return "zeros" if self.negative is None and zeros else repr(self.negative or "")

    @property
    def unconditional(self) -> Prompt:
        """The prompt of the unconditional rows, as the text encoder is now."""
        # Pipelines take the negative prompt from the usual layer, whatever `clip_skip` says.
        prompt = self._encoded(self.negative or "", "max_sequence_length")[0]
        if self.uncond_policy != "zeros":
            return prompt
        assert prompt.pooled is not None
        return replace(
            prompt, embeds=torch.zeros_like(prompt.embeds), pooled=torch.zeros_like(prompt.pooled)
        )

    def _encoded(self, texts: str | Sequence[str], *names: str) -> list[Prompt]:
        """Texts, encoded by these arguments of the session's calls."""
        said = {name: self.call[name] for name in names if name in self.call}
        return encode(self.pipe, texts, **said)

    @property
    def model(self) -> dict[str, Any]:
        """Where the model is from, and what its parts and adapters are now."""
        return self.provenance()["model"]

    def provenance(self) -> dict[str, Any]:
        """Return what is needed to reproduce a run, apart from prompts, seeds and patches."""
        facts = results.describe(self.pipe)
        name = facts["model"]["id"] or type(self.pipe).__name__
        return {
            **facts,
            "model": {**facts["model"], "id": name, **self.source},
            "steps": self.steps,
            "guidance": self.guidance,
            "height": self.height,
            "width": self.width,
            "uncond": self.uncond_policy,
            **({"call": described(self.call)} if self.call else {}),
        }

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={value}" for name, value in self._facts().items())
        return f"{type(self).__name__}({facts})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th><td>{escape(str(value))}</td></tr>"
            for name, value in self._facts().items()
        )
        title = f"<caption>{type(self).__name__}</caption>"
        return f'<table class="{LITERAL}">{title}{rows}</table>'

    def _facts(self) -> dict[str, Any]:
        """What to see at a glance; nothing that takes time to compute."""
        pipe = self.pipe
        return {
            "model": self.source.get("id") or getattr(pipe.config, "_name_or_path", None) or "",
            "pipeline": type(pipe).__name__,
            "scheduler": type(pipe.scheduler).__name__,
            "prediction": prediction(pipe.scheduler),
            "steps": self.steps,
            "guidance": self.guidance,
            "size": f"{self.height} x {self.width}",
            "uncond": self.uncond_policy,
            "dtype": str(denoiser(pipe).dtype).removeprefix("torch."),
            "device": str(denoiser(pipe).device),
            **self.call,
        }


def _check(
    pipe: Any, steps: int, guidance: int | float, height: int | None, width: int | None
) -> None:
    known = family(pipe)
    runs = isinstance(pipe, (StableDiffusionPipeline, StableDiffusionXLPipeline))
    if not runs and (known is None or type(pipe).__name__ != known.pipelines[0]):
        others = ", ".join(one.pipelines[0] for one in families().values())
        raise InterpError(
            f"A session with a {type(pipe).__name__} was asked for.",
            f"Sessions run StableDiffusionPipeline, StableDiffusionXLPipeline, {others}.",
            "Load one with interp.load(name); patches and recorders work on similar pipelines "
            "without a session: with patch.on(pipe).",
        )
    if steps < calls(pipe).fewest or not 0 <= guidance < float("inf"):
        raise InterpError(
            f"{steps} steps with guidance {guidance} were asked for.",
            f"There is at least one step ({calls(pipe).fewest} with this pipeline), and guidance "
            "is finite and not negative.",
            "The field uses steps=50, guidance=7.5.",
        )
    unit = calls(pipe).multiple(pipe)
    if any(side is not None and (side < unit or side % unit) for side in (height, width)):
        raise InterpError(
            f"Images of {height} x {width} pixels were asked for.",
            f"Both sides are multiples of {unit}.",
            "Leave height and width out for the model's own size.",
        )
    if getattr(pipe, "safety_checker", None) is not None:
        raise InterpError(
            "A session can not have a pipeline with a safety checker.",
            "It blackens some images, and a black image is similar to nothing.",
            "Load it with safety_checker=None, or set pipe.safety_checker = None.",
        )


def has_its_images(session: Settings) -> None:
    """Raise if the UNet needs an image with every prompt, and the session has none.

    Example:
        >>> has_its_images(sd)        # before every run: an adapter may be loaded at any time

    Raises:
        InterpError: the pipeline has an IP-Adapter.
    """
    model = denoiser(session.pipe)
    adapted = getattr(model.config, "encoder_hid_dim_type", None) == "ip_image_proj"
    if adapted and not session.call.keys() & set(IMAGES):
        raise InterpError(
            f"A session was run on a {type(session.pipe).__name__} with an IP-Adapter.",
            "The adapter takes an image with every prompt, and the session was given none.",
            "Give it one, Session(pipe, ip_adapter_image=image), or pipe.unload_ip_adapter().",
        )


MORE = ("cross_attention_kwargs", "joint_attention_kwargs", "sigmas", "timesteps", "mu")
"""Arguments that change what single calls of the denoiser are, beside images."""


def of_unet(session: Settings, what: str) -> None:
    """Raise for a transformer, in which keys and values are not linear in the embeddings.

    Example:
        >>> of_unet(sd, "Attribution patching")

    Raises:
        InterpError: naming what was asked for.
    """
    if family(session.pipe) is not None:
        raise InterpError(
            f"{what} of a {type(session.pipe).__name__} was asked for.",
            "It rests on a UNet's cross-attention layers, all of which are given one text; this "
            f"denoises with a {type(session.pipe.transformer).__name__}.",
            "Of transformers there are run, trace, sweep, shapley, causal_trace and detect.scan.",
        )


def text_alone(session: Settings) -> None:
    """Raise if the UNet is called with more than latents and text.

    Example:
        >>> text_alone(sd)        # before the UNet is called without the pipeline

    Raises:
        InterpError: naming its other inputs.
    """
    has_its_images(session)
    more = sorted(session.call.keys() & {*IMAGES, *MORE})
    if more:
        raise InterpError(
            f"Single predictions of a session with {', '.join(more)} were asked for.",
            "They call the UNet directly, with only latents and text.",
            "Use a session without it, or methods that run the pipeline.",
        )
