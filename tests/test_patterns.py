"""No pattern takes more than linear time: text from outside must not be able to stop the service.

The kind is every regular expression of the package. Each stands here with the texts that are worst for it, of
a million characters. One that needs quadratic time takes minutes for them and fails by the test's time limit;
one that is not here fails, too.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from typing import Any

import pytest

import lva
from lva.check.plugins import toml_line
from lva.logs.loggers import redact
from lva.testing.analytics import HINTS

_ROOT = Path(lva.__file__).parent
_SIZE = 1_000_000
#: By the pattern's source: what begins a match that never ends, and what else makes it look again.
WORST: dict[str, list[str]] = {
    r"(?<=://)[^/\s:]*:[^/\s]*@": ["a.", "://", "://a:", "a://a:a@", ":", "@", "://a"],
    "secret|token|passw|passphrase|credential|(api|private|access)[_-]?key|\\bdsn\\b|signature"
    "|authorization|cookie": ["api_", "access-", "dsn", "a.", "toke", "passphras"],
    r" or instance of \w+$": [" or instance of ", " or instance of a", "a"],
    r"pass?|pwd|secret|token|key|auth|sig|credential|cookie": ["pas", "secre", "toke", "credentia"],
    r"([&;#/?])": ["&", "a&", "a"],
    "[^a-z0-9]+": [" ", "a "],
    r"\{([^{}]*)\}": ["{", "{a", "}"],
    r"(\{[^{}]*\})": ["{", "{a", "}"],
    r"\w+": ["a", " "],
    r"\n\s*\n": ["\n", "\n ", " ", "\na"],
    r"\r\n|\r|\n": ["\r", "\n"],
    r"[\s,]+": [" ", ",a"],
    "[A-Za-z0-9]+": ["a", "a "],
    r"dropped=(\d+)": ["dropped=", "dropped=1", "1"],
    r"\{[^{}]*\}": ["{", "{a", "}"],
    "<[^<>]*>": ["<", "<a", ">"],
    rb"\x1b(?:\[[0-9;]*[~A-Za-z]|O[A-Z])?|[^\x1b]": ["\x1b[", "\x1b", "\x1b[1", "1;", "\x1bO"],
    rb"lva-point-(\d+)-": ["lva-point-", "lva-point-1", "1"],
    "[A-Za-z_][A-Za-z0-9_]*": ["a", "_1", "1"],
    r"(plugins\.\w+\.config)(?:\.([\w-]+))?[.:]": ["plugins.a", "a", "plugins.a.config."],
    r"\s*\[+([^\[\]]+)\]": [" ", "[", "[ ", "[a", "a"],
    "[\\s\\\"']": [" ", "'"],
    "\\s*([\\w.\\\"'-]+)\\s*=": [" ", "a", "a ", "."],
    "[\\\"']": ["'", "a"],
    r"#\s*lva:\s*ignore(?:\[([\w\s,-]+)\])?": ["#", "# ", "# lva:", "# lva: ignore[a", ", "],
    "(?P<scheme>rediss?://|unix://)(?:(?P<username>[^:/?#]*)(?::(?P<password>[^/?#]*))?@)?"
    "(?P<place>(?:[\\w.-]+|\\[[\\da-fA-F:.]+\\])(?::\\d{1,5})?(?:/\\d*)?|/[^?#@]+)"
    "(?P<options>(?:[?&](?:db|ssl_(?:ca_certs|certfile|keyfile|check_hostname))=[^?&#]*)*)": [
        "redis://a:", "a:", "@", "redis://[", "?db=", "1", "/",
    ],
    "read only replica|MASTER is down": ["read only ", "MASTER is "],
    r"(ERR )?Error running script \(call to \w+\): (@user_script: ?\d+: )+(-[A-Z]+ )?"
    r"|\.? script: \w+, on @user_script:\d+\.?": [
        "ERR ", "Error running script (call to a", "Error running script (call to a): @user_script:1: ",
        "@user_script:1: ", ". script: a", ".", "a", "1",
    ],
    "[A-Z]+ ": ["A", "A "],
    "(?!(?:webhook-.*|content-(?:type|length|encoding)|transfer-encoding|connection|host)\\Z)"
    "[!#$%&'*+.^_`|~0-9a-z-]+": ["webhook-", "content-", "a"],
    "[!-~](?:[ -~]*[!-~])?": [" ", "a ", "a"],
    r"[\s/?&=]+": [" ", "/?", "a"],
    "(?!__)[a-zA-Z_][a-zA-Z0-9_]*": ["_", "a"],
    r"[\w!#$%&'*+.^`|~-]+": ["a", "!"],
    '\\A[#\\t\\0]|\\\\"|\\n|\\\\(?=[,= ]|\\Z)': ["\\", '"', "\\a"],
    "\\n|\\\\(?=[,= ]|\\Z)": ["\\", "\\a"],
    '\\A[\\t\\0]|"|\\n|\\\\(?=[,= ]|\\Z)': ["\\", "\t"],
    "HTTP request to an HTTPS|HTTP request was sent to HTTPS|speaking plain HTTP|requires TLS": [
        "HTTP request ", "speaking plain ", "requires ",
    ],
    r"LUNA_VIDEO_AGENT_(\w+_)?PORT(_\d+_(TCP|UDP|SCTP))?": ["_", "a_", "PORT_", "PORT_1_", "1"],
    r"LUNA_VIDEO_AGENT_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR))": [
        "_", "a_", "SERVICE_PORT_", "PORT_1_TCP_", "PORT_1",
    ],
    r"<([A-Za-z_]\w*):(\w+)>": ["<", "<a", "<a:", "a:"],
    "(tcp|udp|sctp)://": ["tcp:", "tcp", "a"],
    rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+": ["a", " "],
    r"\A(?>\s|\ufeff|<\?xml[^>]*>|<!--(?:(?!-->).)*-->)*+<(?:!doctype\s+html|html)\b": [
        " ", "<", "<!doctype ", " <", "<!--", "<!---->", "<?xml>", "<?xml", "<!---->-", "-->", "<!---",
    ],
    rb"[\x00-\x08\x0a-\x1f\x7f]": ["a", "\0"],
    rb"[0-9]{1,20}": ["1", "a"],
    rb"[0-9]{1,18}": ["1", "a"],
    rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n": ["a", "a;", ";", "a\r", "\r"],
    rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r\n)*\r\n": ["a", "a:", ":", "a:\r\n", "a\r"],
    rb"^(?:content-length|transfer-encoding|host):": ["host", "content-", "\nhost"],
    rb"(?<!\r)\n": ["\r", "\r\n", "a"],
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])\r\n": [
        "a", "a ", " a", "a /", " HTTP/1",
    ],
    rb"[^!#$%&'*+.^_`|~0-9A-Za-z-]": ["a", " "],
    r"[A-Za-z_][\w-]*": ["a", "_1", "-"],
    r"at frame \d+|set aside.*": ["at frame ", "at frame 1", "1", "set aside", "set "],
    r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]*": ["a", "\0", "a\0"],
    r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?": ["1", "11:", "11:11", ":1"],
    r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?|24:00(:00)?": ["2", "24:", "24:00", "11:11:"],
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029]": ["a", "\0"],
    r"[\w-]{1,63}": ["a", "-", "a."],
    r"(?:[^\[\]]*@)?\[([^\[\]]*)\](:.*)?": ["a", "a@", "[", "[a", "@[", "[a]:", "]"],
    "[/?#]": ["a", "/"],
    "[!-~]{1,200}": ["a", " "],
    "[A-Za-z0-9][A-Za-z0-9._-]{0,99}": ["a", ".", "a "],
    r"https?://[^\s/?#@]+": ["https:/", "http", "https://a", "a"],
    "[0-9.]+": ["1", ".", "a"],
    r"^run_id:(\w+)": ["run_id:", "run_id:a", "\nrun_id", "a"],
    "^(List|Tuple|Set) should": ["List ", "Set", "Tuple shoul"],
    r" a valid dictionary or instance of \w+$": [
        " a valid dictionary", " a valid dictionary or instance of a", "a",
    ],
    " a valid (list|tuple|set)$": [" a valid ", " a valid list", " "],
    " a valid dictionary$": [" a valid ", " a valid dictionary", " "],
}  # fmt: skip
WORST |= {pattern: ["(exit code 1", "(SIG", "1", "a"] for pattern, _ in HINTS}
#: Those that see the package's own files only, or are made of what an operator configures.
OWN_TEXT = {"web/resources/bundle.py", "web/resources/schemas.py"}
MADE = {
    "'|'.join(map(re.escape, longest_first)) or '(?!)'",
    "'|'.join(map(fnmatch.translate, patterns)) or '(?!)'",
    "pattern",  # of HINTS
}


@functools.cache
def used_patterns() -> dict[str | bytes, str]:
    """Return the patterns in the package's source, those made of others filled in, with how each is used."""
    found: dict[str | bytes, str] = {pattern: "search" for pattern, _ in HINTS}
    for path in _ROOT.rglob("*.py"):
        if str(path.relative_to(_ROOT)) in OWN_TEXT:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts: dict[str, Any] = {"re": re}
        for node in tree.body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and _is_text(node.value):
                made = eval(compile(ast.Expression(node.value), str(path), "eval"), texts)
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    if isinstance(target, ast.Name):
                        texts[target.id] = made
        bound = {
            id(node.value): node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
        }
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "re"
                and node.func.attr in {"compile", "sub", "match", "search", "fullmatch", "split", "findall"}
                and ast.unparse(node.args[0]) not in MADE
            ):  # fmt: skip
                pattern = eval(compile(ast.Expression(node.args[0]), str(path), "eval"), texts)
                found[pattern] = bound.get(id(node), node.func.attr)
    return found


