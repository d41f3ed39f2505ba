"""How Sphinx builds this documentation. It needs no network."""

from __future__ import annotations

import sys
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.domains.python import PyObject

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import tables  # noqa: E402

import lva  # noqa: E402

project = "LVA"
author = "The LVA developers"
copyright = "The LVA developers"
version = release = lva.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"LVA {version}"
# Single backticks mark code, in docstrings too.
default_role = "code"
highlight_language = "python"
nitpicky = True
# Names of other projects and of Python itself; their documentation is not looked up.
nitpick_ignore_regex = [
    ("py:class", r"collections\.abc\..*|logging\.Logger|pathlib\.Path|trio\.Nursery"),
    ("py:class", r"(pydantic\.main\.)?BaseModel|werkzeug\.datastructures\..*"),
    (
        "py:class",
        r"httpx\..*|types\.ModuleType|os\.PathLike|trio\.TooSlowError|lva\.(host|testing)\..*",
    ),
    ("py:class", r"lva\.routes\.\w+\.HandlerT|(np|numpy)\.ndarray"),
    # Aliases of types, in signatures as they are written.
    ("py:class", r"Published|Source|Config|HandlerT|SchemaOrModel|ReadMetrics"),
    ("py:exc", r"httpx\..*|trio\.TooSlowError|BadRequest|asyncio\.CancelledError"),
]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_numpy_docstring = False
napoleon_use_ivar = True


class Generated(Directive):
    """``.. generated:: NAME`` is the table of that name in `tables.py`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        text = tables.TABLES[self.arguments[0]]()
        parent = nodes.Element()
        self.state.nested_parse(
            StringList(text.splitlines(), source=f"tables.{self.arguments[0]}"),
            self.content_offset,
            parent,
        )
        return parent.children


# "Attributes" as in the docstrings, in place of Sphinx's "Variables".
next(field for field in PyObject.doc_field_types if field.name == "variable").label = "Attributes"


def setup(app) -> None:
    app.add_directive("generated", Generated)
