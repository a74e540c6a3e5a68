"""Examples in docstrings run, and give what they say.

Names that it does not bind, such as the reader's own `sd`, are looked up in `tests.given`. The
pipeline there is a small random one, so other decimals come out than those written down.
"""

import ast
import builtins
import doctest
import importlib
import re
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from diffusers import FluxPipeline, StableDiffusion3Pipeline, StableDiffusionPipeline

import interp as ip
from tests.given import Given, few_steps, lookup

PACKAGE = Path(ip.__file__).parent
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
DECIMAL = re.compile(r"-?\d+\.\d+(e[-+]\d+)?")

NOT_RUN = {
    "interp.attribute.neuron_search:candidates": "the inside of a search, see find_neurons",
    "interp.attribute.neuron_search:refined": "the inside of a search, see find_neurons",
    "interp.audit.pairs:read_pairs": "a training set of the reader's",
    "interp.audit.scales:scales": "a LoRA of the reader's",
    "interp.cli.workers:cluster": "a Dask cluster",
    "interp.denoiser.derivatives:jvp": "the inside of a detector",
    "interp.denoiser.derivatives:vjp": "the inside of a detector",
    "interp.denoiser.hooks:aside": "the inside of a patch",
    "interp.denoiser.memory:halving": "the inside of a batch",
    "interp.detect.extraction:clique_size": "500 images",
    "interp.explore.server:Server": "serves until it is stopped",
    "interp.metrics.aesthetic:Aesthetic": "weights of CLIP's largest model",
    "interp.metrics.diversity:Diversity": "weights of LPIPS",
    "interp.mitigations.noise:optimise_noise": "hundreds of gradient steps",
    "interp.paper:mitigations": "hundreds of gradient steps",
    "interp.metrics.structure:LPIPS": "weights of LPIPS",
    "interp.mitigations.stable:stable_steps": "as many norms as a run has steps",
    "interp.organism.build:build": "hours",
    "interp.organism.card:write": "hours",
    "interp.organism.copies:Judge": "images of the embedded model",
    "interp.organism.evaluate:evaluate": "hours",
    "interp.organism.figures:draw": "hours",
    "interp.organism.recognise:objects": "images of the embedded model",
    "interp.organism.tokenizer:from_merges": "a file of OpenAI's",
    "interp.organism.training:fit": "a training",
    "interp.organism.training:lighten": "a training",
    "interp.organism.products:as_products": "a training",
    "interp.patch.attenuation:factors": "the inside of a patch",
    "interp.patch.steering:repel": "prompts of the reader's",
    "interp.plot.curves:scale_curve": "a LoRA of the reader's",
    "interp.report.cases:top": "views of one generation of the embedded model",
    "interp.report.cases:population": "titles held out, which come with the next embedded model",
    "interp.report.reproduce:reproduce": "hours",
    "interp.results.hashes:folder_sha256": "weights of one generation of the embedded model",
    "interp.session.batches:in_batches": "the inside of a session",
    "interp.session.generate:generate": "the inside of a session",
    "interp.session.load:load": "weights of Stable Diffusion",
    "interp.sweep.one_prompt:cell": "the inside of a sweep",
    "interp.sweep.store:Store": "the inside of a sweep",
    "interp.transformer.calls:flow": "a scheduler of flow matching",
    "interp.text.files:PromptFile": "a prompt file of the authors",
    "interp.text.formats:records": "a prompt file of the authors",
}
"""What an example needs that is not here, or not here for long."""

LATER = ("attribute", "audit", "benchmark", "detect", "organism", "plot", "report", "sweep")
"""Folders of which only examples that begin from nothing, and say what comes out, are run so far.

The others take runs of their own, often seconds each, and have not been tried.
"""


def asked(found):
    """The names that examples read before they bind them."""
    asks, bound = set(), {"ip", *dir(builtins)}
    for example in found:
        tree = list(ast.walk(ast.parse(example.source)))
        named = [node for node in tree if isinstance(node, ast.Name)]
        bound |= {node.arg for node in tree if isinstance(node, ast.arg)}
        bound |= {node.name for node in tree if isinstance(node, ast.FunctionDef)}
        bound |= {node.id for node in named if isinstance(node.ctx, ast.Store)} - asks
        asks |= {node.id for node in named if isinstance(node.ctx, ast.Load)} - bound
    return asks


def examples():
    """Every docstring with an example: its module, its examples and what they ask for, by name."""
    parser = doctest.DocTestParser()
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        module = module.removesuffix(".__init__")
        if module.endswith("__main__"):
            continue
        world = vars(importlib.import_module(module)).keys()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                found = parser.get_examples(ast.get_docstring(node) or "")
                if found:
                    asks = asked(found)
                    yield f"{module}:{getattr(node, 'name', '')}", (module, found, asks - world)


EXAMPLES = dict(examples())


def tried():
    """The names of the examples that are run."""
    for name in sorted(EXAMPLES.keys() - NOT_RUN.keys()):
        module, found, asks = EXAMPLES[name]
        said = any(example.want for example in found)
        if module.split(".")[1] not in LATER or (said and not asks):
            yield name


class Said(doctest.OutputChecker):
    """Where nothing is said of what comes out, anything may; decimals may be another model's."""

    def __init__(self, decimals):
        self.decimals = decimals

    def check_output(self, want, got, optionflags):
        if not self.decimals:
            want, got = DECIMAL.sub("0.0", want), DECIMAL.sub("0.0", got)
        return not want or super().check_output(want, got, optionflags)


def run(name, given):
    """What was wrong with an example, in the current folder."""
    module, found, asks = EXAMPLES[name]
    world = {**vars(importlib.import_module(module)), "ip": ip}
    world |= {name: lookup(given, name) for name in asks}
    said = []
    test = doctest.DocTest(found, world, name, None, None, None)
    doctest.DocTestRunner(Said(not asks), optionflags=FLAGS).run(test, out=said.append)
    return "".join(said)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return Given(tmp_path_factory.mktemp("given"))


@pytest.mark.parametrize("name", tried())
def test_an_example_gives_what_it_says(name, given, monkeypatch, tmp_path):
    monkeypatch.chdir(shutil.copytree(given.files, tmp_path / "here", symlinks=True))
    for pipeline in (StableDiffusionPipeline, StableDiffusion3Pipeline, FluxPipeline):
        call, defaults = few_steps(pipeline)
        monkeypatch.setattr(call, "__defaults__", defaults)
    try:
        assert not (wrong := run(name, given)), wrong
    finally:
        ip.remove(given.pipe)
        plt.close("all")


def test_what_is_not_run_still_exists():
    assert EXAMPLES.keys() >= NOT_RUN.keys()