def _is_text(value: ast.expr | None) -> bool:
    """Return whether a value is a text, or a pattern of which others may be made."""
    pattern = isinstance(value, ast.Call) and ast.unparse(value.func) == "re.compile"
    return isinstance(value, ast.Constant) or pattern and ast.unparse(value.args[0]) not in MADE


@pytest.mark.slow("every file is parsed")
def test_every_pattern_is_tried():
    assert set(used_patterns()) == set(WORST)


@pytest.mark.slow("a million characters")
@pytest.mark.timeout(20)
@pytest.mark.parametrize("pattern", WORST, ids=lambda pattern: repr(pattern)[:30])
def test_the_worst_text_takes_linear_time(pattern):
    """Kind: every pattern that sees text from outside; one that takes quadratic time stops the service."""
    compiled = re.compile(pattern)
    anchored = used_patterns().get(pattern) in {"match", "fullmatch"}
    for part in WORST[pattern]:
        text = part * (_SIZE // len(part))
        given = text.encode() if isinstance(pattern, bytes) else text
        (compiled.match if anchored else compiled.search)(given)
        compiled.fullmatch(given)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("part", ["a.", "a@", "://a:@", "://:", "http://u:p@h/"])
def test_masking_takes_linear_time(part):
    assert "u:p" not in redact(part * (_SIZE // len(part)))


@pytest.mark.timeout(20)
def test_settings_file_lines_take_linear_time():
    text = "\n".join(part * (_SIZE // len(part)) for part in (" ", "[", "[ ", "a", "a = "))
    assert toml_line(text, "plugins.a", "b") is None
