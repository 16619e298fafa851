"""MkDocs hooks: links out of ``docs/`` work on the site as they do on GitHub, and diagrams are drawn without another host.

A page may link to any file of the repository by its relative path. `LOG.md`, `CONTRIBUTING.md` and `CHANGELOG.md` become pages of the site,
and so does every Markdown file that a page links to; any other file is copied as it is. Nothing is written into ``docs/``.
"""

from __future__ import annotations

import posixpath
import re
from importlib.resources import files as package_files
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).parents[1]
DOCS = "docs/"

TOP_PAGES = ("LOG.md", "CONTRIBUTING.md", "CHANGELOG.md")
"""Files at the top of the repository that are pages of the site."""

LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)#\s]+)(?=[)#])")
"""The path of a relative Markdown link, without its anchor."""

MERMAID = "assets/mermaid.js"
"""Where the site keeps Mermaid; Material for MkDocs fetches it from a CDN unless a page brings its own."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages at the top and, following links from page to page, every file of the repository that one of them links to."""
    waiting = [*TOP_PAGES, *(repository_path(file.src_uri) for file in files.documentation_pages())]
    seen: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in seen or not (ROOT / path).is_file():  # MkDocs says which links lead nowhere
            continue
        seen.add(path)
        if not path.startswith(DOCS):
            files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
        if path.endswith(".md"):
            waiting += (target(path, link) for link in LINK.findall((ROOT / path).read_text(encoding="utf-8")))
    mermaid = package_files("mermaidx") / "assets" / "mermaid.js"
    files.append(File.generated(config, MERMAID, content=mermaid.read_bytes()))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn every link into one between pages of the site, and bring Mermaid where there is a diagram."""
    del config, files
    source, here = repository_path(page.file.src_uri), posixpath.dirname(page.file.src_uri)
    text = LINK.sub(lambda link: posixpath.relpath(site_path(target(source, link[1])), here or "."), markdown)
    if "```mermaid" in text:
        text += f'\n\n<script src="{get_relative_url(MERMAID, page.url)}"></script>\n'
    return text


def target(source: str, link: str) -> str:
    """What a link in a file leads to, both as paths from the top of the repository.

    >>> target("docs/tutorial.md", "../LOG.md"), target("LOG.md", "docs/releases.md")
    ('LOG.md', 'docs/releases.md')
    """
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def site_path(path: str) -> str:
    """Where a file of the repository is among the site's sources: ``docs/`` is its top, everything else keeps its path."""
    return path.removeprefix(DOCS)


def repository_path(uri: str) -> str:
    """Where a file among the site's sources is in the repository."""
    return f"{DOCS}{uri}" if (ROOT / DOCS / uri).is_file() else uri
