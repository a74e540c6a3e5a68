"""What docstring examples begin with, by name: small random pipelines, and what is made of them.

Each is made when an example first asks for it, and kept. A name that is not here is one of the
package's own (`zero`, `plot`, `similarity`), as a reader would import it.
"""

import inspect
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import xarray as xr
from diffusers import StableDiffusionPipeline
from einops import rearrange
from PIL import Image

import interp as ip
from interp import attribute, detect, report, results
from interp.benchmark import detectors
from interp.benchmark import mitigations as every_mitigation
from interp.denoiser import derivatives, unet_call
from interp.denoiser.hooks import Hooks
from interp.explore import Explorer
from interp.report import cases as report_cases
from interp.report.cases import Case
from interp.report.findings import find
from interp.report.measures import Measures
from interp.report.presets import preset
from tests import reporting
from tests.pipelines import DATA, pipeline, vae
from tests.transformers import transformer_pipeline

TEXTS = ["Antique Church Poster in Berlin", "a photo of a goat"]
STEPS = 4
SSCD, CLIP = "sscd_disc_mixup.torchscript.pt", "models/clip-vit-base-patch32"
HOMES = (
    *(ip, attribute, detect, report, results, ip.metrics, ip.mitigations, report_cases),
    *(derivatives, ip.audit),
)


class Descriptor(torch.nn.Module):
    """A copy descriptor in the least code: mean colours of a grid."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, (4, 4)).flatten(1)


def files(folder: Path) -> None:
    """What a reader has on the disk, under the names that examples use."""
    for name in ("models", "out", "runs", "my_training_set"):
        (folder / name).mkdir(parents=True)
    for number, text in enumerate([*TEXTS, TEXTS[0]]):
        image = folder / "my_training_set" / f"{number}.png"
        Image.new("RGB", (64, 64), ["orange", "navy", "orange"][number]).save(image)
        image.with_suffix(".txt").write_text(text)
    (folder / CLIP).symlink_to(DATA / "organism" / "clip")
    torch.jit.script(Descriptor()).save(folder / SSCD)
    for name, texts in {
        **{"memorized.csv": TEXTS[:1], "controls.csv": TEXTS[1:]},
        **{"extended_mv_458_sd1.csv": TEXTS[:1], "suspects.csv": TEXTS},
    }.items():
        rows = [f"{text},image of {text}" for text in texts]
        (folder / name).write_text("\n".join(["prompt,group", *rows]))
    (folder / "controls.txt").write_text(TEXTS[1])


def few_steps(pipeline: type) -> tuple[Any, tuple[Any, ...]]:
    """The function behind a pipeline's call, and its defaults with few steps instead of 50."""
    call = inspect.unwrap(pipeline.__call__)
    return call, tuple(STEPS if value == 50 else value for value in call.__defaults__)


