/* Loads and stores of global and shared memory, matrices in shared memory, copies from the one to the other. */
#pragma once
#include "hazards.h"

static int region_of(const Launch& launch, uint64_t address, int bytes) {
    for (size_t i = 0; i < launch.regions.size(); i++) {
        const Region& region = launch.regions[i];
        if (address >= region.first && address + bytes <= region.first + region.bytes) return (int)i;
    }
    return -1;
}

/* Sectors of 32 bytes that one access needs, the bytes asked for, and the sectors that its block had not yet asked for. */
static void count_sectors(Block& block, const Warp& warp, const uint64_t* address, uint32_t lanes, int bytes,
                          bool store) {
    const Launch& launch = block.launch;
    if (!launch.options.count || !lanes) return;
    uint64_t sectors[LANES];
    int n = 0;
    for (int lane = 0; lane < LANES; lane++)
        if ((lanes >> lane) & 1) sectors[n++] = address[lane] >> 5;
    launch.counts.ideal[warp.next] += launch.alike * n * bytes;
    std::sort(sectors, sectors + n);
    n = std::unique(sectors, sectors + n) - sectors;
    launch.counts.transactions[warp.next] += launch.alike * n;
    if (launch.options.count < 2) return;
    for (int i = 0; i < n; i++)
        launch.counts.distinct[warp.next] += launch.alike * block.sectors.insert(sectors[i] * 2 + store).second;
}

/* Wavefronts of an access to shared memory: in each, a bank of four bytes serves one word. */
static int wavefronts(const uint32_t* address, uint32_t lanes, int bytes) {
    const int together = bytes <= 4 ? 32 : bytes == 8 ? 16 : 8, words_each = std::max(1, bytes / 4);
    int total = 0;
    for (int first = 0; first < LANES; first += together) {
        uint64_t words[4 * LANES];
        int n = 0, in_bank[32] = {0}, most = 0;
        for (int lane = first; lane < first + together; lane++)
            for (int k = 0; k < words_each && (lanes >> lane) & 1; k++) words[n++] = (address[lane] >> 2) + k;
        std::sort(words, words + n);
        n = std::unique(words, words + n) - words;
        for (int i = 0; i < n; i++) most = std::max(most, ++in_bank[words[i] & 31]);
        total += most;
    }
    return total;
}

static void count_wavefronts(Block& block, const Warp& warp, const uint32_t* address, uint32_t lanes, int bytes) {
    const Launch& launch = block.launch;
    if (!launch.options.count || !lanes) return;
    launch.counts.transactions[warp.next] += launch.alike * wavefronts(address, lanes, bytes);
    launch.counts.ideal[warp.next] += launch.alike * (bytes <= 4 ? 1 : bytes / 4);
}

/* Elements of a lane to or from memory. Registers of less than 8 bytes have 4; a load fills their upper bytes. */
static void gather_value(const Warp& warp, const Instruction& in, int lane, uint8_t* value) {
    for (int k = 0; k < in.count; k++) {
        const int width = in.bytes == 8 ? 8 : 4;
        memcpy(value + k * in.bytes, warp.registers + in.source[k + 1] + width * lane, in.bytes);
    }
}

static void spread_value(const Warp& warp, const Instruction& in, int lane, const void* value) {
    for (int k = 0; k < in.count; k++) {
        const uint8_t* element = (const uint8_t*)value + k * in.bytes;
        if (in.bytes == 8) {
            memcpy(lanes_of<uint64_t>(warp, in.target[k]) + lane, element, 8);
        } else {
            uint32_t wide = 0;
            memcpy(&wide, element, in.bytes);
            if (in.variant & SIGNED_BYTES && in.bytes == 1) wide = (uint16_t)(int8_t)wide;
            lanes_of<uint32_t>(warp, in.target[k])[lane] = wide;
        }
    }
}

static void touch_global(Block& block, const Access& access, int region, int bytes, Likeness alike = DIFFERENT) {
    auto& cells = block.launch.touched[region];
    if (cells.empty()) return;
    for (int k = 0; k < bytes; k += 2) {
        Access part = access;
        part.address += k;
        touch(block, cells[(part.address - block.launch.regions[region].first) >> 1], part, alike);
    }
}

