"""The peak memory of this process, on Linux and macOS."""

import resource
import sys
from pathlib import Path


def peak_mib() -> float:
    """Return the largest memory that this process has had, in MiB.

    Returns:
        VmHWM of /proc where that is readable: a child's ru_maxrss counts its parent's memory before exec on Linux.
        Elsewhere ru_maxrss, which is in bytes on macOS and in KiB on other systems.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    except (OSError, IndexError):
        usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return usage / (2**20 if sys.platform == "darwin" else 2**10)
