"""A site for the tests: python echo.py FOLDER answers each message with its own content, as its config asks."""

import sys
import time
from pathlib import Path

from flwr.app import Message

from scfl_green.sites.commands import _until_stopped
from scfl_green.sites.membership import alone, read
from scfl_green.sites.node import serve


def answer(message: Message, size: int) -> Message:
    asked = message.content.config_records.get("asked", {})
    time.sleep(float(asked.get("seconds", 0)))
    if "raise" in asked:
        raise PermissionError(str(asked["raise"]))
    return Message(message.content, reply_to=message)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with _until_stopped(), alone(folder):
        serve(read(folder), answer)
