"""What the emulator can find in a launch: faults, and harmless stores of equal values."""

from __future__ import annotations

FAULTS = {
    "OUT_OF_BOUNDS": "access outside of every tensor, or of shared memory",
    "MISALIGNED": "misaligned access",
    "UNINITIALISED": "read of shared memory that nothing wrote",
    "RACE_OF_BLOCKS": "race between blocks",
    "RACE_OF_WARPS": "race between warps, no bar.sync between",
    "RACE_OF_LANES": "read of another lane's write, or write over it, no bar.warp.sync between",
    "CONFLICTING_STORES": "lanes store different values to one address in one instruction",
    "INACTIVE_LANE": "exchange with a lane that is not active",
    "DIVERGENT_BARRIER": "barrier that not all reach",
    "TRAP": "trap",
    # The two that follow depend on which of several lanes with one element, of which Triton makes copies, is last.
    "NEAR_STORES": "lanes store values that differ in the last bits to one address",
    "READ_BEFORE_WRITE": "write over what another lane read, no bar.warp.sync between",
}
OF_COPIES = {  # harmless: the copies are equal
    "EQUAL_STORES": "lanes store one value to one address in one instruction",
    "EQUAL_RACE": "unordered stores of one value to one address",
}
KINDS = [*FAULTS, *OF_COPIES]
TEXTS = {**FAULTS, **OF_COPIES}
