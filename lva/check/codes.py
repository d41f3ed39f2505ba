"""The kinds of problems that `lva check` knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: Each kind, with what it stands for; the documentation lists them.
CODES: Final[Mapping[str, str]] = {
    "name": "no such plugin, a name that is none, or one that was found twice",
    "file": "a file that cannot be read, or that is reached by a link from outside",
    "trust": "a file or directory that others may write",
    "entry-point": "an entry point of an installed package that names no module",
    "syntax": "not Python",
    "import": "importing the file fails; a missing package is named",
    "class": "no plugin class in the file",
    "abstract": "a class lacks a method that its base class requires",
    "console-page": "consolePage is no lva.ConsolePage",
    "event-name": "eventName is missing or unknown, or points are published as an unknown event",
    "runtime": "both styles in one file or class; asyncio in a Trio-style coroutine, or the reverse",
    "host-settings": "host_settings are wrong",
    "config-model": "Config is no pydantic model",
    "config": "the settings of the plugin do not fit its Config; a warning if there are none yet",
    "not-async": "a method that must be a coroutine is none",
    "async": "a method of an analytics plugin is a coroutine",
    "signature": "a method or handler does not take what it is called with",
    "constructor": "__init__() does not call its base, or uses what is not there yet",
    "misspelt": "a name that is nearly one of the contract's (warning)",
    "unused": "a method that is never called for this kind of plugin (warning)",
    "attribute": "self.addRoute() in an event plugin; what an analytics plugin or a frame does not have",
    "result": "handleFrame() returns or yields what is no AnalyticsEvent",
    "host-import": "an analytics plugin imports what is the service's",
    "points": "a point's tags or fields are changed in place",
    "verb": "a handler class without a verb, or with one in capitals",
    "route": "a path that is malformed or taken, or a handler that is none",
    "blocking": "a call that blocks in a coroutine, by itself or through a function of the plugin; a"
    " warning on asyncio, and for calls that are short most of the time",
    "not-awaited": "a coroutine that is made and thrown away",
    "cancellation": "Trio's cancellation is swallowed (warning)",
    "signal": "a signal handler: signals are the service's",
    "exit": "os._exit(); sys.exit() (warning)",
    "system-task": "a Trio system task, which is out of the host's reach (warning)",
    "thread": "a thread that is no daemon (warning)",
    "run": "with --run: a guarantee that does not hold",
    "points-sent": "with --points: points that were not delivered; a warning if they were rejected",
}
