"""How each form of PTX instruction that moves data or control becomes a record for the machine.

A form is a pattern of the instruction's name and a function of the registers, the match and the operands. What has no
form is looked up in `instructions.TABLE`; what is in neither raises, so that nothing is run that is not understood.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tests.emulator import encoding
from tests.emulator.instructions import NUMBERS, TABLE
from tests.emulator.registers import Registers

Record = dict[str, Any]
Form = Callable[[Registers, re.Match, list[str]], Record]
FORMS: list[tuple[re.Pattern, Form]] = []
HINTS = {"nc", "L1::evict_last", "L1::evict_first", "relaxed", "weak"}  # of caches and order: without effect here


def record(name: str, operands: list[str], registers: Registers) -> Record:
    """Return the fields of a record of encoding.RECORD."""
    for pattern, form in FORMS:
        if found := pattern.fullmatch(name):
            return form(registers, found, operands)
    return _computed(registers, name, operands)


def form(pattern: str) -> Callable[[Form], Form]:
    """Enter a function under the names that match."""

    def enter(function: Form) -> Form:
        FORMS.append((re.compile(pattern), function))
        return function

    return enter


def _computed(registers: Registers, name: str, operands: list[str]) -> Record:
    if name.startswith("cvt.") and registers.width(operands[1]) == 8 and f"{name}@64" in TABLE:
        name += "@64"
    if name not in TABLE:
        raise NotImplementedError(f"unknown instruction {name}")
    target, letters = TABLE[name][0].split(":")
    result, *sources = operands
    if len(sources) != len(letters):
        raise ValueError(f"{name} takes {len(letters)} operands")
    return {
        "operation": NUMBERS[name],
        "target": [registers.target(result, target)],
        "source": [registers.source(text, letter) for text, letter in zip(sources, letters)],
    }


def parts(text: str) -> list[str]:
    """Return the registers of a vector, {%r1, %r2}, or the one that stands there."""
    return [part.strip() for part in text.strip("{} ").split(",")]


def address(text: str) -> tuple[str, int]:
    """Return what an address, [%rd1+16], is made of."""
    found = re.fullmatch(r"\[\s*([%\w$.]+)\s*(?:\+\s*(-?\w+))?\s*\]", text)
    if found is None:
        raise NotImplementedError(f"address {text!r}")
    return found[1], int(found[2] or "0", 0)


@form(r"ld\.param(?:\.v\d)?\.[bfus](\d+)|ld\.param(?:\.v\d)?\.(s32)")
def parameter(registers: Registers, found: re.Match, operands: list[str]) -> Record:
    base, offset = address(operands[1])
    targets = parts(operands[0])
    wide = registers.width(targets[0]) == 8
    extended = found[0].endswith(".s32") and wide
    return {
        "operation": NUMBERS["parameter"],
        "target": [registers.target(name) for name in targets],
        "count": len(targets),
        "bytes": int(re.search(r"\d+$", found[0])[0]) // 8,
        "variant": encoding.WIDE_TARGET * wide | encoding.SIGN_EXTENDED * extended,
        "offset": registers.symbols[base] + offset,
    }


@form(r"(ld|st)\.(global|shared)(?:::cta)?((?:\.[A-Za-z][\w:]*?)*?)(?:\.v(\d))?\.([bfus])(\d+)")
def memory(registers: Registers, found: re.Match, operands: list[str]) -> Record:
    kind, space, hints, vector, letter, bits = found.groups()
    if unknown := set(filter(None, hints.split("."))) - HINTS:
        raise NotImplementedError(f"{unknown} of {found[0]}")
    values, place = operands if kind == "ld" else reversed(operands)
    base, offset = address(place)
    # NVRTC has shared addresses in 64 bits, Triton in 32.
    wide = registers.width(base) == 8
    if space == "global" and not wide:
        raise NotImplementedError(f"a global address that is not in a 64-bit register: {place}")
    at, names, size = registers.source(base, "U" if wide else "u"), parts(values), int(bits) // 8
    if len(names) != int(vector or 1):
        raise ValueError(f"{found[0]} takes {vector} registers")
    fields: Record = {"source": [at], "count": len(names), "bytes": size, "offset": offset}
    if kind == "ld":
        fields["target"] = [registers.target(name) for name in names]
    else:
        fields["source"] += [registers.source(name, {8: "U", 4: "u"}.get(size, "h")) for name in names]
    fields["variant"] = encoding.SIGNED_BYTES * (letter == "s") | encoding.WIDE_ADDRESS * wide
    return fields | {"operation": NUMBERS[f"{'load' if kind == 'ld' else 'store'}_{space}"]}


@form(r"(ld|st)matrix\.sync\.aligned\.m8n8\.x(\d)(\.trans)?\.shared(?:::cta)?\.b16")
def matrices(registers: Registers, found: re.Match, operands: list[str]) -> Record:
    load = found[1] == "ld"
    values, place = operands if load else reversed(operands)
    base, offset = address(place)
    names, at = [registers.target(name) for name in parts(values)], registers.source(base, "u")
    return {
        "operation": NUMBERS["load_matrix" if load else "store_matrix"],
        "target": names if load else [],
        "source": [at] if load else [at, *names],
        "count": int(found[2]),
        "bytes": 2,
        "variant": encoding.TRANSPOSED * bool(found[3]),
        "offset": offset,
    }


@form(r"cp\.async\.c[ag]\.shared(?:::cta)?\.global(?:\.L2::\d+B)?")
def copy(registers: Registers, found: re.Match, operands: list[str]) -> Record:
    if len(operands) != 3:
        raise NotImplementedError("a copy of fewer bytes than it writes")
    (to, to_offset), (of, of_offset) = address(operands[0]), address(operands[1])
    return {
        "operation": NUMBERS["copy_async"],
        "source": [registers.source(to, "u"), registers.source(of, "U")],
        "count": 1,
        "bytes": int(operands[2], 0),
        "offset": of_offset,
        "shared_offset": to_offset,
    }


@form(r"cp\.async\.wait_all")
def wait(registers: Registers, found: re.Match, operands: list[str]) -> Record:
    return {"operation": NUMBERS["wait_copies"]}


@form(r"mma\.sync\.aligned\.m16n8k(8|16)\.row\.col\.f32\.(bf16|f16)\.\2\.f32")
def product(registers: Registers, found: re.Match, operands: list[str]) -> Record:
    d, a, b, c = (parts(text) for text in operands)
    filled = [*a, *a][:4], [*b, *b][:2]  # of half the depth, half the registers; the rest is not read
    return {
        "operation": NUMBERS["matrix_product"],
        "target": [registers.target(name) for name in d],
        "source": [registers.source(name, "u") for name in (*filled[0], *filled[1], *c)],
        "count": int(found[1]),
        "variant": encoding.OF_FLOAT16 * (found[2] == "f16"),
    }


@form(r"shfl\.sync\.(bfly|idx|up|down)\.b32")
def shuffle(registers: Registers, found: re.Match, operands: list[str]) -> Record:
    result, _, valid = operands[0].partition("|")
    return {
        "operation": NUMBERS["shuffle"],
        "target": [registers.target(result), registers.target(valid, "p") if valid else -1],
        "source": [registers.source(text, "u") for text in operands[1:]],
        "variant": encoding.MODES[encoding.SHUFFLES[found[1]]],
    }


@form(r"redux\.sync\.(\w+\.\w+)")
def reduction(registers: Registers, found: re.Match, operands: list[str]) -> Record:
    return {
        "operation": NUMBERS["reduce"],
        "target": [registers.target(operands[0])],
        "source": [registers.source(text, "u") for text in operands[1:]],
        "variant": encoding.MODES[encoding.REDUCTIONS[found[1]]],
    }


@form(r"bra(?:\.uni)?")
def branch(registers: Registers, found: re.Match, operands: list[str]) -> Record:
    return {"operation": NUMBERS["branch"], "jump": operands[0]}  # a label; program.py knows where it is


@form(r"ret|exit")
def leave(registers: Registers, found: re.Match, operands: list[str]) -> Record:
    return {"operation": NUMBERS["leave"]}


@form(r"trap")
def trap(registers: Registers, found: re.Match, operands: list[str]) -> Record:
    return {"operation": NUMBERS["trap"]}


@form(r"bar(?:rier)?(?:\.cta)?\.sync(?:\.aligned)?")
def block_barrier(registers: Registers, found: re.Match, operands: list[str]) -> Record:
    if operands != ["0"]:
        raise NotImplementedError(f"a barrier of some threads only: {operands}")
    return {"operation": NUMBERS["block_barrier"]}


@form(r"bar\.warp\.sync")
def warp_barrier(registers: Registers, found: re.Match, operands: list[str]) -> Record:
    if operands[0] not in ("-1", "0xffffffff"):
        raise NotImplementedError(f"a barrier of some lanes only: {operands}")
    return {"operation": NUMBERS["warp_barrier"]}


@form(r"mov\.[bus](32|64)")
def move(registers: Registers, found: re.Match, operands: list[str]) -> Record:
    """A special register, the halves of a register, or a register of two halves; else a plain move."""
    target, source = operands
    if source in encoding.SPECIAL_REGISTERS:
        number = encoding.SPECIAL_REGISTERS.index(source)
        return {
            "operation": NUMBERS["special_register"],
            "target": [registers.target(target)],
            "variant": number,
        }
    size = int(found[1]) // 8
    if "{" in source:
        halves = [registers.source(text, "h" if size == 4 else "u") for text in parts(source)]
        return {"operation": NUMBERS["pack"], "bytes": size, "target": [registers.target(target)], "source": halves}
    if "{" in target:
        whole = registers.source(source, "u" if size == 4 else "U")
        halves = [registers.target(text) for text in parts(target)]
        return {"operation": NUMBERS["unpack"], "bytes": size, "target": halves, "source": [whole]}
    return _computed(registers, found[0], operands)
