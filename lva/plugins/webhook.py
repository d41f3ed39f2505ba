"""Posts batches of points as JSON to a URL, signed as the Standard Webhooks specification says.

The body is an object, so that other keys may join those it has::

    {"points": [{"series": "requests", "time": 1795370668.78, "tags": {…}, "fields": {…}}, …]}

Where there are events of streams, they are in `events`, beside `points`.

* `webhook-id` is the SHA-256 of the body: a batch has the same id however often it is sent.
* A batch that is too large goes out in pieces. A piece that was accepted is not sent again.
* Of a response only the beginning is read, and what it quotes of URL and headers is masked.
"""

import base64
import hashlib
import hmac
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate, takewhile
from typing import Annotated, Any, ClassVar, TypeAlias

import httpx
import trio
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FilePath,
    SecretStr,
    field_validator,
)
from pydantic_core import to_json

from lva import (
    BaseEventPlugin,
    MonitoringPoint,
    PartialDeliveryError,
    PermanentDeliveryError,
    PluginApp,
    RetryLaterError,
    StreamAnalyticsEvent,
)
from lva.contract import Published
from lva.errors import counted
from lva.http_replies import beginning, is_page, not_about_points, one_line, retry_after, root_of
from lva.http_targets import check_headers, check_url, new_client, origin, private_words
from lva.settings.user_paths import absolute

#: A point, or an event, and its JSON.
Item: TypeAlias = tuple[Published, bytes]

HEAD, EVENTS, TAIL = b'{"points":[', b'],"events":[', b"]}"
#: How much of an answer's text is read, in bytes and in seconds, and how many characters are shown.
READ_BYTES, READ_SECONDS, SHOWN = 4096, 1.0, 200
MOST_REDIRECTS = 5
#: Whoever calls fewer bytes than this too large says nothing of the point in them.
LEAST_TOO_LARGE = 1024