static void touch_shared(Block& block, const Access& access, int bytes, Likeness alike = DIFFERENT) {
    for (int k = 0; k < bytes; k++) {
        Access part = access;
        part.address += k;
        touch(block, block.touched[part.address], part, alike);
    }
}

static void access_global(Block& block, Warp& warp, const Instruction& in, uint32_t lanes, bool store) {
    const int bytes = in.bytes * in.count;
    uint64_t address[LANES];
    for (int lane = 0; lane < LANES; lane++) address[lane] = lanes_of<uint64_t>(warp, in.source[0])[lane] + in.offset;
    count_sectors(block, warp, address, lanes, bytes, store);
    for (int lane = 0; lane < LANES; lane++) {
        if (!((lanes >> lane) & 1)) continue;
        const uint64_t at = address[lane];
        const int region = region_of(block.launch, at, bytes);
        uint8_t value[64];
        if (region < 0) {
            report(block, FOUND_OUT_OF_BOUNDS, in, warp, lane, at, store ? "(store)" : "(load)");
            memset(value, 0xff, bytes);
            if (!store) spread_value(warp, in, lane, value);
            continue;
        }
        if (at % bytes) report(block, FOUND_MISALIGNED, in, warp, lane, at, store ? "(store)" : "(load)");
        const Access access = {store, true, in, warp, lane, at};
        if (store) {
            gather_value(warp, in, lane, value);
            if (block.launch.options.check)
                touch_global(block, access, region, bytes, likeness((void*)at, value, bytes, in.bytes));
            memcpy((void*)at, value, bytes);
        } else {
            if (block.launch.options.check) touch_global(block, access, region, bytes);
            spread_value(warp, in, lane, (const void*)at);
        }
    }
}

static bool outside_shared(const Block& block, uint32_t address, int bytes) {
    return (uint64_t)address + bytes > block.shared.size();
}

static void store_shared(Block& block, const Access& access, const uint8_t* value, int bytes, int each) {
    const uint64_t at = access.address;
    if (block.launch.options.check) {
        touch_shared(block, access, bytes,
                     block.initialised[at] ? likeness(&block.shared[at], value, bytes, each) : DIFFERENT);
        memset(&block.initialised[at], 1, bytes);
    }
    memcpy(&block.shared[at], value, bytes);
}

static void load_shared(Block& block, const Access& access, int bytes) {
    if (!block.launch.options.check) return;
    touch_shared(block, access, bytes);
    for (int k = 0; k < bytes; k++)
        if (!block.initialised[access.address + k])
            return report(block, FOUND_UNINITIALISED, access.instruction, access.warp, access.lane, access.address + k);
}

static void access_shared(Block& block, Warp& warp, const Instruction& in, uint32_t lanes, bool store) {
    const int bytes = in.bytes * in.count;
    uint32_t address[LANES];
    for (int lane = 0; lane < LANES; lane++) {
        const bool wide = in.variant & WIDE_ADDRESS;
        address[lane] = (uint32_t)in.offset + (wide ? (uint32_t)lanes_of<uint64_t>(warp, in.source[0])[lane]
                                                    : lanes_of<uint32_t>(warp, in.source[0])[lane]);
    }
    count_wavefronts(block, warp, address, lanes, bytes);
    for (int lane = 0; lane < LANES; lane++) {
        if (!((lanes >> lane) & 1)) continue;
        const uint32_t at = address[lane];
        if (outside_shared(block, at, bytes)) {
            report(block, FOUND_OUT_OF_BOUNDS, in, warp, lane, at, store ? "(shared store)" : "(shared load)");
            continue;
        }
        if (at % bytes) report(block, FOUND_MISALIGNED, in, warp, lane, at, "(shared)");
        const Access access = {store, false, in, warp, lane, at};
        if (store) {
            uint8_t value[64];
            gather_value(warp, in, lane, value);
            store_shared(block, access, value, bytes, in.bytes);
        } else {
            load_shared(block, access, bytes);
            spread_value(warp, in, lane, &block.shared[at]);
        }
    }
}

