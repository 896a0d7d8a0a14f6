"""A process of test_damaged_media: damages files, reads each as predict.py does, and prints how many could be read.

    python -m tests.fuzz.reading_damaged WHOLE FOLDER SEED FIRST LAST

Example N of a seed is the same whatever else runs. Its number is printed before it is read: the last one printed is
that which ended the process. A subprocess, a connection or a file written elsewhere is an error.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from random import Random

FORBIDDEN = (
    "subprocess.Popen", "socket.connect", "socket.getaddrinfo", "os.system", "os.exec", "os.posix_spawn", "os.fork",
)  # fmt: skip
CPU_SECONDS, MEMORY = 300, 6 * 2**30
NUMBERS = (
    b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\1", b"\1\0\0\0",
    b"\x80\0\0\0",
)  # fmt: skip
NAMES = ("example", "example.jpg", "example.mp4")


def damaged(content: bytes, others: list[bytes], random: Random) -> bytes:
    """The content of a file after one to four random changes, most of them where its header is."""
    for _ in range(random.choice((1, 1, 2, 4))):
        content = _changed(bytearray(content), others, random)
    return content


def _changed(content: bytearray, others: list[bytes], random: Random) -> bytes:
    if not content:
        return b""
    end = random.choice((16, 64, 512, len(content)))
    place = random.randrange(min(end, len(content)))
    length = min(random.choice((1, 1, 2, 4, 16, 200)), len(content) - place)
    kind = random.randrange(8)
    if kind == 0:
        content[place] ^= 1 << random.randrange(8)
    elif kind == 1:
        content[place : place + length] = random.randbytes(length)
    elif kind == 2:
        content[place : place + 4] = random.choice(NUMBERS)
    elif kind == 3:
        del content[place : place + length]
    elif kind == 4:
        content[place:place] = content[place : place + length]
    elif kind == 5:
        del content[random.randrange(len(content)) :]
    elif kind == 6:
        other = random.choice(others)
        content[place : place + length] = other[place : place + length]
    else:
        content[place : place + length] = bytes(length)
    return bytes(content)


def main(whole: Path, folder: Path, seed: int, first: int, last: int) -> None:
    """Read the examples of these numbers."""
    from deepfake.common.cli import UserError
    from deepfake.media.file_kinds import is_video
    from deepfake.media.image_files import read_rgb
    from deepfake.media.video import sample_frames

    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    _watch(folder)
    contents = [path.read_bytes() for path in sorted(whole.iterdir())]
    read = 0
    for number in range(first, last):
        random = Random(f"{seed} {number}")
        file = folder / random.choice(NAMES)
        file.write_bytes(damaged(random.choice(contents), contents, random))
        print(f"example {number}", flush=True)
        try:
            frames = sample_frames(file, 3, report=_check) if is_video(file) else [(0, read_rgb(file))]
            images = [image for _, image in frames]
            assert all(image.ndim == 3 and image.shape[2] == 3 and image.dtype == "uint8" for image in images)
            read += 1
        except UserError as error:
            _check(str(error))
    print(read, last - first - read)


def _check(line: str) -> None:
    """A line names the file, and is one."""
    assert "/example" in line and "\n" not in line and len(line) < 500, line


def _watch(folder: Path) -> None:
    """From here on, what no picture may cause is an error, which no decoder's guard catches."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if event in FORBIDDEN or (writes and not str(arguments[0]).startswith(str(folder))):
            print(f"{event} {arguments}", flush=True)
            raise SystemExit(3)

    sys.addaudithook(hook)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
