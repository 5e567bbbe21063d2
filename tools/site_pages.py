"""Adds pages to the documentation site, as a hook of mkdocs.yml.

The pages in docs/ link to files of the repository, as a reader of the repository needs it. In the
site such a link leads to a page with the content of the file. The command line is described by its
own help texts, and a graph in the language of Mermaid becomes a drawing, since Mermaid's program
would come from another machine.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from site_flowchart import flowchart

from ablation.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
# Pages of the site, by the file of the repository that each shows; others are below repository/.
PAGES = {
    "README.md": "index.md",
    "config/README.md": "configuration.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
WRITTEN = {"README.md"}  # The page stands in docs/ already.
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
MERMAID = re.compile(r"^```mermaid\n(.*?)^```\n", re.M | re.S)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".smk": "python"}
CLI_PAGE = "cli.md"
SEARCH = 'data-md-component="search" role="dialog" aria-label="Search"'
ALONE = ("index.md", "troubleshooting.md")  # Pages without others beside them in the menu.


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and a page for each file that a page links to."""
    files.append(File.generated(config, CLI_PAGE, content=command_line()))
    texts = {f"docs/{f.src_uri}": f.content_string for f in files.documentation_pages()}
    waiting = {*PAGES} - WRITTEN
    for path, text in texts.items():
        waiting |= set(linked_files(path, text))
    shown: set[str] = set()
    while waiting:
        path = waiting.pop()
        shown.add(path)
        text = content(path)
        files.append(File.generated(config, page_of(path), content=text))
        if path.endswith(".md"):
            waiting |= set(linked_files(path, text)) - shown
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to files of the repository to their pages, and draw graphs."""
    if page.file.src_uri in ALONE:
        page.meta["hide"] = ["navigation"]
    here, place = source_of(page.file.src_uri), posixpath.dirname(page.file.src_uri)

    def led(link: re.Match) -> str:
        path = target(here, link[1])
        if path is None or is_asset(path):
            return link[0]
        return posixpath.relpath(page_of(path), place or ".") + (link[2] or "")

    markdown = LINK.sub(led, markdown)
    return MERMAID.sub(lambda graph: f"\n{flowchart(graph[1])}\n", markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Name the search for screen readers, which the theme leaves out."""
    return output.replace('data-md-component="search" role="dialog"', SEARCH, 1)


# ---- links between files ------------------------------------------------------------------------


def source_of(page: str) -> str:
    """The file of the repository that a page of the site shows."""
    by_page = {shown: path for path, shown in PAGES.items() if path not in WRITTEN}
    if page in by_page:
        return by_page[page]
    inside = page.removeprefix("repository/")
    if inside == page:
        return f"docs/{page}"
    return inside if (ROOT / inside).is_file() else inside.removesuffix(".md")


def page_of(path: str) -> str:
    """The page of the site that shows a file of the repository."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"repository/{path}" if path.endswith(".md") else f"repository/{path}.md"


def target(source: str, link: str) -> str | None:
    """The file that a relative link in `source` means, from the root; None if there is none."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    if (ROOT / path).is_dir():
        path = posixpath.join(path, "README.md")
    return path if (ROOT / path).is_file() and not path.startswith("../") else None


def is_asset(path: str) -> bool:
    """Whether a file is a picture in docs/, which the site holds as it is."""
    return path.startswith("docs/") and not path.endswith(".md")


def linked_files(source: str, text: str) -> Iterator[str]:
    """The files outside of docs/ that the page of `source` links to."""
    for link in LINK.finditer(text):
        path = target(source, link[1])
        if path and not path.startswith("docs/") and path not in WRITTEN:
            yield path


def content(path: str) -> str:
    """The page of a file: the text itself if it is Markdown, otherwise its lines."""
    text = (ROOT / path).read_text("utf-8")
    if path.endswith(".md"):
        return text
    language = LANGUAGES.get(Path(path).suffix, "text")
    return f"# `{path}`\n\n````{language}\n{text}\n````\n"


# ---- the command line ---------------------------------------------------------------------------


def command_line() -> str:
    """A page with usage, options and examples of every command, from its help texts."""
    lines = ["# Command line", "", "`ablation COMMAND --help` prints what stands here.", ""]
    lines += ["| command | what it does |", "|---|---|"]
    lines += [f"| [`{c.name}`](#{c.name}) | {c.short_help} |" for c in COMMANDS]
    for command in COMMANDS:
        lines += ["", *command_section(command)]
    return "\n".join(lines) + "\n"


def command_section(command: click.Command) -> Iterator[str]:
    """The lines of one command."""
    name = command.name or ""
    context = click.Context(command, info_name=name, parent=click.Context(click.Group("ablation")))
    pieces = " ".join(command.collect_usage_pieces(context))
    yield from (f"## {name}", "", " ".join((command.help or "").split()), "")
    yield from (f"    ablation {name} {pieces}", "")
    described = [names_and_help(parameter, context) for parameter in command.params]
    if rows := [f"| `{names}` | {text} |" for names, text in described]:
        yield from ("| argument or option | meaning |", "|---|---|", *rows, "")
    yield from (f"    {example}" for example in getattr(command, "examples", ()))
    if command.epilog:
        yield from ("", command.epilog)


def names_and_help(parameter: click.Parameter, context: click.Context) -> tuple[str, str]:
    """How an argument or option is written, and its meaning, for a cell of a table."""
    text = getattr(parameter, "help", None)
    if not text:
        raise PluginError(f"ablation {context.info_name}: {parameter.name} has no help text")
    names = ", ".join(parameter.opts) if isinstance(parameter, click.Option) else ""
    value = "" if getattr(parameter, "is_flag", False) else parameter.make_metavar(context)
    cell = " ".join(filter(None, (names, value)))
    return cell.replace("|", r"\|"), text.replace("|", r"\|").replace("<", "&lt;")
