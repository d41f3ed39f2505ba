"""Network addresses that can never work: refused at once, since a connection would be tried for ever."""

from __future__ import annotations

import ipaddress
import re
import socket
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

#: A part of a host's name between dots. Names of containers have underscores.
_LABEL: Final = re.compile(r"[\w-]{1,63}")
_LONGEST_NAME: Final = 253


def why_not(text: str) -> str | None:
    """Return why nobody can connect to an address; None if somebody may.

    Nothing of the address is repeated: any part of it may be one of a password that is not encoded.

    Args:
        text: ``scheme://…``, without control characters.
    """
    if any(character.isspace() for character in text):
        return "the address has a space in it; write %20"
    netloc = re.split(r"[/?#]", text.partition("://")[2], maxsplit=1)[0]
    why = _why_not_host(netloc)
    if why is None:
        try:
            urlsplit(text)
        except ValueError:
            why = "the address is not understood: a character of it stands for others"
    # A part of a password may stand where the host does.
    encode = "; write special characters of a password as %XX" if why and "@" in text else ""
    return why and f"{why}{encode}"


def _why_not_host(netloc: str) -> str | None:
    if "[" in netloc or "]" in netloc:
        host, port = _bracketed(netloc)
        if host is None:
            return "the address is not understood: an IPv6 address is written as [2001:db8::7]"
    else:
        host, colon, port = netloc.rpartition("@")[2].partition(":")
        port = colon + port
        if not host:
            return "the address has no host; write SCHEME://HOST/PATH"
        if not _is_name(host):
            return "the address is not understood: its host is neither a name nor an IPv4 address"
    if not _is_port(port):
        return "the address is not understood: its port is not a number from 1 to 65535"
    return None


def _bracketed(netloc: str) -> tuple[str | None, str]:
    """Return the IPv6 address and the port, with its colon; None if it is none."""
    found = re.fullmatch(r"(?:[^\[\]]*@)?\[([^\[\]]*)\](:.*)?", netloc)
    if found is not None:
        with suppress(ValueError):
            return str(ipaddress.IPv6Address(found[1])), found[2] or ""
    return None, ""


def _is_name(host: str) -> bool:
    if re.fullmatch(r"[0-9.]+", host):
        with suppress(OSError):
            socket.inet_aton(host)
            return True
        return False
    name = host.removesuffix(".")
    return len(name) <= _LONGEST_NAME and all(map(_LABEL.fullmatch, name.split(".")))


def _is_port(text: str) -> bool:
    """Return whether it is a colon and a port; without the port, the scheme's own one is meant."""
    digits = text[1:]
    if not digits:
        return True
    number = digits.isascii() and digits.isdecimal() and len(digits) <= 10
    return number and 0 < int(digits) < 65536
