"""Texts that a user meets use the terms of the glossary in `docs/concepts.rst`."""

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: What was given up, as a pattern, and what to write instead.
GIVEN_UP = {
    r"left alone": "circuit open, paused, or not changed",
    r"left behind": "leaked (after a close), or abandoned",
    r"(found|known) are": "available:",
    r"plugins? (do|does) not run\b": "not running",
    r"\bis no point\b(?! )": "not a point",
    r"hold(s|ing)? up (the|its|a) (\w+ )?(event )?loop|holds the event loop": "blocks the event loop",
    r"event loop (is|was) held": "the event loop is blocked",
    r"points (that )?were given up": "dropped",
    r"(receiver|collector|database|Redis|server) (is|are|was) away": "unreachable",
    r"receivers? that (is|are) away": "unreachable",
    r"least severe": "minimum level",
    r"want of a reader": "because its consumer left",
    r"what it may be|any other\"|document for people": "Type, default, API documentation",
    r"no plugin is like that|look again\"|it has no task\b": "No match., Refresh, No tasks.",
    r"0 the end": "0 success",
}

SOURCES = sorted((ROOT / "lva").rglob("*.py"))
PAGES = sorted(
    path
    for pattern in (
        "docs/*.rst",
        "docs/sessions/*",
        "deploy/*.yml",
        "deploy/*.json",
        "lva/web/*.html",
    )
    for path in ROOT.glob(pattern)
) + [*sorted((ROOT / "lva/web/console").glob("*.js")), ROOT / "README.md"]


def given_up(text: str) -> list[str]:
    """Return each term in a text that was given up, with its replacement; line breaks count as spaces."""
    flat = re.sub(r"\s+", " ", text)
    return [
        f"{match[0]!r}: write {instead}"
        for pattern, instead in GIVEN_UP.items()
        for match in re.finditer(pattern, flat, re.IGNORECASE)
    ]


def texts(source: str) -> list[tuple[int, str]]:
    """Return the string constants of Python code, docstrings too, with their lines."""
    return [
        (node.lineno, node.value)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def test_python_texts_use_the_glossary() -> None:
    """The kind: log lines, messages, settings and docstrings with a coined word for a usual term."""
    assert SOURCES
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {found}"
        for path in SOURCES
        for line, text in texts(path.read_text())
        for found in given_up(text)
    ]
    assert not wrong, "\n".join(wrong)


def test_pages_use_the_glossary() -> None:
    """The kind: documentation, console, alerts and dashboard with a coined word for a usual term."""
    wrong = [
        f"{path.relative_to(ROOT)}: {found}"
        for path in PAGES
        for found in given_up(path.read_text())
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "text",
    ["it is left\n   alone", "found are a, b", "the receiver is away", "holds the event loop"],
)
def test_terms_that_were_given_up_are_found(text: str) -> None:
    """The check itself sees such a term, over a line break as well."""
    assert given_up(text)


#: Nouns that are counted in texts. Limits in bytes or seconds are never 1.
COUNTED = (
    r"(more )?(points|requests|records|tasks|threads|times|steps|lines|batches|messages|problems|plugins"
    r"|clients|segments|files|attempts)\b"
)


def uncounted(source: str) -> list[tuple[int, str]]:
    """Return the places in Python code where a number stands before a plural that is written out."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            found += [
                (node.lineno, f"{ast.unparse(number)}{after.value}")
                for number, after in pairwise(node.values)
                if isinstance(number, ast.FormattedValue)
                and isinstance(after, ast.Constant)
                and re.match(" " + COUNTED, str(after.value))
            ]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += [(node.lineno, match[0]) for match in re.finditer("%d " + COUNTED, node.value)]
    return found


def test_numbers_agree_with_their_nouns() -> None:
    """The kind: ``1 points``. A number before a noun is written by `lva.errors.counted`."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {text}: use lva.errors.counted"
        for path in SOURCES
        for line, text in uncounted(path.read_text())
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("code", ['f"{n} points left"', 'f"of {len(x)} more tasks"', '"%d times"'])
def test_a_number_before_a_plural_is_found(code: str) -> None:
    """The check itself sees it, in f-strings and in texts that `logging` formats."""
    assert uncounted(code)
