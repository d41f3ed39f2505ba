"""A request that is complete: for handlers on another loop, which cannot await its parts.

The names are those that asyncio code for such services expects: everything is an attribute, nothing has
to be awaited, and the object may be used in any thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from quart import Request
from werkzeug.datastructures import Headers, MultiDict

from lva.web.handling.json_bodies import read_json

_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A file from a form.

    Attributes:
        name: As the client calls it.
        type: Its media type.
        body: Its content.
    """

    name: str
    type: str
    body: bytes


@dataclass(frozen=True)
class CompleteRequest:
    """One HTTP request, wholly received.

    Attributes:
        method: The verb, in capitals.
        path: Without the query.
        query_string: What follows the ``?``.
        url: The whole address.
        scheme: ``http`` or ``https``.
        args: The query's parameters; ``get(name)`` is the first value, ``getlist(name)`` all of them.
        headers: Names without regard to capitals.
        cookies: By name.
        match_info: The path's variables, which the handler also gets as arguments.
        body: The raw body.
        form: The fields of a form; empty for other bodies.
        files: The files of a form.
        content_type: The body's media type.
        ip: The client's address.
        id: The request's id.
    """

    method: str
    path: str
    query_string: str
    url: str
    scheme: str
    args: MultiDict[str, str]
    headers: Headers
    cookies: Mapping[str, str]
    match_info: Mapping[str, Any]
    body: bytes
    content_type: str
    ip: str
    id: str
    form: MultiDict[str, str] = field(default_factory=MultiDict)
    files: MultiDict[str, UploadedFile] = field(default_factory=MultiDict)

    @cached_property
    def json(self) -> Any:
        """The body as JSON; None if it is empty.

        Raises:
            BadRequest: It is not JSON; unhandled, that is the answer 400.
        """
        if not self.body:
            return None
        return read_json(self.body)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode(errors="replace")


async def complete(request: Request, request_id: str) -> CompleteRequest:
    """Wait for the whole request; return it in one piece. The body is bounded by `max_body_size`.

    Cancellation: ends the wait.
    """
    body = await request.get_data(as_text=False)
    assert isinstance(body, bytes)
    form: MultiDict[str, str] = MultiDict()
    files: MultiDict[str, UploadedFile] = MultiDict()
    if request.mimetype in _FORMS:
        form = MultiDict((await request.form).items(multi=True))
        for key, file in (await request.files).items(multi=True):
            content_type = file.content_type or "application/octet-stream"
            files.add(key, UploadedFile(file.filename or "", content_type, file.read()))
    return CompleteRequest(
        method=request.method,
        path=request.path,
        query_string=request.query_string.decode("latin-1"),
        url=request.url,
        scheme=request.scheme,
        args=MultiDict(request.args.items(multi=True)),
        headers=Headers(request.headers.items()),
        cookies=dict(request.cookies),
        match_info=dict(request.view_args or {}),
        body=body,
        content_type=request.content_type or "",
        ip=request.remote_addr or "",
        id=request_id,
        form=form,
        files=files,
    )