class Given:
    """The names, each an attribute."""

    plt, np, torch, xr, unet_call, Path, Hooks = plt, np, torch, xr, unet_call, Path, Hooks
    error = ip.InterpError("A model was asked for.", "There is none.", "Give one.")
    interp, results, find, preset, Measures = ip, results, find, preset, Measures
    StableDiffusionPipeline = StableDiffusionPipeline
    captions = texts = prompts = controls = TEXTS
    views = (64, 1)
    kinds = ("memorized", "control")
    t, abar = 501, [0.3]
    batch = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    worth = xr.DataArray(np.arange(16.0) ** 2, dims="coalition")

    @property
    def seen(self) -> list[Any]:
        return []

    def __init__(self, folder: Path) -> None:
        """Keep what is made in a folder; what a reader has there is in its `files`."""
        self.home, self.files = folder, folder / "files"
        files(self.files)

    # Models, and what they read.

    @cached_property
    def pipe(self) -> Any:
        parts = pipeline("sd1").components
        # As a real one's: 8 pixels to an element of the latent.
        pipe = StableDiffusionPipeline(
            **parts | {"vae": vae(levels=4)}, requires_safety_checker=False
        )
        pipe.unet.register_to_config(sample_size=8)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @cached_property
    def sdxl(self) -> Any:
        return pipeline("sdxl")

    @cached_property
    def sd3(self) -> Any:
        return transformer_pipeline("sd3")

    @cached_property
    def flux(self) -> Any:
        return transformer_pipeline("dev")

    @cached_property
    def unet(self) -> Any:
        return self.pipe.unet

    @cached_property
    def sd(self) -> ip.Session:
        return ip.Session(self.pipe, steps=STEPS)

    @cached_property
    def a(self) -> ip.Prompt:
        return self.sd.encode(TEXTS[0])

    @cached_property
    def b(self) -> ip.Prompt:
        return self.sd.encode(TEXTS[1])

    @cached_property
    def prompt(self) -> ip.Prompt:
        return self.a

    @cached_property
    def embeds(self) -> torch.Tensor:
        return self.a.embeds[None]

    @cached_property
    def empty(self) -> ip.Prompt:
        return self.sd.encode("")

    @cached_property
    def site(self) -> Any:
        return ip.sites(self.unet)[0]

    @cached_property
    def attention(self) -> Any:
        return self.unet.get_submodule(self.site.path)

    # Points, latents, directions.

    @cached_property
    def points(self) -> Any:
        return attribute.points.clean_points(self.sd, self.a, [0, 1], 0)

    @cached_property
    def point(self) -> Any:
        return attribute.points.clean_points(self.sd, self.a, 1, 0)

    @cached_property
    def latents(self) -> torch.Tensor:
        return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    @cached_property
    def direction(self) -> torch.Tensor:
        return self.latents.flip(-1)

    @cached_property
    def f(self) -> Any:
        return lambda z: z**3

    # Images, and how they are measured.

    @cached_property
    def images(self) -> torch.Tensor:
        return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))

    @cached_property
    def training_image(self) -> Image.Image:
        pixels = rearrange((255 * self.images[0]).byte(), "c h w -> h w c")
        return Image.fromarray(pixels.numpy())

    @cached_property
    def image(self) -> Image.Image:
        return self.training_image

    @cached_property
    def training_images(self) -> list[Image.Image]:
        return [self.training_image, self.training_image.rotate(90)]

    @cached_property
    def sscd(self) -> Any:
        return ip.metrics.SSCD(self.files / SSCD)

    @cached_property
    def clip(self) -> Any:
        return ip.metrics.CLIPScore(self.files / CLIP)

    @cached_property
    def copied(self) -> Any:
        return attribute.similarity(self.sscd, self.training_image)

    # Prompts, and what is known of them.

    @cached_property
    def cases(self) -> list[Case]:
        given = zip(TEXTS, self.kinds, self.training_images, self.views, strict=True)
        return [Case(text, kind, text, image, views) for text, kind, image, views in given]

    @cached_property
    def case(self) -> Any:
        return detect.Case(self.sd, TEXTS[0], seeds=2)

    @cached_property
    def file(self) -> Any:
        return ip.read_prompts(self.files / "suspects.csv")

    # Results.

    @cached_property
    def trace(self) -> xr.Dataset:
        return self.sd.trace(TEXTS, 2, record=detect.recorders(self.pipe))

    @cached_property
    def calibration(self) -> Any:
        return detect.Calibration.of(self.sd, TEXTS, seeds=2)

    @cached_property
    def scores(self) -> xr.DataArray:
        return detect.guidance_norm(self.trace, first=2).assign_coords(kind=self._kinds)

    @property
    def _kinds(self) -> tuple[str, list[str]]:
        return "prompt", list(self.kinds)

    @cached_property
    def memorized(self) -> np.ndarray:
        return np.array([True, False])

    @cached_property
    def control(self) -> np.ndarray:
        return ~self.memorized

    @cached_property
    def curve(self) -> xr.Dataset:
        return detect.roc(self.scores[self.memorized], self.scores[self.control])

    @cached_property
    def run(self) -> xr.Dataset:
        run = self.sd.run(TEXTS, 2, record=ip.mass, images=True).assign_coords(kind=self._kinds)
        return run.assign(sscd=(("prompt", "seed"), np.eye(2)))

    @cached_property
    def grid(self) -> xr.Dataset:
        return ip.sweep(
            *(self.sd, TEXTS, ip.paper.interventions()),
            seeds=1,
            store=self.home / "given.zarr",
            metrics={"sscd": self.sscd, "clipscore": self.clip, "copy": self.sscd},
            labels={"kind": self._kinds[1], "group": TEXTS},
        )

    @cached_property
    def examined(self) -> xr.Dataset:
        few = {name: detect.METHODS[name] for name in ("guidance norm", "score change")}
        return detectors(self.sd, self.cases, 2, self.home / "examined.zarr", few)

    @cached_property
    def pairs(self) -> Any:
        return ip.audit.read_pairs(self.files / "my_training_set")

    @cached_property
    def audited(self) -> xr.Dataset:
        return ip.audit.audit(self.sd, self.pairs, 2, self.home / "audit.zarr", self.sscd, 0.5)

    @cached_property
    def mitigated(self) -> xr.Dataset:
        few = {"zero": ip.zero("pad"), "repad": ip.repad("!")}
        asked = (self.sd, self.cases, 2, self.home / "mitigated.zarr", self.sscd)
        return every_mitigation(*asked, methods=few, fidelity=self.clip)

    @cached_property
    def pads(self) -> ip.Patch:
        return ip.swap("pad", donor=self.b, align="nearest")

    @cached_property
    def patch(self) -> ip.Patch:
        return self.pads

    @cached_property
    def shield(self) -> ip.Patch:
        return ip.repad("!") & ip.zero("eot")

    @cached_property
    def exact(self) -> xr.Dataset:
        return attribute.causal_trace(self.sd, self.a, {"pad": self.pads}, side=("k", "v"))

    @cached_property
    def estimate(self) -> xr.Dataset:
        return attribute.attribution_patching(self.sd, self.a, {"pad": self.pads})

    @cached_property
    def result(self) -> xr.Dataset:
        return attribute.shapley(self.sd, self.a, baseline=self.b, seeds=2)

    @cached_property
    def table(self) -> pd.DataFrame:
        ours, facts = [0.9, 0.5, 0.1], {"measure": "copy", "inside": [True, True, False]}
        return pd.DataFrame({"ours": ours, "paper": [0.8, 0.6, 0.0], **facts})

    @cached_property
    def data(self) -> xr.Dataset:
        return reporting.dataset()

    @cached_property
    def log(self) -> Any:
        with ip.record(self.pipe, ip.mass) as log:
            self.pipe(TEXTS[0], num_inference_steps=STEPS, num_images_per_prompt=4)
        return log

    # What a page, a figure or a hook is given.

    @cached_property
    def folder(self) -> Path:
        return DATA / "organism" / "eot"

    @cached_property
    def measures(self) -> Measures:
        return Measures(ip.metrics.ssim, None, 0.5)

    @cached_property
    def explorer(self) -> Explorer:
        return Explorer(self.sd, self.cases, self.measures)

    @cached_property
    def axes(self) -> Any:
        return plt.subplots(1, 2, squeeze=False)[1]

    @cached_property
    def figure(self) -> Any:
        return self.axes[0, 0].figure

    @cached_property
    def hooks(self) -> Hooks:
        return Hooks()


def lookup(given: Given, name: str) -> Any:
    """What a name stands for.

    Raises:
        LookupError: nothing of that name is here, and the package has no such object.
    """
    for home in (given, *HOMES):
        if hasattr(home, name):
            return getattr(home, name)
    raise LookupError(f"tests/given.py has no {name!r}, and the package offers none")
