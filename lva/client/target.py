"""Which service a command asks, and with which token."""

from __future__ import annotations

import errno
import os
import ssl
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import click

if TYPE_CHECKING:
    import httpx

#: Seconds to connect, and to wait for an answer that should come at once.
_PATIENCE: Final = 5.0
#: Exit codes: the service refuses what it is asked for; nothing answers, as in LSB's `status`.
EXIT_REFUSED: Final = 1
EXIT_NO_SERVICE: Final = 3


class FailedError(click.ClickException):
    """What a command could not do, for people, with its exit code."""

    def __init__(self, message: str, code: int = EXIT_REFUSED) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc] # click's own subclasses do so too

    def show(self, file: Any = None) -> None:
        """Print the message."""
        click.echo(f"lva: {self.message}", file=file, err=file is None)


@dataclass(frozen=True, slots=True)
class Target:
    """A running service.

    Attributes:
        address: As people write it: ``http://127.0.0.1:5240`` or ``unix:/run/lva.sock``.
        token: The admin token, if there is one.
    """

    address: str
    token: str | None = field(default=None, repr=False)

    def client(self, patience: float | None = _PATIENCE) -> httpx.Client:
        """Return an HTTP client that waits so many seconds for data; None: for ever.

        Raises:
            FailedError: There is no such socket.
        """
        import httpx

        transport = httpx.HTTPTransport(uds=self._socket, verify=_verification(self.address))
        return httpx.Client(transport=transport, **self._options(patience))

    def async_client(self, patience: float | None = _PATIENCE) -> httpx.AsyncClient:
        """Return the same for Trio."""
        import httpx

        transport = httpx.AsyncHTTPTransport(uds=self._socket, verify=_verification(self.address))
        return httpx.AsyncClient(transport=transport, **self._options(patience))

    def _options(self, patience: float | None) -> dict[str, Any]:
        import httpx

        if self._socket is not None and not Path(self._socket).exists():
            raise self.not_there(OSError(errno.ENOENT, ""))  # httpcore would leave a socket open
        headers = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        return {
            "base_url": "http://localhost" if self._socket else self.address,
            "headers": headers,
            "timeout": httpx.Timeout(patience, connect=_PATIENCE),
            "trust_env": False,
        }

    @property
    def _socket(self) -> str | None:
        return self.address.removeprefix("unix:") if self.address.startswith("unix:") else None

    def not_there(self, error: Exception) -> FailedError:
        """Return what to say when nothing responds, or nobody that can be trusted."""
        if (why := _tls_failure(error)) is not None:
            return FailedError(
                f"no secure connection to {self.address}: {why}; a certificate of your own authority is"
                " trusted when SSL_CERT_FILE names its file",
                EXIT_NO_SERVICE,
            )
        return FailedError(
            f"no service responds at {self.address} ({why_not(error)}); start it with lva run, or say"
            " where it is with --address",
            EXIT_NO_SERVICE,
        )


def why_not(error: BaseException) -> str:
    """Return why there was no connection, in a few words."""
    for step in _causes(error):
        if isinstance(step, OSError) and step.errno is not None:
            return os.strerror(step.errno).lower()
    return str(error) or type(error).__name__


def _tls_failure(error: BaseException) -> str | None:
    """Return what is wrong with TLS, if that is why there was no connection."""
    for step in _causes(error):
        if isinstance(step, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({step.verify_message})"
        if isinstance(step, ssl.SSLError):
            return f"it does not speak TLS there ({(step.reason or str(step)).replace('_', ' ').lower()})"
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Go through an error and what led to it."""
    step: BaseException | None = error
    while step is not None:
        inner = step.exceptions[0] if isinstance(step, BaseExceptionGroup) else None
        if inner is None:
            yield step
        step = inner or step.__cause__ or step.__context__


def targeted(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that name the service; it gets a `Target`."""

    @click.option(
        "--address",
        metavar="URL",
        help="Where the service is: http://host:port, host:port or unix:/path; what the settings bind to,"
        " if left out.",
    )
    @click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The service's settings file (lva.toml, if there is one).",
    )
    @click.option(
        "--token-file",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        help="A file with the admin token; without it, LUNA_VIDEO_AGENT_ADMIN_TOKEN or the settings"
        " have it.",
    )
    @wraps(command)
    def wrapped(
        address: str | None, config: Path | None, token_file: Path | None, **options: Any
    ) -> Any:
        return command(find_target(address, config, token_file), **options)

    return wrapped


def find_target(address: str | None, config: Path | None, token_file: Path | None) -> Target:
    """Return the service that the options and the settings name.

    Raises:
        click.UsageError: The address or the settings cannot be read.
    """
    settings = _settings(config, needed=address is None)
    address = address_of_bind(settings["bind"]) if address is None else _completed(address)
    token = settings["token"] if token_file is None else _read_token(token_file)
    if token is not None and not _is_near(address):
        click.echo(f"lva: the token is sent to {address} unencrypted", err=True)
    return Target(address, token)


def _settings(config: Path | None, *, needed: bool) -> Mapping[str, Any]:
    """Return what the service's settings say of its address and token."""
    from lva.settings import Settings, SettingsError, load_settings

    try:
        settings: Settings | None = load_settings(None, config)
    except SettingsError as error:
        settings = error.partial
        if needed and settings is None:
            problems = "".join(f"\n  - {problem}" for problem in error.problems)
            raise click.UsageError(
                f"the settings do not say where the service is; give --address.{problems}"
            ) from error
    if settings is None:
        return {"bind": "", "token": None}
    token = settings.admin_token
    return {
        "bind": settings.bind,
        "token": None if token is None else token.get_secret_value(),
    }


def address_of_bind(bind: str) -> str:
    """Return the address under which this machine reaches a service that listens there.

    Raises:
        click.UsageError: The system chose the port.
    """
    from lva.settings import parse_bind

    where = parse_bind(bind)
    if isinstance(where, str):
        return f"unix:{where}"
    host, port = where
    if port == 0:
        raise click.UsageError("the system chose the service's port (bind has 0); give --address")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - it is replaced
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _completed(address: str) -> str:
    if address.startswith("unix:"):
        from lva.settings import parse_bind

        try:
            return f"unix:{parse_bind(address)}"
        except ValueError as error:
            raise click.UsageError(f"--address: {error}") from error
    if "://" not in address:
        address = f"http://{address}"
    try:
        parts = urlsplit(address)
        well_formed = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        well_formed = False
    if not well_formed:
        raise click.UsageError(
            f"--address is http://host:port, host:port or unix:/path, not {address!r}"
        )
    return address.rstrip("/")


def _is_near(address: str) -> bool:
    """Return whether nobody else can listen on the way there."""
    import ipaddress

    parts = urlsplit(address)
    if parts.scheme != "http" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def _read_token(path: Path) -> str:
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise click.UsageError(f"--token-file {path}: {error}") from error
    if not token.isprintable() or not token or " " in token:
        raise click.UsageError(f"--token-file {path} does not hold one token on one line")
    if sys.platform != "win32" and path.stat().st_mode & 0o077:
        click.echo(f"lva: others may read {path}; chmod 600 {path}", err=True)
    return token


def _verification(address: str) -> ssl.SSLContext | bool:
    """Return how certificates are checked: against the system's, which SSL_CERT_FILE may replace."""
    return ssl.create_default_context() if address.startswith("https:") else False
