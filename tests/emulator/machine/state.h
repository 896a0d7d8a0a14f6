/* A launch, its blocks and warps. A register is 32 lanes side by side: registers + offset is its lane 0. */
#pragma once
#include <cstdint>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "generated.h" /* OPERATION_*, FINDINGS, TEXTS: written by library.py */

enum {
    LANES = 32,
    MOST_MESSAGES = 3 /* of each kind of finding */,
    MOST_STEPS = 400000000,
    MOST_TRACKED_BYTES = 32 << 20
};

/* As `program.py` writes it. Registers are byte offsets into a warp's registers, predicates are numbers; -1: not used. */
struct Instruction {
    int32_t operation, guard, negated;
    int32_t target[4], source[10];
    int32_t count, bytes; /* of a vector: its elements, and the bytes of each */
    int32_t variant, jump, line;
    int64_t offset, shared_offset; /* in bytes, added to an address */
};

struct Region {
    uint64_t first, bytes;
};

struct Counts { /* of each instruction of the program */
    uint64_t *executions, *lanes, *transactions, *ideal, *distinct;
};

struct Options {
    int32_t check, count, noisy, reverse; /* count 2: distinct sectors too */
};

/* Who wrote and who read a piece of memory last. An epoch ends at a barrier, of the block or of the warp. */
struct Cell {
    uint32_t written_in, write_block, write_epoch, write_warp_epoch, write_step;
    uint32_t read_in, read_block, read_epoch, read_warp_epoch;
    uint16_t writer, reader;
    uint8_t several_warps_read, several_lanes_read, several_blocks_read;
};

struct Copy { /* under way from global to shared memory */
    uint32_t to;
    uint64_t from;
    int bytes, lane;
};

struct Warp {
    int number;
    uint32_t next, active; /* the next instruction, and the lanes that are there */
    std::vector<std::pair<uint32_t, uint32_t>> elsewhere;
    std::vector<Copy> copies;
    bool done, waits;
    uint8_t* registers;
    uint32_t* predicates;
    uint32_t epoch;
};

struct Launch {
    const Instruction* program;
    int length;
    uint32_t grid[3];
    int threads;
    const uint8_t* parameters;
    Options options;
    Counts counts;
    std::vector<Region> regions;
    std::vector<std::vector<Cell>> touched; /* of each region, a cell for two bytes; none of a very large region */
    uint32_t number;
    uint64_t alike = 1; /* blocks that the one that runs stands for, where only some run */
    int64_t findings[FINDINGS];
    std::string messages;
};

struct Block {
    Launch& launch;
    uint32_t number, at[3], epoch, step;
    std::vector<uint8_t> shared, initialised;
    std::vector<Cell> touched; /* a cell for a byte of shared memory */
    std::vector<Warp> warps;
    std::unordered_set<uint64_t> sectors;
};

template <class T>
static inline T* lanes_of(const Warp& warp, int32_t offset) {
    return (T*)(warp.registers + offset);
}
