"""What a worker process says of its signals; in a file that imports little, so that workers start fast."""

from __future__ import annotations

import signal


def is_out_of_reach_of_ctrl_c(_: int) -> bool:
    """Whether Ctrl-C cannot reach this process, nor could while it started."""
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
