"""A locale that is not UTF-8: every file is opened with its encoding, and what a terminal lacks is escaped.

The kind is shown by the poorest locale, in which Python itself treats a file that is opened without its
encoding as an error.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from pathlib import Path

import pytest

import lva
from lva.settings import ENV_PREFIX
from tests.support import ServiceProcess, write_plugin

POOR = {
    "LC_ALL": "C",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONUTF8": "0",
    "PYTHONWARNDEFAULTENCODING": "1",
    "PYTHONWARNINGS": "error::EncodingWarning",
}
DOORS = '''
    class Doors(BaseBackgroundPlugin):
        """Zählt die Türen, 扉."""

        async def start(self):
            self.app.ctx.logger.info("größe ☃")
            print("gedruckt ☃")
'''
#: Runs several commands in one process, as each takes long to start.
COMMANDS = """
import sys
from lva.cli import main
for line in sys.argv[1:]:
    try:
        main(line.split(" "))
    except SystemExit as ended:
        print("code", ended.code, "of", line)
"""


@pytest.mark.process
def test_service_and_commands_work_in_the_poorest_locale(tmp_path: Path) -> None:
    path = write_plugin(tmp_path / "plugins", "doors", "")
    path.write_text(f"from lva import *\n{DOORS.replace(chr(10) + '    ', chr(10))}", "utf-8")
    (tmp_path / "commands.py").write_text(COMMANDS)
    with ServiceProcess(tmp_path, ["doors"], env=POOR) as service:
        service.wait_until_ready()
        service.wait_for(r"gedruckt \\u2603")
        page = service.get("/", headers={"Accept": "text/html"}).text
        assert "<html" in page
        assert "–" in page
        assert service.get("/openapi.json").status_code == 200
        assert service.get("/docs").status_code == 200
        commands = [
            "plugins", "check --json plugins/doors.py", "new fenster", f"status --address {service.url}",
            f"stop 扉 --address {service.url}",
        ]  # fmt: skip
        command = [sys.executable, str(tmp_path / "commands.py"), *commands]
        # A terminal that has letters, but not these; click takes one that has only ASCII to be UTF-8.
        terminal = {**POOR, "PYTHONIOENCODING": "iso8859-5"}
        with ServiceProcess(tmp_path, ["doors"], env=terminal, command=command) as shell:
            shell.wait()
        assert service.stop() == 0
    said = [line for line in shell.lines if re.match(r"code \d of ", line)]
    assert said[:-1] == [f"code 0 of {command}" for command in commands[:-1]], shell.output
    assert said[-1].startswith("code 1 of stop ")  # there is no such plugin
    assert "Traceback" not in shell.output
    assert r"Z\xe4hlt die T\xfcren, \u6249" in shell.output
    assert "EncodingWarning" not in service.output + shell.output
    assert any(record["message"] == "größe ☃" for record in service.records)


@pytest.mark.process
def test_a_path_that_the_locale_lacks_is_refused_in_one_line(tmp_path: Path) -> None:
    """Kind: names of files are bytes, and the locale says which; each setting that is a path is told."""
    toml = f"""
        state_dir = "{tmp_path}/Türen"
        plugins_dir = ["{tmp_path}/Fenster", "{tmp_path}/扉"]
        bind = "unix:größe.sock"
    """
    service = ServiceProcess(tmp_path, [], env=POOR)
    (tmp_path / "lva.toml").write_text(textwrap.dedent(toml), "utf-8")
    for name in ("STATE_DIR", "PLUGINS_DIR", "BIND"):
        del service._env[f"{ENV_PREFIX}{name}"]
    with service:
        assert service.wait() == 2
    assert "Traceback" not in service.output
    for character in "ü扉ö":
        assert f"names of files cannot have '{character}' in this locale (ascii)" in service.output


@pytest.mark.slow("every file is parsed")
def test_every_text_file_is_opened_with_its_encoding() -> None:
    """What ruff's rule misses, which goes by types that it knows."""
    root = Path(lva.__file__).parent
    found = [
        f"{path.relative_to(root)}:{node.lineno}"
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and (node.func.attr, len(node.args)) in {("read_text", 0), ("write_text", 1)}
        and "encoding" not in {keyword.arg for keyword in node.keywords}
    ]
    assert found == []
