"""Flower's SuperLink as a process of its own, which ends with the server that started it."""

import os
import signal
import threading
import time


def main() -> None:
    """Run ``flower-superlink`` with this process's arguments."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    from flwr.superlink.cli.flower_superlink import flower_superlink

    flower_superlink()


def _end_with(parent: int) -> None:
    """A server that was killed stops nothing itself; the SuperLink would hold its port and database."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)
    os._exit(1)


if __name__ == "__main__":
    main()
