"""A stock pipeline and its settings: encode, run, trace, and look at images.

The pipeline stays stock: a session only uses its `__call__`. For one image with one patch no
session is needed: `with patch.on(pipe): pipe(...)`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, Literal

import torch
import xarray as xr
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from interp import results
from interp.denoiser import unet_call
from interp.errors import InterpError
from interp.patch import Patch
from interp.patch.base import must_touch
from interp.results.hashes import tensor_sha256
from interp.results.numbers import Seeds, chosen_seeds
from interp.session.batches import groups, in_batches, labelled, labels
from interp.session.generate import generate
from interp.session.settings import Settings, has_its_images, text_alone
from interp.session.start import Rewrite, Start, for_prompts
from interp.text.prompt import Prompt
from interp.text.windows import join

Edit = Patch | Rewrite | None
Edits = Edit | Mapping[str, Edit] | Sequence[Edit]
Prompts = str | Prompt | Sequence[str | Prompt]
Trajectory = Literal["own", "clean"]


class Session(Settings):
    """Runs experiments on a stock text-to-image pipeline.

    Example:
        >>> sd = Session(pipe, steps=50, guidance=7.5)
        >>> a = sd.encode("Antique Church Poster in Berlin")
        >>> run = sd.run(a, seeds=range(4), record=ip.mass)

    Arguments as in `Settings`.
    """

    def but(self, **changes: Any) -> "Session":
        """Return the same session with some settings changed: `sd.but(guidance=1.0)`."""
        return Session(self.pipe, **{**self.settings, "source": self.source, **changes})

    def encode(self, texts: str | Sequence[str]) -> Any:
        """Return the `Prompt` of a text, or a list of them for a list.

        Example:
            >>> a, b = sd.encode(["Antique Church Poster in Berlin", "a photo of a goat"])
        """
        prompts = self._encoded(texts, "clip_skip", "max_sequence_length")
        return prompts[0] if isinstance(texts, str) else prompts

    def run(
        self,
        prompts: Prompts,
        seeds: Seeds = (0,),
        patch: Edits = None,
        record: Any = None,
        *,
        images: bool | None = None,
        trajectory: Trajectory | str = "own",
        latents: Tensor | None = None,
    ) -> xr.Dataset:
        """Generate, and return images and recordings as one dataset.

        Example:
            >>> run = sd.run(a, seeds=range(4), record=ip.mass)
            >>> grid = sd.run([a, b], patch={"none": None, **ip.paper.interventions()})
            >>> grid.image.sel(patch="h", prompt=0, seed=0)

        Args:
            prompts: texts or encoded prompts.
            seeds: how many (4 is the first four), or which; one image each. A seed gives the same
                noise for every prompt and patch.
            patch: one patch or mitigation, or several by name, which adds an axis `patch`.
            record: a recorder such as `ip.mass`, or several.
            images: keep the images, uint8 `image(prompt, seed, pixel_y, pixel_x, rgb)`; by default
                only if nothing is recorded.
            trajectory: "own" lets every patched run follow its own latents (the total effect);
                "clean" evaluates each step on the latents of the unpatched run (the direct effect),
                which gives no images.
            latents: unit noise to start from instead of the seeds' (see `noise`), `[seed, c, h, w]`
                for all prompts or `[prompt, seed, c, h, w]`.

        Raises:
            InterpError: there are no prompts or seeds, a patch touched nothing, images were asked
                for on the clean trajectory, or latents have the wrong shape.
        """
        images = record is None if images is None else images
        return self._grid(prompts, seeds, patch, record, trajectory, images, None, latents)

    def trace(
        self,
        prompts: Prompts,
        seeds: Seeds = (0,),
        patch: Edits = None,
        record: Any = None,
        *,
        half: bool = True,
        images: bool = False,
        trajectory: Trajectory | str = "own",
        latents: Tensor | None = None,
    ) -> xr.Dataset:
        """Generate, and keep the latents and noise predictions of every step.

        Example:
            >>> trace = sd.trace(prompts, seeds=range(4))
            >>> (trace.eps_c - trace.eps_u).astype("float32")       # Wen et al.'s signal

        Variables, all `(prompt, seed, step, channel, latent_y, latent_x)`: `latents`, the UNet's
        input; `eps_c` and, with guidance, `eps_u`, its predictions, converted to noise for models
        that predict velocity. `final_latents` has no step. `timestep` and `alpha_bar` are
        coordinates on `step`, which counts UNet calls.

        Args:
            half: keep float16, half the memory (3 x 1.6 MB per image for SD 1.4 at 50 steps); take
                differences in float32.

        Other arguments and errors as in `run`.
        """
        dtype = torch.float16 if half else torch.float32
        return self._grid(prompts, seeds, patch, record, trajectory, images, dtype, latents)

    def images(
        self, prompts: Prompts, seeds: Seeds = (0,), patch: Edits = None
    ) -> list[Image.Image]:
        """Return the images, in the order (patch, prompt, seed).

        Example:
            >>> sd.images("a photo of a goat", seeds=range(4), patch=ip.zero("pad"))[0]
        """
        image = self.run(prompts, seeds, patch, images=True).image
        flat = image.stack(n=[dim for dim in ("patch", "prompt", "seed") if dim in image.dims])
        return [Image.fromarray(array) for array in flat.transpose("n", ...).values]

    def noise(self, seed: int) -> Float[Tensor, "1 c h w"]:
        """Return the unit noise that a seed's images start from."""
        return unet_call.noise(self.pipe, seed, self.height, self.width)

    def guidance_at_start(
        self,
        prompt: Prompt,
        embeds: Float[Tensor, "position channel"],
        noise: Float[Tensor, "1 c h w"],
    ) -> Float[Tensor, "1 c h w"]:
        """Return `eps_c - eps_u` at the first step, differentiable in `embeds` and unit `noise`.

        Raises:
            InterpError: the model is one of flow matching.
        """
        text_alone(self)
        at = unet_call.from_noise(self.pipe, noise, self.steps)
        if not any(at[2]):
            raise InterpError(
                f"Guidance at the first step of a {type(self.pipe).__name__} was asked for.",
                "There is none: flow matching starts at pure noise, which every prompt predicts.",
                "Use a mitigation that edits embeddings.",
            )
        empty = self.unconditional
        with torch.set_grad_enabled(torch.is_grad_enabled() and noise.requires_grad):
            eps_u = unet_call.predict(self.pipe, *at, empty.embeds[None], empty, self.guidance)
        return unet_call.predict(self.pipe, *at, embeds[None], prompt, self.guidance) - eps_u

    def _grid(
        self,
        prompts: Prompts,
        seeds: Seeds,
        patch: Edits,
        record: Any,
        trajectory: Trajectory | str,
        images: bool,
        trace: torch.dtype | None,
        latents: Tensor | None,
    ) -> xr.Dataset:
        """The engine behind `run` and `trace`."""
        has_its_images(self)
        encoded, seeds = self._prompts(prompts), chosen_seeds(seeds)
        if not encoded or trajectory not in ("own", "clean"):
            raise InterpError(
                f"{len(encoded)} prompts on trajectory={trajectory!r} were asked for.",
                "There must be at least one prompt, and the trajectory is 'own' or 'clean'.",
                "Pass prompts, and leave out trajectory for the total effect of patches.",
            )
        clean = trajectory == "clean"
        if clean and images:
            raise InterpError(
                "Images on the clean trajectory were asked for.",
                "They would all be the image of the unpatched run, whose latents are used there.",
                "Record or trace with trajectory='clean'; look at images with trajectory='own'.",
            )
        names, edits = labels(patch)
        shape = (len(seeds), *unet_call.latent_shape(self.pipe, self.height, self.width))
        given = for_prompts(latents, len(encoded), shape)
        plain = [Start(prompt, noise) for prompt, noise in zip(encoded, given, strict=True)]
        starts = [self._starts(edit, plain, seeds) for edit in edits]
        run = partial(
            generate,
            self.pipe,
            negative=join([self.unconditional] * len(encoded[0].windows)) if self.guided else None,
            recorders=_several(record),
            images=images,
            trace=trace,
            clean=clean,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            height=self.height,
            width=self.width,
            **self.call,
        )
        done = in_batches(self, groups(plain, seeds, starts, clean), run)
        # Over the whole grid: a patch need not touch every prompt, and which prompts share a batch
        # must not decide.
        touched = {operation for _, result in done for operation in result.touched}
        ran = f"{len(edits) * len(encoded) * len(seeds)} runs"
        for start in chain.from_iterable(starts):
            must_touch(start.patch.operations if start.patch else (), touched, ran)
        data = labelled(done, encoded, seeds, names, starts)
        described = dict(zip(names or [repr(edits[0])], map(_describe, edits), strict=True))
        return results.stamp(
            data,
            **self.provenance(),
            prompts=[prompt.text for prompt in encoded],
            seeds=list(seeds),
            patches=described,
            trajectory=trajectory,
            **({} if latents is None else {"latents": tensor_sha256(latents)}),
        )

    def _prompts(self, prompts: Prompts) -> list[Prompt]:
        given = [prompts] if isinstance(prompts, (str, Prompt)) else list(prompts)
        encoded = [self.encode(p) if isinstance(p, str) else p for p in given]
        shapes = {prompt.embeds.shape for prompt in encoded}
        length, width = self.unconditional.embeds.shape
        if len(shapes) > 1 or any(n % length or w != width for n, w in shapes):
            raise InterpError(
                f"Cannot run {', '.join(map(repr, encoded))}.",
                f"Their embeddings are {', '.join(map(str, map(tuple, shapes)))}. This model takes "
                f"{(length, width)}, or several windows of that size, as many for all prompts.",
                "Encode them with this session: sd.encode(text).",
            )
        return encoded

    def _starts(self, edit: Edit, plain: Sequence[Start], seeds: Sequence[int]) -> list[Start]:
        """How to run every prompt with this patch or mitigation."""
        if edit is None or isinstance(edit, Patch):
            return [replace(start, patch=edit) for start in plain]
        if not isinstance(edit, Rewrite):
            raise InterpError(
                f"A {type(edit).__name__} was given as a patch.",
                "Patches are made by zero, copy, swap and the other verbs, or by "
                "interp.mitigations.",
                "Pass one, several as {name: patch}, or None for no patch.",
            )
        if any(start.latents is not None for start in plain):
            raise InterpError(
                f"{edit!r} was asked for with latents=.",
                "It depends on the noise, which it takes from the seeds.",
                "Leave out latents=.",
            )
        found = [edit.rewrite(self, start.prompt, seeds) for start in plain]
        return [one if isinstance(one, Start) else Start(one) for one in found]


def _several(record: Any) -> tuple[Any, ...]:
    if record is None:
        return ()
    return tuple(record) if isinstance(record, (list, tuple)) else (record,)


def _describe(edit: Edit) -> Any:
    return None if edit is None else json.loads(edit.to_json())
