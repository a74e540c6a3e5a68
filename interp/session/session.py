"""A stock pipeline and its settings: encode, run, trace, and see the images.

The pipeline stays stock: what a session does with it, its own `__call__` does. For one image under
one patch no session is needed: `with patch.on(pipe): pipe(...)`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch
import xarray as xr
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from interp import results
from interp.denoiser import unet_call
from interp.denoiser.memory import images_at_once
from interp.errors import InterpError
from interp.patch import Patch
from interp.patch.base import must_touch
from interp.results.numbers import Seeds, chosen_seeds
from interp.session.batches import batches, labelled, labels
from interp.session.generate import generate
from interp.session.settings import Settings
from interp.text.encoding import encode
from interp.text.prompt import Prompt


@runtime_checkable
class Rewrite(Protocol):
    """A mitigation that gives another prompt instead of editing this one's embeddings."""

    def rewrite(self, session: "Session", prompt: Prompt, seeds: Sequence[int]) -> Prompt:
        """Return the prompt to run instead, for these seeds."""
        ...

    def to_json(self) -> str:
        """Return what was done."""
        ...


Edit = Patch | Rewrite | None
Edits = Edit | Mapping[str, Edit] | Sequence[Edit]
Prompts = str | Prompt | Sequence[str | Prompt]
Trajectory = Literal["own", "clean"]


