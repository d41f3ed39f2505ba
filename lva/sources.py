"""Where settings come from: the environment, the settings file, and what is common to all sources."""

from __future__ import annotations

import json
import os
import stat
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic_settings import BaseSettings, EnvSettingsSource

from lva.errors import ConfigurationError, suggestion
from lva.trust import untrusted

ENV_PREFIX: Final = "LUNA_VIDEO_AGENT_"
#: The environment variable that names the settings file.
CONFIG_VARIABLE: Final = f"{ENV_PREFIX}CONFIG"
DEFAULT_FILE: Final = Path("lva.toml")


@dataclass(frozen=True)
class Source:
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
class Environment(Source):
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


def read_environment(model: type[BaseSettings]) -> Environment:
    """Read the variables of a model's settings."""
    source = EnvSettingsSource(model)
    values, unreadable = {}, []
    # In the order of their names, a variable for a table comes before those for keys in it.
    for name, value in sorted(source.env_vars.items()):
        if _holds_table(name.upper()) and (why := _table_problem(value or "")) is not None:
            unreadable.append(f"environment: {name.upper()}: {why}")
        else:
            values[name] = value
    source.env_vars = values
    return Environment(
        "environment", source(), frozenset(name.upper() for name in values), unreadable
    )


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


def unknown_variables(model: type[BaseSettings]) -> list[str]:
    """Return a message for each variable with our prefix that is none of the model's."""
    known = {f"{ENV_PREFIX}{name.upper()}" for name in model.model_fields} | {CONFIG_VARIABLE}
    return [
        f"environment: {name}: unknown setting{suggestion(name, known)}"
        for name in sorted(os.environ)
        if name.upper().startswith(ENV_PREFIX)
        and name.upper() not in known
        and not name.upper().startswith(f"{ENV_PREFIX}PLUGINS__")
    ]


def read_file(config_file: Path | None) -> Source:
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
            values = tomllib.load(file)
            if "admin_token" in values and os.fstat(file.fileno()).st_mode & stat.S_IROTH:
                why = "everybody may read the admin_token in it"
                raise ConfigurationError([f"{path}: {why}; run: chmod o-r {path}"])
            return Source(str(path), values)
    except FileNotFoundError:
        if named is None:
            return Source(str(path), {})
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
