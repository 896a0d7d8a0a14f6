"""The PTX instructions that compute from registers to registers: name -> (signature, C++ expression).

Signature: what is written ':' what is read. u/i 32-bit unsigned/signed, U/I 64-bit, f float, d double, h/s 16-bit
unsigned/signed, p predicate. In the expression a, b, c, d are the operands. noise(x, n) is x, or up to n units in the
last place off, the documented error of the instruction. To add an instruction, add a line here; one that moves data or
control has a form in `forms.py` and a function in `machine/`.
"""

from __future__ import annotations

import re

TABLE: dict[str, tuple[str, str]] = {}


def define(names: str, signature: str, expression: str) -> None:
    """Enter one expression under each of the names."""
    for name in names.split():
        TABLE[name] = (signature, expression)


COMPARED = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
UNSIGNED_COMPARED = {"lo": "<", "ls": "<=", "hi": ">", "hs": ">="}


def integers(width: int, unsigned: str, signed: str) -> None:
    """Arithmetic, bits, comparisons and choices of one width."""
    u, s = f"uint{width}_t", f"int{width}_t"
    U, I = unsigned, signed  # noqa: E741
    for name, expression in {
        "add": f"({u})(a+b)",
        "sub": f"({u})(a-b)",
        "mul.lo": f"({u})((uint64_t)a*(uint64_t)b)",
    }.items():
        define(f"{name}.s{width} {name}.u{width}", f"{U}:{U}{U}", expression)
    define(f"mad.lo.s{width} mad.lo.u{width}", f"{U}:{U}{U}{U}", f"({u})((uint64_t)a*(uint64_t)b+(uint64_t)c)")
    for name, sign in {"and": "&", "or": "|", "xor": "^"}.items():
        define(f"{name}.b{width}", f"{U}:{U}{U}", f"a{sign}b")
    define(f"not.b{width}", f"{U}:{U}", f"({u})~a")
    define(f"neg.s{width}", f"{U}:{U}", f"({u})(0-a)")
    define(f"abs.s{width}", f"{I}:{I}", "a<0?-a:a")
    define(f"shl.b{width}", f"{U}:{U}u", f"b>={width}?({u})0:({u})(a<<b)")
    define(f"shr.u{width} shr.b{width}", f"{U}:{U}u", f"b>={width}?({u})0:({u})(a>>b)")
    define(f"shr.s{width}", f"{I}:{I}u", f"({s})(a>>(b>={width}?{width - 1}u:b))")
    for name, sign in {"min": "<", "max": ">"}.items():
        define(f"{name}.s{width}", f"{I}:{I}{I}", f"a{sign}b?a:b")
        define(f"{name}.u{width}", f"{U}:{U}{U}", f"a{sign}b?a:b")
    define(f"div.s{width}", f"{I}:{I}{I}", f"b==0?({s})-1:(b==-1?({s})(0-({u})a):({s})(a/b))")
    define(f"rem.s{width}", f"{I}:{I}{I}", f"b==0?a:(b==-1?({s})0:({s})(a%b))")
    define(f"div.u{width}", f"{U}:{U}{U}", f"b==0?({u})-1:({u})(a/b)")
    define(f"rem.u{width}", f"{U}:{U}{U}", f"b==0?a:({u})(a%b)")
    define(f"selp.b{width} selp.u{width} selp.s{width}", f"{U}:{U}{U}p", "c?a:b")
    define(f"mov.b{width} mov.u{width} mov.s{width}", f"{U}:{U}", "a")
    for name, sign in COMPARED.items():
        define(f"setp.{name}.s{width}", f"p:{I}{I}", f"a{sign}b")
        define(f"setp.{name}.u{width} setp.{name}.b{width}", f"p:{U}{U}", f"a{sign}b")
    for name, sign in UNSIGNED_COMPARED.items():
        define(f"setp.{name}.u{width}", f"p:{U}{U}", f"a{sign}b")


def wide_integers() -> None:
    """Products of twice the width, and their upper halves."""
    define("mul.hi.s32", "i:ii", "(int32_t)(((int64_t)a*b)>>32)")
    define("mul.hi.u32", "u:uu", "(uint32_t)(((uint64_t)a*b)>>32)")
    define("mul.hi.s16", "s:ss", "(int16_t)(((int32_t)a*b)>>16)")
    define("mul.hi.u16", "h:hh", "(uint16_t)(((uint32_t)a*b)>>16)")
    define("mul.hi.s64", "I:II", "(int64_t)(((__int128)a*b)>>64)")
    define("mul.hi.u64", "U:UU", "(uint64_t)(((unsigned __int128)a*b)>>64)")
    define("mul.wide.s32", "I:ii", "(int64_t)a*b")
    define("mul.wide.u32", "U:uu", "(uint64_t)a*b")
    define("mul.wide.s16", "i:ss", "(int32_t)a*b")
    define("mul.wide.u16", "u:hh", "(uint32_t)a*b")
    define("mad.wide.s32", "I:iiI", "(int64_t)a*b+c")
    define("mad.wide.u32", "U:uuU", "(uint64_t)a*b+c")
    define("mad.wide.s16", "i:ssi", "(int32_t)a*b+c")
    define("mad.wide.u16", "u:hhu", "(uint32_t)a*b+c")


