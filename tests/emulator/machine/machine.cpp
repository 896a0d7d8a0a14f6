/* Runs one launch: a warp in lockstep, the warps of a block one after the other between barriers, block after block. */
#include <tuple>

#include "exchange.h"
#include "memory.h"

static bool waits_for_its_warp(int operation) {
    switch (operation) {
        case OPERATION_SHUFFLE:
        case OPERATION_REDUCE:
        case OPERATION_MATRIX_PRODUCT:
        case OPERATION_LOAD_MATRIX:
        case OPERATION_STORE_MATRIX:
        case OPERATION_BLOCK_BARRIER:
        case OPERATION_WARP_BARRIER:
            return true;
        default:
            return false;
    }
}

/* Lanes that are at one instruction run together. First run those that are furthest behind, but lanes at an instruction
 * for which a warp comes together wait for the others. */
static void choose_lanes(const Launch& launch, Warp& warp) {
    auto rank = [&](uint32_t next) {
        return (uint64_t)waits_for_its_warp(launch.program[next].operation) << 32 | next;
    };
    for (size_t i = 0; i < warp.elsewhere.size();) {
        auto& [next, lanes] = warp.elsewhere[i];
        if (next == warp.next) {
            warp.active |= lanes;
            warp.elsewhere.erase(warp.elsewhere.begin() + i);
        } else if (rank(next) < rank(warp.next)) {
            std::swap(warp.next, next);
            std::swap(warp.active, lanes);
            i = 0;
        } else {
            i++;
        }
    }
}

static void load_parameter(const Block& block, Warp& warp, const Instruction& in, uint32_t lanes) {
    for (int k = 0; k < in.count; k++) {
        uint64_t value = 0;
        memcpy(&value, block.launch.parameters + in.offset + k * in.bytes, in.bytes);
        if (in.variant & SIGN_EXTENDED) value = (uint64_t)(int64_t)(int32_t)value;
        for (int lane = 0; lane < LANES; lane++) {
            if (!is_active(lanes, lane)) continue;
            if (in.variant & WIDE_TARGET)
                lanes_of<uint64_t>(warp, in.target[k])[lane] = value;
            else
                lanes_of<uint32_t>(warp, in.target[k])[lane] = (uint32_t)value;
        }
    }
}

static void load_special_register(const Block& block, Warp& warp, const Instruction& in, uint32_t lanes) {
    const Launch& launch = block.launch;
    for (int lane = 0; lane < LANES; lane++) {
        if (!is_active(lanes, lane)) continue;
        const uint32_t thread = warp.number * LANES + lane;
        const uint32_t values[] = {thread,
                                   0,
                                   0,
                                   block.at[0],
                                   block.at[1],
                                   block.at[2],
                                   launch.grid[0],
                                   launch.grid[1],
                                   launch.grid[2],
                                   (uint32_t)lane,
                                   (uint32_t)launch.threads,
                                   1,
                                   1,
                                   (uint32_t)warp.number};
        lanes_of<uint32_t>(warp, in.target[0])[lane] = values[in.variant];
    }
}

static void pack(Warp& warp, const Instruction& in, uint32_t lanes) {
    const uint32_t *low = lanes_of<uint32_t>(warp, in.source[0]), *high = lanes_of<uint32_t>(warp, in.source[1]);
    for (int lane = 0; lane < LANES; lane++) {
        if (!is_active(lanes, lane)) continue;
        if (in.bytes == 4)
            lanes_of<uint32_t>(warp, in.target[0])[lane] = (low[lane] & 0xffff) | (high[lane] << 16);
        else
            lanes_of<uint64_t>(warp, in.target[0])[lane] = (uint64_t)low[lane] | ((uint64_t)high[lane] << 32);
    }
}

static void unpack(Warp& warp, const Instruction& in, uint32_t lanes) {
    for (int lane = 0; lane < LANES; lane++) {
        if (!is_active(lanes, lane)) continue;
        uint64_t both =
            in.bytes == 4 ? lanes_of<uint32_t>(warp, in.source[0])[lane] : lanes_of<uint64_t>(warp, in.source[0])[lane];
        const uint32_t halves[] = {(uint32_t)(in.bytes == 4 ? both & 0xffff : both),
                                   (uint32_t)(both >> (4 * in.bytes))};
        for (int half = 0; half < 2; half++)
            if (in.target[half] >= 0) lanes_of<uint32_t>(warp, in.target[half])[lane] = halves[half];
    }
}

