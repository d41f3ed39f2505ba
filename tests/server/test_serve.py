"""Where the service listens: what stands at the path of a Unix socket is told apart."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lva.client.target import address_of_bind, find_target
from lva.errors import ConfigurationError
from lva.server.listening import listen
from lva.settings import parse_bind


@contextlib.contextmanager
def directory(path: Path) -> Iterator[None]:
    path.mkdir()
    yield


@contextlib.contextmanager
def file(path: Path) -> Iterator[None]:
    path.write_text("precious")
    yield
    assert path.read_text() == "precious"


@contextlib.contextmanager
def dangling(path: Path) -> Iterator[None]:
    path.symlink_to(path.parent / "nothing")
    yield
    assert path.is_symlink()


@contextlib.contextmanager
def listening(path: Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(8)
        yield
    assert path.exists()


@contextlib.contextmanager
def stuck(path: Path) -> Iterator[None]:
    """A service that accepts nobody, and whose queue is full."""
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(socket.socket(socket.AF_UNIX))
        other.bind(str(path))
        other.listen(0)
        for _ in range(2):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(str(path))
        yield
    assert path.exists()


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (directory, "is a directory; give a file in it, as in --bind unix:"),
        (file, "is a file, and no socket"),
        (dangling, "is a link that leads nowhere"),
        (listening, "another program listens there"),
        (stuck, "another program listens there"),
    ],
)
def test_what_is_in_the_way_of_a_unix_socket_is_told(
    tmp_path: Path,
    there: Callable[[Path], contextlib.AbstractContextManager[None]],
    said: str,
) -> None:
    path = tmp_path / "socket"
    with there(path), pytest.raises(ConfigurationError, match=said) as problem:
        listen(f"unix:{path}")
    assert f"bind: cannot listen on unix:{path}: " in problem.value.problems[0]


@pytest.mark.parametrize(
    ("below", "said"),
    [
        ("missing/socket", "there is no directory .*/missing; make it"),
        ("x" * 120, "the path is too long for a socket; choose one of at most 107 bytes"),
    ],
)
def test_where_no_unix_socket_can_be_made_is_told(tmp_path: Path, below: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        listen(f"unix:{tmp_path / below}")


@pytest.mark.parametrize("bind", ["192.0.2.1:0", "no-such-host.invalid:0", "a..b:0"])
def test_an_address_that_cannot_be_had_is_told(bind: str) -> None:
    with pytest.raises(ConfigurationError) as problem:
        listen(bind)
    assert f"bind: cannot listen on {bind}: " in problem.value.problems[0]


def test_a_unix_socket_takes_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kind: a path that the shell would have expanded, but for what stands before it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    with listen("unix:~/socket") as listener:
        assert listener.getsockname() == str(tmp_path / "socket")
    assert address_of_bind("unix:~/socket") == f"unix:{tmp_path / 'socket'}"
    assert find_target("unix:~/socket", None, None).address == f"unix:{tmp_path / 'socket'}"
    with pytest.raises(ValueError, match="no home directory"):
        parse_bind("unix:~nobody-of-that-name/socket")


def test_a_socket_that_nobody_listens_on_any_more_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with listen(f"unix:{path}") as listener:
        assert listener.getsockname() == str(path)
        assert path.stat().st_mode & 0o777 == 0o600
