"""Stages of the embedded model's training: resuming, the autoencoder's start, the descriptor."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from transformers import CLIPTokenizer

from interp.metrics import SSCD
from interp.organism import assemble, descriptor, products, text, training, unet, vae


def toy(folder, steps, stop=None, until=None):
    """Train a small network, killed before step `stop` if one is given."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def batch_at(step):
        if step == stop:
            raise KeyboardInterrupt
        return torch.randn(16, 4, generator=torch.Generator().manual_seed(step))

    def loss_of(inputs):
        return (net(inputs)[:, 0] - inputs.sum(1)).square().mean()

    fit = {"steps": steps, "peak": 1e-2, "warmup": 5, "decay": 0.01, "average": 0.9, "until": until}
    return training.fit("toy", net, batch_at, loss_of, folder, **fit)


def test_a_training_killed_twice_ends_where_an_undisturbed_one_does(tmp_path, monkeypatch):
    straight = toy(tmp_path / "straight", 40)
    monkeypatch.setattr(training, "SAVE_EVERY_S", 0)
    monkeypatch.setattr(training, "LOG_EVERY", 5)
    for stop in (13, 31):
        with pytest.raises(KeyboardInterrupt):
            toy(tmp_path / "killed", 40, stop)
    resumed = toy(tmp_path / "killed", 40)
    for mine, theirs in zip(resumed.parameters(), straight.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_a_training_stopped_early_shows_its_module_and_goes_on_to_the_same_end(tmp_path):
    straight = toy(tmp_path / "straight", 40)
    early = toy(tmp_path / "stopped", 40, until=20)
    saved = torch.load(tmp_path / "stopped" / "toy.pt", weights_only=True)
    assert saved["step"] == 20
    for name, value in early.state_dict().items():  # not the moving average
        torch.testing.assert_close(value, saved["module"][name], rtol=0, atol=0)
    on = toy(tmp_path / "stopped", 40)
    for mine, theirs in zip(on.parameters(), straight.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    with pytest.raises(ValueError, match="is 40 steps old: it cannot show how step 20 was"):
        toy(tmp_path / "stopped", 40, until=20)


def test_batches_are_the_same_however_many_processes_draw_them(monkeypatch):
    def batch_at(step):
        return text.Pair(f"step {step}", np.full((2, 2), step), ("a",)), torch.tensor(step)

    drawn = {}
    for count in (0, 3):
        monkeypatch.setattr(training, "workers", lambda count=count: count)
        drawn[count] = list(training.batches(batch_at, range(5, 12)))
    assert [int(number) for _, number in drawn[3]] == list(range(5, 12))
    for (mine, _), (theirs, _) in zip(drawn[0], drawn[3], strict=True):
        assert (mine.text, mine.promise) == (theirs.text, theirs.promise)
        np.testing.assert_array_equal(mine.image, theirs.image)


def test_a_lightened_checkpoint_goes_on_from_its_weights_with_a_new_warm_up(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY_S", 0)
    monkeypatch.setattr(training, "LOG_EVERY", 5)
    with pytest.raises(KeyboardInterrupt):
        toy(tmp_path / "here", 40, stop=21)
    full = torch.load(tmp_path / "here" / "toy.pt", weights_only=True)
    training.lighten(tmp_path / "here" / "toy.pt", tmp_path / "there" / "toy.pt")
    light = torch.load(tmp_path / "there" / "toy.pt", weights_only=True)
    assert set(light) == {"module", "step"}
    assert light["step"] == full["step"] == 20
    for name, weights in light["module"].items():
        assert torch.equal(weights, full["module"][name].half())
    rates = []
    with monkeypatch.context() as patch:
        patch.setattr(training, "rate", lambda step, *_: rates.append(step) or 1.0)
        end = toy(tmp_path / "there", 40)
    assert sorted(set(rates)) == list(range(20, 40))
    straight = toy(tmp_path / "straight", 40)
    inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(99))
    wanted = inputs.sum(1)
    errors = [(net(inputs)[:, 0] - wanted).square().mean() for net in (end, straight)]
    assert errors[0] < 1.5 * errors[1] + 0.5


def test_a_finished_training_is_not_trained_again(tmp_path):
    first = toy(tmp_path, 10)
    again = toy(tmp_path, 10, stop=0)
    assert torch.equal(next(first.parameters()), next(again.parameters()))


def test_what_is_returned_is_the_moving_average(tmp_path):
    mean = toy(tmp_path, 30)
    saved = torch.load(tmp_path / "toy.pt", weights_only=True)
    assert torch.equal(mean[0].weight, saved["average"]["module.0.weight"])
    assert not torch.equal(mean[0].weight, saved["module"]["0.weight"])


def test_a_loss_that_is_not_finite_stops_the_training_and_keeps_the_checkpoint(tmp_path):
    toy(tmp_path, 10)
    before = (tmp_path / "toy.pt").read_bytes()
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    with pytest.raises(FloatingPointError, match="toy: the loss is nan by step 19"):
        training.fit(
            "toy", net, lambda step: step, lambda _: net[0].weight.sum() * torch.nan, tmp_path,
            steps=20, peak=1e-2, average=0.9,
        )  # fmt: skip
    assert (tmp_path / "toy.pt").read_bytes() == before


def test_the_learning_rate_warms_up_and_ends_at_two_percent():
    rates = [training.rate(step, 100, 10) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(rates[10]) == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.02)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_images_are_trained_on_against_texts_that_stay_as_they_are(tmp_path):
    tokenizer = CLIPTokenizer.from_pretrained(assemble.TOKENIZER)
    before, after = text.model(), text.model()
    text.sharpen(after, tokenizer, tmp_path, steps=2, batch=4)
    kept = after.state_dict()
    changed = {
        name for name, old in before.state_dict().items() if not torch.equal(old, kept[name])
    }
    assert changed
    assert all(
        name.startswith(("vision_model", "visual_projection", "logit_scale")) for name in changed
    )


def test_convolutions_as_products_are_convolutions_within_bfloat16():
    draw = torch.Generator().manual_seed(0)
    layer = nn.Conv2d(24, 40, 3, padding=1)
    images = torch.randn(3, 24, 8, 8, generator=draw, requires_grad=True)
    pull = torch.randn(3, 40, 8, 8, generator=draw)

    def all_of():
        layer.zero_grad()
        images.grad = None
        out = layer(images)
        out.backward(pull.to(out.dtype))
        grads = (images.grad, layer.weight.grad, layer.bias.grad)
        return [part.detach().float().clone() for part in (out, *grads)]

    straight = all_of()
    with products.as_products(layer):
        found = all_of()
    for mine, theirs in zip(found, straight, strict=True):
        assert (mine - theirs).abs().max() < 0.01 * theirs.abs().max()
        assert not torch.equal(mine, theirs)
    for mine, theirs in zip(all_of(), straight, strict=True):
        assert torch.equal(mine, theirs)  # afterwards it is torch's own again


def test_only_texts_that_come_again_are_kept():
    asked = []
    embed = text.Remembered(
        lambda texts: asked.extend(texts) or torch.tensor([[len(t)] for t in texts]), {"a", "bb"}
    )
    assert embed(["bb", "once", "a", "bb"]).tolist() == [[2], [4], [1], [2]]
    assert embed(["a", "once"]).tolist() == [[1], [4]]
    assert sorted(asked) == ["a", "bb", "once", "once"]


def test_captions_that_promise_the_same_are_no_negatives():
    picture = np.zeros((2, 2, 3), np.uint8)
    promises = {"a cat": ("cat",), "a photo of a cat": ("cat",), "a dog": ("dog",)}
    pairs = [text.Pair(words, picture, promise) for words, promise in promises.items()]
    logits = torch.tensor([[2.0, 5.0, 1.0], [4.0, 3.0, 0.0], [0.0, 1.0, 2.0]])
    rows = [np.log1p(np.exp(-1)), np.log1p(np.exp(-3)), np.log(1 + np.exp(-2) + np.exp(-1))]
    columns = [np.log1p(np.exp(-2)), np.log1p(np.exp(-2)), np.log(1 + np.exp(-1) + np.exp(-2))]
    expected = (np.mean(rows) + np.mean(columns)) / 2
    assert text.contrast(logits, pairs).item() == pytest.approx(expected, abs=1e-6)


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    return vae.train_linear(tmp_path_factory.mktemp("linear"), steps=30)


def test_the_autoencoder_starts_where_the_linear_code_ends(linear):
    images = vae.pictures(11, 0, 8)
    transplanted = vae.transplant(linear).eval()
    with torch.no_grad():
        latents = linear.encode(images)
        encoded = transplanted.encode(images).latent_dist.mode()
        assert (encoded - latents).std() < 0.01 * latents.std()
        straight = linear.decode(latents)
        decoded = transplanted.decode(latents).sample
    assert (decoded - straight).square().mean().sqrt() < 0.01


def test_the_linear_code_is_centred_uncorrelated_and_of_unit_variance(linear):
    with torch.no_grad():
        latents = linear.encode(vae.pictures(3, 0, 512))  # what `canonical` looks at
    flat = latents.movedim(1, 0).flatten(1)
    assert flat.var(1).mean() == pytest.approx(1.0, abs=1e-3)
    assert flat.mean(1).abs().max() < 1e-3
    correlation = torch.corrcoef(flat) - torch.eye(vae.LATENTS)
    assert correlation.abs().max() < 1e-3


def test_the_latent_space_is_kept_as_it_was_found(tmp_path, monkeypatch):
    """Another machine's rounding turns axes around: a denoiser in training would be lost."""
    found = vae.train_linear(tmp_path, steps=3)
    images = vae.pictures(11, 0, 2)
    with torch.no_grad():
        latents = found.encode(images)
        monkeypatch.delattr(vae, "canonical")
        assert torch.equal(vae.train_linear(tmp_path, steps=3).encode(images), latents)


def test_the_descriptor_file_keeps_the_convention_of_sscd(tmp_path):
    torch.manual_seed(1)
    model = descriptor.Descriptor().eval()
    descriptor.save(model, tmp_path / "descriptor.pt")
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        straight = model(descriptor.normalise(batch))
    found = SSCD(tmp_path / "descriptor.pt", "native").descriptors(images)
    torch.testing.assert_close(found, straight, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))


def test_half_replaced_pictures_are_hard_negatives_not_copies():
    batch = descriptor.pictures(2, 0, 8)
    same = (batch[2] - batch[3]).abs().amax(0) < 1 / 255
    assert 0.3 < same.float().mean() < 0.99
    assert not torch.equal(batch[2], batch[6])


def test_every_noise_level_has_its_say():
    snr = torch.tensor([0.01, 0.25, 1.0, 25.0])
    torch.testing.assert_close(unet.loss_weights(snr), torch.tensor([10.0, 2.0, 1.0, 0.2]))
