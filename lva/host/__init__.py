"""The plugin host: it knows nothing of HTTP servers, and nothing in it is public.

Its rooms stand one above the other, and each imports only from those below it: `watch` (who blocks an event
loop), `process` (what plugins do to the whole process), `runtimes` (where a plugin's code runs), `delivery`
(from `publish()` to `handleEvent`), `loading` (a name becomes checked classes), `life` (one plugin's states).
What is in no room stands on them all, but for `routing` below `loading`, and `plugin_modules` below all.
"""

from pathlib import Path
from typing import Final

HOST_DIR: Final = Path(__file__).parent
