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
from mkdocs.utils import get_relative_url
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "interp"
ELSEWHERE = {"CONTRIBUTING.md": ROOT, "CHANGELOG.md": ROOT, "organism/eot/CARD.md": ROOT / "data"}
# What a section reads like that the parser did not take for one, and a `>>>` outside examples.
PLAIN = re.compile(
    r"<p>(?:Args|Attributes|Examples?|Raises|Returns|Yields):|<blockquote>\s*<blockquote>"
)
PUBLIC = re.compile(r"^<!-- public: interp\.(\w+) -->$", re.M)
# Where a method is from, and the rest of the paragraph that says so.
SOURCE = re.compile(
    r"Source: (.+?)(?:(?<![A-Z])\.\s(?=[A-Z])|;\s|\.?(?=\n\n|\Z))(.*?)(?:\n\n|\Z)", re.S
)
# What the authors' code does otherwise, from the first sentence that speaks of it.
CODE = re.compile(r"(?:\A|(?<=\. ))[^.]*\bcode\b.*")
rendered: set[str] = set()


def on_config(config: Any) -> Any:
    """Add the floors and the notebooks to the navigation, in their order."""
    place = len(config.nav) - 2
    books = [{title(book): f"notebooks/{book.stem}.md"} for book in notebooks()]
    api = [{f"{n}. {', '.join(floor)}": page(floor)} for n, floor in enumerate(floors(), 1)]
    config.nav[place:place] = [{"Notebooks": books}, {"API": api}]
    # Whoever reads from a disk is never sent there.
    config.theme.static_templates.discard("404.html")
    rendered.clear()
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add what is kept elsewhere in the repository."""
    figures = sorted((ROOT / "data" / "organism" / "eot" / "figures").glob("*.png"))
    kept = ELSEWHERE | {f"organism/eot/figures/{path.name}": ROOT / "data" for path in figures}
    for name, folder in kept.items():
        files.append(File(name, str(folder), config.site_dir, config.use_directory_urls))
    for floor in floors():
        files.append(File.generated(config, page(floor), content=floor_page(floor)))
    for book in notebooks():
        body, resources = MarkdownExporter().from_filename(str(book))
        body = re.sub(r"!\[\w+\]\((\w+\.(?:png|jpg|svg))\)", rf"![](images/{book.stem}_\1)", body)
        files.append(File.generated(config, f"notebooks/{book.stem}.md", content=body))
        for name, data in resources["outputs"].items():
            uri = f"images/{book.stem}_{name}"
            # An output has its picture in several formats, of which the page takes one.
            if uri in body:
                files.append(File.generated(config, f"notebooks/{uri}", content=data))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put what a package offers in the place of `<!-- public: interp.detect -->`."""
    return PUBLIC.sub(lambda found: offered(found[1]), markdown)


def on_page_content(html: str, page: Any, **_: Any) -> None:
    """Note the objects on a page of the API; refuse docstrings that are not shown as meant."""
    if not page.file.src_uri.startswith("api/"):
        return
    rendered.update(re.findall(r'id="(interp[\w.]*)"', html))
    if plain := PLAIN.search(html):
        around = html[: plain.end() + 100].rpartition('id="')[2]
        raise PluginError(f"{page.file.src_uri} shows a docstring's section as text: {around}")


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Take the search's helper for pages on a disk from the site, where the theme fetches one."""
    there = get_relative_url("worker.js", page.url)
    return output.replace("https://unpkg.com/iframe-worker/shim", there)


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
        for path in modules(name):
            dotted = module(path)
            if dotted.count(".") == 1:
                lines += [f"::: {dotted}", "    options:", "      heading_level: 2"]
                lines += ["      members: false"] if path.stem == "__init__" else []
            else:
                lines += [f"::: {dotted}"]
            lines.append("")
    return "\n".join(lines)


def modules(folder: str) -> list[Path]:
    """The files of a folder of the package: what it offers first, and then what that is made of."""
    if not (PACKAGE / folder).is_dir():
        return [PACKAGE / f"{folder}.py"]
    offer = PACKAGE / folder / "__init__.py"
    public = [path for path, _ in imports(offer)]
    return list(dict.fromkeys([offer, *public, *sorted((PACKAGE / folder).glob("*.py"))]))


def imports(offer: Path) -> list[tuple[Path, list[str]]]:
    """From which of its files a folder's `__init__` takes which names."""
    return [
        (ROOT / f"{line.module.replace('.', '/')}.py", [alias.name for alias in line.names])
        for line in ast.parse(offer.read_text(encoding="utf-8")).body
        if isinstance(line, ast.ImportFrom) and str(line.module).startswith(module(offer))
    ]


def offered(package: str) -> str:
    """What a folder offers: link, first sentence, source, and what the authors' code does."""
    lines = []
    for path, names in imports(PACKAGE / package / "__init__.py"):
        said = docstrings(path)
        for name in (name for name in names if name in said):
            lines += [f"[`{name}`][{module(path)}.{name}]", f":   {said[name].splitlines()[0]}"]
            if source := SOURCE.search(said[name]):
                said_of, more = (" ".join(part.split()) for part in source.groups())
                lines.append(f"    *{said_of[:1].upper()}{said_of[1:]}.*")
                lines += [f"\n    {part}" for part in CODE.findall(more[:1].upper() + more[1:])]
            lines.append("")
    return "\n".join(lines)


def module(path: Path) -> str:
    """A file's dotted name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def documented() -> set[str]:
    """All public functions and classes of the package that have a docstring."""
    files = [path for path in PACKAGE.rglob("*.py") if path.stem != "__init__"]
    return {f"{module(path)}.{name}" for path in files for name in docstrings(path)}


def docstrings(path: Path) -> dict[str, str]:
    """The docstrings of a file's public functions and classes."""
    return {
        node.name: said
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        if (said := ast.get_docstring(node))
    }


def notebooks() -> list[Path]:
    """The notebooks in their order."""
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def title(book: Path) -> str:
    """A notebook's first heading."""
    return (
        nbformat.read(book, as_version=4)
        .cells[0]
        .source.splitlines()[0]
        .removeprefix("# ")
        .replace("`", "")
    )