def bits() -> None:
    """Fields, bytes and single bits of 32-bit registers."""
    define("bfe.u32", "u:uuu", "field_of_unsigned(a,b,c)")
    define("bfe.s32", "u:uuu", "field_of_signed(a,b,c)")
    define("bfe.u64", "U:Uuu", "field_of_wide(a,b,c)")
    define("bfi.b32", "u:uuuu", "with_field(a,b,c,d)")
    define("bfi.b64", "U:UUuu", "with_wide_field(a,b,c,d)")
    define("prmt.b32", "u:uuu", "permuted_bytes(a,b,c)")
    define("lop3.b32", "u:uuuu", "any_logic(a,b,c,d)")
    define("add.s16x2", "u:uu", "((a+b)&0xffffu)|((a&0xffff0000u)+(b&0xffff0000u))")
    define("popc.b32", "u:u", "(uint32_t)__builtin_popcount(a)")
    define("clz.b32", "u:u", "a?(uint32_t)__builtin_clz(a):32u")
    define("brev.b32", "u:u", "reversed_bits(a)")
    define("shf.l.wrap.b32", "u:uuu", "(uint32_t)(((((uint64_t)b<<32)|a)<<(c&31))>>32)")
    define("shf.r.wrap.b32", "u:uuu", "(uint32_t)((((uint64_t)b<<32)|a)>>(c&31))")


LARGER = "a!=a?b:(b!=b?a:(a==b?(std::signbit(a)?b:a):(a>b?a:b)))"
SMALLER = "a!=a?b:(b!=b?a:(a==b?(std::signbit(a)?a:b):(a<b?a:b)))"
ORDERED = {"eq": "a==b", "lt": "a<b", "le": "a<=b", "gt": "a>b", "ge": "a>=b"}


def floats(kind: str, letter: str) -> None:
    """Exactly rounded arithmetic, comparisons and choices of one precision."""
    f = letter
    for name, sign in {"add": "+", "sub": "-", "mul": "*"}.items():
        define(f"{name}.{kind} {name}.rn.{kind}", f"{f}:{f}{f}", f"a{sign}b")
    define(f"fma.rn.{kind}", f"{f}:{f}{f}{f}", "std::fma(a,b,c)")
    define(f"div.rn.{kind}", f"{f}:{f}{f}", "a/b")
    define(f"rcp.rn.{kind}", f"{f}:{f}", "1/a")
    define(f"sqrt.rn.{kind}", f"{f}:{f}", "std::sqrt(a)")
    define(f"neg.{kind}", f"{f}:{f}", "-a")
    define(f"abs.{kind}", f"{f}:{f}", "std::fabs(a)")
    define(f"max.{kind}", f"{f}:{f}{f}", LARGER)
    define(f"min.{kind}", f"{f}:{f}{f}", SMALLER)
    define(f"selp.{kind}", f"{f}:{f}{f}p", "c?a:b")
    define(f"mov.{kind}", f"{f}:{f}", "a")
    for name, expression in ORDERED.items():
        define(f"setp.{name}.{kind}", f"p:{f}{f}", expression)
        define(f"setp.{name}u.{kind}", f"p:{f}{f}", f"({expression})||a!=a||b!=b")
    define(f"setp.ne.{kind}", f"p:{f}{f}", "a==a&&b==b&&a!=b")
    define(f"setp.neu.{kind}", f"p:{f}{f}", "!(a==b)")
    define(f"setp.num.{kind}", f"p:{f}{f}", "a==a&&b==b")
    define(f"setp.nan.{kind}", f"p:{f}{f}", "a!=a||b!=b")


def flushed() -> None:
    """The same in float32, subnormal numbers taken as zero and returned as zero."""
    for name, operands in {"add": 2, "sub": 2, "mul": 2, "neg": 1, "abs": 1, "max": 2, "min": 2, "fma.rn": 3}.items():
        expression = re.sub(r"\b([abc])\b", r"flushed(\1)", TABLE[f"{name}.f32"][1])
        names = f"{name}.ftz.f32"
        if name in ("add", "sub", "mul"):
            names += f" {name}.rn.ftz.f32"
        define(names, "f:" + "f" * operands, f"flushed({expression})")
    for name, expression in {**ORDERED, "nan": "a!=a||b!=b", "neu": "!(a==b)"}.items():
        define(f"setp.{name}.ftz.f32", "p:ff", re.sub(r"\b([ab])\b", r"flushed(\1)", expression))


