// A grid on one OS thread, block after block. Kernels without barriers run as a loop. Where there are barriers, each CUDA thread of a
// block is a fiber with a stack of its own: it runs until a barrier, then the next one does, in a fixed or shuffled order.
#pragma once
#include <memory>
#ifdef CPU_BUILD_FTZ
#include <xmmintrin.h>
#endif
#include <ucontext.h>
#include <utility>
#include <vector>

static dim3 threadIdx, blockIdx, blockDim, gridDim;

enum Status { GOOD, TOO_MUCH_SHARED, BARRIER_MISSED, BARRIER_UNEXPECTED };
static Status status;

// ---- shared memory: one block at a time has it, so each thread's requests, always in the same order, get the same places

static unsigned char shared[SHARED_BYTES + 16] __attribute__((aligned(16)));
static std::size_t shared_taken;

static inline void* shared_memory(std::size_t bytes) {
    void* place = shared + shared_taken;
    shared_taken += (bytes + 15) / 16 * 16;
    if (shared_taken <= SHARED_BYTES) return place;
    status = TOO_MUCH_SHARED;
    shared_taken = 0;
    return shared;
}

// ---- fibers: ucontext starts each on its stack; after that the compiler's own setjmp switches, at a tenth of the cost
//
// Functions that switch are noipa: other fibers write to everything between their call and their return, which nothing in them shows.

const std::size_t STACK_BYTES = 64 * 1024 + 320;  // at powers of two apart, stacks would share a few lines of the cache
typedef void* Jump[5];

struct Fiber {
    std::unique_ptr<char[]> stack;
    Jump here;
    std::size_t shared_taken;
};

static std::vector<Fiber> fibers;
static std::vector<dim3> threads;      // of the block, in the order in which they run; each has the fiber of its place
static std::size_t position, waiting;  // in this round: whose turn it is, and how many have stopped at a barrier
static Fiber* current;
static Jump scheduler;
static void (*run_thread)(const void*);
static const void* run_argument;

static void fiber_main();

// Where to go on: in the next fiber of this round, which is started if it never ran, else in the scheduler.
__attribute__((noipa)) static Jump& next() {
    if (position == threads.size()) return scheduler;
    threadIdx = threads[position];
    current = &fibers[position++];
    shared_taken = current->shared_taken;
    if (current->stack) return current->here;
    current->stack.reset(new char[STACK_BYTES]);
    static ucontext_t start;
    getcontext(&start);
    start.uc_stack.ss_sp = current->stack.get();
    start.uc_stack.ss_size = STACK_BYTES;
    start.uc_link = nullptr;
    makecontext(&start, fiber_main, 0);
    setcontext(&start);
    std::abort();
}

// It jumps itself: after a call that never returns, the processor predicts the next return wrongly, which takes longer than the jump.
__attribute__((noipa)) static void leave(Fiber* fiber) {
    fiber->shared_taken = shared_taken;
    if (!__builtin_setjmp(fiber->here)) __builtin_longjmp(next(), 1);
}

static void fiber_main() {
    for (;;) {
        run_thread(run_argument);
        leave(current);
    }
}

static inline void __syncthreads() {
    if (!current) {
        status = BARRIER_UNEXPECTED;
        return;
    }
    ++waiting;
    leave(current);
}

// Every thread of the block from one barrier, or from its start, to the next, or to its end.
__attribute__((noipa)) static void run_round() {
    position = waiting = 0;
    if (!__builtin_setjmp(scheduler)) __builtin_longjmp(next(), 1);
    current = nullptr;
}

static void run_block() {
    for (Fiber& fiber : fibers) fiber.shared_taken = 0;
    std::memset(shared, 0xff, sizeof shared);  // NaN in float and in double
    do run_round();
    while (waiting == threads.size());
    if (!waiting) return;
    status = BARRIER_MISSED;  // some ended while others waited
    fibers.clear();           // those that still wait are dropped with their stacks
}

// ---- the launch

// With CPU_BUILD_FTZ denormal numbers are read and written as 0 while this lives.
struct Rounding {
#ifdef CPU_BUILD_FTZ
    const unsigned before = _mm_getcsr();
    Rounding() { _mm_setcsr(before | 0x8040); }
    ~Rounding() { _mm_setcsr(before); }
#endif
};

// The coordinates in a space of this size, x fastest; shuffled for a seed other than 0.
static std::vector<dim3> all_of(dim3 size, unsigned seed) {
    std::vector<dim3> all;
    for (unsigned z = 0; z < size.z; ++z)
        for (unsigned y = 0; y < size.y; ++y)
            for (unsigned x = 0; x < size.x; ++x) all.push_back({x, y, z});
    std::uint64_t state = seed;
    for (std::size_t k = all.size(); seed && k > 1; --k) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        std::swap(all[k - 1], all[(state >> 33) % k]);
    }
    return all;
}

template <class Body> static int launch(const unsigned* grid, const unsigned* block, unsigned seed, bool barriers, const Body& body) {
    [[maybe_unused]] const Rounding rounding;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    threads = all_of(blockDim, seed);
    if (barriers && fibers.size() < threads.size()) fibers = std::vector<Fiber>(threads.size());  // anew: one that has started must not move
    run_argument = &body;
    run_thread = [](const void* argument) { (*static_cast<const Body*>(argument))(); };
    status = GOOD;
    for (const dim3& index : all_of(gridDim, seed)) {
        blockIdx = index;
        if (barriers) {
            run_block();
        } else {
            for (const dim3& thread : threads) {
                threadIdx = thread;
                shared_taken = 0;
                body();
            }
        }
        if (status) break;
    }
    return status;
}

#define LAUNCHER(name, barriers, ...)                                                                                \
    extern "C" __attribute__((visibility("default"))) int launch_##name(const unsigned* grid, const unsigned* block, \
                                                                        unsigned seed, const char* slots) {          \
        return launch(grid, block, seed, barriers, [slots] { name(__VA_ARGS__); });                                  \
    }
