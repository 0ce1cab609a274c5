"""Hooks of MkDocs: navigation from index pages, pages from files of the repository, formulas.

MkDocs calls ``on_config``, ``on_files`` and ``on_page_markdown`` (mkdocs.yml, ``hooks``).
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from reference import fill

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")
ROOT_PAGES = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security-policy.md": "SECURITY.md",
}
"""Pages of the site that are files of the repository, by their address."""
FILES = "files"
"""Folder of the site for the other files of the repository that pages link to."""


def section_pages(docs: Path, folder: str) -> list[Any]:
    """The pages of a section as its index page lists them, those below a heading as a group."""
    text = (docs / folder / "index.md").read_text(encoding="utf-8")
    pages: list[Any] = [f"{folder}index.md"]
    for part in re.split(r"^## ", text, flags=re.MULTILINE):
        paths = [posixpath.normpath(posixpath.join(folder, path)) for path, _ in LINK.findall(part)]
        inside = [path for path in paths if posixpath.dirname(path) == folder.rstrip("/")]
        listed = list(dict.fromkeys(path for path in inside if path.endswith(".md")))
        if listed and not part.startswith("# "):
            pages.append({part.partition("\n")[0].strip(): listed})
        else:
            pages += listed
    return pages


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Replace each folder of the navigation by its pages."""
    docs = Path(config.docs_dir)

    def expand(item: Any) -> Any:
        if isinstance(item, dict):
            return {title: expand(value) for title, value in item.items()}
        if isinstance(item, list):
            return [expand(value) for value in item]
        return section_pages(docs, item) if item.endswith("/") else item

    config.nav = expand(config.nav)
    return config


def repository_path(page: str, target: str) -> str | None:
    """The path of a linked file that lies outside of ``docs``, else None."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return None if path.startswith("docs/") or not (ROOT / path).is_file() else path


def site_path(path: str) -> str:
    """The address in the site of a file of the repository."""
    pages = {source: page for page, source in ROOT_PAGES.items()}
    return pages.get(path, f"{FILES}/{path}")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are files of the repository, and each file that a page links to."""
    for page, source in ROOT_PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        text = LINK.sub(root_link, text)
        files.append(File.generated(config, page, content=text))
    linked = {
        path
        for file in files.documentation_pages()
        for target, _ in LINK.findall(file.content_string)
        if (path := repository_path(file.src_uri, target))
    }
    for path in sorted(linked - set(ROOT_PAGES.values())):
        files.append(File.generated(config, site_path(path), abs_src_path=str(ROOT / path)))
    return files


def root_link(link: re.Match[str]) -> str:
    """A link in a file of the root, as seen from the folder ``docs``."""
    target = posixpath.normpath(link[1])
    inside = target.startswith("docs/")
    return f"]({target.removeprefix('docs/') if inside else '../' + target}{link[2] or ''})"


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Insert generated parts, link to copies of repository files, write formulas as MathML."""

    if page.file.src_uri.startswith("benchmarks/"):
        # Wide tables take the room of the table of contents.
        page.meta["hide"] = ["toc"]

    def relink(link: re.Match[str]) -> str:
        path = repository_path(page.file.src_uri, link[1])
        if path is None:
            return link[0]
        folder = posixpath.dirname(page.file.src_uri)
        return f"]({posixpath.relpath(site_path(path), folder or '.')}{link[2] or ''})"

    markdown = LINK.sub(relink, fill(markdown))
    return re.sub(
        r"\$\$(.+?)\$\$",
        lambda formula: convert(formula[1].strip(), display="block"),
        markdown,
        flags=re.DOTALL,
    )
