"""The service's settings: command line, then `LUNA_VIDEO_AGENT_*` environment, then `lva.toml`."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from lva.contract import RestartPolicy
from lva.errors import ConfigurationError, listing, suggestion
from lva.trust import untrusted

ENV_PREFIX: Final = "LUNA_VIDEO_AGENT_"
#: The environment variable that names the settings file.
CONFIG_VARIABLE: Final = f"{ENV_PREFIX}CONFIG"
DEFAULT_FILE: Final = Path("lva.toml")
#: The plugins that run when `ACTIVE_PLUGINS` is not set.
EMBEDDED_PLUGINS: Final = ("history",)

Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
PositiveSeconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=100_000_000)]


class PluginSettings(BaseModel):
    """The host's keys of one `[plugins.NAME]` table. Times are in seconds, sizes in points."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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
    overflow: Literal["drop_oldest", "drop_newest"] = Field(
        "drop_oldest", description="Which points are dropped when the buffer is full."
    )
    flush_interval: Seconds = Field(
        0.0,
        description="How long points gather before a call, unless batch_size is reached; 0"
        " delivers as soon as the plugin is free.",
    )
    max_attempts: Count = Field(
        10, description="Calls that a batch gets before its points are dropped."
    )
    retry_initial: PositiveSeconds = Field(
        0.5, description="Upper bound of the random delay before the second attempt; doubles."
    )
    retry_max: PositiveSeconds = Field(30.0, description="Cap of that bound.")
    config: dict[str, Any] = Field(
        default_factory=dict, description="The plugin's own configuration: its self.config."
    )

    def over(self, defaults: Mapping[str, Any]) -> PluginSettings:
        """Return these settings with the plugin's own defaults below what the user set."""
        return PluginSettings.model_validate({**defaults, **self.model_dump(exclude_unset=True)})


class Settings(BaseSettings):
    """What the service is told. Times are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    active_plugins: Annotated[tuple[str, ...], NoDecode] = Field(
        EMBEDDED_PLUGINS,
        description="The plugins that run, in starting order: a JSON list, or names"
        " separated by commas. Set to nothing, none runs.",
    )
    plugins_dir: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="Directories with plugins besides the one that ships with the service."
    )
    bind: str = Field(
        "127.0.0.1:5240",
        description="Where the service listens: host:port, [ipv6]:port or unix:path.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", description="The least severe records that are logged."
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
        " told to stop. Part of shutdown_timeout.",
    )
    state_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_state_dir("lva", appauthor=False)),
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
    max_body_size: Annotated[int, Field(ge=0, le=1 << 40)] = Field(
        16 * 1024 * 1024, description="Largest request body."
    )
    body_timeout: PositiveSeconds = Field(60.0, description="Limit on receiving a request's body.")
    keep_alive_timeout: PositiveSeconds = Field(
        5.0, description="Limit on a connection that sends no complete request head."
    )
    max_requests: Count = Field(
        1000, description="Most requests handled at once; more are answered with 503."
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

    @field_validator("state_dir")
    @classmethod
    def _expand(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("plugins_dir")
    @classmethod
    def _expand_all(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(path.expanduser().absolute() for path in value)

    @model_validator(mode="after")
    def _window_fits(self) -> Settings:
        if self.drain_window > self.shutdown_timeout - 0.5:
            raise ValueError(
                f"drain_window ({self.drain_window:g} s) must be at least 0.5 s shorter than"
                f" shutdown_timeout ({self.shutdown_timeout:g} s), which it is part of"
            )
        return self

    def public(self) -> Mapping[str, Any]:
        """Return a read-only view for plugins: everything but the plugins' own tables."""
        return MappingProxyType(self.model_dump(exclude={"plugins"}))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)  # load_settings merges the sources, the environment among them