class Config(BaseModel):
    """`[plugins.webhook.config]`. Times are in seconds."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    url: SecretStr = Field(
        description="Where to post to, http:// or https://. Never shown: many a URL holds a key."
    )
    headers: dict[str, SecretStr] = Field({}, description="More headers; values are never shown.")
    secret: SecretStr | None = Field(
        None, description="Signs what is sent: 24 bytes or more in base64."
    )
    timeout: float = Field(
        8.0, gt=0, le=3600, description="Limit on sending a batch; less than handle_timeout."
    )
    max_bytes: int = Field(
        1_000_000, ge=1, description="Largest body, unless it holds a single point."
    )
    max_retry_after: float = Field(
        300.0, ge=0, le=86_400, description="The longest Retry-After that is obeyed in full."
    )
    follow_redirects: bool = Field(
        False, description="Follow 307 and 308, on the same host and never away from https."
    )
    ca_file: Annotated[FilePath | None, BeforeValidator(absolute)] = Field(
        None, description="Certificates (PEM) to trust instead of the public authorities'."
    )

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: SecretStr) -> SecretStr:
        check_url(value.get_secret_value())
        return value

    @field_validator("headers")
    @classmethod
    def _check_headers(cls, headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
        check_headers({name: value.get_secret_value() for name, value in headers.items()})
        return headers

    @field_validator("secret")
    @classmethod
    def _check_secret(cls, value: SecretStr | None) -> SecretStr | None:
        with suppress(ValueError):
            if value is None or len(signing_key(value)) >= 24:
                return value
        raise ValueError("a secret is made with: openssl rand -base64 32")


class BodyTooLargeError(PermanentDeliveryError):
    """The receiver takes no body of this size.

    Args:
        message: What it says.
        size: That of the body, in bytes.
    """

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message)
        self.size: int = size


class Webhook(BaseEventPlugin):
    """Posts each batch, in pieces if need be, and tells the host what became of each point."""

    eventName = "monitoring_event"
    otherEvents: ClassVar[Sequence[str]] = ("stream_event", "analytics_event")
    Config: ClassVar[type[BaseModel] | None] = Config
    # A call is a request, so points gather for a moment.
    host_settings: ClassVar[Mapping[str, Any]] = {"flush_interval": 1.0, "batch_size": 1000}

    def __init__(self, app: PluginApp) -> None:
        super().__init__(app)
        self._client: httpx.AsyncClient | None = None

    async def initialize(self) -> None:
        url = httpx.URL(self.config.url.get_secret_value())
        self._receiver = origin(url)
        headers = {key: each.get_secret_value() for key, each in self.config.headers.items()}
        self._private = private_words(url, headers.values())
        self._limit = trio.CapacityLimiter(1)  # no other plugin's threads
        self._piece_bytes: int = self.config.max_bytes
        self._leaves_out = False  # whether it was told that pictures are
        # In a thread, because reading certificates takes a while.
        self._client = await trio.to_thread.run_sync(new_client, self.config.ca_file, headers)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def handleEvent(self, points: list[Published], logger: logging.Logger) -> None:
        unsent = await trio.to_thread.run_sync(to_items, points, limiter=self._limit)
        rejected: list[Published] = []
        cause: Exception | None = None
        after: float | None = None
        most = self._piece_bytes
        try:
            with trio.move_on_after(self.config.timeout) as limit:
                while unsent:
                    piece = first_piece(unsent, most)
                    try:
                        await self._send(piece)
                        self._keep_size(most)
                    except PermanentDeliveryError as error:
                        if isinstance(error, BodyTooLargeError):
                            if len(piece) > 1:
                                most = error.size // 2
                                continue
                            if self._drop_picture(unsent):
                                continue
                        if len(piece) == len(points):
                            raise
                        rejected += [point for point, _ in piece]
                        cause = error
                        most = self._piece_bytes  # one point makes no others' pieces smaller
                    del unsent[: len(piece)]
            if limit.cancelled_caught:
                seconds = f"{self.config.timeout:g} s"
                raise RetryLaterError(f"{self._receiver} was not done within {seconds}")
        except RetryLaterError as error:
            if len(unsent) == len(points):
                raise
            cause, after = error, error.after or 0.0
        if cause is not None:
            raise PartialDeliveryError(
                f"{counted(len(rejected), 'point')} rejected, {len(unsent)} to be sent again;"
                f" the last: {cause}",
                failed=[point for point, _ in unsent],
                rejected=rejected,
                after=after,
            ) from cause

    def _drop_picture(self, unsent: list[Item]) -> bool:
        """Leave out the picture of the first event, which is too large with it; return whether it had one."""
        event = unsent[0][0]
        if not isinstance(event, StreamAnalyticsEvent) or b'"base64":' not in unsent[0][1]:
            return False
        unsent[0] = (event, encode(event.without_picture()))
        if not self._leaves_out:
            self._leaves_out = True
            self.logger.warning(
                "%s takes no event with a picture of %d bytes; such pictures are left out",
                self._receiver, event.image_size,
            )  # fmt: skip
        return True

    def _keep_size(self, most: int) -> None:
        """Make no larger pieces from now on than one that was accepted after others were too large."""
        if most < self._piece_bytes:
            self._piece_bytes = most
            self.logger.info(
                "%s takes no large requests; at most %d bytes are sent from now on",
                self._receiver, most,
            )  # fmt: skip

    async def _send(self, piece: Sequence[Item]) -> None:
        """Post a piece of a batch.

        Raises:
            RetryLaterError: The receiver cannot be reached, cannot take it now, or is another one.
            BodyTooLargeError: It takes no piece of this size.
            PermanentDeliveryError: It is wrong for ever.
        """
        body = body_of(piece)
        try:
            reply, text = await self._post(body)
        except httpx.RequestError as error:
            raise RetryLaterError(f"{self._receiver}: {root_of(error)!r}") from error
        if reply.is_success and not is_page(text):
            return
        message = f"{self._receiver} responded with {reply.status_code} {text}".rstrip()
        if reply.status_code == 413:
            if len(body) >= LEAST_TOO_LARGE or len(piece) > 1:
                raise BodyTooLargeError(message, len(body))
            raise RetryLaterError(f"{message} (to {len(body)} bytes; check url)")
        remark = not_about_points(reply.status_code, reply.headers, text)
        if reply.next_request is not None:
            remark = f" (a redirect to {origin(reply.next_request.url)}, not followed; change url)"
        if remark is None:
            raise PermanentDeliveryError(message)
        after = retry_after(reply.headers, self.config.max_retry_after)
        raise RetryLaterError(message + remark, after=after)

    async def _post(self, body: bytes) -> tuple[httpx.Response, str]:
        """Post a body; return the answer and the beginning of its text."""
        assert self._client is not None
        headers = {"Content-Type": "application/json", **signature(self.config.secret, body)}
        url = self.config.url.get_secret_value()
        request = self._client.build_request("POST", url, content=body, headers=headers)
        followed = 0
        while True:
            reply = await self._client.send(request, stream=True)
            text = await shown(reply)
            target = reply.next_request
            may_follow = self.config.follow_redirects and followed < MOST_REDIRECTS
            if target is None or not (may_follow and keeps_safe(reply)):
                return reply, self._private.sub("***", text)[:SHOWN]
            request, followed = target, followed + 1


def to_items(points: Iterable[Published]) -> list[Item]:
    """Return points with their JSON; for a worker thread, as points may be large."""
    return [(point, encode(point)) for point in points]


def encode(point: Published) -> bytes:
    """Return a point, or an event with its picture, as JSON."""
    return to_json(point.as_dict())


def body_of(piece: Sequence[Item]) -> bytes:
    """Return the body of a request: points and events, each in order."""
    events = [text for item, text in piece if not isinstance(item, MonitoringPoint)]
    if not events:
        return HEAD + b",".join(text for _, text in piece) + TAIL
    points = [text for item, text in piece if isinstance(item, MonitoringPoint)]
    return HEAD + b",".join(points) + EVENTS + b",".join(events) + TAIL


def first_piece(items: Sequence[Item], most: int) -> Sequence[Item]:
    """Return as many of the first items as fit into a body of `most` bytes, but at least one."""
    only_points = all(isinstance(item, MonitoringPoint) for item, _ in items)
    around = len(HEAD + TAIL) + (0 if only_points else len(EVENTS))
    sizes = accumulate((len(text) + 1 for _, text in items), initial=around - 1)
    fitting = sum(1 for _ in takewhile(lambda size: size <= most, sizes)) - 1
    return items[: max(1, fitting)]


def signing_key(secret: SecretStr) -> bytes:
    """Return the bytes that a secret stands for; raise ValueError if it is no base64."""
    text = secret.get_secret_value().removeprefix("whsec_")
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def signature(secret: SecretStr | None, body: bytes) -> dict[str, str]:
    """Return the headers with a delivery's id, the time, and the signature of both and the body."""
    id_, now = hashlib.sha256(body).hexdigest(), str(int(time.time()))
    headers = {"webhook-id": id_, "webhook-timestamp": now}
    if secret is not None:
        digest = hmac.digest(signing_key(secret), f"{id_}.{now}.".encode() + body, "sha256")
        headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return headers


async def shown(reply: httpx.Response) -> str:
    """Return the first text of an answer on one line; what keeps the rest from coming is no matter."""
    body = b""
    # Shielded, so that no deadline makes an accepted piece look as if it had not arrived.
    with trio.CancelScope(shield=True), suppress(httpx.RequestError):
        body = await beginning(reply, READ_BYTES, READ_SECONDS)
    return one_line(body.decode(errors="replace"), READ_BYTES)


def keeps_safe(reply: httpx.Response) -> bool:
    """Return whether a redirect keeps method, body and host, and does not leave https."""
    assert reply.next_request is not None
    old, new = reply.request.url, reply.next_request.url
    same_host = new.host == old.host and new.scheme in {old.scheme, "https"}
    return same_host and reply.status_code in {307, 308}
