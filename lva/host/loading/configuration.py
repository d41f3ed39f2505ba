"""What plugin classes say in `host_settings` and `Config`, put together with the user's table."""

from __future__ import annotations

import inspect
import reprlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import AliasChoices, AliasPath, BaseModel, RootModel, ValidationError

from lva.contract import BaseBackgroundPlugin, BaseEventPlugin
from lva.errors import PluginProblem, hint, wrong_key
from lva.host.loading.finder import PluginFileError
from lva.host.plugin_modules import plugin_entry
from lva.logs.loggers import keep_secret
from lva.settings import ENV_PREFIX, PluginSettings, keys_of
from lva.settings.variables import plain, settled, validated

PluginClass: TypeAlias = type[BaseEventPlugin] | type[BaseBackgroundPlugin]


def with_defaults(
    table: PluginSettings, classes: Sequence[PluginClass], path: Path
) -> PluginSettings:
    """Return the user's table with the defaults of a file's classes below it.

    Raises:
        PluginFileError: A class's `host_settings` are wrong.
    """
    defaults: dict[str, Any] = {}
    problems: list[PluginProblem] = []
    for cls in classes:
        own: object = cls.host_settings
        if (why := _wrong_defaults(own)) is not None:
            said = f"class {cls.__name__}: host_settings{why}"
            problems.append(PluginProblem(said, *place_of(cls, path), "host-settings"))
        elif isinstance(own, Mapping):
            defaults |= own
    if problems:
        raise PluginFileError(*problems)
    return table.over(defaults) if defaults else table


def _wrong_defaults(own: object) -> str | None:
    if not isinstance(own, Mapping):
        return f" must be a dictionary, not {reprlib.repr(own)}"
    if not own:
        return None
    if "from" in own:
        return " cannot hold 'from'; only the settings make a second instance of a plugin"
    try:
        PluginSettings.model_validate(dict(own))
    except ValidationError as error:
        return f": {'; '.join(_lines(error, keys_of(PluginSettings)))}"
    return None


