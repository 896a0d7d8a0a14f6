"""How the parser hands instructions to the machine: an instruction's record, numbers of operations and variants."""

from __future__ import annotations

import numpy as np

from tests.emulator.findings import KINDS, TEXTS
from tests.emulator.instructions import NUMBERS, SPECIAL, TABLE

# struct Instruction in machine/state.h.
RECORD = np.dtype(
    [
        *((name, "i4") for name in ("operation", "guard", "negated")),
        ("target", "i4", 4),
        ("source", "i4", 10),
        *((name, "i4") for name in ("count", "bytes", "variant", "jump", "line")),
        *((name, "i8") for name in ("offset", "shared_offset")),
    ],
    align=True,
)
SIGNED_BYTES, WIDE_ADDRESS = 1, 2  # loads and stores
TRANSPOSED = 1  # matrices
SIGN_EXTENDED, WIDE_TARGET = 1, 2  # parameters
OF_FLOAT16 = 1  # products of matrices; else bfloat16
VARIANTS = {
    name: globals()[name]
    for name in ("SIGNED_BYTES", "WIDE_ADDRESS", "TRANSPOSED", "SIGN_EXTENDED", "WIDE_TARGET", "OF_FLOAT16")
}
SHUFFLES = {"bfly": "SHUFFLE_BUTTERFLY", "idx": "SHUFFLE_INDEX", "up": "SHUFFLE_UP", "down": "SHUFFLE_DOWN"}
REDUCTIONS = {
    "add.s32": "REDUCE_SUM",
    "add.u32": "REDUCE_SUM",
    "min.s32": "REDUCE_LEAST_SIGNED",
    "max.s32": "REDUCE_MOST_SIGNED",
    "min.u32": "REDUCE_LEAST",
    "max.u32": "REDUCE_MOST",
    "and.b32": "REDUCE_AND",
    "or.b32": "REDUCE_OR",
    "xor.b32": "REDUCE_XOR",
}
MODES = {name: number for modes in (SHUFFLES, REDUCTIONS) for number, name in enumerate(dict.fromkeys(modes.values()))}
# In the order of the values in machine.cpp.
SPECIAL_REGISTERS = ["%tid.x", "%tid.y", "%tid.z", "%ctaid.x", "%ctaid.y", "%ctaid.z", "%nctaid.x", "%nctaid.y"]
SPECIAL_REGISTERS += ["%nctaid.z", "%laneid", "%ntid.x", "%ntid.y", "%ntid.z", "%warpid"]

CPP_TYPES = {"u": "uint32_t", "i": "int32_t", "U": "uint64_t", "I": "int64_t", "f": "float", "d": "double"}
CPP_TYPES |= {"h": "uint32_t", "s": "uint32_t"}  # a 16-bit register has 32 bits here
NARROW = {"h": "(uint16_t)", "s": "(int16_t)"}


def header() -> str:
    """The text of generated.h: these numbers, the findings, and a case of a switch for each computed instruction."""
    operations = "".join(f"OPERATION_{name.upper()} = {NUMBERS[name]}, " for name in SPECIAL)
    found = "".join(f"FOUND_{name}, " for name in KINDS)
    others = "".join(f"{name} = {value}, " for name, value in {**VARIANTS, **MODES}.items())
    texts = ", ".join(f'"{TEXTS[kind]}"' for kind in KINDS)
    cases = " \\\n".join(_case(name) for name in TABLE)
    return "\n".join(
        [
            f"#pragma once\nenum {{ {operations}}};\nenum {{ {found}FINDINGS }};\nenum {{ {others}}};",
            f"static const char* const TEXTS[] = {{{texts}}};",
            f"#define COMPUTED_CASES \\\n{cases}\n",
        ]
    )


def _case(name: str) -> str:
    target, sources = TABLE[name][0].split(":")
    head = f"case {NUMBERS[name]}:"
    if name.endswith(".pred"):
        read = "".join(f"uint32_t {v}=predicates[in.source[{i}]];" for i, v in zip(range(len(sources)), "abcd"))
        return f"{head}{{{read}{_to_predicate(TABLE[name][1])}break;}}"
    before, each = _operands(sources)
    if target == "p":
        loop = f"uint32_t r=0;for(int l=0;l<32;l++){{{each}r|=(uint32_t)(bool)({TABLE[name][1]})<<l;}}"
        return f"{head}{{{before}{loop}{_to_predicate('r')}break;}}"
    value = f"(uint32_t)(uint16_t)({TABLE[name][1]})" if target in "hs" else TABLE[name][1]
    before += f"auto result=lanes_of<{CPP_TYPES[target]}>(warp,in.target[0]);"
    whole = f"for(int l=0;l<32;l++){{{each}result[l]={value};}}"  # compilers vectorise this one
    part = f"for(int l=0;l<32;l++)if((lanes>>l)&1){{{each}result[l]={value};}}"
    return f"{head}{{{before}if(lanes==~0u){{{whole}}}else{{{part}}}break;}}"


def _operands(sources: str) -> tuple[str, str]:
    """What stands before the loop over the lanes, and in it, to have the operands as a, b, c, d."""
    before, each = "", ""
    for i, (letter, v) in enumerate(zip(sources, "abcd")):
        if letter == "p":
            before += f"const uint32_t bits{i}=predicates[in.source[{i}]];"
            each += f"const bool {v}=(bits{i}>>l)&1;"
        else:
            before += f"const auto from{i}=lanes_of<const {CPP_TYPES[letter]}>(warp,in.source[{i}]);"
            each += f"const auto {v}={NARROW.get(letter, '')}from{i}[l];"
    return before, each


def _to_predicate(value: str) -> str:
    return f"uint32_t& to=predicates[in.target[0]];const uint32_t all={value};to=(to&~lanes)|(all&lanes);"
