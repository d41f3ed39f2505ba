"""Marks handlers of routes that only an administrator may call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])
ADMIN_ONLY: Final = "lva_admin_only"


def admin_only(handler: HandlerT) -> HandlerT:
    """Let a route's handler be called only by who may act on plugins.

    That is who sends the admin token; without a token, who reaches a service that listens on loopback
    only, but for web pages of other origins. Others get 401 or 403. For functions, and for the verbs of
    handler classes::

        @admin_only
        async def create(self, request): ...
    """
    setattr(handler, ADMIN_ONLY, True)
    return handler


def is_admin_only(handler: Any) -> bool:
    """Return whether a handler is marked."""
    return getattr(handler, ADMIN_ONLY, False) is True
