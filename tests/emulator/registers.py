"""The registers of a program: where each stands in a warp's memory, and the constants, which are registers too."""

from __future__ import annotations

import re

import numpy as np

LANES = 32
EIGHT_BYTES = "UId"  # the letters of a signature (instructions.py) that are 64 bits wide
POISON = 0xFFFFFFFF  # of what nothing has written: NaN in every width


class Registers:
    """Offsets by name. A register of up to 32 bits takes four bytes a lane; a predicate is one bit a lane."""

    def __init__(self) -> None:
        self.bytes = 0
        self.symbols: dict[str, int] = {}  # variables in shared memory, by their addresses
        self._width: dict[str, int] = {}
        self._at: dict[str, int] = {}
        self._predicates: dict[str, int] = {}
        self._constants: dict[tuple[int, int], int] = {}
        self._fixed_predicates: dict[bool, int] = {}

    def declare(self, kind: str, names: list[str]) -> None:
        """Make room for registers of a PTX type, such as b32 or pred."""
        for name in names:
            if kind == "pred":
                self._predicates[name] = len(self._predicates)
            else:
                self._width[name] = 8 if kind.endswith("64") else 4
                self._at[name] = self._room(self._width[name])

    def width(self, name: str) -> int | None:
        """Return the bytes of a lane of a register; None for what is no register."""
        return self._width.get(name)

    def target(self, name: str, letter: str | None = None) -> int:
        """Return where a result goes, -1 for nowhere ("_"). With a signature's letter, its width is checked."""
        if name == "_":
            return -1
        if letter == "p":
            return self._predicates[name]
        if letter is not None and self._width[name] != _bytes(letter):
            raise ValueError(f"{name} has {self._width[name]} bytes")
        return self._at[name]

    def predicate(self, text: str) -> int:
        """Return the number of a predicate, or of a constant one."""
        if text in self._predicates:
            return self._predicates[text]
        return self._fixed_predicates.setdefault(int(text, 0) != 0, len(self._predicates) + len(self._fixed_predicates))

    def source(self, text: str, letter: str) -> int:
        """Return where an operand is: a register, a constant, or the address of a variable in shared memory."""
        if letter == "p":
            return self.predicate(text)
        if text in self._at:
            if self._width[text] != _bytes(letter):
                raise ValueError(f"{text} has {self._width[text]} bytes")
            return self._at[text]
        return self._constant(_bytes(letter), self._value(text, letter))

    def _value(self, text: str, letter: str) -> int:
        """The bits of a literal."""
        if text in self.symbols:
            return self.symbols[text]
        if found := re.fullmatch(r"0[fF]([0-9A-Fa-f]{8})|0[dD]([0-9A-Fa-f]{16})", text):
            return int(found[1] or found[2], 16)
        if letter == "f" or not re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)U?", text):
            raise NotImplementedError(f"operand {text!r} as {letter}")
        value = int(text.rstrip("U"), 0)
        return value & 0xFFFF if letter in "hs" else value

    def _constant(self, width: int, value: int) -> int:
        key = width, value & (2 ** (8 * width) - 1)
        if key not in self._constants:
            self._constants[key] = self._room(width)
        return self._constants[key]

    def _room(self, width: int) -> int:
        at = -(-self.bytes // 8) * 8
        self.bytes = at + LANES * width
        return at

    def image(self) -> np.ndarray:
        """What a warp's registers hold when it starts: the constants, and poison elsewhere."""
        image = np.full(-(-self.bytes // 4), POISON, np.uint32)
        for (width, bits), at in self._constants.items():
            lanes = image[at // 4 : at // 4 + LANES * width // 4]
            lanes.view(np.uint64 if width == 8 else np.uint32)[:] = bits
        return image

    def predicates(self) -> np.ndarray:
        """What its predicates hold when it starts."""
        bits = np.zeros(len(self._predicates) + len(self._fixed_predicates) + 1, np.uint32)
        for value, at in self._fixed_predicates.items():
            bits[at] = POISON if value else 0
        return bits


def _bytes(letter: str) -> int:
    return 8 if letter in EIGHT_BYTES else 4
