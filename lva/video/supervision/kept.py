"""The newest events of streams, kept in memory within bounds of their number and bytes.

An event stays when its picture has to go; that is counted.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any, Final

from lva.events.streams import StreamAnalyticsEvent

#: Most events of a stream, and most bytes of them without their pictures.
MOST_EVENTS: Final = 200
MOST_BYTES: Final = 4 * 1024 * 1024
#: Most bytes of pictures, of one stream and of all.
MOST_PICTURES_OF_ONE: Final = 8 * 1024 * 1024
MOST_PICTURES: Final = 64 * 1024 * 1024


class KeptPictures:
    """The pictures of the events of all streams.

    Args:
        most: Most bytes of all of them; the oldest go first, of whatever stream.
        most_of_one: Most bytes of one stream's.

    Attributes:
        bytes: How many they have.
    """

    def __init__(self, most: int = MOST_PICTURES, most_of_one: int = MOST_PICTURES_OF_ONE) -> None:
        self.bytes: int = 0
        self.most_of_one: int = min(most, most_of_one)
        self._most = most
        self._kept: OrderedDict[tuple[KeptEvents, int], bytes] = OrderedDict()

    def put(self, owner: KeptEvents, number: int, picture: bytes) -> None:
        """Keep the picture of an event, and drop the oldest of all until there is room for it."""
        self._kept[owner, number] = picture
        self.bytes += len(picture)
        owner.picture_bytes += len(picture)
        while self.bytes > self._most:
            (oldest, its_number), _ = next(iter(self._kept.items()))
            oldest.drop_picture(its_number)

    def get(self, owner: KeptEvents, number: int) -> bytes | None:
        """Return the picture of an event, if it is kept."""
        return self._kept.get((owner, number))

    def remove(self, owner: KeptEvents, number: int) -> bool:
        """Let go of the picture of an event; return whether it was kept."""
        picture = self._kept.pop((owner, number), b"")
        self.bytes -= len(picture)
        owner.picture_bytes -= len(picture)
        return bool(picture)


class KeptEvents:
    """The newest events of one stream, oldest first, without their pictures; those are beside them.

    Args:
        pictures: Those of all streams.

    Attributes:
        picture_bytes: How many its own pictures have.
        pictures_dropped: How many had to go before their events.
    """

    def __init__(self, pictures: KeptPictures) -> None:
        self.picture_bytes: int = 0
        self.pictures_dropped: int = 0
        self._pictures = pictures
        self._events: deque[StreamAnalyticsEvent] = deque()
        self._bytes = 0
        self._with_picture: deque[int] = deque()  # numbers of events, some of which may be gone

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[StreamAnalyticsEvent]:
        return iter(self._events)

    def __reversed__(self) -> Iterator[StreamAnalyticsEvent]:
        return reversed(self._events)

    def __getitem__(self, index: int) -> StreamAnalyticsEvent:
        return self._events[index]

    def add(self, event: StreamAnalyticsEvent) -> None:
        """Keep an event, and let the oldest go for it."""
        bare = event.without_picture()
        self._events.append(bare)
        self._bytes += bare.size
        while len(self._events) > MOST_EVENTS or self._bytes > MOST_BYTES:
            self._forget_oldest()
        if event.image:
            self._add_picture(event.number, event.image)

    def _add_picture(self, number: int, picture: bytes) -> None:
        most = self._pictures.most_of_one
        if len(picture) > most:  # it would drive out all others, and not fit even then
            self.pictures_dropped += 1
            return
        while self.picture_bytes + len(picture) > most:
            self.drop_picture(self._with_picture[0])
        self._with_picture.append(number)
        self._pictures.put(self, number, picture)

    def picture(self, number: int) -> bytes | None:
        """Return the picture of an event, if it is kept."""
        return self._pictures.get(self, number)

    def document(self, event: StreamAnalyticsEvent) -> dict[str, Any]:
        """Return a kept event for JSON; its picture has an address only while that is kept."""
        found = event.as_dict()
        if found["image"] is not None and self.picture(event.number) is None:
            found["image"]["url"] = None
        return found

    def drop_picture(self, number: int) -> None:
        """Let go of the oldest picture, whose event stays."""
        while self._with_picture and self._with_picture[0] <= number:
            self._with_picture.popleft()
        self.pictures_dropped += self._pictures.remove(self, number)

    def clear(self) -> None:
        """Let go of everything."""
        while self._events:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        event = self._events.popleft()
        self._bytes -= event.size
        self._pictures.remove(self, event.number)
        if self._with_picture and self._with_picture[0] <= event.number:
            self._with_picture.popleft()
