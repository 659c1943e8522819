"""Outlives the testbed by the moment it takes to kill what the testbed left.

Started with the mark that every process of the testbed carries in its environment. The end of its input is the testbed's
end, however that came about. Whatever then carries the mark is killed, until nothing does.
"""

import os
import signal
import sys
import time

from testbed.processes import MARK


def main(mark: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while sys.stdin.buffer.read(1):
        pass
    # A process that forks while it is looked for is found the next time round.
    for _ in range(200):
        left = list(marked(f"{MARK}={mark}".encode()))
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
        time.sleep(0.02)


def marked(entry: bytes) -> list[int]:
    """The processes, dead ones not counted, that have this entry in their environment."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if not name.isdigit() or int(name) == os.getpid():
                continue
            with open(f"/proc/{name}/environ", "rb") as file:
                if entry in file.read().split(b"\0"):
                    found.append(int(name))
        except OSError:
            continue
    return found


if __name__ == "__main__":
    main(sys.argv[1])
