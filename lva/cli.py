"""The command line: `lva run`; the other commands are in `lva.commands` and `lva.client`."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from lva import __version__
from lva.client.commands import COMMANDS
from lva.client.stream_commands import streams
from lva.commands.check import check
from lva.commands.new import new
from lva.commands.plugins import plugins
from lva.errors import SYNONYMS, ConfigurationError
from lva.logs.standard_streams import Commands

if TYPE_CHECKING:
    from lva.settings import Settings
#: How long, in seconds, the process may take to end once all is told.
THREADS_GRACE: Final = 0.5


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lva")
def main() -> None:
    """LVA: a video agent service whose work is done by plugins."""


for _command in (plugins, check, new, streams, *COMMANDS):
    main.add_command(_command)


class _RunCommand(click.Command):
    """Knows what the option is called that others call ``--port``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if (key := error.option_name.lstrip("-")) in SYNONYMS:
                said = f"No such option '--{key}'. Did you mean '--{SYNONYMS[key]}'?"
                raise click.NoSuchOption(error.option_name, said, ctx=ctx) from error
            raise


@main.command(cls=_RunCommand)
@click.option("--bind", metavar="HOST:PORT", help="Where to listen (127.0.0.1:5240).")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The settings file (lva.toml, if there is one).",
)
@click.option(
    "--plugins-dir",
    "plugins_dir",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A directory with plugins; may be repeated.",
)
@click.option(
    "--active",
    "active_plugins",
    multiple=True,
    metavar="NAME",
    help="A plugin to run; may be repeated.",
)
@click.option("--watch", is_flag=True, help="Reload a plugin when its file is saved.")
@click.option("--log-level", metavar="LEVEL", help="DEBUG, INFO, WARNING, ERROR or CRITICAL.")
@click.option("--log-format", metavar="FORMAT", help="text or json.")
def run(config: Path | None, watch: bool, **options: Any) -> None:
    """Run the service until SIGTERM or Ctrl-C.

    Options override the LUNA_VIDEO_AGENT_* environment, which overrides the settings file.
    Exit codes: 0 clean; 2 wrong settings or plugin files; 3 a critical plugin failed;
    4 a plugin was abandoned or points were dropped; 70 ended by the watchdog.
    """
    from lva.host.process.needed_threads import NoThreadError
    from lva.host.receipt import EXIT_KILLED  # late, as the next: the other commands need no server
    from lva.server.signals import Signals

    signals = Signals()
    overrides = {key: value for key, value in options.items() if value not in (None, ())}
    try:
        with signals.handled():
            sys.exit(_reporting_problems(lambda: _run(overrides, config, watch, signals)))
    except NoThreadError as error:
        click.echo(f"lva: {error}; nothing was started", err=True)
        sys.exit(EXIT_KILLED)


def _run(overrides: dict[str, Any], config: Path | None, watch: bool, signals: Any) -> int:
    from lva.logs.loggers import set_up
    from lva.server import state_directory
    from lva.settings import SettingsError, load_settings
    from lva.settings.sources import warn_of_service_links

    try:
        settings = load_settings(overrides, config)
    except SettingsError as error:
        raise ConfigurationError([*error.problems, *_plugin_problems(error.partial)]) from error
    set_up(settings.log_level, settings.log_format)
    warn_of_service_links()
    with state_directory.owned(settings.state_dir, settings.bind):
        return _serve(settings, watch, signals)


def _serve(settings: Settings, watch: bool, signals: Any) -> int:
    from lva.app import create_app
    from lva.host.loading.load import load_plugins
    from lva.logs.loggers import flush
    from lva.server import listening, serve
    from lva.server.terminal import announce

    gc.set_threshold(*serve.GC_THRESHOLDS)
    service = create_app(settings)
    service.watch = watch
    serve.watch_loading(service, settings, signals)
    service.plugins = load_plugins(settings)
    listener = listening.listen(settings.bind)
    announce(settings, service.plugins, listening.address_of(listener))
    code = serve.run(service, settings, listener, signals)
    flush()
    # Python waits for threads that are no daemons, for as long as they like; the service does not.
    service.terminator.exit_after(THREADS_GRACE, code)
    return code


def _plugin_problems(settings: Settings | None) -> list[str]:
    """Return what is wrong with the plugins, so that one run shows all there is to mend."""
    from lva.host.loading.load import load_plugins

    if settings is not None:
        try:
            load_plugins(settings)
        except ConfigurationError as error:
            return error.problems
    return []


def _reporting_problems(work: Callable[[], int]) -> int:
    """Return the work's exit code, or 2 after printing every problem of the configuration."""
    from lva.host.receipt import EXIT_CONFIGURATION
    from lva.logs.loggers import redact

    try:
        return work()
    except ConfigurationError as error:
        count = len(error.problems)
        click.echo(
            f"lva: {count} problem{'s' if count > 1 else ''}, nothing was started:", err=True
        )
        for problem in error.problems:
            click.echo("  - " + redact(problem).replace("\n", "\n    "), err=True)
        return EXIT_CONFIGURATION
