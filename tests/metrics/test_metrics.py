"""Metrics: each against a second way of computing it, and an image against itself."""

import hashlib
import json
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from einops import rearrange, repeat
from PIL import Image
from skimage.metrics import mean_squared_error
from transformers import CLIPModel

from interp import metrics
from interp.errors import InterpError
from interp.metrics.images import centre_crop, resize, resize_short_edge
from interp.metrics.sscd import preprocess


class Descriptor(torch.nn.Module):
    """Stands for SSCD: a fixed linear map of pooled pixels, through the same calling convention."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(16, 3 * 64, generator=torch.Generator().manual_seed(0))
        self.register_buffer("weight", weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(x, (8, 8)).flatten(1) @ self.weight.T


@pytest.fixture(scope="module")
def descriptor(tmp_path_factory):
    path = tmp_path_factory.mktemp("sscd") / "descriptor.pt"
    torch.jit.script(Descriptor()).save(str(path))
    return path


@pytest.fixture(scope="module")
def sscd(descriptor):
    return metrics.SSCD(descriptor)


def pil(batch):
    array = rearrange((batch * 255).round().to(torch.uint8), "n c h w -> n h w c").numpy()
    return [Image.fromarray(image) for image in array]


def test_pil_arrays_dataarrays_and_tensors_are_one_batch(images):
    quantised = metrics.as_batch(pil(images))
    array = np.stack([np.asarray(image) for image in pil(images)])
    labelled = xr.DataArray(rearrange(array, "(p s) h w c -> p s h w c", p=2))
    assert torch.equal(quantised, metrics.as_batch(array))
    assert torch.equal(quantised, metrics.as_batch(labelled))
    assert torch.equal(images, metrics.as_batch(images))
    assert (quantised - images).abs().max() <= 0.5 / 255 + 1e-6


def test_resizing_is_pillows_up_to_its_rounding(images):
    """The SSCD authors resize PIL images; floats must give the same pictures."""
    images = 0.3 + 0.4 * images  # Pillow clips between its two passes: no overshoot here
    for size in ((20, 20), (96, 80)):
        for name, flag in (("bilinear", Image.BILINEAR), ("bicubic", Image.BICUBIC)):
            theirs = metrics.as_batch([i.resize(size[::-1], flag) for i in pil(images)])
            ours = resize(metrics.as_batch(pil(images)), size, name)
            assert (theirs - ours).abs().max() < 1.5 / 255


def test_every_metric_of_an_image_against_itself(images, sscd):
    one = torch.ones(4)
    assert torch.equal(metrics.pixel_l2(images, images), 0 * one)
    assert torch.equal(metrics.tile_l2(images, images), 0 * one)
    torch.testing.assert_close(metrics.ssim(images, images), one)
    torch.testing.assert_close(sscd(images, images), one)


def test_pixel_l2_is_the_root_of_scikit_images_mean_squared_error(images):
    ours = metrics.pixel_l2(images, images[:1])
    theirs = [mean_squared_error(images[0].numpy(), image.numpy()) ** 0.5 for image in images]
    torch.testing.assert_close(ours, torch.tensor(theirs, dtype=torch.float32))


def test_ssim_is_that_of_wang_et_al_written_out(images):
    """Window of 11 x 11 with sigma 1.5, K = 0.01 and 0.03, without the border of 5 pixels."""
    offsets = torch.arange(-5.0, 6)
    row = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = torch.outer(row, row)[None, None] / row.sum() ** 2

    def blur(x):
        return F.conv2d(x.flatten(0, 1)[:, None].double(), window.double())

    a, b = images[:2], images[2:]
    mu_a, mu_b = blur(a), blur(b)
    var_a, var_b = blur(a**2) - mu_a**2, blur(b**2) - mu_b**2
    covariance = blur(a * b) - mu_a * mu_b
    top = (2 * mu_a * mu_b + 0.01**2) * (2 * covariance + 0.03**2)
    bottom = (mu_a**2 + mu_b**2 + 0.01**2) * (var_a + var_b + 0.03**2)
    expected = rearrange(top / bottom, "(n c) 1 h w -> n (c h w)", c=3).mean(1)
    torch.testing.assert_close(metrics.ssim(a, b), expected.float(), atol=1e-4, rtol=1e-3)


def test_a_half_written_descriptor_is_refused(descriptor, tmp_path):
    half = tmp_path / "half.pt"
    half.write_bytes(descriptor.read_bytes()[:2000])
    with pytest.raises(InterpError, match="half.pt .* torch.jit.load refuses"):
        metrics.SSCD(half)


def test_tile_l2_is_the_loop_over_tiles_and_sees_one_changed_corner(images):
    b = images.flip(0)
    loop = [
        metrics.pixel_l2(images[..., y : y + 12, x : x + 16], b[..., y : y + 12, x : x + 16])
        for y in range(0, 48, 12)
        for x in range(0, 64, 16)
    ]
    torch.testing.assert_close(metrics.tile_l2(images, b), torch.stack(loop).amax(0))
    corner = images.clone()
    corner[..., :12, :16] = 1 - corner[..., :12, :16]
    ratio = metrics.tile_l2(images, corner) / metrics.pixel_l2(images, corner)
    torch.testing.assert_close(ratio, torch.full((4,), 4.0))  # all of it in one tile of sixteen


def test_relative_l2_is_the_loop_over_the_population(images):
    population = torch.rand(7, 3, 48, 64, generator=torch.Generator().manual_seed(2))
    ours = metrics.RelativeL2(population, neighbours=3, alpha=0.5)(images, population[0])
    for image, value in zip(images, ours, strict=True):
        distances = metrics.pixel_l2(population, image)
        expected = distances[0] / (0.5 * distances.sort().values[:3].mean())
        torch.testing.assert_close(value, expected)


def test_sscd_is_the_official_call(images, descriptor, sscd):
    """Resize to 320 x 320, ImageNet normalisation, `model(batch)`, cosine."""
    model = torch.jit.load(descriptor)
    small = F.interpolate(images, (320, 320), mode="bilinear", antialias=True)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    d = model((small - mean) / std)
    torch.testing.assert_close(sscd(images, images[0]), F.cosine_similarity(d, d[:1]))
    assert sscd.sha256 == hashlib.sha256(descriptor.read_bytes()).hexdigest()
    assert sscd.sha256 in repr(sscd)


def test_preprocessings_have_the_published_sizes():
    wide = torch.rand(1, 3, 300, 500, generator=torch.Generator().manual_seed(3))
    assert preprocess(wide, "skew_320").shape[-2:] == (320, 320)
    assert preprocess(wide, "288").shape[-2:] == (288, 480)
    assert preprocess(wide, "dcr").shape[-2:] == (224, 224)
    assert preprocess(wide, "native").shape[-2:] == (64, 64)
    assert preprocess(torch.ones(1, 3, 512, 512), "dcr").unique().tolist() == [1.0]
    assert resize_short_edge(wide, 288).shape[-2:] == (288, 480)
    assert torch.equal(centre_crop(wide, 100), wide[..., 100:200, 200:300])


def test_the_centre_is_torchvisions():
    """`int(round((edge - size) / 2.0))`: 0.5 and 2.5 are rounded down, 1.5 and 3.5 up."""
    ramp = repeat(torch.arange(40.0), "x -> 1 3 y x", y=20)
    starts = {0: 0, 1: 0, 2: 1, 3: 2, 4: 2, 5: 2, 6: 3, 7: 4, 8: 4, 9: 4, 11: 6, 13: 6}
    for margin, start in starts.items():
        assert centre_crop(ramp[..., : 20 + margin], 20)[0, 0, 0, 0] == start


def test_pairwise_is_the_loop_over_pairs(images, sscd, clip_folder):
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    for metric in (metrics.pixel_l2, metrics.ssim, sscd):
        loop = [metric(images[i : i + 1], images[j : j + 1]) for i, j in pairs]
        torch.testing.assert_close(metric.pairwise(images), torch.cat(loop))
    clip = metrics.CLIPScore(clip_folder)
    d = clip.embed_images(images)
    loop = torch.stack([d[i] @ d[j] for i, j in pairs])
    torch.testing.assert_close(clip.pairwise(images), loop)


def test_diversity_is_zero_spread_for_copies_and_numpys_median_otherwise(images, sscd):
    copies = torch.cat([images[:1]] * 3 + [images[1:4]])
    value = metrics.Diversity(sscd)(copies, groups=["m"] * 3 + ["n"] * 3)
    expected = np.median([sscd(images[i], images[j]) for i, j in ((1, 2), (1, 3), (2, 3))])
    torch.testing.assert_close(value, torch.tensor([1.0, float(expected)]))
    mean = metrics.Diversity(metrics.pixel_l2, reduce="mean")(images)
    torch.testing.assert_close(mean[0], metrics.pixel_l2.pairwise(images).mean())
    with pytest.raises(InterpError, match="one image"):
        metrics.Diversity(sscd)(images, groups=[0, 0, 0, 1])


def test_clipscore_is_the_cosine_in_transformers_own_logits(images, clip_folder):
    clip = metrics.CLIPScore(clip_folder)
    texts = ["a", "b c", "c c c a", ""]
    model = CLIPModel.from_pretrained(clip_folder)
    square = images[..., 8:40, 16:48]
    small = F.interpolate(square, (16, 16), mode="bicubic", antialias=True).clamp(0, 1)
    mean = torch.tensor(clip.mean)[:, None, None]
    std = torch.tensor(clip.std)[:, None, None]
    for i, text in enumerate(texts):
        ids = clip._tokenizer(text, return_tensors="pt")
        out = model(**ids, pixel_values=((small - mean) / std)[i : i + 1])
        cosine = out.logits_per_image / model.logit_scale.exp()
        torch.testing.assert_close(clip(square, texts)[i], cosine[0, 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(clip(square, "a")[0], clip(square, texts)[0], atol=1e-5, rtol=1e-4)


def test_clipscore_reads_the_folders_own_normalisation(images, clip_folder, tmp_path):
    for path in clip_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    stored = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stored))
    other = metrics.CLIPScore(tmp_path)
    assert other.mean == (0.5, 0.5, 0.5)
    assert other.sha256 == metrics.CLIPScore(clip_folder).sha256
    assert not torch.equal(other(images, "a"), metrics.CLIPScore(clip_folder)(images, "a"))


def test_lpips_is_an_optional_extra_with_a_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(InterpError, match=r"interp\[lpips\]"):
        metrics.LPIPS()


def test_lpips_hands_the_library_what_it_wants(monkeypatch, images):
    class Net(torch.nn.Module):
        def __init__(self, net, verbose):
            super().__init__()
            self.register_buffer("scale", torch.tensor(2.0))

        def forward(self, a, b):
            assert a.shape[-2:] == (32, 32)
            assert a.min() >= -1
            assert a.min() < 0
            return self.scale * (a - b).square().mean((1, 2, 3), keepdim=True)

    module = type(sys)("lpips")
    module.LPIPS = Net
    monkeypatch.setitem(sys.modules, "lpips", module)
    metric = metrics.LPIPS(size=32)
    small = resize(images, (32, 32))
    expected = 8 * metrics.pixel_l2(small, small[0]).square()
    torch.testing.assert_close(metric(images, images[0]), expected)
    assert len(metric.provenance()["sha256"]) == 64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, s: metrics.pixel_l2(x, x[:3]), "4 images with 3 references"),
        (lambda x, s: metrics.pixel_l2(x, x[..., :32]), "48 x 64 with 48 x 32"),
        (lambda x, s: metrics.TileL2(5)(x, x), "5² tiles of 48 x 64 pixels"),
        (lambda x, s: s(2 * x - 1, x), r"images / 2 \+ 0.5"),
        (lambda x, s: metrics.pixel_l2(x / 0, x), "contain NaN or infinity"),
        (lambda x, s: s(x[:, :1], x), r"shape \(4, 1, 48, 64\)"),
        (lambda x, s: s([], x), "A list of nothing"),
        (lambda x, s: s([pil(x)[0], Image.new("RGB", (9, 9))], x), "sizes"),
        (lambda x, s: metrics.SSCD("nowhere.pt"), "no such file"),
        (lambda x, s: metrics.SSCD(s.path, preprocess="255"), "skew_320, 288, dcr, native"),
        (lambda x, s: metrics.SSCD(__file__), "torch.jit.load refuses"),
        (lambda x, s: metrics.CLIPScore(s.path.parent), "There is no config.json"),
    ],
)
def test_bad_input_says_what_exists(images, sscd, call, message):
    with pytest.raises(InterpError, match=message):
        call(images, sscd)


def test_clip_loads_without_a_bar(clip_folder, capfd):
    metrics.CLIPScore(clip_folder)
    assert capfd.readouterr() == ("", "")