/* 8 x 8 matrices of 16-bit numbers: lane 8 k + r has the address of row r of matrix k, each lane a pair of each. */
static void access_matrices(Block& block, Warp& warp, const Instruction& in, uint32_t lanes, bool store) {
    if (lanes != ~0u) report(block, FOUND_INACTIVE_LANE, in, warp, 0, 0, "(matrix)");
    uint32_t address[LANES];
    memcpy(address, lanes_of<uint32_t>(warp, in.source[0]), sizeof address); /* it may be a target too */
    for (int k = 0; k < in.count; k++) {
        uint32_t rows[LANES] = {0};
        for (int r = 0; r < 8; r++) {
            rows[r] = address[8 * k + r] + (uint32_t)in.offset;
            if (rows[r] % 16) report(block, FOUND_MISALIGNED, in, warp, 8 * k + r, rows[r], "(matrix)");
            if (outside_shared(block, rows[r], 16)) {
                report(block, FOUND_OUT_OF_BOUNDS, in, warp, 8 * k + r, rows[r], "(matrix)");
                rows[r] = 0;
            }
        }
        if (block.launch.options.count) {
            block.launch.counts.transactions[warp.next] += block.launch.alike * wavefronts(rows, 0xff, 16);
            block.launch.counts.ideal[warp.next] += block.launch.alike;
        }
        uint32_t* pairs = lanes_of<uint32_t>(warp, store ? in.source[k + 1] : in.target[k]);
        for (int lane = 0; lane < LANES; lane++) {
            if (store && !(in.variant & TRANSPOSED)) { /* a pair may be the halves of a float32 */
                const Access access = {store, false, in, warp, lane, rows[lane / 4] + 4u * (lane % 4)};
                store_shared(block, access, (const uint8_t*)(pairs + lane), 4, 4);
                continue;
            }
            for (int half = 0; half < 2; half++) {
                int row = lane / 4, column = 2 * (lane % 4) + half;
                if (in.variant & TRANSPOSED) std::swap(row, column);
                const Access access = {store, false, in, warp, lane, rows[row] + 2u * column};
                uint16_t value = pairs[lane] >> (16 * half);
                if (store) {
                    store_shared(block, access, (const uint8_t*)&value, 2, 2);
                } else {
                    load_shared(block, access, 2);
                    memcpy((uint8_t*)(pairs + lane) + 2 * half, &block.shared[access.address], 2);
                }
            }
        }
    }
}

/* cp.async: what it copies to is not defined until its warp has waited for it. */
static void start_copy(Block& block, Warp& warp, const Instruction& in, uint32_t lanes) {
    uint64_t from[LANES];
    for (int lane = 0; lane < LANES; lane++) from[lane] = lanes_of<uint64_t>(warp, in.source[1])[lane] + in.offset;
    count_sectors(block, warp, from, lanes, in.bytes, false);
    for (int lane = 0; lane < LANES; lane++) {
        if (!((lanes >> lane) & 1)) continue;
        const uint32_t to = lanes_of<uint32_t>(warp, in.source[0])[lane] + (uint32_t)in.shared_offset;
        const int region = region_of(block.launch, from[lane], in.bytes);
        if (region < 0) {
            report(block, FOUND_OUT_OF_BOUNDS, in, warp, lane, from[lane], "(copy from)");
            continue;
        }
        if (outside_shared(block, to, in.bytes)) {
            report(block, FOUND_OUT_OF_BOUNDS, in, warp, lane, to, "(copy to)");
            continue;
        }
        if (from[lane] % in.bytes || to % in.bytes)
            report(block, FOUND_MISALIGNED, in, warp, lane, from[lane], "(copy)");
        warp.copies.push_back({to, from[lane], in.bytes, lane});
        if (!block.launch.options.check) continue;
        touch_shared(block, {true, false, in, warp, lane, to}, in.bytes);
        memset(&block.initialised[to], 0, in.bytes);
        memset(&block.shared[to], 0xff, in.bytes);
        touch_global(block, {false, true, in, warp, lane, from[lane]}, region, in.bytes);
    }
}

static void finish_copies(Block& block, Warp& warp, const Instruction& in, uint32_t lanes) {
    std::vector<Copy> left;
    for (const Copy& copy : warp.copies) {
        if (!((lanes >> copy.lane) & 1)) {
            left.push_back(copy);
            continue;
        }
        if (block.launch.options.check) {
            touch_shared(block, {true, false, in, warp, copy.lane, copy.to}, copy.bytes);
            memset(&block.initialised[copy.to], 1, copy.bytes);
        }
        memcpy(&block.shared[copy.to], (const void*)copy.from, copy.bytes);
    }
    warp.copies.swap(left);
}
