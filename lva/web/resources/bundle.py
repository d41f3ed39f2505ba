"""The console as one page: its style sheets and modules stand inside, so that it is there in one round trip.

The modules stay files that one can read and change one by one. Each becomes a function that is called once,
after those that it imports: of what JavaScript's modules can do, just that. Modules with addresses would need
a policy that allows scripts of this origin, where plugins serve what they like.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from typing import Final

_IMPORT: Final = re.compile(r'^import \{ (\w+(?:, \w+)*) \} from "\./(\w+)\.js";$', re.MULTILINE)
_EXPORT: Final = re.compile(r"^export (?=(?:async )?(?:class|const|function) (\w+))", re.MULTILINE)
_OTHERS: Final = re.compile(r"^(?:import|export)\b.*", re.MULTILINE)
#: What would end an element of the page, or change how it is read.
_BREAKS_OUT: Final = re.compile(r"</(?:script|style)|<!--", re.IGNORECASE)
_PLACE: Final = re.compile(r"\{\{(\w+)(?: ([\w./]+))?\}\}")


@dataclass(slots=True)
class Inside:
    """What stands in a page, as a content policy names it."""

    scripts: list[str] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)


def page(
    template: str,
    read: Callable[[str], str],
    build: str,
    main: str = "main.js",
    plugin: str = "",
    styles: Sequence[str] = (),
) -> tuple[str, Inside]:
    """Return the page, and what stands in it.

    Args:
        template: The page, with ``{{build}}``, ``{{plugin}}``, ``{{script FILE}}``, ``{{style FILE}}``,
            ``{{styles}}`` and, for a module and all that it imports, ``{{modules}}``.
        read: Returns the text of a file.
        build: Names the version.
        main: The module.
        plugin: The name of the plugin whose page it is.
        styles: Further style sheets.

    Raises:
        ValueError: A file cannot be put into the page as it is.
    """
    inside = Inside()

    def fill(match: re.Match[str]) -> str:
        kind, file = match.groups()
        if kind in {"build", "plugin"}:
            return build if kind == "build" else plugin
        if kind == "styles":
            return "".join(element("style", each, read(each)) for each in styles)
        text = modules(main, read) if kind == "modules" else read(file)
        return element("style" if kind == "style" else "script", file or main, text)

    def element(tag: str, file: str, text: str) -> str:
        if found := _BREAKS_OUT.search(text):
            raise ValueError(f"{file} has {found[0]!r}, which a page cannot hold")
        (inside.styles if tag == "style" else inside.scripts).append(_digest(text))
        return f"<{tag}>{text}</{tag}>"

    return _PLACE.sub(fill, template), inside


def modules(main: str, read: Callable[[str], str]) -> str:
    """Return a module, with all that it imports, as one script.

    Raises:
        ValueError: One of them imports or exports in a way that is not provided for, or in a circle.
    """
    texts: dict[str, str] = {}
    wanted = [main.removesuffix(".js")]
    while wanted:
        name = wanted.pop()
        if name not in texts:
            texts[name] = read(f"{name}.js")
            wanted += [match[2] for match in _IMPORT.finditer(texts[name])]
    functions = "\n".join(_function(name, texts[name]) for name in _order(texts))
    return f'"use strict";\n{{\n{functions}\n}}\n'


def _order(texts: Mapping[str, str]) -> list[str]:
    needs = {name: [match[2] for match in _IMPORT.finditer(text)] for name, text in texts.items()}
    return list(TopologicalSorter(needs).static_order())


def _function(name: str, text: str) -> str:
    exported = _EXPORT.findall(text)
    text = _EXPORT.sub("", _IMPORT.sub(r"const { \1 } = module_\2;", text))
    if other := _OTHERS.search(text):
        raise ValueError(f"{name}.js has {other[0]!r}, which is not provided for")
    return f"const module_{name} = (() => {{\n{text}\nreturn {{ {', '.join(exported)} }};\n}})();"


def _digest(text: str) -> str:
    """Return how a policy names an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