def approximate() -> None:
    """float32 operations that the hardware does not round exactly."""
    define("div.full.f32 div.approx.f32", "f:ff", "noise(a/b,2)")
    define("rcp.approx.ftz.f32 rcp.approx.f32", "f:f", "noise(1/a,1)")
    define("ex2.approx.f32", "f:f", "noise(std::exp2(a),2)")
    define("ex2.approx.ftz.f32", "f:f", "noise(flushed(std::exp2(flushed(a))),2)")
    define("lg2.approx.f32", "f:f", "noise(std::log2(a),2)")
    define("sqrt.approx.ftz.f32", "f:f", "noise(flushed(std::sqrt(flushed(a))),1)")
    define("sqrt.approx.f32", "f:f", "noise(std::sqrt(a),1)")
    define("rsqrt.approx.ftz.f32 rsqrt.approx.f32", "f:f", "noise(1/std::sqrt(flushed(a)),2)")


def predicates() -> None:
    """A predicate of a warp is 32 bits, one a lane."""
    for name, sign in {"and": "&", "or": "|", "xor": "^"}.items():
        define(f"{name}.pred", "p:pp", f"a{sign}b")
    define("not.pred", "p:p", "~a")
    define("mov.pred", "p:p", "a")


def conversions() -> None:
    """Between integers, floats and 16-bit floats, which are the bits of a 16-bit register."""
    letters = {8: ("h", "h"), 16: ("h", "s"), 32: ("u", "i"), 64: ("U", "I")}
    for to in (16, 32, 64):
        for of in (8, 16, 32, 64):
            for to_sign in "us":
                for of_sign in "us":
                    source, target = (f"{'u' if s == 'u' else ''}int{w}_t" for s, w in ((of_sign, of), (to_sign, to)))
                    expression = f"(uint{to}_t)({target})({source})a"
                    name = f"cvt.{to_sign}{to}.{of_sign}{of}"
                    define(name, f"{letters[to][0]}:{letters[of][0]}", expression)
                    if of != 64:  # a source register may be wider than the type
                        define(f"{name}@64", f"{letters[to][0]}:U", expression)
    for kind, f, name in (("f32", "f", "float"), ("f64", "d", "double")):
        for width in (16, 32, 64):
            unsigned, signed = letters[width]
            define(f"cvt.rn.{kind}.s{width}", f"{f}:{signed}", f"({name})a")
            define(f"cvt.rn.{kind}.u{width}", f"{f}:{unsigned}", f"({name})a")
        define(f"cvt.rzi.s32.{kind}", f"i:{f}", "(int32_t)std::trunc(a)")
        define(f"cvt.rni.s32.{kind}", f"i:{f}", "(int32_t)std::nearbyint(a)")
        define(f"cvt.rmi.{kind}.{kind}", f"{f}:{f}", "std::floor(a)")
    define("cvt.f64.f32", "d:f", "(double)a")
    define("cvt.rn.f32.f64", "f:d", "(float)a")
    define("cvt.f32.bf16", "f:h", "from_bfloat16(a)")
    define("cvt.rn.bf16.f32", "h:f", "to_bfloat16(a)")
    define("cvt.rn.bf16x2.f32", "u:ff", "(uint32_t)to_bfloat16(b)|((uint32_t)to_bfloat16(a)<<16)")
    define("cvt.f32.f16", "f:h", "from_float16(a)")
    define("cvt.rn.f16.f32", "h:f", "to_float16(a)")
    define("cvt.rn.f16x2.f32", "u:ff", "(uint32_t)to_float16(b)|((uint32_t)to_float16(a)<<16)")
    define("cvta.to.global.u64 cvta.to.shared.u64 cvta.shared.u64", "U:U", "a")


def one_nan() -> None:
    """Arithmetic returns one NaN, as on a GPU; x86 passes on the bits of an operand. Moves keep them."""
    for name, (signature, expression) in TABLE.items():
        if signature[0] in "fd" and not name.startswith(("mov.", "selp.")):
            TABLE[name] = signature, f"one_nan({expression})"


integers(16, "h", "s")
integers(32, "u", "i")
integers(64, "U", "I")
wide_integers()
bits()
floats("f32", "f")
floats("f64", "d")
flushed()
approximate()
predicates()
conversions()
one_nan()

# What moves data or control: a function of `machine/` for each.
SPECIAL = [
    "parameter", "special_register", "load_global", "store_global", "load_shared", "store_shared", "load_matrix",
    "store_matrix", "copy_async", "wait_copies", "shuffle", "reduce", "matrix_product", "pack", "unpack",
    "branch", "leave", "block_barrier", "warp_barrier", "trap",
]  # fmt: skip
NUMBERS = {name: number for number, name in enumerate([*SPECIAL, *sorted(TABLE)])}
