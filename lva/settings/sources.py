"""Where settings come from: the environment, the settings file, and what is common to all sources."""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lva.errors import SYNONYMS, ConfigurationError, suggestion
from lva.logs.loggers import service_logger
from lva.settings.trust import untrusted
from lva.settings.variables import VariableText

ENV_PREFIX: Final = "LUNA_VIDEO_AGENT_"
#: The environment variable that names the settings file.
CONFIG_VARIABLE: Final = f"{ENV_PREFIX}CONFIG"
DEFAULT_FILE: Final = Path("lva.toml")
LOGGER: Final = service_logger("lva.service")
_LINK: Final = re.compile(rf"{ENV_PREFIX}(\w+_)?PORT(_\d+_(TCP|UDP|SCTP))?")
_LINKED: Final = re.compile(r"(tcp|udp|sctp)://")
_LINK_PART: Final = re.compile(
    rf"{ENV_PREFIX}(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR))"
)


@dataclass(frozen=True)
class SettingsSource:
    """One place that settings come from.

    Attributes:
        name: What messages call it.
        values: By field name.
    """

    name: str
    values: dict[str, Any]

    def sets(self, keys: Sequence[str | int]) -> bool:
        """Return whether a value comes from here; an item of a list comes with its list."""
        table: Any = self.values
        for key in keys:
            if not isinstance(table, Mapping):
                return True
            if key not in table:
                return False
            table = table[key]
        return True

    def place(self, keys: Sequence[str | int]) -> str:
        """Return where in this source a value is set."""
        return f"{self.name}: {'.'.join(map(str, keys))}"


@dataclass(frozen=True)
class Environment(SettingsSource):
    """The `LUNA_VIDEO_AGENT_*` variables.

    Attributes:
        variables: The names of those that are set, in capitals.
        unreadable: A message for each that should hold a table and does not; left out of `values`.
    """

    variables: frozenset[str]
    unreadable: list[str]

    def place(self, keys: Sequence[str | int]) -> str:
        """Return the variable that sets a value: its own, or the one that holds its table or list."""
        for end in range(len(keys), 0, -1):
            name = f"{ENV_PREFIX}{'__'.join(map(str, keys[:end])).upper()}"
            if name in self.variables:
                break
        return ": ".join([self.name, name, *filter(None, [".".join(map(str, keys[end:]))])])


def read_environment(fields: Collection[str]) -> Environment:
    """Read the variables for fields of the settings; those for plugins lead into their tables, by ``__``."""
    values: dict[str, Any] = {}
    unreadable, used = [], set()
    # In the order of their names, a variable for a table comes before those for keys in it.
    for name, text in sorted(_our_variables().items()):
        keys = name.removeprefix(ENV_PREFIX).lower().split("__")
        if keys[0] not in fields or (len(keys) > 1 and keys[0] != "plugins"):
            continue
        value: Any = VariableText(text)
        if _holds_table(name):
            if (why := _table_problem(text)) is not None:
                unreadable.append(f"environment: {name}: {why}")
                continue
            value = json.loads(text)
        used.add(name)
        _put(values, keys, value)
    return Environment("environment", values, frozenset(used), unreadable)


def _our_variables() -> dict[str, str]:
    """Return the variables with our prefix, their names in capitals; of two that differ in case, one."""
    ours = {name.upper(): text for name, text in os.environ.items()}
    return {name: text for name, text in ours.items() if name.startswith(ENV_PREFIX)}


