"""Which service is asked, and what is said when it cannot be."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from lva.client.target import Target, address_of_bind, find_target, why_not
from lva.settings import ENV_PREFIX
from tests.client.running import lva

pytestmark = pytest.mark.usefixtures("clean_slate")
PEM = Path(__file__).parents[1] / "plugins" / "localhost.pem"


@pytest.mark.parametrize(
    ("bind", "address"),
    [
        ("127.0.0.1:5240", "http://127.0.0.1:5240"),
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        ("[::]:5240", "http://[::1]:5240"),
        ("lva.example:5240", "http://lva.example:5240"),
        ("unix:/run/lva.sock", "unix:/run/lva.sock"),
    ],
)
def test_the_service_is_where_the_settings_bind_it(bind: str, address: str) -> None:
    assert address_of_bind(bind) == address


def test_a_port_that_the_system_chose_has_to_be_told() -> None:
    with pytest.raises(click.UsageError, match="give --address"):
        address_of_bind("127.0.0.1:0")


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("127.0.0.1:1", "http://127.0.0.1:1"),
        ("https://lva.example/", "https://lva.example"),
        ("http://[::1]:5240", "http://[::1]:5240"),
        ("unix:x.sock", "unix:x.sock"),
    ],
)
def test_an_address_may_be_short(given: str, address: str) -> None:
    assert find_target(given, None, None).address == address


@pytest.mark.parametrize("given", ["ftp://a", "http://", "http://a:b", "http://a:99999", ""])
def test_a_malformed_address_is_refused_with_the_right_form(given: str) -> None:
    with pytest.raises(click.UsageError, match="--address is http://host:port"):
        find_target(given, None, None)


def test_settings_name_the_service_and_its_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_target(None, None, None) == Target("http://127.0.0.1:5240")
    config = tmp_path / "other.toml"
    config.write_text('bind = "127.0.0.1:77"\n')
    config.chmod(0o644)
    assert find_target(None, config, None).address == "http://127.0.0.1:77"
    monkeypatch.setenv(f"{ENV_PREFIX}ADMIN_TOKEN", "a-token-that-is-long")
    target = find_target(None, config, None)
    assert target.token == "a-token-that-is-long"
    assert "long" not in repr(target)


def test_settings_that_are_wrong_elsewhere_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{ENV_PREFIX}BIND", "127.0.0.1:78")
    monkeypatch.setenv(f"{ENV_PREFIX}LOG_LEVEL", "LOUD")
    assert find_target(None, None, None).address == "http://127.0.0.1:78"
    monkeypatch.setenv(f"{ENV_PREFIX}ACTIVE_PLUGINS", "[")
    with pytest.raises(click.UsageError, match=r"give --address[\s\S]*ACTIVE_PLUGINS"):
        find_target(None, None, None)
    assert find_target("a:1", None, None).address == "http://a:1"


def test_a_token_file_outweighs_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"{ENV_PREFIX}ADMIN_TOKEN", "a-token-that-is-long")
    path = tmp_path / "token"
    path.write_text("another-one\n")
    path.chmod(0o600)
    assert find_target(None, None, path).token == "another-one"
    assert capsys.readouterr().err == ""
    path.chmod(0o644)
    find_target(None, None, path)
    assert "others may read" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "\n", "two words", "two\nlines", "\u00e9"])
def test_a_token_file_holds_one_token(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(click.UsageError, match="--token-file"):
        find_target(None, None, path)


def test_a_token_on_its_way_to_elsewhere_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "token"
    path.write_text("another-one")
    path.chmod(0o600)
    for near in ("localhost:1", "127.0.0.2:1", "[::1]:1", "https://lva.example", "unix:/x"):
        find_target(near, None, path)
    assert capsys.readouterr().err == ""
    find_target("lva.example:1", None, path)
    assert "unencrypted" in capsys.readouterr().err


def test_the_reason_is_the_systems() -> None:
    with pytest.raises(OSError, match="refused") as caught:
        socket.create_connection(("127.0.0.1", 1))
    assert why_not(caught.value) == "connection refused"
    grouped = OSError("all attempts failed")
    grouped.__cause__ = ExceptionGroup("tried", [caught.value])
    assert why_not(grouped) == "connection refused"
    assert why_not(TimeoutError("timed out")) == "timed out"


@contextlib.contextmanager
def answering(tls: bool) -> Iterator[int]:
    """Listen and shake hands once, with a certificate that nobody trusts or not even TLS; yield the port."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                if tls:
                    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                    context.load_cert_chain(PEM)
                    context.wrap_socket(connection, server_side=True).close()
                else:
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    connection.recv(1000)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(5)


@pytest.mark.parametrize(
    ("tls", "said"),
    [(True, "its certificate is not trusted"), (False, "it does not speak TLS there")],
)
def test_a_failure_of_tls_is_called_one(tls: bool, said: str) -> None:
    """What answers, but cannot be trusted, is not a service that is away."""
    with answering(tls) as port:
        result = lva("status", "--address", f"https://127.0.0.1:{port}")
    assert result.exit_code == 3
    assert said in result.output
    assert "SSL_CERT_FILE" in result.output
    assert "start it with lva run" not in result.output