static void branch(Warp& warp, const Instruction& in, uint32_t lanes) {
    if (lanes == warp.active) {
        warp.next = in.jump;
        return;
    }
    if (lanes) warp.elsewhere.push_back({(uint32_t)in.jump, lanes});
    warp.active &= ~lanes;
    warp.next++;
}

static void leave(Warp& warp, uint32_t lanes) {
    warp.active &= ~lanes;
    if (warp.active) {
        warp.next++;
    } else if (warp.elsewhere.empty()) {
        warp.done = true;
    } else {
        std::tie(warp.next, warp.active) = warp.elsewhere.back();
        warp.elsewhere.pop_back();
    }
}

static void check_barrier(Block& block, Warp& warp, const Instruction& in, uint32_t lanes) {
    if (!warp.elsewhere.empty() || lanes != ~0u) report(block, FOUND_DIVERGENT_BARRIER, in, warp, 0, 0);
}

/* Until the warp ends or waits at a barrier of its block. Returns what went wrong with the program, or nullptr. */
static const char* run_warp(Block& block, Warp& warp) {
    Launch& launch = block.launch;
    uint8_t* const registers = warp.registers;
    uint32_t* const predicates = warp.predicates;
    for (uint64_t steps = 0;; steps++) {
        if (!warp.elsewhere.empty()) choose_lanes(launch, warp);
        if ((int)warp.next >= launch.length) return "it ran past its end";
        if (steps > MOST_STEPS) return "it does not end";
        const Instruction& in = launch.program[warp.next];
        uint32_t lanes = warp.active;
        if (in.guard >= 0) lanes &= in.negated ? ~predicates[in.guard] : predicates[in.guard];
        block.step++;
        if (launch.options.count) {
            launch.counts.executions[warp.next] += launch.alike;
            launch.counts.lanes[warp.next] += launch.alike * __builtin_popcount(lanes);
        }
        switch (in.operation) {
            case OPERATION_PARAMETER:
                load_parameter(block, warp, in, lanes);
                break;
            case OPERATION_SPECIAL_REGISTER:
                load_special_register(block, warp, in, lanes);
                break;
            case OPERATION_LOAD_GLOBAL:
                access_global(block, warp, in, lanes, false);
                break;
            case OPERATION_STORE_GLOBAL:
                access_global(block, warp, in, lanes, true);
                break;
            case OPERATION_LOAD_SHARED:
                access_shared(block, warp, in, lanes, false);
                break;
            case OPERATION_STORE_SHARED:
                access_shared(block, warp, in, lanes, true);
                break;
            case OPERATION_LOAD_MATRIX:
                access_matrices(block, warp, in, lanes, false);
                break;
            case OPERATION_STORE_MATRIX:
                access_matrices(block, warp, in, lanes, true);
                break;
            case OPERATION_COPY_ASYNC:
                start_copy(block, warp, in, lanes);
                break;
            case OPERATION_WAIT_COPIES:
                finish_copies(block, warp, in, lanes);
                break;
            case OPERATION_SHUFFLE:
                shuffle(block, warp, in, lanes);
                break;
            case OPERATION_REDUCE:
                reduce(block, warp, in, lanes);
                break;
            case OPERATION_MATRIX_PRODUCT:
                multiply_matrices(block, warp, in, lanes);
                break;
            case OPERATION_PACK:
                pack(warp, in, lanes);
                break;
            case OPERATION_UNPACK:
                unpack(warp, in, lanes);
                break;
            case OPERATION_TRAP:
                if (lanes) report(block, FOUND_TRAP, in, warp, 0, 0);
                break;
            case OPERATION_WARP_BARRIER:
                check_barrier(block, warp, in, lanes);
                warp.epoch++;
                break;
            case OPERATION_BLOCK_BARRIER:
                check_barrier(block, warp, in, lanes);
                warp.next++;
                warp.waits = true;
                return nullptr;
            case OPERATION_BRANCH:
                branch(warp, in, lanes);
                continue;
            case OPERATION_LEAVE:
                leave(warp, lanes);
                if (warp.done) return nullptr;
                continue;
                COMPUTED_CASES
            default:
                return "it has an unknown instruction";
        }
        warp.next++;
    }
}

