"""All the work on one stream: one worker after the other, watched, until the stream is done or has failed.

`stream` is what is known of one, `attempt` the work of one worker, `supervisor` what follows which. Used
from outside: `kept`, `previews`, `record`, `stream`, `supervisor`, `tasks`. Uses: `processes`.
"""
