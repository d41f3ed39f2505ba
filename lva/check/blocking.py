"""Which calls block, and what to do instead."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from lva.contract import RuntimeName

_HTTP: Final = "use httpx.AsyncClient, or a worker thread: `{thread}`"
_THREAD: Final = "call it in a worker thread: `{thread}`"
_VERBS: Final = ("get", "post", "put", "patch", "delete", "head", "options", "request", "stream")

#: Calls that block, by their dotted names, and what to do instead.
_BLOCKING: Final[dict[str, str]] = {
    "time.sleep": "use `await {style}.sleep()`",
    **{f"requests.{verb}": _HTTP for verb in _VERBS},
    **{f"httpx.{verb}": _HTTP for verb in _VERBS},
    "urllib.request.urlopen": _HTTP,
    "urllib.request.urlretrieve": _HTTP,
    "urllib3.request": _HTTP,
    "socket.create_connection": "use `await {connect}`",
    "socket.getaddrinfo": _THREAD,
    "socket.gethostbyname": _THREAD,
    "socket.gethostbyaddr": _THREAD,
    "subprocess.run": "use `await {process}`",
    "subprocess.call": "use `await {process}`",
    "subprocess.check_call": "use `await {process}`",
    "subprocess.check_output": "use `await {process}`",
    "subprocess.getoutput": "use `await {process}`",
    "subprocess.getstatusoutput": "use `await {process}`",
    "os.system": "use `await {process}`",
    "os.popen": "use `await {process}`",
    "os.wait": _THREAD,
    "os.waitpid": _THREAD,
    "select.select": _THREAD,
    "input": "the service has no terminal to ask",
    "psycopg.connect": _THREAD,
    "psycopg2.connect": _THREAD,
    "pymysql.connect": _THREAD,
    "MySQLdb.connect": _THREAD,
    "mysql.connector.connect": _THREAD,
    "pika.BlockingConnection": _THREAD,
    "smtplib.SMTP": _THREAD,
    "smtplib.SMTP_SSL": _THREAD,
    "ftplib.FTP": _THREAD,
    "imaplib.IMAP4": _THREAD,
    "cv2.VideoCapture": _THREAD,
}
#: Calls that are short most of the time, but wait for a disk that hangs.
_SHORT: Final = (
    "open", "io.open", "sqlite3.connect", "shutil.copytree", "shutil.rmtree", "shutil.copy",
    "shutil.copyfile", "shutil.move", "shutil.make_archive", "pathlib.Path().read_text",
    "pathlib.Path().read_bytes", "pathlib.Path().write_text", "pathlib.Path().write_bytes",
    "pathlib.Path().open",
)  # fmt: skip
#: Objects by the call that makes them, and their methods that block.
_OBJECTS: Final[dict[str, tuple[str, ...]]] = {
    "requests.Session()": _VERBS,
    "requests.session()": _VERBS,
    "httpx.Client()": _VERBS,
    "urllib3.PoolManager()": ("request", "urlopen"),
    "http.client.HTTPConnection()": ("connect", "request", "getresponse"),
    "http.client.HTTPSConnection()": ("connect", "request", "getresponse"),
    "socket.socket()": ("connect", "accept", "recv", "recv_into", "recvfrom", "send", "sendall", "sendto"),
    "socket.create_connection()": ("recv", "recv_into", "send", "sendall"),
    "subprocess.Popen()": ("wait", "communicate"),
    "threading.Event()": ("wait",),
    "threading.Thread()": ("join",),
    "queue.Queue()": ("get", "join"),
    "redis.Redis()": ("get", "set", "ping", "execute_command", "xadd", "xread", "publish", "delete", "lpush",
                      "rpush", "hset", "hget", "incr", "expire", "keys", "scan"),
    "redis.StrictRedis()": ("get", "set", "ping", "xadd", "publish", "delete", "lpush", "rpush", "hset"),
    "redis.from_url()": ("get", "set", "ping", "xadd", "publish", "delete", "lpush", "rpush", "hset"),
    "cv2.VideoCapture()": ("read", "grab", "retrieve"),
    "smtplib.SMTP()": ("send_message", "sendmail", "connect", "login"),
}  # fmt: skip
_SHORT_OBJECTS: Final[dict[str, tuple[str, ...]]] = {
    "sqlite3.connect()": ("execute", "executemany", "executescript", "commit"),
    "threading.Thread()": ("join",),
}


_WORDS: Final[dict[RuntimeName, dict[str, str]]] = {
    "trio": {
        "style": "trio",
        "thread": "await trio.to_thread.run_sync(…)",
        "connect": "trio.open_tcp_stream()",
        "process": "trio.run_process()",
    },
    "asyncio": {
        "style": "asyncio",
        "thread": "await asyncio.to_thread(…)",
        "connect": "asyncio.open_connection()",
        "process": "asyncio.create_subprocess_exec()",
    },
}


@dataclass(frozen=True, slots=True)
class Blocking:
    """A call that blocks.

    Attributes:
        name: What is called, as a dotted name.
        advice: What to do instead, with gaps for the words of a style.
        level: Whether it blocks the event loop for certain, or for long only now and then.
    """

    name: str
    advice: str
    level: Literal["error", "warning"] = "error"

    def told(self, style: RuntimeName) -> str:
        """Return what it does to its event loop, and the advice."""
        effect = "the whole service" if style == "trio" else "its plugin's event loop"
        return f"blocks {effect}; {self.advice.format(**_WORDS[style])}"


def blocking(call: ast.Call, name: str, lines: Iterable[str]) -> Blocking | None:
    """Return what is known of a call that blocks, or None.

    Args:
        call: The call.
        name: The dotted name of what it calls.
        lines: Those of its file.
    """
    if name in _BLOCKING:
        return Blocking(name, _BLOCKING[name])
    if name in _SHORT:
        return Blocking(name, _THREAD, "warning")
    base, _, method = name.rpartition(".")
    if method in _SHORT_OBJECTS.get(base, ()):
        return Blocking(name, _THREAD, "warning")
    if method not in _OBJECTS.get(base, ()) or _limited(call, base, lines):
        return None
    return Blocking(name, _THREAD)


def _limited(call: ast.Call, base: str, lines: Iterable[str]) -> bool:
    """Return whether the call says for how long it waits, or that it does not."""
    if base == "socket.socket()":
        return any("setblocking(" in line for line in lines)
    if base == "queue.Queue()":
        return bool(call.args or call.keywords)
    return False
