"""Texts that a user meets use the terms of the glossary in `docs/concepts.rst`."""

import ast
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: What was given up, as a pattern, and what to write instead.
GIVEN_UP = {
    r"left alone": "circuit open, paused, or not changed",
    r"left (something )?behind": "leaked (after a close), or abandoned",
    r"(found|known) are": "available:",
    r"plugins? (do|does) not run\b": "not running",
    r"\bis no point\b(?! )": "not a point",
    r"hold(s|ing)? up (the|its|a) (\w+ )?(event )?loop|holds the event loop": "blocks the event loop",
    r"event loop (is|was) held": "the event loop is blocked",
    r"points (that )?were given up|points were lost|\blost points": "dropped",
    r"(receiver|collector|database|Redis|server) (is|are|was) away": "unreachable",
    r"receivers? that (is|are) away": "unreachable",
    r"least severe": "minimum level",
    r"want of a reader": "because its consumer left",
    r"what it may be|any other\"|document for people": "Type, default, API documentation",
    r"no plugin is like that|look again\"|it has no task\b": "No match., Refresh, No tasks.",
    r"0 the end": "0 success",
    r'"title": "Waiting"': "Queue, as the console and the commands have it",
}

#: What was given up in texts for users alone: inside, code may be asked and answer.
GIVEN_UP_FOR_USERS = {
    r"\banswer(s|ed|ing)?\b": "respond, response",
    r"\btold\b": "asked, reported, set",
    r"\bhand(s|ed|ing)? over\b": "pass",
}

SOURCES = sorted((ROOT / "lva").rglob("*.py"))
PAGES = sorted(
    path
    for pattern in (
        "docs/*.rst",
        "docs/sessions/*",
        "docs/examples/**/*.py",
        "docs/snippets/*",
        "docs/*.py",
        "deploy/*",
        "lva/scaffold/*.txt",
        "lva/web/**/*.html",
    )
    for path in ROOT.glob(pattern)
    if path.is_file()  # not the bytecode of those that tests import
) + [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
SCRIPTS = sorted((ROOT / "lva/web/console").glob("*.js"))
#: The modules whose docstrings users read: in the documentation, or as the help of a command.
DOCUMENTED = {
    ROOT / "lva" / name
    for name in (
        "contract.py",
        "luna.py",
        "http_replies.py",
        "events/points.py",
        "routes/query.py",
        "client/commands.py",
        "testing/__init__.py",
        "testing/contract.py",
        "testing/hosting.py",
        "testing/report.py",
        "testing/server_world.py",
        "testing/world.py",
    )
} | set((ROOT / "lva/commands").glob("*.py"))


def given_up(text: str, terms: Mapping[str, str] = GIVEN_UP) -> list[str]:
    """Return each term in a text that was given up, with its replacement; line breaks count as spaces."""
    flat = re.sub(r"\s+", " ", text)
    return [
        f"{match[0]!r}: write {instead}"
        for pattern, instead in terms.items()
        for match in re.finditer(pattern, flat, re.IGNORECASE)
    ]


def texts(tree: ast.Module) -> list[tuple[int, str]]:
    """Return the string constants of Python code, docstrings too, with their lines."""
    return [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def for_users(tree: ast.Module, path: Path) -> list[tuple[int, str]]:
    """Return the texts of a Python file that users meet; docstrings if they are published."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and ast.get_docstring(node) is not None
        and isinstance(node.body[0], ast.Expr)
        and path not in DOCUMENTED
    }
    return [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docstrings
        and " " in node.value  # a name is no text
    ]


def script_texts(source: str) -> list[str]:
    """Return the texts in JavaScript: quoted ones, and templates without what is computed in them."""
    found = re.findall(r'"([^"\n]*)"|`([^`]*)`', source)
    return [re.sub(r"\$\{[^}]*\}", "…", plain or template) for plain, template in found]


@pytest.mark.slow("every file is parsed")
def test_python_texts_use_the_glossary() -> None:
    """The kind: log lines, messages, settings and docstrings with a coined word for a usual term."""
    assert SOURCES
    wrong = []
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        met = [(texts(tree), GIVEN_UP), (for_users(tree, path), GIVEN_UP_FOR_USERS)]
        wrong += [
            f"{path.relative_to(ROOT)}:{line}: {found}"
            for where, terms in met
            for line, text in where
            for found in given_up(text, terms)
        ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow("every page is read")
def test_pages_use_the_glossary() -> None:
    """The kind: documentation, console, alerts and dashboard with a coined word for a usual term."""
    wrong = [
        f"{path.relative_to(ROOT)}: {found}"
        for path in PAGES
        for found in given_up(path.read_text(), GIVEN_UP | GIVEN_UP_FOR_USERS)
    ]
    wrong += [
        f"{path.name}: {found}" for path in SCRIPTS for found in given_up(path.read_text())
    ] + [
        f"{path.name}: {found}"
        for path in SCRIPTS
        for text in script_texts(path.read_text())
        for found in given_up(text, GIVEN_UP_FOR_USERS)
    ]
    assert PAGES
    assert SCRIPTS
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "text",
    ["it is left\n   alone", "found are a, b", "the receiver is away", "holds the event loop"],
)
def test_terms_that_were_given_up_are_found(text: str) -> None:
    """The check itself sees such a term, over a line break as well."""
    assert given_up(text)


def test_terms_for_users_are_found_in_code(tmp_path: Path) -> None:
    """The check itself sees f-strings and scripts, and leaves docstrings and names to the code."""
    file = tmp_path / "some.py"
    file.write_text('"""Whoever answers."""\nanswer = f"{url} answers {status}"\n')
    assert [
        line
        for line, text in for_users(ast.parse(file.read_text()), file)
        if given_up(text, GIVEN_UP_FOR_USERS)
    ] == [2]
    script = "const answer = await ask(); say(`it answered ${answer.status}`);"
    assert script_texts(script) == ["it answered …"]


#: Nouns that are counted in texts. Limits in bytes or seconds are never 1.
COUNTED = (
    r"(more )?(points|requests|records|tasks|threads|times|steps|lines|batches|messages|problems|plugins"
    r"|clients|segments|files|attempts|restarts)\b"
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


@pytest.mark.slow("every file is parsed")
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


def test_one_name_is_one_class() -> None:
    """Whoever looks for a class finds one, private or not; `lva.luna` has names of the original's."""
    places: dict[str, list[str]] = {}
    for path in SOURCES:
        if path.name != "luna.py":
            for name in re.findall(r"^class _?(\w+)", path.read_text(), re.MULTILINE):
                places.setdefault(name, []).append(str(path.relative_to(ROOT)))
    del places["Config"]  # of each plugin that ships
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
