"""Show a detector's answers in the browser: drop a photo or a video into a page.

    python examples/deepfake/app.py runs/demo

The page shows the face's box, the fake probability, the heat maps of explain.py and, of a video, the curve of its
frames. Answers and errors are those of predict.py. The server listens on this machine only (127.0.0.1), calls no
other machine, and deletes each upload after its answer. Uploads are limited in size and length; serving/limits.py has
the limits. Ctrl-C stops it.
"""

from __future__ import annotations

import os
import signal
import sys

from deepfake.common import cli
from deepfake.common.cli import Parser, in_range, reading_input
from deepfake.training.checkpoint import load_run
from deepfake.training.distributed import pick_device
from panet_layers.extras import needs
from panet_layers.models import fold_batch_norm


def main(argv: list[str] | None = None) -> int:
    """The command; runs until it is stopped."""
    args = _parser().parse_args(argv)
    with needs("app"):
        from deepfake.serving.server import HOST, listen, server
    with reading_input():
        model, config = load_run(args.run, pick_device(args.device))
        model = fold_batch_norm(model)
    from deepfake.serving.page import html_of
    from deepfake.serving.replies import Replies

    running = server(html_of(args.run, config), Replies(model, config))
    with listen(args.port) as listener:
        print(f"Open http://{HOST}:{listener.getsockname()[1]} in a browser on this machine. Ctrl-C stops.", flush=True)
        signal.signal(signal.SIGHUP, running.handle_exit)  # the terminal was closed
        try:
            running.run(sockets=[listener])
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr, flush=True)
            os._exit(130)  # an ordinary exit would wait for the thread of the answer in progress
    return 0


def _parser() -> Parser:
    parser = Parser(description=__doc__)
    parser.add_argument("run", type=cli.path, metavar="RUN", help="run folder of train.py, or one of save_pretrained")
    parser.add_argument(
        "--port", type=in_range(int, 0, 65535), default=8000, help="0: any that is free (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, ...")
    return parser


if __name__ == "__main__":
    cli.run(main)
