"""A gallery of plugins with one fault each, which `lva check` has to name, and of right ones to let pass.

The line with the fault ends with ``# <-``.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from lva.check.codes import CODES
from lva.check.plugins import CheckReport, check_plugins
from lva.settings import Settings
from tests.check.analytics_gallery import (
    RIGHT_ANALYTICS,
    WRONG_ANALYTICS,
    WRONG_IMPORTS,
    analytics,
)

MARK = "# <-"


pytestmark = pytest.mark.usefixtures("no_modules_left")


def check_source(tmp_path: Path, source: str, **tables: Any) -> CheckReport:
    """Write one plugin file and check it."""
    path = tmp_path / "cam.py"
    path.write_text(textwrap.dedent(source).lstrip("\n"))
    path.chmod(0o644)
    settings = Settings(active_plugins=("cam",), plugins_dir=(tmp_path,), plugins=tables)
    (report,) = check_plugins(["cam"], settings)
    return report


def fault(id: str, code: str, said: str, source: str, level: str = "error") -> Any:  # noqa: A002
    """Return a plugin with one fault."""
    return pytest.param(source, code, said, level, id=id)


def event(body: str, imports: str = "") -> str:
    """Return an event plugin with more in its class; a right one without."""
    return _plugin("BaseEventPlugin", body, imports, 'eventName = "monitoring_event"')


def background(body: str, imports: str = "") -> str:
    """Return a background plugin with this in its class."""
    return _plugin("BaseBackgroundPlugin", body, imports, "")


def on_asyncio(body: str, imports: str = "") -> str:
    """Return a background plugin in asyncio style."""
    return _plugin("BaseBackgroundPlugin", body, imports, 'runtime = "asyncio"')


def _plugin(base: str, body: str, imports: str, first: str) -> str:
    lines = [
        *textwrap.dedent(imports).strip().splitlines(),
        "from lva import *",
        f"class Cam({base}):",
    ]
    inside = textwrap.dedent(body).strip("\n")
    if "Event" in base and "handleEvent" not in inside:
        inside += "\nasync def handleEvent(self, points, logger): ..."
    return "\n".join([*lines, textwrap.indent(f"{first}\n{inside}", "    ")])


WRONG = [
    # what the host refuses
    fault("syntax", "syntax", "invalid syntax", "x = 1\ndef f(:  # <-\n"),
    fault("import fails", "import", "ZeroDivisionError", "x = 1\n1 / 0  # <-\n"),
    fault("package missing", "import", "install the package that provides 'no_such_package'",
          "import no_such_package  # <-\n"),
    fault("no class", "class", "no plugin class in it", "x = 1\n"),
    fault("abstract", "abstract", "class Cam does not define handleEvent", """
        from lva import *
        class Cam(BaseEventPlugin):  # <-
            eventName = "monitoring_event"
        """),
    fault("abstract monitoring", "abstract", "does not define flushPointToMonitoring", """
        from lva import *
        class Cam(BaseRequestMonitoringPlugin):  # <-
            ...
        """),
    fault("no eventName", "event-name", "class Cam sets no eventName", """
        from lva import *
        class Cam(BaseEventPlugin):  # <-
            async def handleEvent(self, points, logger): ...
        """),
    fault("consolePage that is none", "console-page", "class Cam has a consolePage that is no", """
        from lva import BaseBackgroundPlugin

        class Cam(BaseBackgroundPlugin):  # <-
            consolePage = "cameras.js"
        """),
    fault("unknown eventName", "event-name", "did you mean 'monitoring_event'?", """
        from lva import *
        class Cam(BaseEventPlugin):  # <-
            eventName = "monitoring_evnt"
            async def handleEvent(self, points, logger): ...
        """),
    fault("unknown runtime", "runtime", "unknown runtime 'asincio'; did you mean 'asyncio'?", """
        from lva import *
        class Cam(BaseBackgroundPlugin):  # <-
            runtime = "asincio"
        """),
    fault("two styles in one file", "runtime", "the classes of one file share one runtime", """
        from lva import *
        class Cam(BaseBackgroundPlugin): ...
        class Dam(BaseBackgroundPlugin):
            runtime = "asyncio"
        """),
    fault("two styles in one class", "runtime", "class Cam mixes both styles", """
        from lva import BaseEventPlugin
        from luna_plugins.base.plugins_meta.base_plugins import BaseBackgroundPlugin
        class Cam(BaseEventPlugin, BaseBackgroundPlugin):  # <-
            eventName = "monitoring_event"
            async def handleEvent(self, points, logger): ...
        """),
    fault("host_settings", "host-settings", "batchsize: unknown key; did you mean 'batch_size'?", """
        from lva import *
        class Cam(BaseBackgroundPlugin):  # <-
            host_settings = {"batchsize": 1}
        """),
    fault("Config is no model", "config-model", "Cam.Config must be a pydantic model", """
        from lva import *
        class Cam(BaseBackgroundPlugin):  # <-
            Config = dict
        """),
    fault("a signal at the import", "signal", "sets a handler for SIGUSR1", """
        import signal
        from lva import *
        signal.signal(signal.SIGUSR1, lambda *_: None)
        class Cam(BaseBackgroundPlugin): ...
        """),
    # coroutines
    fault("def initialize", "not-async", "write `async def initialize`",
          background("def initialize(self): self.x = 1  # <-")),
    fault("def start", "not-async", "Cam.start() must be a coroutine",
          background("def start(self): ...  # <-")),
    fault("def close", "not-async", "Cam.close() must be a coroutine",
          background("def close(self):  # <-\n    return None")),
    fault("def handleEvent", "not-async", "handleEvent(points, logger) must be a coroutine",
          event("def handleEvent(self, points, logger): ...  # <-")),
    fault("def flush", "not-async", "write `async def flushPointToMonitoring`", """
        from lva import BaseRequestMonitoringPlugin
        class Cam(BaseRequestMonitoringPlugin):
            def flushPointToMonitoring(self, point, logger): ...  # <-
        """),
    fault("a generator", "not-async", "yields, which makes it a generator",
          background("async def start(self):  # <-\n    yield 1")),
    fault("async __init__", "not-async", "cannot be a coroutine",
          background("async def __init__(self, app): super().__init__(app)  # <-")),
    # arguments
    fault("handleEvent takes one", "signature", "takes 1 argument besides `self`",
          event("async def handleEvent(self, points): ...  # <-")),
    fault("handleEvent takes three", "signature", "asks for 'extra'",
          event("async def handleEvent(self, points, logger, extra): ...  # <-")),
    fault("handleEvent by name", "signature", "takes no arguments besides `self`",
          event("async def handleEvent(self, *, points, logger): ...  # <-")),
    fault("no self", "signature", "takes no `self`", background("async def start(): ...  # <-")),
    fault("start takes the app", "signature", "the host calls `await plugin.start()`",
          background("async def start(self, app): ...  # <-")),
    fault("flush takes one", "signature", "takes 1 argument besides `self`", """
        from lva import BaseRequestMonitoringPlugin
        class Cam(BaseRequestMonitoringPlugin):
            async def flushPointToMonitoring(self, point): ...  # <-
        """),
    fault("__init__ without app", "signature", "the host calls `Cam(app)`",
          background("def __init__(self): super().__init__(None)  # <-")),
    fault("a verb without the request", "signature", "Handler.get() takes no arguments besides `self`", """
        from lva import *
        class Handler(BaseBackgroundHandler):
            async def get(self): ...  # <-
        class Cam(BaseBackgroundPlugin): ...
        """),
    fault("a verb without the variable", "route", "called as get(request, camera=…)", """
        from lva import *
        class Handler(BaseBackgroundHandler):
            async def get(self, request): ...  # <-
        class Cam(BaseBackgroundPlugin):
            async def initialize(self):
                self.addRoute("/cams/<int:camera>", Handler)
        """),
    fault("a variable of another name", "route", "called as show(request, camera=…)", background("""
        async def initialize(self):
            self.addRoute("/cams/<int:camera>", self.show)
        async def show(self, request, cam): ...  # <-
        """)),
    fault("a handler without the request", "route", "besides `self`; it is called as show(",
          background("""
        async def initialize(self):
            self.addRoute("/cams", self.show)
        async def show(self): ...  # <-
        """)),
    # what classes have and do
    fault("no super().__init__", "constructor", "must call `super().__init__(app)`",
          background("def __init__(self, app):  # <-\n    self.count = 0")),
    fault("nursery in __init__", "constructor", "self.nursery is not there in __init__()",
          background("""
        def __init__(self, app):
            super().__init__(app)
            self.nursery.start_soon(print)  # <-
        """)),
    fault("route in __init__", "constructor", "self.addRoute is not there in __init__()", background("""
        def __init__(self, app):
            super().__init__(app)
            self.addRoute("/cams", self.show)  # <-
        async def show(self, request): ...
        """)),
    fault("start of an event plugin", "unused", "Cam.start() is never called",
          event("async def start(self): ...  # <-"), "warning"),
    fault("addRoute of an event plugin", "attribute", "use self.app.addRoute()", event("""
        async def initialize(self):
            self.addRoute("/cams", self.show)  # <-
        async def show(self, request): ...
        """)),
    fault("initialise", "misspelt", "did you mean 'initialize'?",
          background("async def initialise(self): ...  # <-"), "warning"),
    fault("on_close", "misspelt", "did you mean 'close'?",
          background("async def on_close(self): ...  # <-"), "warning"),
    fault("tags set", "points", "refuses changes", event("""
        async def handleEvent(self, points, logger):
            for point in points:
                point.tags["site"] = "north"  # <-
        """)),
    fault("fields updated", "points", "copy it: dict(point.fields)", """
        from lva import BaseRequestMonitoringPlugin
        class Cam(BaseRequestMonitoringPlugin):
            async def flushPointToMonitoring(self, point, logger):
                point.fields.update(a=1)  # <-
        """),
    fault("publishes as an unknown event", "event-name", "did you mean 'monitoring_event'?",
          background('async def start(self):\n    self.app.publish("monitoring", [])  # <-')),
    # handlers and routes
    fault("no verb", "verb", "has no method for a verb", """
        from lva import *
        class Handler(BaseBackgroundHandler):  # <-
            async def answer(self, request): ...
        class Cam(BaseBackgroundPlugin): ...
        """),
    fault("verb in capitals", "verb", "verbs are in small letters: 'get'", """
        from lva import *
        class Handler(BaseBackgroundHandler):
            async def GET(self, request): ...  # <-
        class Cam(BaseBackgroundPlugin): ...
        """),
    fault("no handler class", "route", "it must derive from BaseBackgroundHandler", """
        from lva import *
        class Handler:
            async def get(self, request): ...
        class Cam(BaseBackgroundPlugin):
            async def initialize(self):
                self.addRoute("/cams", Handler)  # <-
        """),
    fault("path without a slash", "route", "a route's path starts with '/'", background("""
        async def initialize(self):
            self.addRoute("cams", self.show)  # <-
        async def show(self, request): ...
        """)),
    fault("unknown converter", "route", "malformed", background("""
        async def initialize(self):
            self.addRoute("/cams/<number:camera>", self.show)  # <-
        async def show(self, request, camera): ...
        """)),
    fault("unclosed variable", "route", "malformed", background("""
        async def initialize(self):
            self.addRoute("/cams/<int:camera", self.show)  # <-
        async def show(self, request, camera): ...
        """)),
    fault("path of the service", "route", "belongs to the service", background("""
        async def initialize(self):
            self.addRoute("/plugins/cam", self.show)  # <-
        async def show(self, request): ...
        """)),
    fault("path added twice", "route", "was added before by this plugin", background("""
        async def initialize(self):
            self.addRoute("/cams", self.show)
            self.addRoute("/cams/", self.show)  # <-
        async def show(self, request): ...
        """)),
    fault("unknown method", "route", "unknown methods ['FETCH']", background("""
        async def initialize(self):
            self.addRoute("/cams", self.show, methods={"fetch"})  # <-
        async def show(self, request): ...
        """)),
    fault("coroutine called, not passed", "route", "pass the function self.show itself", background("""
        async def initialize(self):
            self.addRoute("/cams", self.show())  # <-
        async def show(self, request=None): ...
        """)),
    fault("instance of a handler", "route", "pass the class Handler itself", """
        from lva import *
        class Handler(BaseBackgroundHandler):
            async def get(self, request): ...
        class Cam(BaseBackgroundPlugin):
            async def initialize(self):
                self.addRoute("/cams", Handler())  # <-
        """),
    fault("no handler", "route", "needs a path and a handler", background("""
        async def initialize(self):
            self.addRoute("/cams")  # <-
        """)),
    # blocking
    fault("time.sleep", "blocking", "use `await trio.sleep()`",
          background("async def start(self):\n    time.sleep(1)  # <-", "import time")),
    fault("sleep by another name", "blocking", "time.sleep() blocks",
          background("async def start(self):\n    nap(1)  # <-", "from time import sleep as nap")),
    fault("sleep imported inside", "blocking", "time.sleep() blocks", background("""
        async def start(self):
            import time as t
            t.sleep(1)  # <-
        """)),
    fault("requests", "blocking", "use httpx.AsyncClient", event("""
        async def handleEvent(self, points, logger):
            try:
                import requests
            except ImportError:
                return
            requests.post("http://sink", json=[])  # <-
        """)),
    fault("requests session", "blocking", "requests.Session().post() blocks", event("""
        async def initialize(self):
            import requests
            self.session = requests.Session()
        async def handleEvent(self, points, logger):
            self.session.post("http://sink", json=[])  # <-
        """)),
    fault("synchronous httpx", "blocking", "httpx.get() blocks",
          background("async def start(self):\n    httpx.get('http://x')  # <-", "import httpx")),
    fault("httpx.Client", "blocking", "httpx.Client().get() blocks", background("""
        async def start(self):
            with httpx.Client() as client:
                client.get("http://x")  # <-
        """, "import httpx")),
    fault("urlopen", "blocking", "urllib.request.urlopen() blocks",
          background("async def start(self):\n    urllib.request.urlopen('http://x')  # <-",
                     "import urllib.request")),
    fault("create_connection", "blocking", "use `await trio.open_tcp_stream()`",
          background("async def start(self):\n    socket.create_connection(('x', 1))  # <-",
                     "import socket")),
    fault("socket.recv", "blocking", "socket.socket().recv() blocks", background("""
        async def start(self):
            link = socket.socket()
            link.recv(10)  # <-
        """, "import socket")),
    fault("subprocess", "blocking", "use `await trio.run_process()`",
          background("async def start(self):\n    subprocess.run(['ls'])  # <-", "import subprocess")),
    fault("os.system", "blocking", "os.system() blocks",
          background("async def start(self):\n    os.system('ls')  # <-", "import os")),
    fault("through a method", "blocking", "self.read() calls time.sleep() in line", background("""
        async def start(self):
            self.read()  # <-
        def read(self):
            self.wait()
        def wait(self):
            time.sleep(1)
        """, "import time")),
    fault("in a nested coroutine", "blocking", "time.sleep() blocks", background("""
        async def start(self):
            async def work():
                time.sleep(1)  # <-
            self.nursery.start_soon(work)
        """, "import time")),
    fault("in a handler", "blocking", "in the coroutine Cam.show()", background("""
        async def initialize(self):
            self.addRoute("/cams", self.show)
        async def show(self, request):
            time.sleep(1)  # <-
        """, "import time")),
    fault("queue.get", "blocking", "queue.Queue().get() blocks", background("""
        async def initialize(self):
            self.jobs = queue.Queue()
        async def start(self):
            self.jobs.get()  # <-
        """, "import queue")),
    fault("open", "blocking", "open() blocks",
          background("async def start(self):\n    open('/dev/null').close()  # <-"), "warning"),
    fault("sqlite", "blocking", "sqlite3.connect() blocks",
          background("async def start(self):\n    sqlite3.connect('x')  # <-", "import sqlite3"), "warning"),
    fault("sleep on asyncio", "blocking", "blocks its plugin's event loop; use `await asyncio.sleep()`",
          on_asyncio("async def start(self):\n    time.sleep(1)  # <-", "import time"), "warning"),
    # the wrong runtime, and lost coroutines
    fault("asyncio on Trio", "runtime", "asyncio.sleep() does not work in Trio style",
          background("async def start(self):\n    await asyncio.sleep(1)  # <-", "import asyncio")),
    fault("create_task on Trio", "runtime", "asyncio.create_task() does not work in Trio style",
          background("async def start(self):\n    self.task = asyncio.create_task(self.close())  # <-",
                     "import asyncio")),
    fault("aiohttp on Trio", "runtime", 'set runtime = "asyncio" on the class',
          background("async def start(self):\n    self.session = aiohttp.ClientSession()  # <-",
                     "import aiohttp")),
    fault("Trio on asyncio", "runtime", "trio.sleep() does not work in asyncio style",
          on_asyncio("async def start(self):\n    await trio.sleep(1)  # <-", "import trio")),
    fault("nursery on asyncio", "runtime", "self.nursery is not there in asyncio style",
          on_asyncio("async def start(self):\n    self.nursery.start_soon(print)  # <-")),
    fault("asyncio.run in a coroutine", "runtime", "an event loop is running already", on_asyncio("""
        async def start(self):
            asyncio.run(self.work())  # <-
        async def work(self): ...
        """, "import asyncio")),
    fault("sleep not awaited", "not-awaited", "trio.sleep() is a coroutine and not awaited",
          background("async def start(self):\n    trio.sleep(1)  # <-", "import trio")),
    fault("own coroutine not awaited", "not-awaited", "self.work() is a coroutine and not awaited",
          background("""
        async def start(self):
            self.work()  # <-
        async def work(self): ...
        """)),
    fault("bare except", "cancellation", "swallows the cancellation", background("""
        async def start(self):
            while True:
                try:
                    await trio.sleep(1)
                except:  # <-
                    pass
        """, "import trio"), "warning"),
    fault("except Cancelled", "cancellation", "`except trio.Cancelled:` without `raise`", background("""
        async def start(self):
            try:
                await trio.sleep(1)
            except trio.Cancelled:  # <-
                print("stopped")
        """, "import trio"), "warning"),
    # what is the service's
    fault("a signal", "signal", "signals are the service's", background("""
        async def initialize(self):
            signal.signal(signal.SIGHUP, print)  # <-
        """, "import signal")),
    fault("add_signal_handler", "signal", "signals are the service's", on_asyncio("""
        async def initialize(self):
            asyncio.get_running_loop().add_signal_handler(1, print)  # <-
        """, "import asyncio")),
    fault("os._exit", "exit", "ends the service without closing anything",
          background("async def start(self):\n    os._exit(1)  # <-", "import os")),
    fault("sys.exit", "exit", "ends nothing but this plugin",
          background("async def start(self):\n    sys.exit(1)  # <-", "import sys"), "warning"),
    fault("a system task", "system-task", "use self.nursery.start_soon()", background("""
        async def start(self):
            trio.lowlevel.spawn_system_task(trio.sleep_forever)  # <-
        """, "import trio"), "warning"),
    fault("a thread", "thread", "pass daemon=True", background("""
        async def start(self):
            threading.Thread(target=print).start()  # <-
        """, "import threading"), "warning"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "code", "said", "level"), WRONG)
def test_the_one_fault_is_named(
    source: str, code: str, said: str, level: str, tmp_path: Path
) -> None:
    report = check_source(tmp_path, source)
    shown = "\n".join(f"{p.level} {p} [{p.code}]" for p in report.problems)
    assert len(report.problems) == 1, shown or "nothing was found"
    (problem,) = report.problems
    assert said in problem.text
    assert (problem.code, problem.level) == (code, level)
    assert report.ok is (level == "warning")
    assert problem.file == tmp_path / "cam.py"
    marked = [
        n
        for n, line in enumerate((tmp_path / "cam.py").read_text().splitlines(), 1)
        if MARK in line
    ]
    assert [problem.line] == (marked or [None])


WRONG += [fault(*case[:3], analytics(case[3])) for case in WRONG_ANALYTICS]
WRONG += [fault(*case) for case in WRONG_IMPORTS]
RIGHT = {
    "an event plugin": event(""),
    "sleep in a worker thread": background("""
        async def start(self):
            await trio.to_thread.run_sync(time.sleep, 1)
        """, "import time, trio"),
    "a method in a worker thread": background("""
        async def start(self):
            await trio.to_thread.run_sync(self.read, abandon_on_cancel=True)
        def read(self):
            time.sleep(1)
        """, "import time, trio"),
    "a nested def in a worker thread": background("""
        async def start(self):
            def read():
                time.sleep(1)
                return open("/dev/null").read()
            await trio.to_thread.run_sync(read)
        """, "import time, trio"),
    "a lambda in a worker thread": background("""
        async def start(self):
            await trio.to_thread.run_sync(lambda: time.sleep(1))
        """, "import time, trio"),
    "partial in a worker thread": background("""
        async def start(self):
            await trio.to_thread.run_sync(functools.partial(time.sleep, 1))
        """, "import time, trio, functools"),
    "asyncio.to_thread": on_asyncio("""
        async def start(self):
            await asyncio.to_thread(time.sleep, 1)
            await asyncio.get_running_loop().run_in_executor(None, time.sleep, 1)
        """, "import time, asyncio"),
    "a plain handler, which runs in a thread": background("""
        async def initialize(self):
            self.addRoute("/cams", show)
        """, "import time\ndef show(request):\n    time.sleep(1)"),
    "a constructor, which runs in a thread": background("""
        def __init__(self, app):
            super().__init__(app)
            time.sleep(0.1)
        """, "import time"),
    "a name that only looks like a module": event("""
        async def handleEvent(self, points, logger):
            requests = [point for point in points if point.series == "requests"]
            for time in requests:
                time.sleep = 1
            requests.get = None
        async def other(self, requests, socket):
            requests.get("x")
            socket.create_connection()
        """),
    "parameters that are named like modules and functions": background("""
        async def start(self):
            await self.other(1, 2)
            read = self.config
            read()
        async def other(self, time, socket):
            time.sleep(1)
            socket.create_connection()
        """, "import socket, time\ndef read():\n    time.sleep(1)"),
    "an attribute that holds now this, now that": background("""
        async def initialize(self):
            self.link = socket.socket()
        async def start(self):
            self.link.recv(1)
        def replace(self):
            self.link = make()
        """, "import socket\ndef make(): ..."),
    "a decorator that makes a thread of it": background("""
        async def start(self):
            await self.read()
        @in_thread
        def read(self):
            time.sleep(1)
        """, """
        import time, trio
        def in_thread(f):
            async def run(*args):
                return await trio.to_thread.run_sync(f, *args)
            return run
        """),
    "another library's Session": event("""
        async def initialize(self):
            self.session = make()
        async def handleEvent(self, points, logger):
            await self.session.post("http://sink")
        """, "def make(): ..."),
    "an asynchronous client": event("""
        async def initialize(self):
            self.client = httpx.AsyncClient()
        async def handleEvent(self, points, logger):
            await self.client.post("http://sink")
        """, "import httpx"),
    "asynchronous redis": on_asyncio("""
        async def initialize(self):
            self.redis = redis.from_url("redis://x")
        async def start(self):
            await self.redis.ping()
        """, "import redis.asyncio as redis"),
    "arguments with stars": event("async def handleEvent(self, *args, **kwargs): ..."),
    "arguments of other names and defaults": event(
        "async def handleEvent(self, batch, log, /, extra=None): ..."),
    "a plain function that returns an awaitable": background("""
        def initialize(self):
            return self.open()
        async def open(self): ...
        """),
    "a decorated method": background("""
        @shielded
        def close(self, scope): ...
        """, """
        import trio
        def shielded(f):
            async def run(self):
                with trio.CancelScope(shield=True) as scope:
                    f(self, scope)
            return run
        """),
    "a static method": event(
        "@staticmethod\nasync def handleEvent(points, logger): ..."),
    "a constructor that sets the app itself": background("def __init__(self, app): self.app = app"),
    "a constructor that calls its base by name": background(
        "def __init__(self, *args):\n    BaseBackgroundPlugin.__init__(self, *args)"),
    "a base class of its own": """
        from lva import *
        class Base(BaseEventPlugin):
            eventName = "monitoring_event"
            async def handleEvent(self, points, logger):
                await self.send(points)
        class Cam(Base):
            async def send(self, points): ...
        """,
    "an abstract base": """
        from abc import abstractmethod
        from lva import *
        class Base(BaseEventPlugin):
            eventName = "monitoring_event"
            @abstractmethod
            async def send(self, points): ...
            async def handleEvent(self, points, logger):
                await self.send(points)
        class Cam(Base):
            async def send(self, points): ...
        """,
    "both kinds in one class": """
        from lva import *
        class Cam(BaseEventPlugin, BaseBackgroundPlugin):
            eventName = "monitoring_event"
            async def initialize(self):
                self.addRoute("/cams", self.show)
            async def start(self): ...
            async def handleEvent(self, points, logger): ...
            async def show(self, request): ...
        """,
    "an event plugin's helper called start": event("""
        async def initialize(self):
            await self.start()
        async def start(self): ...
        """),
    "an event plugin with a route": event("""
        async def initialize(self):
            self.app.addRoute("/cams", self.show)
        async def show(self, request): ...
        """),
    "routes of all kinds": """
        from functools import partial
        from lva import *
        PATH = "/cams/constant"
        class Handler(BaseBackgroundHandler):
            async def get(self, request, camera): ...
            async def put(self, request, **variables): ...
            def delete(self, request, camera=0): ...
        class Small(Handler):
            async def patch(self, request, camera): ...
        class Cam(BaseBackgroundPlugin):
            async def initialize(self):
                self.addRoute("/cams/<int:camera>", Handler)
                self.addRoute("/small/<int:camera>", Small, methods={"patch"})
                self.addRoute(f"/{self.config}/x", self.show)
                self.addRoute(PATH, self.show, methods=["get", "POST"])
                self.addRoute("/cams/lambda", lambda request: "x")
                self.addRoute("/cams/partial", partial(self.named, name="x"))
                self.addRoute(path="/cams/made", handler=self.make("x"))
                self.addRoute("/cams/<path:rest>", self.any)
            async def show(self, request): ...
            async def named(self, request, name): ...
            async def any(self, request, *, rest): ...
            def make(self, name):
                return self.show
        """,
    "one path on two ways": background("""
        async def initialize(self):
            if self.config:
                self.addRoute("/cams", self.show)
            else:
                self.addRoute("/cams", self.tell)
        async def show(self, request): ...
        async def tell(self, request): ...
        """),
    "an asyncio loop of its own in a thread": background("""
        async def start(self):
            await trio.to_thread.run_sync(self.run, abandon_on_cancel=True)
        def run(self):
            asyncio.run(self.main())
        async def main(self):
            await asyncio.gather(self.step(), asyncio.sleep(1))
        async def step(self):
            await asyncio.sleep(1)
        """, "import asyncio, trio"),
    "cancellation noted and raised again": background("""
        async def start(self):
            try:
                await trio.sleep_forever()
            except BaseException:
                self.logger.info("stopped")
                raise
        async def close(self):
            try:
                print("no await in here")
            except BaseException:
                pass
        """, "import trio"),
    "a task cancelled and awaited on asyncio": on_asyncio("""
        async def start(self):
            self.task = asyncio.create_task(asyncio.sleep(60))
        async def close(self):
            self.task.cancel()
            try:
                await self.task
            except asyncio.CancelledError:
                pass
        """, "import asyncio"),
    "exceptions of asyncio on Trio": background("""
        async def start(self):
            try:
                await self.work()
            except asyncio.TimeoutError:
                pass
        async def work(self): ...
        """, "import asyncio"),
    "a library for both": background("""
        async def start(self):
            if sniffio.current_async_library() == "asyncio":
                await asyncio.sleep(0)
        """, "import asyncio, sniffio"),
    "trio's own sockets": background("""
        async def start(self):
            link = socket.socket()
            await link.connect(("127.0.0.1", 9))
        """, "from trio import socket"),
    "a socket that does not block": background("""
        async def start(self):
            link = socket.socket()
            link.setblocking(False)
            link.send(b"x")
        """, "import socket"),
    "a queue that is asked, not waited for": background("""
        async def start(self):
            self.jobs = queue.Queue()
            self.jobs.put(1)
            self.jobs.get(block=False)
            self.jobs.get_nowait()
        """, "import queue"),
    "a daemon thread": background("""
        async def start(self):
            thread = threading.Thread(target=print, daemon=True)
            thread.start()
        """, "import threading"),
    "a thread that is ended in close": background("""
        async def start(self):
            self.thread = threading.Thread(target=print, daemon=True)
            self.thread.start()
        async def close(self):
            self.thread.join(1)
        """, "import threading"),
    "tags copied": event("""
        async def handleEvent(self, points, logger):
            for point in points:
                tags = {**point.tags, "site": "north"}
                tags["more"] = 1
        """),
    "a comment that lets it pass": background("""
        async def start(self):
            time.sleep(0)  # lva: ignore[blocking]  (it does not wait)
            time.sleep(0)  # lva: ignore
        """, "import time"),
    "a file of the original service": """
        import asyncio
        from luna_plugins.base.plugins_meta.base_plugins import (
            BaseBackgroundHandler, BaseBackgroundPlugin, BaseEventPlugin, pluginHTTPResponse)
        class Event(BaseEventPlugin):
            eventName = "monitoring_event"
            async def handleEvent(self, points, logger):
                await asyncio.gather(*(self.one(point) for point in points))
            async def one(self, point): ...
        def plain(request):
            return pluginHTTPResponse(statusCode=200, body="x")
        class Back(BaseBackgroundPlugin):
            async def initialize(self):
                self.addRoute("/plain", plain, methods={"get"})
            async def start(self):
                self.task = asyncio.create_task(asyncio.sleep(1))
            async def close(self):
                self.task.cancel()
        """,
    "a class made by a function": """
        from lva import *
        def make(name):
            class Made(BaseBackgroundPlugin):
                async def start(self): ...
            Made.__name__ = name
            return Made
        Cam = make("Cam")
        """,
    "a coroutine kept and awaited later": background("""
        async def start(self):
            later = self.work()
            await later
            _ = [self.work() for _ in range(0)]
        async def work(self): ...
        """),
    "handlers in a base class": """
        from lva import *
        class Json(BaseBackgroundHandler):
            def answer(self, value):
                return self.response(body=value)
        class Handler(Json):
            async def get(self, request):
                return self.answer({})
        class Cam(BaseBackgroundPlugin):
            async def initialize(self):
                self.addRoute("/cams", Handler)
        """,
} | RIGHT_ANALYTICS  # fmt: skip


@pytest.mark.parametrize("source", RIGHT.values(), ids=RIGHT)
def test_a_right_plugin_passes(source: str, tmp_path: Path) -> None:
    report = check_source(tmp_path, source)
    assert [f"{problem} [{problem.code}]" for problem in report.problems] == []
    assert report.loaded is not None


def test_the_gallery_is_large_enough() -> None:
    assert len(WRONG) >= 40
    assert len(RIGHT) >= 20


def test_every_kind_of_problem_that_a_single_file_can_have_is_in_the_gallery() -> None:
    seen = {case.values[1] for case in WRONG}
    elsewhere = {"name", "file", "trust", "entry-point", "config", "run", "points-sent"}
    assert seen == set(CODES) - elsewhere