def _put(table: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Set a value in tables within tables; one that is written as JSON is read for it."""
    *above, last = keys
    for key in above:
        below = table.get(key)
        below = below.decoded() if isinstance(below, VariableText) else below
        table[key] = below if isinstance(below, dict) else {}
        table = table[key]
    table[last] = over({last: table.get(last)}, {last: value})[last]


def _holds_table(variable: str) -> bool:
    """Return whether a variable is `PLUGINS`, `PLUGINS__NAME` or `PLUGINS__NAME__CONFIG`."""
    first, *rest = variable.removeprefix(ENV_PREFIX).split("__")
    return variable.startswith(ENV_PREFIX) and first == "PLUGINS" and rest[1:] in ([], ["CONFIG"])


def _table_problem(value: str) -> str | None:
    """Say why a text is no table; without the text, in which there may be secrets."""
    try:
        is_table = isinstance(json.loads(value), dict)
    except (ValueError, RecursionError) as error:
        return f"should be a valid dictionary in JSON: {error}"
    return None if is_table else "should be a valid dictionary in JSON"


def unknown_variables(fields: Collection[str]) -> list[str]:
    """Return a message for each variable with our prefix that is for no field; not for service links."""
    known = {f"{ENV_PREFIX}{name.upper()}" for name in fields} | {CONFIG_VARIABLE}
    ours = _our_variables()
    return [
        f"environment: {name}: unknown setting{_meant(name, known)}"
        for name in sorted(ours.keys() - known - service_links(ours))
        if not name.startswith(f"{ENV_PREFIX}PLUGINS__")
    ]


def _meant(variable: str, known: Collection[str]) -> str:
    key = variable.removeprefix(ENV_PREFIX).lower()
    if key in SYNONYMS:
        return f"; did you mean {ENV_PREFIX + SYNONYMS[key].upper()!r}?"
    return suggestion(variable, known)


def service_links(variables: Mapping[str, str]) -> set[str]:
    """Return which variables are Kubernetes's or Docker's, for a Service or container of our name.

    A Service ``luna-video-agent`` makes such of each pod of its namespace: ``LUNA_VIDEO_AGENT_SERVICE_HOST``,
    ``LUNA_VIDEO_AGENT_PORT=tcp://10.0.0.1:80``, ``LUNA_VIDEO_AGENT_PORT_80_TCP_ADDR``.
    """
    return {
        name
        for name, text in variables.items()
        if _LINK_PART.fullmatch(name) or (_LINK.fullmatch(name) and _LINKED.match(text))
    }


def warn_of_service_links() -> None:
    """Log, in one warning, which variables were ignored."""
    if links := sorted(service_links(_our_variables())):
        LOGGER.warning(
            "ignored %s: set by Kubernetes for a Service, not for the settings; enableServiceLinks: false in"
            " the pod's spec leaves such variables out",
            ", ".join(links),
        )


def read_file(config_file: Path | None) -> SettingsSource:
    """Read the settings file: the one given, or named by the environment, or the usual one if any.

    Raises:
        ConfigurationError: A file that was named does not exist, or the file cannot be used.
    """
    named = _named_file(config_file)
    path = settings_file(config_file)
    try:
        if (why := untrusted(path)) is not None:
            raise ConfigurationError([f"{path}: {why}"])
        with path.open("rb") as file:
            values = tomllib.loads(file.read().decode("utf-8-sig"))
            if "admin_token" in values and os.fstat(file.fileno()).st_mode & stat.S_IROTH:
                why = "everybody may read the admin_token in it"
                raise ConfigurationError([f"{path}: {why}; run: chmod o-r {path}"])
            return SettingsSource(str(path), values)
    except FileNotFoundError:
        if named is None:
            return SettingsSource(str(path), {})
        raise ConfigurationError([f"{path}: there is no such settings file"]) from None
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be read: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError([f"{path}: not valid TOML: {error}"]) from error


def settings_file(config_file: Path | None) -> Path:
    """Return where the settings file is, or would be: as given, as the environment says, or the usual."""
    return _named_file(config_file) or DEFAULT_FILE


def _named_file(config_file: Path | None) -> Path | None:
    return config_file or (Path(env) if (env := os.environ.get(CONFIG_VARIABLE)) else None)


def over(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Return both merged, tables key by key, the second winning."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        both = isinstance(value, dict) and isinstance(below, dict)
        merged[key] = over(below, value) if both else value  # type: ignore[arg-type] # `both` says so
    return merged
