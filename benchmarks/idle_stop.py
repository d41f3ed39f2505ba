"""Seconds from SIGTERM to the end of the process: `lva run`, idle, with the plugins that run by default.

Each round starts the real service anew, waits until it is ready, lets it idle, and stops it. Beside the
whole time stands the part that the plugins' own stop took, as the receipt says; the rest is the server's
and the interpreter's.

Goal: below 0.5 s.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from statistics import median

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "10"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "1"))  # of idling


def wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                return
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def stop_once(directory: Path) -> tuple[float, float]:
    """Return the seconds that the whole stop took, and those of the plugins."""
    env = {key: value for key, value in os.environ.items() if "LUNA_VIDEO_AGENT" not in key}
    env |= {"LUNA_VIDEO_AGENT_STATE_DIR": str(directory / "state"), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "lva", "run", "--bind", "127.0.0.1:0", "--log-format", "json"],
        cwd=directory,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stderr is not None
        try:
            for line in child.stderr:
                if match := re.search(r"listening on (http://[^\"\s]+)", line):
                    wait_until_ready(match[1])
                    break
            time.sleep(SECONDS)
            begun = time.perf_counter()
            child.send_signal(signal.SIGTERM)
            code = child.wait()
            taken = time.perf_counter() - begun
        finally:
            child.kill()
        records = [json.loads(line) for line in child.stderr if line.startswith("{")]
    receipts = [record["receipt"] for record in records if "receipt" in record]
    if code != 0 or len(receipts) != 1:
        raise RuntimeError(f"not a clean stop: exit code {code}, {len(receipts)} receipts")
    return taken, receipts[0]["seconds"]


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        stops = [stop_once(Path(directory)) for _ in range(ROUNDS)]
    for what, seen in zip(("whole stop", "plugins"), zip(*stops, strict=True), strict=True):
        goal = "; goal < 0.5" if what == "whole stop" else ""
        print(
            f"{what:10} median {median(seen):.3f} s (min {min(seen):.3f}, max {max(seen):.3f}){goal}"
        )


if __name__ == "__main__":
    main()
