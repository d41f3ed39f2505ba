"""The thread that ends the process; each test lets it end a process of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time

import pytest

from tests.support import clean_environment

pytestmark = pytest.mark.slow("a process of its own is ended")

PRELUDE = """
    import os, sys, threading, time
    from lva.host.terminator import Terminator

    def report(code, why, seconds):
        return f"last words {code}: {why} {seconds:.0f}"

    terminator = Terminator(report)
    terminator.start()
"""


def run(source: str, timeout: float = 20.0) -> tuple[int, str, float]:
    """Run code that has a terminator; return exit code, standard error and the seconds it took."""
    code = textwrap.dedent(PRELUDE) + textwrap.dedent(source)
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return done.returncode, done.stderr, time.monotonic() - begun


def test_past_its_time_it_reports_dumps_all_stacks_and_exits():
    code, said, seconds = run("""
        def stubborn():
            time.sleep(60)

        threading.Thread(target=stubborn).start()
        terminator.kill_after(0.3, 70, "the stop took too long")
        time.sleep(60)
    """)
    assert code == 70
    assert seconds < 15
    lines = said.splitlines()
    assert lines[:2] == ["lva: the stop took too long", "last words 70: the stop took too long 0"]
    assert "in stubborn" in said
    assert said.count("most recent call first") >= 3


def test_exit_after_tells_no_stacks_and_without_a_message_nothing():
    code, said, _ = run("terminator.exit_after(0, 4, 'a second signal'); time.sleep(60)")
    assert (code, said) == (4, "lva: a second signal\nlast words 4: a second signal 0\n")
    code, said, _ = run("terminator.exit_after(0, 3); time.sleep(60)")
    assert (code, said) == (3, "")


@pytest.mark.parametrize(
    "orders",
    [
        "terminator.kill_after(60, 70, 'late'); terminator.exit_after(0.1, 4, 'soon')",
        "terminator.exit_after(0.1, 4, 'soon'); terminator.kill_after(60, 70, 'late')",
    ],
)
def test_an_order_that_leaves_less_time_replaces_the_old_one_and_no_other_does(orders: str):
    code, said, _ = run(f"{orders}; time.sleep(60)")
    assert code == 4
    assert "late" not in said


def test_stood_down_it_lets_the_process_end_by_itself():
    code, said, _ = run("""
        terminator.kill_after(0.1, 70, "late")
        terminator.stand_down()
        time.sleep(0.3)
        sys.exit(5)
    """)
    assert (code, said) == (5, "")


def test_without_an_order_it_keeps_nothing_alive():
    assert run("sys.exit(6)")[0] == 6


#: What is in the terminator's way, and what is said all the same.
OBSTACLES = {
    "locks of logging and streams that another thread holds": (
        """
        import logging
        logging.basicConfig()
        logging._lock.acquire()
        logging.getLogger().handlers[0].acquire()
        """,
        "lva: anyway",
    ),
    "a report that fails": (
        """
        def broken(code, why, seconds):
            raise ValueError("no words")

        terminator._report = broken
        """,
        "lva: anyway",
    ),
    "a closed standard error": ("os.close(2)", ""),
    "a standard error that nobody reads": (
        """
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        try:
            while True:
                os.write(writer, b"x" * 4096)
        except BlockingIOError:
            os.set_blocking(writer, True)
        os.dup2(writer, 2)
        """,
        "",
    ),
}


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_nothing_keeps_it_from_exiting(obstacle: str):
    source, words = OBSTACLES[obstacle]
    code, said, _ = run(
        textwrap.dedent(source) + "\nterminator.kill_after(0.1, 70, 'anyway'); time.sleep(60)"
    )
    assert code == 70
    assert said.startswith(words)


def test_c_code_that_keeps_the_interpreter_s_lock_does_not_stop_it():
    code, said, _ = run("""
        import ctypes
        import lva.host.terminator
        lva.host.terminator._LAST_RESORT = 0.2
        terminator.kill_after(0.1, 70, "stuck")
        ctypes.PyDLL(None).sleep(60)
    """)
    assert code == 1
    assert "Timeout" in said
    assert "most recent call first" in said


def test_orders_may_come_from_signal_handlers():
    code, said, _ = run("""
        import signal
        signal.signal(signal.SIGTERM, lambda *_: terminator.exit_after(0, 4, "signalled"))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    """)
    assert code == 4
    assert "signalled" in said


def test_an_exit_code_that_was_told_already_is_kept_and_nothing_is_told_again():
    code, said, _ = run("""
        terminator._report = lambda code, why, seconds: 0
        terminator.exit_after(0, 4, "a second signal")
        time.sleep(60)
    """)
    assert (code, said) == (0, "lva: a second signal\n")
