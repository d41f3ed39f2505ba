"""Writes points to InfluxDB, or to what takes its line protocol, such as VictoriaMetrics.

What is stored is what was published; a point that line protocol cannot carry is rejected, and its
neighbours are written. Servers read the doubtful forms differently, down to dropping a line, or taking
the rest of a text for a line of its own, with a 204; no such form is sent.
"""

import gzip
import json
import logging
import re
import ssl
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Final, Literal, NamedTuple, Self, TypeAlias
from zlib import crc32

import httpx
import trio
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from lva import (
    BaseEventPlugin,
    MonitoringPoint,
    PartialDeliveryError,
    PluginApp,
    RetryLaterError,
)
from lva.http_replies import beginning, is_page, not_about_points, one_line, retry_after, root_of

Entry: TypeAlias = tuple[MonitoringPoint, bytes]

#: How long, in seconds, a call looks for what the server refuses; the rest is then tried again.
SEARCH_TIME: Final = 10.0
#: Most bytes of lines in a request, unless it holds a single one: larger ones may never get through in time.
MOST_BYTES: Final = 4 * 1024 * 1024
#: Others get a turn after as many points as this have been encoded.
SLICE: Final = 200
#: A server that calls requests too large gets smaller ones from then on, down to this.
LEAST_BYTES: Final = 64 * 1024
#: Most bytes of an answer that are read.
MOST_ANSWER: Final = 16 * 1024
#: InfluxDB's limit on a measurement with its tags, in bytes.
LONGEST_HEAD: Final = 65_535
#: Microseconds since 1970 that fit into 64 bits as nanoseconds.
LAST_MICROSECOND: Final = 9_223_372_036_854_774
#: Microseconds in a unit of time, but for ns; and the units' names in the older API.
UNITS: Final = {"ns": 0, "us": 1, "ms": 1000, "s": 1_000_000}
OLD_UNITS: Final = {"ns": "n", "us": "u", "ms": "ms", "s": "s"}
#: What no escaping gets past every server: a line break, or a backslash before what needs escaping.
UNFIT: Final = r"\n|\\(?=[,= ]|\Z)"
UNFIT_SERIES: Final = re.compile(rf'\A[#\t\0]|\\"|{UNFIT}')
UNFIT_TAG: Final = re.compile(UNFIT)
UNFIT_FIELD: Final = re.compile(rf'\A[\t\0]|"|{UNFIT}')
ESCAPES: Final = str.maketrans({",": r"\,", "=": r"\=", " ": r"\ "})
SERIES_ESCAPES: Final = str.maketrans({",": r"\,", " ": r"\ "})
CHECK: Final = {
    401: " (check token, or username and password)",
    403: " (check what the user or token may do)",
    404: " (check url, and whether the bucket or db exists)",
}


