"""The command line, run in the test's own process."""

from __future__ import annotations

from typing import Final

from click.testing import CliRunner, Result

from lva.cli import main
from lva.settings import ENV_PREFIX

TOKEN: Final = "a-token-for-tests-only"


def lva(*arguments: object, token: str | None = None, stdin: str | None = None) -> Result:
    """Run a command; it may end with an exit code, and must not fail otherwise."""
    variables = {} if token is None else {f"{ENV_PREFIX}ADMIN_TOKEN": token}
    result = CliRunner().invoke(main, [*map(str, arguments)], env=variables, input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result
