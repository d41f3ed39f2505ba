"""A frame as analytics get it; the worker's side."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from lva.video.geometry import Region

if TYPE_CHECKING:
    import numpy as np

#: Quality of JPEGs, 1 to 100.
JPEG_QUALITY = 80


class Frame:
    """One decoded picture of a stream. Its arrays are made when asked for, once for each format.

    Attributes:
        number: Of the decoded frames of this worker, from 1 on.
        pts: Its presentation time in seconds, monotonic within a connection.
        wall_time: When it arrived, in Unix seconds; for a file, when it was decoded.
        key: Whether it is a key frame.
        roi: The part of the picture that the stream is about; all of it by default.
        droi: The part in which results count; `roi` by default. An event with a ``box`` in its data that is
            not within it is dropped.
    """

    __slots__ = (
        "_arrays",
        "_arrived",
        "_picture",
        "droi",
        "key",
        "making",
        "number",
        "pts",
        "roi",
        "wall_time",
    )

    def __init__(
        self,
        picture: Any,
        number: int,
        pts: float,
        key: bool,
        roi: Region | None = None,
        droi: Region | None = None,
    ) -> None:
        self.number: int = number
        self.pts: float = pts
        self.key: bool = key
        self.wall_time: float = time.time()
        self.roi: Region = roi or Region(0, 0, picture.width, picture.height)
        self.droi: Region = droi or self.roi
        #: Entered while an array is made, which is the frame's rather than of who asked for it.
        self.making: Callable[[], AbstractContextManager[None]] = nullcontext
        self._picture = picture
        self._arrived = time.monotonic()
        self._arrays: dict[str, Any] = {}

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the whole picture in pixels."""
        return self._picture.width, self._picture.height

    @property
    def age(self) -> float:
        """Seconds since it was decoded, on the monotonic clock."""
        return time.monotonic() - self._arrived

    def image(self, pixel_format: str = "rgb24", *, whole: bool = False) -> np.ndarray[Any, Any]:
        """Return the picture as an array of unsigned bytes.

        Args:
            pixel_format: A pixel format of FFmpeg: ``rgb24`` and ``bgr24`` have the shape (height, width, 3),
                ``gray`` has (height, width). Of those whose planes have several sizes, such as ``yuv420p``,
                there is only the whole picture.
            whole: The whole picture, rather than the region of interest.

        Returns:
            numpy.ndarray: A read-only view of what belongs to the frame: other plugins and the decoder use it
                too. Copy it before changing it.

        Raises:
            ValueError: The format is not known, or a region cannot be cut out of it.
        """
        array: Any = self._arrays.get(pixel_format)
        if array is None:
            with self.making():
                array = self._picture.to_ndarray(format=pixel_format)
            array.flags.writeable = False
            self._arrays[pixel_format] = array
        if whole:
            whole_array: np.ndarray[Any, Any] = array
            return whole_array
        if array.shape[:2] != self.size[::-1]:
            raise ValueError(
                f"of {pixel_format} there is only the whole picture: image({pixel_format!r}, whole=True)"
            )
        region = self.roi
        part: np.ndarray[Any, Any] = array[
            region.y : region.y + region.height, region.x : region.x + region.width
        ]
        return part

    def gray(self, *, whole: bool = False) -> np.ndarray[Any, Any]:
        """Return the brightness, as `image("gray")`; from a YUV picture without a conversion."""
        if "gray" not in self._arrays and self._picture.format.name in _WITH_Y_PLANE:
            self._arrays["gray"] = _y_plane(self._picture)
        return self.image("gray", whole=whole)

    def small(self, longest: int = 160, *, whole: bool = False) -> np.ndarray[Any, Any]:
        """Return the brightness, made smaller: each number is the mean of a square of pixels.

        That is quick and takes out much of a camera's noise. Large squares are sampled, 16 pixels of each.

        Args:
            longest: The most rows and columns. A smaller picture stays as it is.
            whole: As for `image`.

        Returns:
            numpy.ndarray: Of 32-bit floats, 0 to 255; read-only.
        """
        key = f"small {longest} {whole}"
        if (array := self._arrays.get(key)) is None:
            array = self._arrays[key] = _reduced(self.gray(whole=whole), longest)
        found: np.ndarray[Any, Any] = array
        return found

    def jpeg(self, region: Region | None = None, quality: int = JPEG_QUALITY) -> bytes:
        """Return the picture, or a part of it, as a JPEG.

        Args:
            region: The part; all of the picture if left out. It is cut to the picture.
            quality: 1 to 100.

        Raises:
            ValueError: The part is outside of the picture.
        """
        picture = self._picture
        if region is not None:
            import av

            part = region.within(*self.size)
            array = self.image("rgb24", whole=True)
            cut = array[part.y : part.y + part.height, part.x : part.x + part.width]
            picture = av.VideoFrame.from_ndarray(cut.copy(), format="rgb24")
        return encode_jpeg(picture, quality)


#: Pixel formats whose first plane is the brightness.
_WITH_Y_PLANE = frozenset({"yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuvj422p", "nv12", "gray"})


def _y_plane(picture: Any) -> np.ndarray[Any, Any]:
    import numpy as np

    plane = picture.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    rows.flags.writeable = False  # the decoder may still need them for the next pictures
    return rows[: picture.height, : picture.width]


def _reduced(gray: np.ndarray[Any, Any], longest: int) -> np.ndarray[Any, Any]:
    """Return the means of squares of pixels, of the least size that makes the array small enough."""
    import numpy as np

    side = -(-max(gray.shape) // longest)
    stride = max(1, side // 4)
    across = side // stride  # samples of each square, in each direction
    rows, columns = gray.shape[0] // side, gray.shape[1] // side
    if not rows or not columns:
        small = np.full((1, 1), gray.mean(), np.float32)
    else:
        total = np.zeros((rows, columns), np.uint16)
        for dy in range(0, across * stride, stride):
            for dx in range(0, across * stride, stride):
                total += gray[dy : rows * side : side, dx : columns * side : side]
        small = total.astype(np.float32)
        small /= across**2
    small.flags.writeable = False
    return small


def encode_jpeg(picture: Any, quality: int = JPEG_QUALITY) -> bytes:
    """Return a picture of PyAV as a JPEG.

    Args:
        picture: A `av.VideoFrame`.
        quality: 1 to 100.
    """
    import av

    coded = io.BytesIO()
    step = 1 + round(
        (100 - min(max(quality, 1), 100)) * 30 / 99
    )  # FFmpeg's scale: 1 is best, 31 worst
    with av.open(coded, "w", format="image2pipe") as container:
        stream: Any = container.add_stream(
            "mjpeg", rate=1, options={"qmin": str(step), "qmax": str(step)}
        )
        stream.width, stream.height = picture.width, picture.height
        stream.pix_fmt, stream.codec_context.color_range = "yuv420p", 2
        whole = picture.reformat(format="yuvj420p")
        whole.pts = 0
        container.mux([*stream.encode(whole), *stream.encode(None)])
    return coded.getvalue()