class Config(BaseModel):
    """`[plugins.influx.config]`. Either `bucket` or `db` says where points go, and by which API."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    url: str = Field(
        "http://127.0.0.1:8086",
        description="The server, with what stands before /api/v2/write or /write in its paths.",
    )
    bucket: str | None = Field(
        None, min_length=1, description="The bucket; points go to /api/v2/write."
    )
    org: str | None = Field(None, min_length=1, description="The bucket's organization.")
    token: SecretStr | None = Field(None, min_length=1, description="The API token.")
    db: str | None = Field(None, min_length=1, description="The database; points go to /write.")
    username: str | None = Field(None, min_length=1, description="The user, in place of a token.")
    password: SecretStr | None = Field(None, description="The user's password.")
    precision: Literal["ns", "us", "ms", "s"] = Field(
        "ns",
        description="The unit of time. With ns, the digits below a microsecond tell points apart.",
    )
    line_breaks: Literal["spell", "keep"] = Field(
        "spell",
        description="Whether a line break in a string field is spelled out, as a backslash and an n,"
        " or left as it is; only InfluxDB does not take what follows for a line of its own.",
    )
    gzip: bool = Field(True, description="Whether requests are compressed.")
    timeout: float = Field(5.0, gt=0, le=10, description="Limit on one HTTP request, in seconds.")
    proxy: SecretStr | None = Field(
        None, description="URL of an HTTP proxy; those of the environment are not used."
    )

    @field_validator("url", "proxy")
    @classmethod
    def _check_url(cls, value: str | SecretStr | None) -> str | SecretStr | None:
        if value is None:
            return None
        try:
            url = httpx.URL(value if isinstance(value, str) else value.get_secret_value())
        except httpx.InvalidURL:
            url = httpx.URL()
        if url.scheme not in {"http", "https"} or not url.host or url.query or url.fragment:
            raise ValueError("this is no URL of the form http://host:port/path")
        if isinstance(value, str) and url.userinfo:
            raise ValueError("the user stands in username and password, not in url")
        return value

    @field_validator("token")
    @classmethod
    def _check_token(cls, value: SecretStr | None) -> SecretStr | None:
        text = value.get_secret_value() if value else ""
        if not (text.isascii() and text.isprintable()):
            raise ValueError("a token has printable ASCII characters only")
        return value

    @model_validator(mode="after")
    def _check_choices(self) -> Self:
        if (self.bucket is None) == (self.db is None):
            raise ValueError("set either bucket or db")
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password go together")
        if self.token and self.username:
            raise ValueError("set either token or username")
        return self


class RefusedLines(NamedTuple):
    """What a server has against lines.

    Attributes:
        text: What it says.
        too_large: Whether it takes no request of this size.
    """

    text: str
    too_large: bool

    @property
    def dropped(self) -> int | None:
        """How many points InfluxDB says it dropped; not which."""
        found = re.findall(r"dropped=(\d+)", self.text)
        return int(found[-1]) if found else None


class Influx(BaseEventPlugin):
    """Writes each batch in one request, in a few more when the server refuses some of its points."""

    eventName = "monitoring_event"
    Config: ClassVar[type[BaseModel] | None] = Config
    # A request costs the same for one point as for hundreds, so points gather for a moment.
    host_settings: ClassVar[Mapping[str, Any]] = {
        "flush_interval": 1.0,
        "batch_size": 2000,
        "buffer_limit": 50_000,
        "handle_timeout": 25.0,  # more than SEARCH_TIME and one request
    }

    def __init__(self, app: PluginApp) -> None:
        super().__init__(app)
        self._client: httpx.AsyncClient | None = None
        self._most_bytes = MOST_BYTES
        # Reading the system's certificates takes a moment; this is a worker thread.
        self._tls = ssl.create_default_context() if self.config.url.startswith("https") else False

    async def initialize(self) -> None:
        """Write nothing: that shows whether the server is there, knows the user and has the place."""
        self._limit = trio.CapacityLimiter(1)  # no other plugin's threads
        config = self.config
        headers = {"Content-Type": "text/plain; charset=utf-8", "Accept-Encoding": "identity"}
        if config.gzip:
            headers["Content-Encoding"] = "gzip"
        if config.token:
            headers["Authorization"] = f"Token {config.token.get_secret_value()}"
        self._client = httpx.AsyncClient(
            auth=(config.username, config.password.get_secret_value()) if config.username else None,
            headers=headers,
            verify=self._tls,
            proxy=config.proxy.get_secret_value() if config.proxy else None,
            trust_env=False,
            timeout=None,  # noqa: S113 - `_post` limits the whole
        )
        if config.bucket:
            query = {"bucket": config.bucket, "precision": config.precision}
            query |= {"org": config.org} if config.org else {}
            self._target = httpx.URL(f"{config.url.rstrip('/')}/api/v2/write", params=query)
        else:
            query = {"db": config.db, "precision": OLD_UNITS[config.precision]}
            self._target = httpx.URL(f"{config.url.rstrip('/')}/write", params=query)
        await self._post([])
        self.logger.info("writing points to %s", self._target)

    async def handleEvent(self, points: list[MonitoringPoint], logger: logging.Logger) -> None:
        """Write the points. Cancelled, or without a response, it may have written some.

        Raises:
            PartialDeliveryError: Some are no lines, or are refused by the server.
            RetryLaterError: The server cannot take any.
        """
        entries, rejected, why = await encode(points, self.config)
        waiting = pieces(entries, self._most_bytes)[::-1]
        until = trio.current_time() + SEARCH_TIME
        settled = blamed = False
        after: float | None = None
        while waiting and trio.current_time() < until:
            part = waiting.pop()
            if len(smaller := pieces(part, self._most_bytes)) > 1:
                waiting += smaller[::-1]
                continue
            try:
                refused = await self._post([line for _, line in part])
            except RetryLaterError as error:
                if not settled:
                    raise
                waiting.append(part)
                why, after = str(error), error.after or 0.0
                break
            if refused is not None and not (settled or blamed):
                # Whoever says the same of no points at all, says nothing of these.
                if await self._post([]) == refused:
                    raise RetryLaterError(f"{refused.text}, whether there are points or not")
                blamed = True
            if refused is not None and len(part) > 1:
                if refused.too_large:
                    waiting += self._halves(part)[::-1]
                    continue
                if refused.dropped != len(part):
                    part.sort(key=_kind)
                    middle = len(part) // 2
                    waiting += [part[middle:], part[:middle]]
                    continue
            settled = True
            if refused is not None:
                rejected += [point for point, _ in part]
                why = refused.text
        if waiting and settled and after is None:
            after = 0.0  # the search goes on, and gets somewhere: no attempt to be counted
        if waiting or rejected:
            raise PartialDeliveryError(
                f"not every point could be written: {why or 'the wrong ones are many':.300}",
                failed=[point for part in waiting for point, _ in part],
                rejected=rejected,
                after=after,
            )

    async def close(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    def _halves(self, part: Sequence[Entry]) -> list[list[Entry]]:
        """Divide what the server calls too large, and send no more than half of it from now on."""
        half = sum(len(line) + 1 for _, line in part) // 2
        self._most_bytes = min(self._most_bytes, max(half, LEAST_BYTES))
        return pieces(part, half)

    async def _post(self, lines: Sequence[bytes]) -> RefusedLines | None:
        """Write lines; return what the server has against them, which is nothing if it took them.

        Some servers have something against no lines.

        Raises:
            RetryLaterError: The server is not there, is busy, or does not serve such requests.
        """
        assert self._client is not None
        content = b"\n".join(lines)
        if self.config.gzip:
            content = await trio.to_thread.run_sync(gzip.compress, content, 1, limiter=self._limit)
        request = self._client.build_request("POST", self._target, content=content)
        try:
            with trio.fail_after(self.config.timeout):
                reply = await self._client.send(request, stream=True)
                text = (await beginning(reply, MOST_ANSWER)).decode(errors="replace")
        except trio.TooSlowError:
            why = f"no response from {self.config.url} within {self.config.timeout:g} s"
            raise RetryLaterError(why) from None
        except httpx.HTTPError as error:
            why = f"no response from {self.config.url}: {root_of(error)!r}"
            raise RetryLaterError(why) from None
        if reply.is_success and not is_page(text):
            return None
        status = reply.status_code
        remark = CHECK.get(status) or not_about_points(status, reply.headers, text)
        # VictoriaMetrics says 400 for a path that it does not have.
        if status in {400, 413, 422} and remark is None and "unsupported path" not in text:
            return RefusedLines(f"{status} {one_line(text)}", status == 413)
        why = f"{self.config.url} responded with {status} {one_line(text)}".rstrip()
        raise RetryLaterError(why + (remark or ""), after=retry_after(reply.headers))


def _kind(entry: Entry) -> Any:
    """Sort points that conflict with the types stored before to one place, where halving finds them."""
    point, _ = entry
    return point.series, [
        (key, type(value).__name__) for key, value in sorted(point.fields.items())
    ]


def pieces(entries: Sequence[Entry], most: int) -> list[list[Entry]]:
    """Return the entries in as few requests as possible of `most` bytes, or of a single line."""
    made: list[list[Entry]] = []
    room = 0
    for entry in entries:
        room -= len(entry[1]) + 1
        if room < 0 or not made:
            made.append([])
            room = most - len(entry[1]) - 1
        made[-1].append(entry)
    return made


# Line protocol


async def encode(
    points: Iterable[MonitoringPoint], config: Config
) -> tuple[list[Entry], list[MonitoringPoint], str]:
    """Return the points with their lines, those that have none, and why the last of these has none."""
    entries: list[Entry] = []
    rejected: list[MonitoringPoint] = []
    why = ""
    unit = UNITS[config.precision]
    line_break = "\n" if config.line_breaks == "keep" else r"\\n"
    for number, point in enumerate(points):
        if number % SLICE == SLICE - 1:
            await trio.lowlevel.checkpoint()
        try:
            entries.append((point, to_line(point, unit, line_break)))
        except (ValueError, OverflowError) as error:
            rejected.append(point)
            why = str(error)
    return entries, rejected, why


def to_line(point: MonitoringPoint, unit: int, line_break: str) -> bytes:
    """Return a point as a line.

    Args:
        point: Any point.
        unit: Microseconds in a unit of time, or 0 for nanoseconds.
        line_break: What stands for a line break in a string field.

    Raises:
        ValueError, OverflowError: The point has no form in line protocol.
    """
    parts = []
    for key, value in point.fields.items():
        if isinstance(value, str):
            text = value.replace("\\", r"\\").replace('"', r"\"").replace("\n", line_break)
            parts.append(f'{_field(key)}"{text}"')
        elif isinstance(value, float):
            parts.append(f"{_field(key)}{float.__repr__(value)}")
        elif isinstance(value, bool):
            parts.append(f"{_field(key)}{'true' if value else 'false'}")
        else:
            parts.append(f"{_field(key)}{int(value)}i")
    if not parts:
        raise ValueError("a point without fields has no form in line protocol")
    fields = ",".join(parts).encode()
    # A Unix time as a float is exact to the microsecond and no further.
    moment = round(point.time * 1_000_000)
    if not -LAST_MICROSECOND <= moment <= LAST_MICROSECOND:
        raise ValueError("the time does not fit into 64 bits of nanoseconds")
    # InfluxDB keeps one point for a series, its tags and a time. The digits that a float leaves free keep
    # the points of one microsecond apart, and the same for a point that is written once more.
    moment = moment // unit if unit else moment * 1000 + crc32(fields) % 1000
    tags = point.tags
    return b"%b %b %d" % (_head(point.series, *tags, *tags.values()), fields, moment)


@lru_cache(maxsize=2048, typed=True)  # typed, since 1 == 1.0 == True
def _head(series: str, *keys_and_values: Any) -> bytes:
    """Return the series with its tags; most points have those of an earlier one."""
    if UNFIT_SERIES.search(series):
        raise ValueError(f"series {series!r:.80} has no form in line protocol")
    parts = [series.translate(SERIES_ESCAPES)]
    count = len(keys_and_values) // 2
    for key, value in sorted(zip(keys_and_values[:count], keys_and_values[count:], strict=True)):
        text = value if isinstance(value, str) else json.dumps(value)
        if key == "time" or UNFIT_TAG.search(key) or UNFIT_TAG.search(text):
            raise ValueError(f"tag {key!r:.80} has no form in line protocol")
        if text:  # a tag without a value cannot be written and says no more than no tag
            parts.append(f"{key.translate(ESCAPES)}={text.translate(ESCAPES)}")
    head = ",".join(parts).encode()
    if len(head) > LONGEST_HEAD:
        raise ValueError(f"series and tags are longer than {LONGEST_HEAD} bytes")
    return head


@lru_cache(maxsize=2048)
def _field(key: str) -> str:
    # InfluxDB drops a field named time in silence.
    if key == "time" or UNFIT_FIELD.search(key):
        raise ValueError(f"field {key!r:.80} has no form in line protocol")
    return f"{key.translate(ESCAPES)}="
