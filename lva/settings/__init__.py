"""The service's settings, and the readers of their sources: command line, environment, settings file.

`service` has each setting with its default; `sources` and `variables` read them, `trust` says whether a file
can be trusted, and `user_paths` has paths for the settings of plugins.
"""

from lva.settings.service import (
    CONFIG_VARIABLE,
    DEFAULT_FILE,
    EMBEDDED_PLUGINS,
    ENV_PREFIX,
    MIN_TOKEN_LENGTH,
    PluginSettings,
    Settings,
    SettingsError,
    explain,
    keys_of,
    load_settings,
    parse_bind,
)

__all__ = [
    "CONFIG_VARIABLE",
    "DEFAULT_FILE",
    "EMBEDDED_PLUGINS",
    "ENV_PREFIX",
    "MIN_TOKEN_LENGTH",
    "PluginSettings",
    "Settings",
    "SettingsError",
    "explain",
    "keys_of",
    "load_settings",
    "parse_bind",
]
