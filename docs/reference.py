"""Build the pages of the API reference from the docstrings: python docs/reference.py FOLDER.

Raises SystemExit, naming them, where public names have no docstring; any warning is an error.
"""

import re
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pdoc

import fedgloss

PAGES = ("fedgloss", "fedgloss.algorithms.core")
PAGES += ("fedgloss.flower",) if find_spec("flwr") else ()
ARGUMENT = re.compile(r"^((?:\w+(?:, | and ))*\w+): ", flags=re.MULTILINE)
"""How a docstring begins to explain an argument, or several."""


def build(folder: Path) -> None:
    """Write the pages below `folder`, with an index."""
    for name in fedgloss.__all__:
        getattr(fedgloss, name)  # looked up on first use; pdoc sees what is there
    for name in PAGES:  # a warning of what they import is not ours
        import_module(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pages = {name: pdoc.doc.Module(pdoc.extract.load_module(name)) for name in PAGES}
        shown = [part for page in pages.values() for part in _public(page)]
        if silent := [part.fullname for part in shown if not part.docstring.strip()]:
            raise SystemExit(f"without a docstring: {', '.join(silent)}")
        for part in shown:
            part.docstring = ARGUMENT.sub(r"- **\1**: ", part.docstring)
        pdoc.render.configure(footer_text=f"fedgloss {fedgloss.__version__}")
        for name, page in pages.items():
            file = folder / f"{name.replace('.', '/')}.html"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(pdoc.render.html_module(page, pages), encoding="utf-8")
        (folder / "index.html").write_text(pdoc.render.html_index(pages), encoding="utf-8")
        (folder / "search.js").write_text(pdoc.render.search_index(pages), encoding="utf-8")


def _public(part: pdoc.doc.Doc) -> Iterator[pdoc.doc.Doc]:
    """A module or class and all it shows: no private names, nothing inherited."""
    yield part
    for member in getattr(part, "own_members", ()):
        if not member.name.startswith("_"):
            yield from _public(member)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
