"""Analytics plugins with one fault each that shows when they run, and right ones; see also `tests.check`.

Each is a body of a class; the faulty line ends with ``# !``.
"""

from __future__ import annotations

import textwrap

HEAD = """
import ctypes, itertools, os, signal, subprocess, sys, tempfile, threading, time
import numpy as np
from lva import AnalyticsEvent, BaseAnalyticsPlugin

class Eye(BaseAnalyticsPlugin):
"""


def eye(body: str) -> str:
    """Return a plugin with this in its class."""
    inside = textwrap.dedent(body).strip("\n")
    if "def handleFrame" not in inside:
        inside += "\ndef handleFrame(self, frame): pass"
    return HEAD + textwrap.indent(inside, "    ") + "\n"


def looks(body: str) -> str:
    """Return a plugin that does this with each frame."""
    return eye("def handleFrame(self, frame):\n" + textwrap.indent(textwrap.dedent(body), "    "))


#: By name: the plugin, and what is said of it.
WRONG = {
    "raises": (looks("return 1 / 0  # !"), "ZeroDivisionError: division by zero"),
    "raises later": (looks("assert frame.number < 20  # !"), "at frame 20: AssertionError"),
    "open raises": (
        eye("def open(self, stream): raise OSError('no model')  # !"), "open(): OSError: no model"),
    "returns a number": (looks("n = 5\nreturn n"), "returns or yields AnalyticsEvents, not int"),
    "yields what is none": (looks("yield frame.number"), "not int"),
    "yields a None": (looks("yield from [None]"), "not NoneType"),
    "data that JSON cannot say": (looks("yield AnalyticsEvent('a', {'b': object()})  # !"), "data.b"),
    "data that is an array": (looks("yield AnalyticsEvent('a', {'b': frame.gray()})  # !"), "data.b"),
    "an empty type": (looks("yield AnalyticsEvent('')  # !"), "event_type"),
    "a picture that is an array": (
        looks("yield AnalyticsEvent('a', {}, frame.image())  # !"), "image is a JPEG"),
    "one size only": (looks("assert frame.size == (640, 360), 'another size'  # !"), "another size"),
    "even sizes only": (looks("frame.gray().reshape(-1, 8)  # !"), "cannot reshape"),
    "a pixel format that is none": (looks("frame.image('rgb')  # !"), "ValueError"),
    "changes the frame": (looks("frame.gray()[0, 0] = 0  # !"), "copy one before changing it"),
    "hangs": (looks("time.sleep(60 if frame.number == 3 else 0)"), "at frame 3 took longer than"),
    "computes for ever": (looks("while True: pass"), "return sooner"),
    "yields for ever": (
        looks("for n in itertools.count(): yield AnalyticsEvent('a')"), "handleFrame() at frame 1"),
    "ends the process": (looks("os._exit(3)"), "raise an exception in place of ending"),
    "sys.exit": (looks("sys.exit('enough')  # !"), "raise an exception in place of ending"),
    "a null pointer": (looks("ctypes.string_at(0)  # !"), "native code that it calls crashes"),
    "keeps frames": (
        eye("""
        def open(self, stream): self.kept = []
        def handleFrame(self, frame): self.kept.append(frame.image().copy())
        """), "keep no frames or arrays for ever"),
    "leaves a thread": (
        eye("def open(self, stream): threading.Thread(target=time.sleep, args=(60,), name='mine').start()"),
        "leaked: the thread 'mine'"),
    "leaves a file": (
        eye("def open(self, stream): self.file = open('/dev/zero', 'rb')"),
        "leaked: the open file /dev/zero"),
    "leaves a child": (
        eye("def open(self, stream): self.child = subprocess.Popen(['sleep', '60'])"),
        "leaked: the child process"),
    "close raises": (eye("def close(self): raise OSError('no')  # !"), "failed in close(): OSError: no"),
    "close waits": (eye("def close(self): time.sleep(60)"), "close() and handleFrame() return soon"),
    "cannot be opened again": (
        eye("""
        def open(self, stream):
            os.mkdir(PATH)  # !
        def close(self):
            os.rmdir(PATH)
        """), "FileExistsError"),
}  # fmt: skip
RIGHT = {
    "the least": looks("pass"),
    "an event with a picture": looks("yield AnalyticsEvent('a', {'n': frame.number}, frame.jpeg())"),
    "all that a frame has": looks("""
        assert frame.image().shape[2] == 3 and frame.image("bgr24", whole=True).ndim == 3
        assert frame.gray().shape[::-1] == frame.size and frame.small().max() <= 255
        assert frame.key in (True, False) and frame.age >= 0 and frame.pts >= 0 and frame.wall_time > 0
        return [AnalyticsEvent("part", image=frame.jpeg(frame.roi, 50))]
        """),
    "a thread that ends": eye("""
        def open(self, stream):
            self.over = threading.Event()
            self.thread = threading.Thread(target=self.over.wait)
            self.thread.start()
        def close(self):
            self.over.set()
            self.thread.join()
        """),
    "files and children that end": eye("""
        def open(self, stream):
            self.file = tempfile.TemporaryFile()
        def handleFrame(self, frame):
            if frame.number == 1:
                subprocess.run(["true"])
            self.file.seek(0)
            self.file.write(frame.gray().tobytes())
        def close(self):
            self.file.close()
        """),
    "prints and logs": looks("print(frame.number)\nself.logger.warning('seen')\nos.write(1, b'low\\n')"),
    "copies before it changes": looks("""
        image = frame.image().copy()
        image[:] = 0
        """),
    "raises in a thread of its own that it waits for": eye("""
        def handleFrame(self, frame):
            found = []
            thread = threading.Thread(target=lambda: found.append(frame.small().mean()))
            thread.start()
            thread.join()
            yield AnalyticsEvent("mean", {"brightness": float(found[0])})
        """),
    "some of its frames alone": looks("yield from [AnalyticsEvent('a')] * (frame.number % 7 == 0)"),
}  # fmt: skip