static void start_block(Block& block, uint32_t number, const uint8_t* first_registers, size_t register_bytes,
                        const uint32_t* first_predicates, size_t predicates) {
    const Launch& launch = block.launch;
    block.number = number, block.epoch = 1;
    block.at[0] = number % launch.grid[0];
    block.at[1] = number / launch.grid[0] % launch.grid[1];
    block.at[2] = number / launch.grid[0] / launch.grid[1];
    if (launch.options.count > 1) block.sectors.clear();
    if (launch.options.check) {
        std::fill(block.initialised.begin(), block.initialised.end(), 0);
        std::fill(block.touched.begin(), block.touched.end(), Cell{});
        std::fill(block.shared.begin(), block.shared.end(), 0xff);
    }
    for (Warp& warp : block.warps) {
        warp.next = 0, warp.active = ~0u, warp.epoch = 1;
        warp.done = warp.waits = false;
        warp.elsewhere.clear();
        warp.copies.clear();
        memcpy(warp.predicates, first_predicates, predicates * sizeof *first_predicates);
        if (launch.options.check) memcpy(warp.registers, first_registers, register_bytes);
    }
}

static const char* run_block(Block& block) {
    const size_t warps = block.warps.size();
    for (;;) {
        size_t done = 0, waiting = 0;
        for (size_t k = 0; k < warps; k++) {
            Warp& warp = block.warps[block.launch.options.reverse ? warps - 1 - k : k];
            warp.waits = false;
            if (!warp.done)
                if (const char* wrong = run_warp(block, warp)) return wrong;
            done += warp.done, waiting += warp.waits;
        }
        if (done == warps) return nullptr;
        if (done && waiting) {
            block.launch.findings[FOUND_DIVERGENT_BARRIER]++;
            block.launch.messages += "some warps ended, others wait at a barrier\n";
        }
        block.epoch++;
        for (Warp& warp : block.warps) warp.epoch++;
    }
}

struct Request { /* as `running.py` fills it */
    const Instruction* program;
    const uint8_t* first_registers;
    const uint32_t* first_predicates;
    const uint8_t* parameters;
    const Region* regions;
    const int32_t* chosen; /* blocks to run; none for all */
    const int64_t* alike;  /* how many blocks each of them stands for */
    int64_t* findings;
    char* message;
    Counts counts;
    uint32_t grid[3];
    int32_t length, register_bytes, predicates, threads, shared_bytes, region_count, chosen_count, message_bytes;
    Options options;
};

extern "C" {

int instruction_bytes() { return sizeof(Instruction); }

/* Returns 0, or 1 where the program could not be run to its end. */
int run_launch(const Request* request) {
    static uint32_t number = 0;
    Launch launch = {request->program, request->length,     {request->grid[0], request->grid[1], request->grid[2]},
                     request->threads, request->parameters, request->options,
                     request->counts};
    launch.number = ++number;
    launch.regions.assign(request->regions, request->regions + request->region_count);
    launch.touched.resize(request->region_count);
    for (int i = 0; i < request->region_count; i++)
        if (launch.options.check && launch.regions[i].bytes <= MOST_TRACKED_BYTES)
            launch.touched[i].assign((launch.regions[i].bytes + 3) / 2, Cell{});
    noisy = launch.options.noisy;

    const int warps = (request->threads + LANES - 1) / LANES;
    const size_t register_bytes = request->register_bytes, predicates = request->predicates;
    std::vector<uint8_t> registers(register_bytes * warps);
    std::vector<uint32_t> predicate_bits((predicates + 1) * warps);
    Block block = {launch};
    block.shared.resize(request->shared_bytes);
    block.initialised.resize(request->shared_bytes);
    if (launch.options.check) block.touched.resize(request->shared_bytes);
    block.warps.resize(warps);
    for (int w = 0; w < warps; w++) {
        block.warps[w].number = w;
        block.warps[w].registers = &registers[w * register_bytes];
        block.warps[w].predicates = &predicate_bits[w * (predicates + 1)];
        memcpy(block.warps[w].registers, request->first_registers, register_bytes);
    }

    const uint64_t blocks = (uint64_t)launch.grid[0] * launch.grid[1] * launch.grid[2];
    const char* wrong = nullptr;
    for (uint64_t i = 0; i < (request->chosen ? (uint64_t)request->chosen_count : blocks) && !wrong; i++) {
        if (request->chosen) launch.alike = request->alike[i];
        start_block(block, request->chosen ? request->chosen[i] : (uint32_t)i, request->first_registers, register_bytes,
                    request->first_predicates, predicates);
        wrong = run_block(block);
    }
    memcpy(request->findings, launch.findings, sizeof launch.findings);
    if (wrong) launch.messages += std::string("the program was given up: ") + wrong + "\n";
    strncpy(request->message, launch.messages.c_str(), request->message_bytes - 1);
    return wrong ? 1 : 0;
}
}
