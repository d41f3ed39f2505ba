import base64
import hmac
import time
from collections.abc import Mapping


def is_genuine(secret: str, headers: Mapping[str, str], body: bytes) -> bool:
    id_, at, signature = (headers[f"webhook-{part}"] for part in ("id", "timestamp", "signature"))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{id_}.{at}.".encode() + body, "sha256")
    expected = "v1," + base64.b64encode(digest).decode()
    return hmac.compare_digest(expected, signature) and abs(time.time() - int(at)) < 300
