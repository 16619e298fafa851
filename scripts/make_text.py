"""Write the text that ships with bitzones, three kinds of it: ``python scripts/make_text.py MISCFILES``.

``docs`` and ``code`` come from the Python that runs this (its language reference, as `pydoc_data` has it, and modules of its library that
carry no notice of their own), ``law`` from the unpacked Debian package miscfiles, which MISCFILES names. A document is a line of JSON.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from pydoc_data import topics

FOLDER = Path(__file__).parents[1] / "src/bitzones/embedded/text"

KIND_CHARACTERS = 110_000
"""Of a kind of text: enough for some 20,000 tokens, and small beside the embedded model."""

DOCUMENT_CHARACTERS = range(600, 12_000)
"""Of a document: long ones would leave a kind with few of them."""

NOTICES = ("copyright", "license", "licence", "all rights reserved")
"""A module with such a word may have an owner of its own, and is left out."""

LAW = ("us-declaration.gz", "us-constitution.gz")


def main() -> None:
    """Write every kind."""
    _write("docs", (text for _, text in sorted(topics.topics.items())))
    _write("code", _modules(Path(sysconfig.get_paths()["stdlib"])))
    _write("law", _articles(Path(sys.argv[1])))


def _modules(library: Path) -> Iterator[str]:
    for path in sorted(library.glob("[a-z]*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if not any(notice in text.lower() for notice in NOTICES):
            yield text


def _articles(folder: Path) -> Iterator[str]:
    """Sections: what three line ends or more stand between, the short ones joined to what follows."""
    for name in LAW:
        text = gzip.decompress((folder / "usr/share/state" / name).read_bytes()).decode("utf-8")
        gathered = ""
        for piece in re.split(r"\n{3,}", text.strip()):
            gathered = f"{gathered}\n\n{piece}" if gathered else piece
            if len(gathered) >= DOCUMENT_CHARACTERS.start:
                yield gathered
                gathered = ""


def _write(kind: str, documents: Iterable[str]) -> None:
    lines, total = [], 0
    for text in dict.fromkeys(documents):
        if len(text) in DOCUMENT_CHARACTERS and total + len(text) <= KIND_CHARACTERS:
            lines.append(json.dumps({"text": text.strip() + "\n"}, ensure_ascii=False))
            total += len(text)
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{kind}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{kind}: {len(lines)} documents, {total:,} characters")


if __name__ == "__main__":
    main()
