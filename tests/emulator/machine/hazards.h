/* Findings, and the rules that find races: two accesses of which one writes, with no barrier between. */
#pragma once
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "state.h"

enum Likeness { DIFFERENT, EQUAL, NEAR }; /* what is stored beside what is there */

struct Access {
    bool write, global;
    const Instruction& instruction;
    const Warp& warp;
    int lane;
    uint64_t address;
};

static void report(Block& block, int kind, const Instruction& in, const Warp& warp, int lane, uint64_t address,
                   const char* more = "") {
    Launch& launch = block.launch;
    if (++launch.findings[kind] > MOST_MESSAGES) return;
    char text[400];
    snprintf(text, sizeof text, "%s: line %d, block %u, warp %d, lane %d, address %#" PRIx64 ", %d x %d bytes %s\n",
             TEXTS[kind], in.line, block.number, warp.number, lane, address, in.count, in.bytes, more);
    launch.messages += text;
}

/* Whether numbers are equal, or float32 or float64 numbers that are equal but for their last bits. */
static Likeness likeness(const void* old, const uint8_t* value, int bytes, int each) {
    if (memcmp(old, value, bytes) == 0) return EQUAL;
    if (each < 4) return DIFFERENT;
    for (int k = 0; k < bytes; k += each) {
        double a, b;
        if (each == 4) {
            float single[2];
            memcpy(single, (const uint8_t*)old + k, 4);
            memcpy(single + 1, value + k, 4);
            a = single[0], b = single[1];
        } else {
            memcpy(&a, (const uint8_t*)old + k, 8);
            memcpy(&b, value + k, 8);
        }
        if (a != a && b != b) continue;
        if (!(std::fabs(a - b) <= 1e-3 * std::max(std::fabs(a), std::fabs(b)) + 1e-6)) return DIFFERENT;
    }
    return NEAR;
}

static void check_after_write(Block& block, Cell& cell, const Access& access, Likeness alike) {
    const Warp& warp = access.warp;
    const uint16_t thread = warp.number * LANES + access.lane;
    const char* order = access.write ? "(write after write)" : "(read after write)";
    auto found = [&](int otherwise, int equal) {
        int kind = !access.write || alike == DIFFERENT ? otherwise : alike == NEAR ? FOUND_NEAR_STORES : equal;
        report(block, kind, access.instruction, warp, access.lane, access.address, order);
    };
    if (cell.write_block != block.number) {
        if (access.global) found(FOUND_RACE_OF_BLOCKS, FOUND_EQUAL_RACE);
    } else if (cell.writer == thread) {
        return;
    } else if (access.write && cell.write_step == block.step) {
        found(FOUND_CONFLICTING_STORES, FOUND_EQUAL_STORES);
    } else if (cell.writer / LANES != warp.number) {
        if (cell.write_epoch == block.epoch) found(FOUND_RACE_OF_WARPS, FOUND_EQUAL_RACE);
    } else if (cell.write_warp_epoch == warp.epoch) {
        found(FOUND_RACE_OF_LANES, FOUND_EQUAL_RACE);
    }
}

static void check_write_after_read(Block& block, Cell& cell, const Access& access, Likeness alike) {
    const Warp& warp = access.warp;
    const uint16_t thread = warp.number * LANES + access.lane;
    auto found = [&](int kind) {
        report(block, kind, access.instruction, warp, access.lane, access.address, "(write after read)");
    };
    if (access.global && (cell.read_block != block.number || cell.several_blocks_read))
        return found(alike == EQUAL ? FOUND_EQUAL_RACE : FOUND_RACE_OF_BLOCKS);
    if (cell.read_block != block.number) return;
    if (cell.reader == thread && !cell.several_warps_read && !cell.several_lanes_read) return;
    const bool of_this_warp = cell.reader / LANES == warp.number;
    if (cell.read_epoch == block.epoch && (!of_this_warp || cell.several_warps_read)) {
        found(FOUND_RACE_OF_WARPS);
    } else if (of_this_warp && cell.read_warp_epoch == warp.epoch &&
               (cell.reader != thread || cell.several_lanes_read)) {
        found(FOUND_READ_BEFORE_WRITE);
    }
}

static void note_read(Block& block, Cell& cell, const Warp& warp, uint16_t thread) {
    const bool same_warp = cell.reader / LANES == warp.number;
    if (cell.read_in != block.launch.number) {
        cell.several_blocks_read = cell.several_warps_read = cell.several_lanes_read = 0;
    } else if (cell.read_block != block.number) {
        cell.several_blocks_read = 1;
        cell.several_warps_read = cell.several_lanes_read = 0;
    } else {
        if (cell.read_epoch != block.epoch)
            cell.several_warps_read = 0;
        else if (!same_warp)
            cell.several_warps_read = 1;
        if (!same_warp || cell.read_warp_epoch != warp.epoch)
            cell.several_lanes_read = 0;
        else if (cell.reader != thread)
            cell.several_lanes_read = 1;
    }
    cell.read_in = block.launch.number, cell.read_block = block.number, cell.reader = thread;
    cell.read_epoch = block.epoch, cell.read_warp_epoch = warp.epoch;
}

/* Judges an access by those before it, and writes it down. */
static void touch(Block& block, Cell& cell, const Access& access, Likeness alike = DIFFERENT) {
    const uint32_t launch = block.launch.number;
    const uint16_t thread = access.warp.number * LANES + access.lane;
    if (cell.written_in == launch) check_after_write(block, cell, access, alike);
    if (access.write && cell.read_in == launch) check_write_after_read(block, cell, access, alike);
    if (!access.write) return note_read(block, cell, access.warp, thread);
    cell.written_in = launch, cell.write_block = block.number, cell.writer = thread, cell.write_step = block.step;
    cell.write_epoch = block.epoch, cell.write_warp_epoch = access.warp.epoch;
}
