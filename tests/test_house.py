"""The house: imports go downwards only, public names are as listed, files stay short."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

import interp as ip

ROOT = Path(__file__).parents[1]
CODE = ROOT / "interp"


def test_the_import_contracts_hold(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == 0


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("text/html.py", "from interp.denoiser.layers import Site"),
        ("patch/verbs.py", "from interp.record import mass"),
        ("attribute/layout.py", "from interp import detect"),
        ("report/words.py", "from interp.organism import scenes"),
        ("metrics/base.py", "import interp as ip"),
    ],
)
def test_an_import_upwards_breaks_a_contract(tmp_path, file, line):
    """The contracts see what they are for, in a copy of the package."""
    for path in CODE.rglob("*.py"):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    with (tmp_path / "interp" / file).open("a", encoding="utf-8") as module:
        module.write(f"\n{line}\n")
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    # In a process of its own: here `interp` is imported from somewhere else already.
    check = (
        "from importlinter.cli import lint_imports as lint; raise SystemExit(lint(no_cache=True))"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert "BROKEN" in done.stdout


def test_every_public_name_is_there_and_is_what_type_checkers_are_told():
    told = [
        alias.name
        for node in ast.walk(ast.parse((CODE / "__init__.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.If)
        for line in node.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    ]
    assert sorted(told) == sorted(ip.__all__) == sorted(ip._HOME)
    assert all(getattr(ip, name) is not None for name in ip.__all__)
    assert set(ip.__all__) <= set(dir(ip))
    with pytest.raises(AttributeError, match="nothing"):
        ip.nothing  # noqa: B018


def test_importing_the_package_loads_no_library():
    heavy = "{'torch', 'diffusers', 'transformers', 'xarray', 'pandas', 'numpy'}"
    code = f"import sys, interp; raise SystemExit({heavy} & set(sys.modules) or 0)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("name", ["explore", "record", "sweep"])
def test_a_folder_does_not_hide_the_function_of_its_name(name):
    folder = import_module(f"interp.{name}")
    # What importing a folder does, whenever it is imported for the first time.
    setattr(ip, name, folder)
    assert getattr(ip, name) is getattr(folder, name) is not folder


def test_no_file_is_longer_than_300_lines():
    lines = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8").count("\n")
        for path in CODE.rglob("*.py")
    }
    assert {name: count for name, count in lines.items() if count > 300} == {}