class Session(Settings):
    """Runs experiments on a stock Stable Diffusion 1.x, 2.x or SDXL pipeline.

    Example:
        >>> sd = Session(pipe, steps=50, guidance=7.5)
        >>> a = sd.encode("Antique Church Poster in Berlin")
        >>> run = sd.run(a, seeds=range(4), record=ip.mass)

    Arguments as in `Settings`.
    """

    def encode(self, texts: str | Sequence[str]) -> Any:
        """Return the `Prompt` of a text, or a list of them for a list.

        Example:
            >>> a, b = sd.encode(["Antique Church Poster in Berlin", "a photo of a goat"])
        """
        prompts = encode(self.pipe, texts)
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
    ) -> xr.Dataset:
        """Generate, and return what was recorded as one dataset.

        Example:
            >>> run = sd.run(a, seeds=range(4), record=ip.mass)
            >>> grid = sd.run([a, b], patch={"none": None, **ip.paper.interventions()})
            >>> grid.image.sel(patch="h", prompt=0, seed=0)

        Args:
            prompts: texts or encoded prompts.
            seeds: how many (4 is the first four), or which; one image each. The same seed is the
                same noise for every prompt and patch.
            patch: one patch or mitigation; or several by name, which makes an axis `patch`.
            record: a recorder such as `ip.mass`, or several.
            images: keep the images, uint8 `image(prompt, seed, pixel_y, pixel_x, rgb)`; by default
                where nothing is recorded.
            trajectory: "own" lets every patched run follow its own latents (the total effect);
                "clean" evaluates it at each step on the latents of the unpatched run (the direct
                effect), which ends in no image of its own.

        Raises:
            InterpError: there are no prompts or seeds, a patch touched nothing, or images are asked
                for on the clean trajectory.
        """
        images = record is None if images is None else images
        return self._grid(prompts, seeds, patch, record, trajectory, images, trace=None)

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
    ) -> xr.Dataset:
        """Generate, and keep the latents and noise predictions of every step.

        Example:
            >>> trace = sd.trace(prompts, seeds=range(4))
            >>> (trace.eps_c - trace.eps_u).astype("float32")       # Wen et al.'s signal

        Variables, all `(prompt, seed, step, channel, latent_y, latent_x)`: `latents`, what the UNet
        was given; `eps_c` and, with guidance, `eps_u`, what it predicted, as noise also for models
        that predict velocity. `final_latents` has no step. `timestep` and `alpha_bar` stand on
        `step`, which counts UNet calls.

        Args:
            half: keep float16, half the memory (3 x 1.6 MB an image for SD 1.4 at 50 steps);
                differences should be taken in float32.

        Other arguments and errors as in `run`.
        """
        dtype = torch.float16 if half else torch.float32
        return self._grid(prompts, seeds, patch, record, trajectory, images, trace=dtype)

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
        """Return the unit noise from which a seed's images start."""
        return unet_call.noise(self.pipe, seed, self.height, self.width)

    def guidance_at_start(
        self, prompt: Prompt, embeds: Float[Tensor, "position channel"], seed: int
    ) -> Float[Tensor, "1 c h w"]:
        """Return `eps_c - eps_u` at the first step, differentiable in `embeds`."""
        at = unet_call.first_step(self.pipe, [seed], self.steps, self.height, self.width)
        empty = self.unconditional
        with torch.no_grad():
            eps_u = unet_call.predict(self.pipe, *at, empty.embeds[None], empty.pooled)
        return unet_call.predict(self.pipe, *at, embeds[None], prompt.pooled) - eps_u

    def _grid(
        self,
        prompts: Prompts,
        seeds: Seeds,
        patch: Edits,
        record: Any,
        trajectory: Trajectory | str,
        images: bool,
        trace: torch.dtype | None,
    ) -> xr.Dataset:
        """The one engine behind `run` and `trace`."""
        encoded, seeds = self._prompts(prompts), chosen_seeds(seeds)
        if not encoded or trajectory not in ("own", "clean"):
            raise InterpError(
                f"{len(encoded)} prompts on trajectory={trajectory!r} were asked for.",
                "There is at least one prompt, and the trajectory is 'own' or 'clean'.",
                "Pass prompts, and leave trajectory out for the total effect of patches.",
            )
        clean = trajectory == "clean"
        if clean and images:
            raise InterpError(
                "Images on the clean trajectory were asked for.",
                "All images would be that of the unpatched run, whose latents are used there.",
                "Record or trace with trajectory='clean'; see images with trajectory='own'.",
            )
        names, edits = labels(patch)
        rewritten = [self._rewritten(edit, encoded, seeds) for edit in edits]
        at_once = images_at_once(self.pipe, self.height, self.width, self.guided, self.budget)
        planned = list(batches(encoded, seeds, rewritten, at_once, clean))
        calls = unet_call.calls_per_run(self.pipe, self.steps)
        empty = self.unconditional if self.guided else None
        done = []
        # Silent when not on a terminal; diffusers' own bar would be one per batch.
        with tqdm(total=len(planned) * calls, unit="step", leave=None, disable=None) as bar:
            for jobs in planned:
                result = generate(
                    self.pipe,
                    jobs,
                    empty,
                    recorders=_several(record),
                    images=images,
                    trace=trace,
                    clean=clean,
                    tick=bar.update,
                    num_inference_steps=self.steps,
                    guidance_scale=self.guidance,
                    height=self.height,
                    width=self.width,
                )
                done.append((jobs, result))
        # Over the whole grid: a patch need not touch every prompt, and which prompts share a batch
        # must not decide.
        touched = {operation for _, result in done for operation in result.touched}
        ran = f"{len(edits) * len(encoded) * len(seeds)} runs"
        for _, applied in rewritten:
            must_touch(() if applied is None else applied.operations, touched, ran)
        data = labelled(done, encoded, seeds, names, rewritten)
        described = dict(zip(names or [repr(edits[0])], map(_describe, edits), strict=True))
        return results.stamp(
            data,
            **self.provenance(),
            prompts=[prompt.text for prompt in encoded],
            seeds=list(seeds),
            patches=described,
            trajectory=trajectory,
        )

    def _prompts(self, prompts: Prompts) -> list[Prompt]:
        given = [prompts] if isinstance(prompts, (str, Prompt)) else list(prompts)
        encoded = [self.encode(p) if isinstance(p, str) else p for p in given]
        shape = self.unconditional.embeds.shape
        foreign = next((prompt for prompt in encoded if prompt.embeds.shape != shape), None)
        if foreign is not None:
            raise InterpError(
                f"Cannot run {foreign!r}.",
                f"Its embeddings are {tuple(foreign.embeds.shape)}, this model's {tuple(shape)}.",
                "Encode it with this session: sd.encode(text).",
            )
        return encoded

    def _rewritten(
        self, edit: Edit, prompts: Sequence[Prompt], seeds: Sequence[int]
    ) -> tuple[list[Prompt], Patch | None]:
        """The prompts to run, and the patch to apply to them."""
        if edit is None or isinstance(edit, Patch):
            return list(prompts), edit
        if isinstance(edit, Rewrite):
            return [edit.rewrite(self, prompt, seeds) for prompt in prompts], None
        raise InterpError(
            f"A {type(edit).__name__} was given as a patch.",
            "Patches are made by zero, copy, swap and the other verbs, or by interp.mitigations.",
            "Pass one of them, several as {name: patch}, or None for no patch.",
        )


def _several(record: Any) -> tuple[Any, ...]:
    if record is None:
        return ()
    return tuple(record) if isinstance(record, (list, tuple)) else (record,)


def _describe(edit: Edit) -> Any:
    return None if edit is None else json.loads(edit.to_json())
