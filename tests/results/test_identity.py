"""A model is what is in memory: another one differs, the same one does not."""

import copy

import accelerate
import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig

import interp as ip
from interp.results import describe, provenance
from interp.results import identity as of_identity
from interp.results.identity import identity
from tests import changing
from tests.changing import CHANGES, IDS
from tests.pipelines import pipeline


def said(pipe):
    """What a store is compared by."""
    return {name: describe(pipe)[name] for name in ("model", "scheduler")}


@pytest.fixture(scope="module")
def plain():
    """To be copied: making one takes longer."""
    return pipeline("sd1")


@pytest.fixture
def pipe(plain):
    return copy.deepcopy(plain)


@pytest.fixture(scope="module")
def before():
    return said(pipeline("sd1"))


@pytest.fixture(scope="module")
def others(plain):
    """What a changed pipeline is, found at once."""
    found = {}
    for change, _ in CHANGES:
        pipe = copy.deepcopy(plain)
        change(pipe)
        found[change] = said(pipe)
    return found


@pytest.mark.parametrize("change", [change for change, _ in CHANGES], ids=IDS)
def test_every_change_is_another_model(pipe, before, others, change):
    """Also of a pipeline that was looked at before, and no two changes are the same."""
    assert said(pipe) == before
    change(pipe)
    assert said(pipe) == others[change] != before
    # These two write the same number.
    twins = {changing.edited, changing.edited_behind_its_back}
    same = twins if change in twins else {change}
    assert {other for other, found in others.items() if found == others[change]} == same


def unloaded(pipe):
    changing.adapted(pipe)
    identity(pipe)
    pipe.unload_lora_weights()


def deleted(pipe):
    changing.adapted(pipe)
    pipe.unet.delete_adapters("x")


def disabled(pipe):
    changing.adapted(pipe)
    pipe.unet.disable_adapters()


def there_and_back(pipe):
    """Float64 holds every float32."""
    pipe.to(torch.float64)
    identity(pipe)
    pipe.to(torch.float32)


def offloaded(pipe):
    accelerate.cpu_offload(pipe.unet, "cpu")
    assert next(pipe.unet.parameters()).is_meta


def channels_last(pipe):
    pipe.unet.to(memory_format=torch.channels_last)


SAME = {
    "train": lambda pipe: pipe.unet.train(),
    "no gradients": lambda pipe: pipe.unet.requires_grad_(False),
    "sliced": lambda pipe: pipe.enable_attention_slicing(1),
    "hooked": lambda pipe: pipe.unet.register_forward_hook(lambda *_: None),
    "run": lambda pipe: ip.Session(pipe, steps=2).run("a goat", patch=ip.zero("pad")),
    "called": lambda pipe: pipe.scheduler.set_timesteps(7),
    **{f.__name__: f for f in (unloaded, deleted, disabled)},
    **{f.__name__: f for f in (there_and_back, offloaded, channels_last)},
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_what_changes_no_number_is_no_change(pipe, before, change):
    change(pipe)
    assert said(pipe) == before


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_copied_or_saved_and_reopened_it_is_the_same(kind, tmp_path):
    pipe = pipeline(kind)
    expected = identity(pipe)
    assert identity(copy.deepcopy(pipe)) == expected
    pipe.save_pretrained(tmp_path)
    assert identity(type(pipe).from_pretrained(tmp_path)) == expected
    assert ip.load(tmp_path).model.items() >= expected.items()


def test_an_offloaded_weight_that_changed_is_seen(pipe, before):
    offloaded(pipe)
    pipe.unet.conv_in._hf_hook.weights_map["weight"][0, 0, 0, 0] += 1
    assert said(pipe)["model"]["parts"].keys() == before["model"]["parts"].keys()
    assert said(pipe) != before


def test_weights_on_no_device_at_all_are_no_error():
    with torch.device("meta"):
        pipe = StableDiffusionPipeline(**pipeline("sd1").components, requires_safety_checker=False)
        pipe.unet.to("meta")
    assert identity(pipe)["parts"]["unet"]


def test_of_two_adapters_those_that_act_are_named_with_their_scales(pipe):
    changing.adapted(pipe, "x")
    changing.adapted(pipe, "y")
    pipe.unet.set_adapters(["x", "y"], [0.5, 1.0])
    found = identity(pipe)["adapters"]
    assert {name: facts["scale"] for name, facts in found.items()} == {
        "unet.x": [8.0],
        "unet.y": [16.0],
    }
    weights = found["unet.y"]["weights"]
    pipe.unet.set_adapters("y")
    assert identity(pipe)["adapters"].keys() == {"unet.y"}
    layer = next(m for m in pipe.unet.modules() if hasattr(m, "base_layer"))
    layer.lora_A["y"].weight.data += 1
    assert identity(pipe)["adapters"]["unet.y"]["weights"] != weights


def test_an_adapter_of_the_text_encoder_is_named(pipe, before):
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    pipe.text_encoder.add_adapter(config, "words")
    found = identity(pipe)
    assert found["adapters"].keys() == {"text_encoder.words"}
    assert found["parts"] == before["model"]["parts"]


def test_the_scale_of_an_ip_adapter_counts(pipe):
    changing.with_images(pipe, 0.5)
    half = identity(pipe)
    pipe.set_ip_adapter_scale(0.25)
    quarter = identity(pipe)
    assert quarter["parts"] == half["parts"]
    assert half["adapters"]["unet.ip_adapter"]["scale"] == [(0.5,)]
    assert quarter["adapters"]["unet.ip_adapter"]["scale"] == [(0.25,)]


def test_weights_are_hashed_once_for_each_change(pipe, monkeypatch):
    hashed = []
    real = of_identity._hashed
    monkeypatch.setattr(of_identity, "_hashed", lambda found: hashed.append(1) or real(found))
    modules = sum(isinstance(part, torch.nn.Module) for part in pipe.components.values())
    sd = ip.Session(pipe, steps=1, height=16, width=16)
    sd.run(["a goat", "a church"], seeds=2)
    sd.run("a goat")
    assert len(hashed) == modules
    changing.edited(pipe)
    sd.run("a goat")
    assert len(hashed) == modules + 1


def test_every_result_says_which_model_made_it(pipe):
    sd = ip.Session(pipe, steps=1, height=16, width=16)
    plain = sd.run("a goat", record=ip.mass)
    changing.adapted(pipe)
    made = sd.run("a goat", record=ip.mass)
    with ip.record(pipe, ip.mass) as log:
        pipe("a goat", num_inference_steps=1, height=16, width=16)
    for data in (made, log.dataset()):
        assert provenance(data)["model"]["adapters"].keys() == {"unet.x"}
    assert provenance(plain)["model"]["adapters"] == {}
    assert not made.mass.equals(plain.mass)


def test_the_unconditional_prompt_is_the_text_encoders_of_now(pipe):
    sd = ip.Session(pipe, steps=1)
    first = sd.unconditional.embeds
    pipe.text_encoder.get_input_embeddings().weight.data *= 2
    assert not torch.equal(sd.unconditional.embeds, first)
    torch.testing.assert_close(sd.unconditional.embeds, sd.encode("").embeds, rtol=0, atol=0)
