"""The service's settings: command line, then `LUNA_VIDEO_AGENT_*` environment, then `lva.toml`."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

import platformdirs
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from lva.contract import RestartPolicy
from lva.errors import SYNONYMS, ConfigurationError, wrong_key
from lva.events.types import check_names
from lva.settings.sources import (
    CONFIG_VARIABLE,
    DEFAULT_FILE,
    ENV_PREFIX,
    SettingsSource,
    over,
    read_environment,
    read_file,
    unknown_variables,
)
from lva.settings.user_paths import absolute
from lva.settings.variables import validated

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = [
    "CONFIG_VARIABLE",
    "DEFAULT_FILE",
    "EMBEDDED_PLUGINS",
    "ENV_PREFIX",
    "MIN_TOKEN_LENGTH",
    "PluginSettings",
    "Settings",
    "load_settings",
    "parse_bind",
]

#: The plugins that run when `ACTIVE_PLUGINS` is not set.
EMBEDDED_PLUGINS: Final = ("history", "resource_monitor")

#: How many characters an admin token has at least.
MIN_TOKEN_LENGTH: Final = 16

Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
PositiveSeconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=100_000_000)]


class _Table(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_bool(cls, value: Any, info: ValidationInfo) -> Any:
        """Python takes True for 1; who writes ``max_requests = true`` means something else."""
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, bool) and field.annotation in (int, float):
            raise ValueError("input should be a number, not true or false")
        return value


class PluginSettings(_Table):
    """The host's keys of one `[plugins.NAME]` table. Times are in seconds, sizes in points."""

    from_: str | None = Field(
        None,
        alias="from",
        description="The plugin that this is a second instance of, with a name, configuration and points"
        " of its own.",
    )
    restart: RestartPolicy = Field(
        "on-failure",
        description="When the host starts the plugin again: after a crash, also when"
        " its work ended by itself, or not at all.",
    )
    startup_error_behavior: Literal["retry", "error"] = Field(
        "retry",
        description="What a failing initialize() leads to: 'retry' tries for as long as it"
        " takes; 'error' counts it as a crash like any other.",
    )
    critical: bool = Field(
        False,
        description="Whether the service stops, with exit code 3, when this plugin has failed.",
    )
    max_restarts: int = Field(
        5,
        ge=0,
        le=1_000_000,
        description="More restarts than this within restart_window, and the plugin has failed.",
    )
    restart_window: PositiveSeconds = Field(60.0, description="See max_restarts.")
    backoff_initial: PositiveSeconds = Field(
        1.0,
        description="Upper bound of the random delay before the first restart; doubles each time.",
    )
    backoff_max: PositiveSeconds = Field(60.0, description="Cap of that bound.")
    initialize_timeout: PositiveSeconds = Field(
        30.0, description="Limit on __init__() and initialize()."
    )
    stop_timeout: PositiveSeconds = Field(
        5.0, description="How long the plugin's tasks may take to end once cancelled."
    )
    close_timeout: PositiveSeconds = Field(5.0, description="Limit on close().")
    handle_timeout: PositiveSeconds = Field(10.0, description="Limit on one handleEvent() call.")
    batch_size: Count = Field(1000, description="Most points in one handleEvent() call.")
    buffer_limit: Count = Field(10_000, description="Most points waiting for the plugin.")
    buffer_bytes: Count = Field(
        64 * 1024 * 1024, description="Most bytes of points waiting for the plugin in memory."
    )
    overflow: Literal["drop_oldest", "drop_newest"] = Field(
        "drop_oldest", description="Which points are dropped when the buffer is full."
    )
    events: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="The event types that the plugin gets, of those that it can take; its eventName alone,"
        " if left out.",
    )
    series: tuple[str, ...] = Field(
        (),
        description="Patterns (* ? [abc]) of the series whose points the plugin gets; all, if there is none.",
    )
    exclude_series: tuple[str, ...] = Field(
        (), description="Patterns of series whose points it does not get."
    )
    tags: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="Patterns by tag: it gets only points whose every tag named here matches one of its"
        " patterns.",
    )
    exclude_tags: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="Patterns by tag: it gets no points of which one of these tags matches.",
    )
    own_points: bool = Field(
        False,
        description="Whether an event class also gets back the points that it publishes while it handles"
        " others.",
    )
    flush_interval: Seconds = Field(
        0.0,
        description="How long points gather before a call, unless batch_size is reached; 0"
        " delivers as soon as the plugin is free.",
    )
    concurrency: Annotated[int, Field(ge=1, le=100)] = Field(
        1, description="Most handleEvent() calls at once; more than one gives up the order."
    )
    max_attempts: Count = Field(
        10,
        description="Calls that a batch gets before its points are dropped; those that ended"
        " because the receiver is unreachable do not count.",
    )
    max_age: PositiveSeconds = Field(
        7 * 86_400.0, description="Points that wait for longer than this are dropped."
    )
    retry_initial: PositiveSeconds = Field(
        0.5, description="Upper bound of the random delay before the second attempt; doubles."
    )
    retry_max: PositiveSeconds = Field(30.0, description="Cap of that bound.")
    circuit_failures: Count = Field(
        5,
        description="After this many failed calls in a row the circuit opens: delivery is paused.",
    )
    circuit_pause: PositiveSeconds = Field(
        15.0,
        description="How long the circuit stays open at most; then one call probes the receiver.",
    )
    spool: Literal["memory", "disk"] = Field(
        "memory",
        description="Where points wait: in memory, or in a file below state_dir too, which"
        " outlives a crash and a restart.",
    )
    spool_bytes: Annotated[int, Field(ge=1024 * 1024, le=1 << 50)] = Field(
        256 * 1024 * 1024, description="Most bytes of points in that file."
    )
    dead_letters: bool = Field(
        False,
        description="Whether points that are rejected or dropped, but not for want of space or"
        " time, are written to a file below state_dir.",
    )
    dead_letters_bytes: Annotated[int, Field(ge=1024, le=1 << 50)] = Field(
        16 * 1024 * 1024,
        description="Maximum size of that file and its one predecessor together, in bytes.",
    )
    event_loop: Literal["asyncio", "uvloop"] = Field(
        "asyncio",
        description="The event loop of an asyncio-style plugin: Python's own, or uvloop's, which"
        " has to be installed.",
    )
    config: dict[str, Any] = Field(
        default_factory=dict, description="The plugin's own configuration: its self.config."
    )

    @field_validator("events")
    @classmethod
    def _check_events(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        check_names(value or ())
        return value

    def over(self, defaults: Mapping[str, Any]) -> PluginSettings:
        """Return these settings with the plugin's own defaults below what the user set."""
        return PluginSettings.model_validate(
            {**defaults, **self.model_dump(exclude_unset=True, by_alias=True)}
        )


def _own_state_dir() -> Path:
    """Return the directory that is meant for it; it begins with ``~`` if the user has no home directory."""
    try:
        return Path(platformdirs.user_state_dir("lva", appauthor=False))
    except RuntimeError:  # refused where the directory is needed: most commands do not need it
        return Path("~/.local/state/lva")


class Settings(_Table):
    """The service's settings. Times are in seconds, sizes in bytes."""

    active_plugins: tuple[str, ...] = Field(
        EMBEDDED_PLUGINS,
        description="The plugins that run, in starting order: a JSON list, or names"
        " separated by commas. Set to nothing, none runs.",
    )
    plugins_dir: tuple[Path, ...] = Field(
        (), description="Directories with plugins besides the one that ships with the service."
    )
    bind: str = Field(
        "127.0.0.1:5240",
        description="Where the service listens: host:port, [ipv6]:port or unix:path.",
    )
    admin_token: SecretStr | None = Field(
        None,
        description="Bearer token for actions on plugins and for their details. If unset, anyone who can"
        " connect is allowed when the service listens only on loopback or a Unix socket; otherwise nobody"
        " is. At least 16 characters, without spaces; best set in the environment.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", description="Minimum log level."
    )
    log_format: Literal["text", "json"] = Field("text", description="How records are written.")
    shutdown_timeout: float = Field(
        25.0,
        ge=1,
        le=86_400,
        allow_inf_nan=False,
        description="Limit on the whole stop; past it"
        " the watchdog ends the process with exit code 70.",
    )
    drain_window: Seconds = Field(
        0.0,
        description="How long the service goes on serving, with /readyz at 503, after it was"
        " asked to stop. Part of shutdown_timeout.",
    )
    state_dir: Path = Field(
        default_factory=_own_state_dir,
        description="Where plugins keep files; made private (mode 0700).",
    )
    plugin_file_check: Literal["strict", "warn"] = Field(
        "strict",
        description="Whether a plugin file that others may write is refused or only reported.",
    )
    slow_start: PositiveSeconds = Field(
        2.0,
        description="A plugin that initializes for longer is reported with where it waits, and"
        " those behind it no longer wait for it.",
    )
    loop_block_limit: Seconds = Field(
        0.1,
        description="A plugin that blocks the service's event loop, or its own, for longer is reported, with"
        " the line; 0 turns the watch over the event loops off.",
    )
    loop_block_unready: Seconds = Field(
        30.0,
        description="While a plugin blocks its own event loop, or a worker thread that serves a request, for"
        " longer, the service is not ready; 0 for never.",
    )
    max_body_size: Annotated[int, Field(ge=0, le=1 << 40)] = Field(
        16 * 1024 * 1024, description="Largest request body."
    )
    body_timeout: PositiveSeconds = Field(60.0, description="Limit on receiving a request's body.")
    keep_alive_timeout: PositiveSeconds = Field(
        5.0, description="Limit on a connection that sends no complete request head."
    )
    half_closed_timeout: Seconds = Field(
        5.0,
        description="How long a client that has closed its side of the connection waits for a response to"
        " begin; then it counts as gone, and its handler is cancelled.",
    )
    http_connections: Literal["lva", "hypercorn"] = Field(
        "lva", description="Whose code reads HTTP/1.1: lva's own, or Hypercorn's, which is slower."
    )
    max_requests: Count = Field(
        1000, description="Most requests handled at once; more are refused with 503."
    )
    max_event_streams: Annotated[int, Field(ge=0, le=10_000)] = Field(
        100, description="Most open streams of /events, one for each console; 0 turns them off."
    )
    plugins: dict[str, PluginSettings] = Field(
        default_factory=dict, description="One table for each plugin: the host's keys, and config."
    )

    @field_validator("active_plugins", "plugins_dir", mode="before")
    @classmethod
    def _split_list(cls, value: Any) -> Any:
        if isinstance(value, str):
            return _parse_list(value)
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("bind")
    @classmethod
    def _check_bind(cls, value: str) -> str:
        parse_bind(value)
        return value

    @field_validator("admin_token")
    @classmethod
    def _check_token(cls, value: SecretStr | None) -> SecretStr | None:
        text = "" if value is None else value.get_secret_value()
        usable = text.isascii() and text.isprintable() and " " not in text
        if value is not None and not (usable and len(text) >= MIN_TOKEN_LENGTH):
            raise ValueError(
                f"should have at least {MIN_TOKEN_LENGTH} characters, printable ASCII without spaces; this"
                ' prints one: python3 -c "import secrets; print(secrets.token_urlsafe())"'
            )
        return value

    @field_validator("state_dir")
    @classmethod
    def _expand(cls, value: Path) -> Any:
        return absolute(value)

    @field_validator("plugins_dir")
    @classmethod
    def _expand_all(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(map(absolute, value))

    @model_validator(mode="after")
    def _window_fits(self) -> Settings:
        if self.drain_window > self.shutdown_timeout - 0.5:
            raise ValueError(
                f"drain_window ({self.drain_window:g} s) must be at least 0.5 s shorter than"
                f" shutdown_timeout ({self.shutdown_timeout:g} s), which it is part of"
            )
        return self

    def public(self) -> Mapping[str, Any]:
        """Return a read-only view for plugins: everything but the token and the plugins' own tables."""
        return MappingProxyType(self.model_dump(exclude={"plugins", "admin_token"}))


def parse_bind(value: str) -> tuple[str, int] | str:
    """Return ``(host, port)``, or the path of a Unix socket.

    Raises:
        ValueError: The text is neither; the message shows the right form.
    """
    if value.startswith("unix:"):
        if path := value.removeprefix("unix:"):
            absolute(path)  # refuses what no file can be called
            # Not made absolute: the path of a socket has to be short.
            return str(Path(path).expanduser())
        raise ValueError("a Unix socket is given as unix:/path/to/socket")
    host, _, port = value.rpartition(":")
    if port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65_535:
        if host.startswith("[") and host.endswith("]") and _is_ipv6(host[1:-1]):
            return host[1:-1], int(port)
        if _is_ipv6(host):
            raise ValueError(f"an IPv6 address stands in brackets, as in [::1]:5240, not {value!r}")
        if host and not set(":/[]") & set(host):
            return host, int(port)
    raise ValueError(f"expected host:port, as in 127.0.0.1:5240, not {value!r}")


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


class SettingsError(ConfigurationError):
    """Settings are wrong.

    Args:
        problems: As for any `ConfigurationError`.
        partial: What could be made of the settings without the wrong ones, to look for further
            problems with; never to run with.
    """

    def __init__(self, problems: Sequence[str], partial: Settings | None = None) -> None:
        super().__init__(problems)
        self.partial = partial


def load_settings(
    overrides: Mapping[str, Any] | None = None, config_file: Path | None = None
) -> Settings:
    """Read the settings from all their sources.

    Args:
        overrides: Values from the command line, by field name.
        config_file: The settings file; without one, what `LUNA_VIDEO_AGENT_CONFIG` names, or
            `lva.toml` in the current directory if it exists.

    Raises:
        SettingsError: With every problem found.
    """
    try:
        file = read_file(config_file)
    except ConfigurationError as error:
        raise SettingsError(error.problems) from error
    environment = read_environment(Settings.model_fields)
    sources = [
        replace(source, values=_fold_tables(source.values))
        for source in (SettingsSource("command line", dict(overrides or {})), environment, file)
    ]
    merged: dict[str, Any] = {}
    for source in sources:
        merged = over(source.values, merged)
    problems = [*unknown_variables(Settings.model_fields), *environment.unreadable]
    settings: Settings | None
    try:
        settings = validated(Settings, merged)
    except ValidationError as error:
        problems += [explain(item, sources) for item in error.errors()]
        settings = _without_wrong(merged, error)
    if problems or settings is None:
        raise SettingsError(problems, None if environment.unreadable else settings)
    return settings


def _fold_tables(values: dict[str, Any]) -> dict[str, Any]:
    """Return a source's values with the names of plugins in small letters: variables have no case."""
    tables = values.get("plugins")
    if not isinstance(tables, dict):
        return values
    folded: dict[str, Any] = {}
    for name, table in tables.items():
        folded = over(folded, {name.lower(): table})
    return {**values, "plugins": folded}


def _without_wrong(merged: Mapping[str, Any], error: ValidationError) -> Settings | None:
    """Return the settings without the keys that are wrong, if they say which plugins run, and how."""
    wrong = {item["loc"][0] for item in error.errors() if item["loc"]}
    if wrong & {"active_plugins", "plugins_dir", "plugin_file_check", "plugins"}:
        return None
    try:
        return Settings(**{key: value for key, value in merged.items() if key not in wrong})
    except ValidationError:
        return None


def explain(error: ErrorDetails, sources: Sequence[SettingsSource]) -> str:
    """Turn one of pydantic's errors into a message that names the key and where it was set."""
    keys = error["loc"]
    if not keys:
        return f"settings: {wrong_key(error)}"
    model = PluginSettings if keys[0] == "plugins" else Settings
    message, value = wrong_key(error, keys_of(model)), f"{error['input']!r:.80}"
    if error["type"] == "extra_forbidden" and len(keys) == 1 and keys[0] in SYNONYMS:
        message = f"unknown key; did you mean {SYNONYMS[str(keys[0])]!r}?"
    where = next(
        (source.place(keys) for source in sources if source.sets(keys)), ".".join(map(str, keys))
    )
    said = value in message or error["type"] == "extra_forbidden"
    shown = "" if said or _may_hold_secrets(keys) else f" (got {value})"
    return f"{where}: {message}{shown}"


def keys_of(model: type[BaseModel]) -> list[str]:
    """Return a model's keys as they are written in the settings."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _may_hold_secrets(keys: Sequence[str | int]) -> bool:
    """Return whether a key is the token or in a plugin's own configuration, or is a table around it."""
    if keys[0] == "admin_token":
        return True
    return keys[0] == "plugins" and (len(keys) < 3 or keys[2] == "config")


def _parse_list(value: str) -> list[Any]:
    text = value.strip()
    if text.startswith("["):
        try:
            parsed: list[Any] = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"this is no JSON list: {error}") from error
        return parsed
    return [item for part in text.split(",") if (item := part.strip())]
