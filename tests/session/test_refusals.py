"""What a session refuses, and says of it."""

import pytest
from diffusers import StableDiffusionImg2ImgPipeline

from interp.errors import InterpError
from interp.patch import scale
from interp.session import Session
from tests.pipelines import pipeline


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda sd: Session(sd.pipe, steps=0), "at least one step"),
        (lambda sd: Session(sd.pipe, guidance=-1.0), "finite and not negative"),
        (lambda sd: Session(sd.pipe, guidance=float("nan")), "finite and not negative"),
        (lambda sd: Session(sd.pipe, height=12), "multiples of 8"),
        (lambda sd: Session(sd.pipe, width=0), "multiples of 8"),
        (lambda sd: sd.run("a", patch=scale("sot", 3e38)), "'a' was run with seed 0.*latents are"),
        (lambda sd: Session(sd.pipe.unet), "UNet2DConditionModel was asked for"),
        (
            lambda sd: Session(StableDiffusionImg2ImgPipeline(**sd.pipe.components)),
            "Img2Img.* was asked for",
        ),
        (lambda sd: sd.run([]), "0 prompts on trajectory"),
        (lambda sd: sd.run("a", seeds=[]), "at least one seed"),
        (lambda sd: sd.run("a", trajectory="other"), "trajectory='other'"),
        (lambda sd: sd.run("a", images=True, trajectory="clean"), "look at images with trajectory"),
        (lambda sd: Session(sd.pipe, budget=0.0).run("a"), "positive number of GiB"),
    ],
)
def test_bad_input_says_what_exists(one, call, message):
    with pytest.raises(InterpError, match=message):
        call(one)


def test_a_safety_checker_is_refused():
    pipe = pipeline("sd1")
    pipe.safety_checker = object()
    with pytest.raises(InterpError, match="black image"):
        Session(pipe)
