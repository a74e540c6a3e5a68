"""Pages made of what the repository has already: the API, the notebooks, the model's card.

MkDocs calls these functions while it builds. Pages that are written are the Markdown files beside
this one.
"""

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[1]
CODE = ROOT / "interp"
ELSEWHERE = {"CONTRIBUTING.md": ROOT, "CHANGELOG.md": ROOT, "organism/eot/CARD.md": ROOT / "data"}
# What a section reads like that the parser did not take for one, and a `>>>` outside examples.
PLAIN = re.compile(
    r"<p>(?:Args|Attributes|Examples?|Raises|Returns|Yields):|<blockquote>\s*<blockquote>"
)
rendered: set[str] = set()


def on_config(config: Any) -> Any:
    """Add the floors and the notebooks to the navigation, in their order."""
    place = len(config.nav) - 2
    books = [{title(book): f"notebooks/{book.stem}.md"} for book in notebooks()]
    api = [{f"{n}. {', '.join(floor)}": page(floor)} for n, floor in enumerate(floors(), 1)]
    config.nav[place:place] = [{"Notebooks": books}, {"API": api}]
    rendered.clear()
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add what is kept elsewhere in the repository."""
    figures = sorted((ROOT / "data" / "organism" / "figures").glob("*.png"))
    kept = ELSEWHERE | {f"organism/figures/{path.name}": ROOT / "data" for path in figures}
    for name, folder in kept.items():
        files.append(File(name, str(folder), config.site_dir, config.use_directory_urls))
    for floor in floors():
        files.append(File.generated(config, page(floor), content=floor_page(floor)))
    for book in notebooks():
        body, resources = MarkdownExporter().from_filename(str(book))
        body = re.sub(r"!\[png\]\((\w+\.png)\)", rf"![](images/{book.stem}_\1)", body)
        files.append(File.generated(config, f"notebooks/{book.stem}.md", content=body))
        for name, data in resources["outputs"].items():
            uri = f"notebooks/images/{book.stem}_{name}"
            files.append(File.generated(config, uri, content=data))
    return files


def on_page_content(html: str, page: Any, **_: Any) -> None:
    """Note the objects on a page of the API; refuse docstrings that are not shown as meant."""
    if not page.file.src_uri.startswith("api/"):
        return
    rendered.update(re.findall(r'id="(interp[\w.]*)"', html))
    if plain := PLAIN.search(html):
        around = html[: plain.end() + 100].rpartition('id="')[2]
        raise PluginError(f"{page.file.src_uri} shows a docstring's section as text: {around}")


def on_post_build(**_: Any) -> None:
    """Refuse a site that lacks a public object."""
    if missing := sorted(documented() - rendered):
        raise PluginError(f"These have docstrings and are on no page: {', '.join(missing)}")


def floors() -> list[list[str]]:
    """The floors of the house, the lowest first, as the import contracts have them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = contracts["tool"]["importlinter"]["contracts"][0]["layers"]
    return [floor.split(" | ") for floor in reversed(layers)]


def page(floor: list[str]) -> str:
    """The page of a floor."""
    return f"api/{'_'.join(floor)}.md"


def floor_page(floor: list[str]) -> str:
    """Every file of a floor's folders, for mkdocstrings to fill in."""
    lines = [f"# {', '.join(f'`{name}`' for name in floor)}", ""]
    for name in floor:
        modules = sorted((CODE / name).glob("*.py")) or [CODE / f"{name}.py"]
        for path in modules:
            dotted = module(path)
            if dotted.count(".") == 1:
                lines += [f"::: {dotted}", "    options:", "      heading_level: 2"]
                lines += ["      members: false"] if path.stem == "__init__" else []
            else:
                lines += [f"::: {dotted}"]
            lines.append("")
    return "\n".join(lines)


def module(path: Path) -> str:
    """A file's dotted name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def documented() -> set[str]:
    """All public functions and classes of the package that have a docstring."""
    return {
        f"{module(path)}.{node.name}"
        for path in CODE.rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        if not node.name.startswith("_") and ast.get_docstring(node) and path.stem != "__init__"
    }


def notebooks() -> list[Path]:
    """The notebooks in their order."""
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def title(book: Path) -> str:
    """A notebook's first heading."""
    return nbformat.read(book, as_version=4).cells[0].source.splitlines()[0].removeprefix("# ")
