"""A changed definition of a stream: it follows the version that was meant, and keeps masked secrets."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from lva.contract import RequestProblem
from lva.video.callbacks import unmasked
from lva.video.definition import StreamDefinition
from lva.video.registry.admission import Admission
from lva.video.source import Source


async def revised(
    admission: Admission,
    body: Any,
    version: int,
    present: tuple[StreamDefinition, Source],
    versions: Container[int] | None,
) -> tuple[StreamDefinition, Source]:
    """Return the definition that a body of PUT is, and its source.

    Args:
        admission: Says which definitions are allowed.
        body: The definition. A `source` that is the masked one, and masked secrets of callbacks, mean
            those that it has; a `version` is the one that it is to follow.
        version: The present one.
        present: The present definition and source.
        versions: Those that it may have now; any if left out.

    Raises:
        RequestProblem: It has another version, 412 or 409, or the definition is wrong.
    """
    definition, source = present
    if versions is not None and version not in versions:
        raise other_version(412, version)
    if isinstance(body, dict) and "version" in body:
        if body["version"] != version:
            raise other_version(409, version)
        body = {name: value for name, value in body.items() if name != "version"}
    if isinstance(body, dict) and body.get("source") == source.shown:
        body = {**body, "source": definition.source}
    if isinstance(body, dict) and "callbacks" in body:
        body = {**body, "callbacks": unmasked(body["callbacks"], definition.callbacks)}
    return await admission.admit(body)


def other_version(status: int, version: int) -> RequestProblem:
    """Return the problem that a stream has another version than was meant."""
    what = f"the stream has version {version} now; get it, and change that"
    return RequestProblem(status, what, "version_conflict", version=version)