def parse_bind(value: str) -> tuple[str, int] | str:
    """Return ``(host, port)``, or the path of a Unix socket.

    Raises:
        ValueError: The text is neither; the message shows the right form.
    """
    if value.startswith("unix:"):
        if path := value.removeprefix("unix:"):
            return path
        raise ValueError("a Unix socket is given as unix:/path/to/socket")
    host, colon, port = value.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65_535:
        raise ValueError(f"expected host:port, as in 127.0.0.1:5240, not {value!r}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"an IPv6 address stands in brackets, as in [::1]:5240, not {value!r}")
    return host, int(port)


def load_settings(
    overrides: Mapping[str, Any] | None = None, config_file: Path | None = None
) -> Settings:
    """Read the settings from all their sources.

    Args:
        overrides: Values from the command line, by field name.
        config_file: The settings file; without one, what `LUNA_VIDEO_AGENT_CONFIG` names, or
            `lva.toml` in the current directory if it exists.

    Raises:
        ConfigurationError: With every problem found.
    """
    path, table = _read_file(config_file)
    problems = _unknown_variables()
    merged = _over(_over(table, _environment()), dict(overrides or {}))
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        problems += [_explain(item, path, table, overrides or {}) for item in error.errors()]
        raise ConfigurationError(problems, _without_wrong(merged, error)) from error
    if problems:
        raise ConfigurationError(problems, settings)
    return settings


def _without_wrong(merged: Mapping[str, Any], error: ValidationError) -> Settings | None:
    """Return the settings without the keys that are wrong, if they say which plugins run."""
    wrong = {item["loc"][0] for item in error.errors() if item["loc"]}
    if wrong & {"active_plugins", "plugins_dir"}:
        return None
    try:
        return Settings(**{key: value for key, value in merged.items() if key not in wrong})
    except ValidationError:
        return None


def _environment() -> dict[str, Any]:
    try:
        return EnvSettingsSource(Settings)()
    except SettingsError as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise ConfigurationError([f"environment: {error}{cause}"]) from error


def _over(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """Return both merged, tables key by key, the second winning."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        both = isinstance(value, dict) and isinstance(below, dict)
        merged[key] = _over(below, value) if both else value  # type: ignore[arg-type]
    return merged


def _parse_list(value: str) -> list[Any]:
    text = value.strip()
    if text.startswith("["):
        try:
            parsed: list[Any] = json.loads(text)
        except ValueError as error:
            raise ValueError(f"this is no JSON list: {error}") from error
        return parsed
    return [item for part in text.split(",") if (item := part.strip())]


def _read_file(config_file: Path | None) -> tuple[Path | None, dict[str, Any]]:
    named = config_file or (Path(env) if (env := os.environ.get(CONFIG_VARIABLE)) else None)
    path = named or DEFAULT_FILE
    try:
        if (why := untrusted(path)) is not None:
            raise ConfigurationError([f"{path}: {why}"])
        with path.open("rb") as file:
            return path, tomllib.load(file)
    except FileNotFoundError:
        if named is None:
            return None, {}
        raise ConfigurationError([f"{path}: there is no such settings file"]) from None
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be read: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"{path}: not valid TOML: {error}"]) from error


def _unknown_variables() -> list[str]:
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields} | {CONFIG_VARIABLE}
    tables = f"{ENV_PREFIX}PLUGINS__"
    return [
        f"environment: {name}: unknown setting{suggestion(name, known)}"
        for name in sorted(os.environ)
        if name.upper().startswith(ENV_PREFIX)
        and name.upper() not in known
        and not name.upper().startswith(tables)
    ]


def _explain(
    error: Any, path: Path | None, table: Mapping[str, Any], overrides: Mapping[str, Any]
) -> str:
    """Turn one of pydantic's errors into a message that names the key and where it was set."""
    keys: Sequence[str | int] = error["loc"]
    where = _origin(keys, path, table, overrides)
    if error["type"] == "extra_forbidden":
        model = PluginSettings if keys[0] == "plugins" else Settings
        known = model.model_fields
        hint = suggestion(str(keys[-1]), known) or f"; known are {listing(known)}"
        return f"{where}: unknown key{hint}"
    message, value = plain(error["msg"]), f"{error['input']!r:.80}"
    return (
        f"{where}: {message}"
        if not keys or value in message
        else f"{where}: {message} (got {value})"
    )


def _origin(
    keys: Sequence[str | int],
    path: Path | None,
    table: Mapping[str, Any],
    overrides: Mapping[str, Any],
) -> str:
    if not keys:
        return "settings"
    dotted = ".".join(str(key) for key in keys)
    if keys[0] in overrides:
        return f"command line: {dotted}"
    variable = f"{ENV_PREFIX}{'__'.join(str(key) for key in keys).upper()}"
    if any(
        variable.startswith(name.upper())
        for name in os.environ
        if name.upper().startswith(ENV_PREFIX)
    ):
        return f"environment: {variable}"
    return f"{path}: {dotted}" if path and keys[0] in table else dotted


def plain(message: str) -> str:
    """Return pydantic's message without its technical prefix, starting with a small letter."""
    text = message.removeprefix("Value error, ")
    return text[:1].lower() + text[1:]
