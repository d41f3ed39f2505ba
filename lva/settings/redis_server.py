"""Where a Redis server is, and who we are to it: keys that each plugin with one has in its configuration."""

from __future__ import annotations

import re
from typing import Any, Final, Self
from urllib.parse import unquote

from pydantic import BaseModel, Field, SecretStr, model_validator

_URL: Final = re.compile(
    r"(?P<scheme>rediss?://|unix://)"
    r"(?:(?P<username>[^:/?#]*)(?::(?P<password>[^/?#]*))?@)?"
    r"(?P<place>(?:[\w.-]+|\[[\da-fA-F:.]+\])(?::\d{1,5})?(?:/\d*)?|/[^?#@]+)"
    # Whatever else could be said here has a key of its own.
    r"(?P<options>(?:[?&](?:db|ssl_(?:ca_certs|certfile|keyfile|check_hostname))=[^?&#]*)*)"
)


class RedisAddress(BaseModel):
    """The keys `url`, `username`, `password`. A password in the url becomes `password`, a secret."""

    url: str = Field(
        "redis://127.0.0.1:6379/0",
        description="The server: redis://host:port/db, rediss:// for TLS, or unix:///path.",
    )
    username: str | None = Field(None, description="The user, if not the server's default one.")
    password: SecretStr | None = Field(None, description="The user's password.")

    @model_validator(mode="after")
    def _take_credentials_out_of_url(self) -> Self:
        match = _URL.fullmatch(self.url)
        if not match or (match["scheme"] == "unix://") != match["place"].startswith("/"):
            raise ValueError(
                "url is redis://host:port/db, rediss://host:port/db or unix:///path, with no options but"
                " db and ssl_*; special characters in a password are percent-encoded"
            )
        if match["username"] or match["password"]:
            if self.username or self.password:
                raise ValueError("the user is named in url and beside it; keep one of the two")
            self.username = unquote(match["username"]) or None
            self.password = SecretStr(unquote(match["password"] or ""))
        self.url = match["scheme"] + match["place"] + match["options"]
        return self

    def client_options(self) -> dict[str, Any]:
        """Return what clients of the server are made with, besides the url and limits."""
        tls = {"ssl_check_hostname": True} if self.url.startswith("rediss:") else {}
        password = self.password.get_secret_value() if self.password else None
        return {"username": self.username, "password": password, "protocol": 2, **tls}
