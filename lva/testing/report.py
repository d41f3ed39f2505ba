"""What a check found, for people and for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from lva.errors import counted
from lva.testing.places import Place

#: The names of the guarantees, as in the documentation.
GUARANTEES: Final = {
    "G1": "closed exactly once",
    "G2": "contained",
    "G3": "order",
    "G4": "bounded stop",
    "G5": "conservation",
    "G6": "no silent death",
    "G7": "nothing left",
    "G8": "truthful status",
    "G9": "receipt and exit code",
    "G10": "one instance",
    "load": "a plugin that loads",
    "start": "a plugin that starts",
    "loop": "the event loop is everybody's",
    "route": "handlers handle their errors",
    "await": "what is called is awaited",
    "secret": "secrets stay out of the log",
    "frames": "frames are looked at",
}


@dataclass(frozen=True, slots=True)
class Breach:
    """One thing by which a plugin breaks its contract.

    Attributes:
        guarantee: Which guarantee is broken: ``"G1"``; or one of ``load``, ``start``, ``loop``, ``await``,
            ``secret``, ``frames``.
        message: What happened, one line for people.
        place: The plugin's own line.
        hint: What to do about it.
    """

    guarantee: str
    message: str
    place: Place | None = None
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was tried, and what came of it.

    Attributes:
        name: What was done to the plugin: ``"stop at checkpoint 3 of initialize()"``.
        guarantee: The guarantee that it is about; if it failed, the one that is broken.
        ok: Whether nothing went otherwise than it should.
        message: What is wrong, or why the step was skipped; empty if it passed.
        file: The plugin's file, if there is a line to name.
        line: That line.
        code: What it says.
        hint: What to do about it.
        skipped: Whether it was left out, or came to nothing, so that it shows nothing.
    """

    name: str
    guarantee: str
    ok: bool = True
    message: str = ""
    file: str | None = None
    line: int | None = None
    code: str | None = None
    hint: str = ""
    skipped: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the step as plain values."""
        return {name: getattr(self, name) for name in self.__slots__}

    def __str__(self) -> str:
        if self.skipped:
            return f"skipped: {self.name}: {self.message}"
        if self.ok:
            return f"ok: {self.name}"
        lines = [f"{self.guarantee}: {self.message}", f"  step: {self.name}"]
        if self.file is not None:
            lines.append(f"  at:   {self.file}:{self.line}")
        if self.code:
            lines.append(f"            {self.code}")
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)


def passed(name: str, guarantee: str) -> Step:
    """Return a step in which all went as it should."""
    return Step(name, full_name(guarantee))


def skipped(name: str, guarantee: str, why: str) -> Step:
    """Return a step that shows nothing, with the reason."""
    return Step(name, full_name(guarantee), message=why, skipped=True)


def failed(name: str, problem: Breach) -> Step:
    """Return a step that showed a problem."""
    place = problem.place
    return Step(
        name,
        full_name(problem.guarantee),
        False,
        problem.message,
        None if place is None else place.file,
        None if place is None else place.line,
        None if place is None else place.code or None,
        problem.hint,
    )


def full_name(guarantee: str) -> str:
    """Return a guarantee's number with its name: ``"G1 closed exactly once"``."""
    name = GUARANTEES[guarantee]
    return f"{guarantee} {name}" if guarantee.startswith("G") else name


@dataclass(slots=True)
class Report:
    """What a check found.

    Attributes:
        source: What was checked: a path, a name, or ``"(source text)"``.
        name: The plugin's name.
        steps: Everything that was tried, in order; a step that failed stands once for each problem.
        seconds: How long the check took, in real seconds.
    """

    source: str
    name: str
    steps: list[Step] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failures(self) -> Sequence[Step]:
        """The steps that failed."""
        return [step for step in self.steps if not step.ok]

    @property
    def skipped(self) -> Sequence[Step]:
        """The steps that show nothing; each says why."""
        return [step for step in self.steps if step.skipped]

    @property
    def ok(self) -> bool:
        """Whether something was tried and all of it went as it should."""
        return len(self.steps) > len(self.skipped) and not self.failures

    def raise_if_failed(self) -> Report:
        """Return the report if all is well.

        Raises:
            AssertionError: Something is not; its text is the report's.
        """
        if not self.ok:
            raise AssertionError(str(self))
        return self

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {
            "source": self.source,
            "name": self.name,
            "ok": self.ok,
            "seconds": round(self.seconds, 3),
            "steps": [step.as_dict() for step in self.steps],
        }

    def __str__(self) -> str:
        failures = self.failures
        if not failures:
            passed = f"{self.source}: {counted(len(self.steps) - len(self.skipped), 'step')} passed"
            count = f", {len(self.skipped)} skipped" if self.skipped else ""
            return "\n".join([passed + count, *(f"  {step}" for step in self.skipped)])
        count = counted(len(failures), "problem")
        return "\n\n".join([f"{self.source} breaks its contract ({count})", *map(str, failures)])
