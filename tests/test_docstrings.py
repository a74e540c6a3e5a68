"""Docstring examples that begin from nothing, and say what comes out, give what they say.

One that begins from something of the reader's own (`sd`, `grid`, `cases`) shows a call: what comes
out is of a model that no test has.
"""

import ast
import builtins
import doctest
import importlib
from pathlib import Path

import pytest

import interp as ip

PACKAGE = Path(ip.__file__).parent
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

NOT_RUN = {
    "interp.audit.pairs:read_pairs": "a training set of the reader's",
    "interp.organism.evaluate:evaluate": "hours",
    "interp.organism.tokenizer:from_merges": "a file of OpenAI's",
    "interp.report.cases:population": "titles held out, which come with the next embedded model",
    "interp.report.cases:top": "views of one generation of the embedded model",
    "interp.results.hashes:folder_sha256": "weights of one generation of the embedded model",
    "interp.text.files:PromptFile": "a prompt file of the authors",
    "interp.text.formats:records": "a prompt file of the authors",
}
"""What an example needs that is not here, or not here for long."""


def names(code, context):
    """The names that code reads, or those that it binds."""
    return {
        node.id
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Name) and isinstance(node.ctx, context)
    }


def examples():
    """Every docstring that says what comes out: its module and its examples, by its name."""
    parser, given = doctest.DocTestParser(), {"ip", *dir(builtins)}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        if "__" in module:
            continue
        world = vars(importlib.import_module(module))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                found = parser.get_examples(ast.get_docstring(node) or "")
                code = "".join(example.source for example in found)
                asks = names(code, ast.Load) - names(code, ast.Store) - given - set(world)
                if not asks and any(example.want for example in found):
                    yield f"{module}:{getattr(node, 'name', '')}", (module, found)


EXAMPLES = dict(examples())


class Said(doctest.OutputChecker):
    """Where nothing is said of what comes out, anything may."""

    def check_output(self, want, got, optionflags):
        return not want or super().check_output(want, got, optionflags)


@pytest.mark.parametrize("name", sorted(EXAMPLES.keys() - NOT_RUN.keys()))
def test_an_example_gives_what_it_says(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    module, found = EXAMPLES[name]
    world = {**vars(importlib.import_module(module)), "ip": ip}
    asked = doctest.DocTest(found, world, name, None, None, None)
    said = []
    doctest.DocTestRunner(Said(), optionflags=FLAGS).run(asked, out=said.append)
    assert not said, "".join(said)


def test_what_is_not_run_still_exists():
    assert EXAMPLES.keys() >= NOT_RUN.keys()