def defaults_of(name: str, cls: type[Any], values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return a part of a class's configuration, whose rest comes later.

    Args:
        name: The plugin's.
        cls: A class with a `Config`.
        values: What `[plugins.NAME.config]` says.
        path: The plugin's file.

    Raises:
        PluginFileError: With everything that is wrong; without values, which may be secrets.
    """
    _check_models([cls], path)
    model: type[BaseModel] | None = cls.Config
    _keep_secrets(values, [model])
    lines = _unknown_keys(values, [_keys(model)])
    decoded = dict(plain(values))
    if model is not None and not lines:
        decoded, missing_too = settled(model, values)
        lines = [] if missing_too is None else _lines(missing_too, skip="missing")
    _refuse(name, lines)
    return decoded


def configs_of(
    name: str, classes: Sequence[PluginClass], values: Mapping[str, Any], path: Path, bind: str
) -> dict[PluginClass, Any]:
    """Return what each class of a file sees as `self.config`: its part of `[plugins.NAME.config]`.

    Args:
        name: The plugin's.
        classes: Of its file.
        values: What `[plugins.NAME.config]` says.
        path: The plugin's file.
        bind: Where the service will listen, for validators.

    Raises:
        PluginFileError: With everything that is wrong; without values, which may be secrets.
    """
    _check_models(classes, path)
    models = {cls: cls.Config for cls in classes}
    _keep_secrets(values, models.values())
    known = [_keys(model) for model in models.values()]
    lines = _unknown_keys(values, known)
    broken: list[str] = []
    configs: dict[PluginClass, Any] = {}
    for (cls, model), keys in zip(models.items(), known, strict=True):
        part = {key: value for key, value in values.items() if keys is None or key in keys}
        try:
            configs[cls] = (
                plain(part) if model is None else validated(model, part, plain, {"bind": bind})
            )
        except ValidationError as error:
            lines += _lines(error, variable=f"{ENV_PREFIX}PLUGINS__{name}__CONFIG")
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            broken.append(_broken_validator(error, cls, path))
    _refuse(name, lines, broken)
    return configs


def _refuse(name: str, lines: Iterable[str], broken: Iterable[str] = ()) -> None:
    """Raise what is wrong, if anything is: lines that begin with a key or nothing, and broken validators."""
    place = f"plugins.{name}.config"
    # Two classes may say the same of a key that both have.
    told = [f"{place}{'' if line.startswith(':') else '.'}{line}" for line in dict.fromkeys(lines)]
    told += broken
    if told:
        said = "\n  ".join(["its configuration is wrong:", *told])
        raise PluginFileError(PluginProblem(said, code="config"))


def place_of(cls: type, path: Path) -> tuple[Path, int | None]:
    """Return the file and line where a class of a plugin is defined; the line if it can be found."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None) or path
    try:
        return Path(file), inspect.getsourcelines(cls)[1]
    except (OSError, TypeError, IndexError, SyntaxError):
        return Path(file), None


def _check_models(classes: Iterable[type[Any]], path: Path) -> None:
    problems = []
    for cls in classes:
        model: object = cls.Config
        if model is not None and not (inspect.isclass(model) and issubclass(model, BaseModel)):
            said = f"{cls.__name__}.Config must be a pydantic model, not {reprlib.repr(model)}"
            problems.append(PluginProblem(said, *place_of(cls, path), "config-model"))
    if problems:
        raise PluginFileError(*problems)


def _keep_secrets(values: Mapping[str, Any], models: Iterable[type[BaseModel] | None]) -> None:
    """Have secrets masked, before validation: a validator's message may quote what it was given."""
    if values:
        keep_secret(values)
        for model in models:
            keep_secret({"secret": [values.get(key) for key in _secret_keys(model)]})


def _keys(model: type[BaseModel] | None) -> set[str] | None:
    """Return the keys that a model reads, or None if it takes whatever there is."""
    if model is None or issubclass(model, RootModel) or model.model_config.get("extra") == "allow":
        return None
    config = model.model_config
    by_name = config.get("populate_by_name") or config.get("validate_by_name")
    keys: set[str] = set()
    for name, field in model.model_fields.items():
        alias = field.validation_alias
        keys |= _alias_keys(alias)
        if alias is None or by_name:
            keys.add(name)
    return keys


def _alias_keys(alias: str | AliasPath | AliasChoices | None) -> set[str]:
    if alias is None:
        return set()
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return {str(item.path[0]) if isinstance(item, AliasPath) else item for item in choices}


def _secret_keys(model: type[BaseModel] | None) -> set[str]:
    """Return the keys of a model that hold one of pydantic's secret types."""
    found: set[str] = set()
    for name, field in model.model_fields.items() if model is not None else ():
        if "Secret" in str(field.annotation):
            found |= {name} | _alias_keys(field.validation_alias)
    return found


def _unknown_keys(values: Iterable[str], known: Sequence[set[str] | None]) -> list[str]:
    """Report the keys that no class of the file reads: most likely slips of the pen."""
    keys: set[str] = set()
    for some in known:
        if some is None:
            return []
        keys |= some
    return [f"{key}: unknown key{hint(key, keys)}" for key in values if key not in keys]


def _lines(
    error: ValidationError, known: Iterable[str] = (), variable: str = "", skip: str = ""
) -> list[str]:
    """Return pydantic's errors with the key's path, and how a missing one is set, by a variable too."""
    lines = []
    for item in error.errors(include_input=False, include_context=False):
        if item["type"] == skip:
            continue
        keys = [*map(str, item["loc"])]
        line = f"{'.'.join(keys)}: {wrong_key(item, known)}"
        if variable and item["type"] == "missing":
            line += f"; set it there, or as {'__'.join([variable, *keys]).upper()}"
        lines.append(line)
    return lines


def _broken_validator(error: BaseException, cls: PluginClass, path: Path) -> str:
    """Name the line that raised; not the error's text, which may quote the value."""
    entry = plugin_entry(error)
    place = f"{entry.tb_frame.f_code.co_filename}:{entry.tb_lineno}" if entry else str(path)
    return (
        f"{place}: class {cls.__name__}: its Config failed with {type(error).__name__};"
        " a validator should raise ValueError"
    )
