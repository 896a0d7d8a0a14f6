"""What worker processes of tests do with signals; in a file that imports little, so that workers start fast."""

from __future__ import annotations

import os
import signal


def is_out_of_reach_of_ctrl_c(_: int) -> bool:
    """Whether Ctrl-C cannot reach this process, nor could while it started."""
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def end_by_sigkill(_: int) -> None:
    """End this process as the system does where memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)
