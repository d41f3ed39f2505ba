"""Everything that has to pass, and the things one does often; `nox -l` lists them."""

import ast
import os
from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests", "docs"]
nox.options.error_on_missing_interpreters = False


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and form."""
    session.install("ruff>=0.6")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, and that the public names are completely typed."""
    session.install(
        ".[opencv,otlp,prometheus,rabbitmq,redis,testing,uvloop]", "mypy>=1.11", "pyright>=1.1.380"
    )
    session.run("mypy")
    session.run("pyright", "--verifytypes", "lva", "--ignoreexternal")


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """Run the tests on each Python that is installed."""
    session.install("-e", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    session.install("-e", ".[docs]")
    session.run("sphinx-build", "-W", "-n", "-b", "html", "docs", "docs/_build/html")


@nox.session
def pictures(session: nox.Session) -> None:
    """Take the documentation's pictures of the console anew; needs Debian's Chromium, and twelve minutes."""
    session.install("-e", ".[test]")
    session.run("python", "docs/pictures.py", *session.posargs)


@nox.session
def steady(session: nox.Session) -> None:
    """Run the tests 20 times in a row and print a table of the runs; `-- --help` tells of other ways."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "tests.steady", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Run every benchmark."""
    session.install("-e", ".[bench]")
    for path in sorted(Path("benchmarks").glob("*.py")):
        if path.name != "load.py" and _has_main(path):
            session.run("python", str(path))


@nox.session
def run(session: nox.Session) -> None:
    """Run the service; arguments after `--` go to `lva run`."""
    session.install("-e", ".")
    session.run("lva", "run", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Run the tests that a plain run leaves out: long ones, and those that measure time."""
    session.install("-e", ".[test]")
    session.run("pytest", "-m", "soak", *session.posargs)


@nox.session
def storm(session: nox.Session) -> None:
    """Run the long forms of the soak tier: the service is stopped and killed at many random moments."""
    session.install("-e", ".[test]")
    session.run("pytest", "-m", "soak", *session.posargs, env={**os.environ, "LVA_STORM": "1"})


def _has_main(path: Path) -> bool:
    """Return whether a file does something when it is run."""
    return any(
        isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
        for node in ast.parse(path.read_text(encoding="utf-8")).body
    )
