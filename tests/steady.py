"""Run the tests many times in a row, and print a table of the runs: `python -m tests.steady --help`.

The command is the one of the README. The exit code is 0 if no run had a failure, and no test without a reason
was slow in each of three runs or more.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.conftest import NAME_SLOW

ROOT = Path(__file__).parents[1]


class Run(NamedTuple):
    """What became of one run: seconds, exit code, tests that passed, failed, were slow without a reason."""

    seconds: float
    code: int
    passed: int
    failed: list[str]
    slow: set[str]


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the tests many times in a row.")
    parser.add_argument("--runs", type=int, default=20, help="how many; 20 if left out")
    parser.add_argument(
        "--burners", type=int, default=0, help="processes that burn a core meanwhile"
    )
    parser.add_argument("--logs", type=Path, help="a directory for the output of red runs")
    options, arguments = parser.parse_known_args()
    print("run  seconds  passed  failed  names", flush=True)
    runs = []
    with burning(options.burners):
        for number in range(1, options.runs + 1):
            runs.append(run(arguments, options.logs, number))
            seconds, code, passed, failed, _ = runs[-1]
            names = ", ".join(failed) or ("" if code == 0 else f"(pytest's exit code {code})")
            print(f"{number:3}  {seconds:7.1f}  {passed:6}  {len(failed):6}  {names}", flush=True)
    green = [item.seconds for item in runs if item.code == 0]
    print(f"{len(green)} of {len(runs)} green", end="")
    print(f", in {min(green):.1f} to {max(green):.1f} s" if green else "")
    slow = set.intersection(*(item.slow for item in runs)) if len(runs) > 2 else set()
    for name in sorted(slow):
        print(f"slow in every run, without a reason: {name}")
    return len(green) != len(runs) or bool(slow)


def run(arguments: Sequence[str], logs: Path | None, number: int) -> Run:
    """Run `pytest` with more arguments; write its output below `logs` if it was red."""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=ROOT,
        env={**os.environ, NAME_SLOW: "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - begun
    if done.returncode and logs is not None:
        logs.mkdir(parents=True, exist_ok=True)
        (logs / f"run-{number}.log").write_text(done.stdout)
    passed = re.search(r"(\d+) passed", done.stdout.rstrip().rpartition("\n")[2])
    slow = re.findall(r"^slow without a reason: [\d.]+ s (.*)$", done.stdout, re.MULTILINE)
    count = int(passed[1]) if passed else 0
    return Run(seconds, done.returncode, count, red(done.stdout), set(slow))


def red(output: str) -> list[str]:
    """Return the names of the tests that failed, each with those of its subtests."""
    found: dict[str, list[str]] = {}
    for line in re.finditer(
        r"^(FAILED|ERROR|SUBFAILED(.*?)) (\S+?::\w+(\[.*?\])?)( - |$)", output, re.MULTILINE
    ):
        found.setdefault(line[3], []).extend([line[2]] if line[2] else [])
    return [name + "".join(subtests) for name, subtests in found.items()]


@contextlib.contextmanager
def burning(count: int) -> Iterator[None]:
    """Keep so many cores busy."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


if __name__ == "__main__":
    sys.exit(main())
