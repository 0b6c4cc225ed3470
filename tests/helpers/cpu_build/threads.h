// A grid as one OS thread for each CUDA thread, all blocks at once, so that the thread sanitizer sees every access that no barrier orders.
//
// Built with the address sanitizer instead, it shows what is read beyond an array, even where the result does not tell.
//
// A program: it reads one launch from its standard input, runs it, and writes the arrays back. The sanitizer knows of nothing that
// orders the threads but __syncthreads: the waiting itself is hidden from it, and each barrier is stated to it as what it is.
#pragma once
#include <climits>
#include <cstdio>
#include <linux/futex.h>
#include <pthread.h>
#include <string>
#include <sys/syscall.h>
#include <unistd.h>
#include <vector>

#ifdef __SANITIZE_THREAD__
extern "C" void __tsan_acquire(void*);
extern "C" void __tsan_release(void*);
#else
static inline void __tsan_acquire(void*) {}
static inline void __tsan_release(void*) {}
#endif
#define UNSEEN __attribute__((no_sanitize_thread, noinline))

static dim3 gridDim, blockDim;
static thread_local dim3 threadIdx, blockIdx;

[[noreturn]] static void die(const char* why) {
    std::fprintf(stderr, "cpu_build: %s\n", why);
    std::fflush(stderr);
    _exit(3);
}

// ---- a block: its shared memory, and its barrier

struct Block {
    alignas(16) unsigned char shared[SHARED_BYTES];
    int threads, arrived = 0, finished = 0, passed = 0;
    char gates[2];  // what the sanitizer knows a barrier by; two in turn, for a thread may still be leaving one when others reach the next
};

static thread_local Block* block;
static thread_local std::size_t shared_taken;

static inline void* shared_memory(std::size_t bytes) {
    void* place = block->shared + shared_taken;
    shared_taken += (bytes + 15) / 16 * 16;
    if (shared_taken > SHARED_BYTES) die("more shared memory than a block can have");
    return place;
}

UNSEEN static int barriers_passed(const Block* b) { return __atomic_load_n(&b->passed, __ATOMIC_SEQ_CST); }

UNSEEN static void wait_for_all(Block* b) {
    const int now = barriers_passed(b);
    if (__atomic_add_fetch(&b->arrived, 1, __ATOMIC_SEQ_CST) < b->threads) {
        // In this order: threads may have passed and finished since this one arrived
        if (__atomic_load_n(&b->finished, __ATOMIC_SEQ_CST) && barriers_passed(b) == now) die("a barrier that some threads of the block do not reach");
        while (barriers_passed(b) == now) syscall(SYS_futex, &b->passed, FUTEX_WAIT_PRIVATE, now, nullptr, nullptr, 0);
        return;
    }
    __atomic_store_n(&b->arrived, 0, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&b->passed, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &b->passed, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

UNSEEN static void finish(Block* b) {
    __atomic_add_fetch(&b->finished, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&b->arrived, __ATOMIC_SEQ_CST)) die("a barrier that some threads of the block do not reach");
}

static inline void __syncthreads() {
    char* gate = &block->gates[barriers_passed(block) % 2];
    __tsan_release(gate);
    wait_for_all(block);
    __tsan_acquire(gate);
}

// ---- the launch

static const char* slots;
static void call(const char* name);
static const char* kernel;

struct Place {
    Block* block;
    dim3 block_index, thread_index;
};

static void* thread_main(void* argument) {
    const Place& place = *static_cast<const Place*>(argument);
    block = place.block;
    blockIdx = place.block_index;
    threadIdx = place.thread_index;
    call(kernel);
    finish(block);
    return nullptr;
}

static dim3 coordinates(unsigned number, dim3 size) { return {number % size.x, number / size.x % size.y, number / size.x / size.y}; }

static void read_exactly(void* to, std::size_t bytes) {
    if (bytes && std::fread(to, bytes, 1, stdin) != 1) die("the launch on standard input ends early");
}

template <class T> static T read_one() {
    T value;
    read_exactly(&value, sizeof value);
    return value;
}

// Input: the sizes of grid and block; the number of arrays, and each one's bytes and content; the number of arguments, and for each the
// number of its array or -1, and eight bytes of value.
int main(int, char** arguments) {
    kernel = arguments[1];
    gridDim = read_one<dim3>();
    blockDim = read_one<dim3>();
    std::vector<std::pair<char*, std::size_t>> arrays(read_one<std::int64_t>());
    for (auto& [data, bytes] : arrays) {
        bytes = read_one<std::int64_t>();
        data = static_cast<char*>(std::malloc(bytes));
        read_exactly(data, bytes);
    }
    std::vector<std::int64_t> values(read_one<std::int64_t>());
    for (auto& value : values) {
        const auto array = read_one<std::int64_t>();
        value = read_one<std::int64_t>();
        if (array >= 0) value = reinterpret_cast<std::int64_t>(arrays[array].first);
    }
    slots = reinterpret_cast<const char*>(values.data());

    const unsigned blocks = gridDim.x * gridDim.y * gridDim.z, threads = blockDim.x * blockDim.y * blockDim.z;
    std::vector<Block> all(blocks);
    std::vector<Place> places;
    for (unsigned b = 0; b < blocks; ++b) {
        std::memset(all[b].shared, 0xff, SHARED_BYTES);  // NaN in float and in double
        all[b].threads = threads;
        for (unsigned t = 0; t < threads; ++t) places.push_back({&all[b], coordinates(b, gridDim), coordinates(t, blockDim)});
    }
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 256 * 1024);
    std::vector<pthread_t> running(places.size());
    for (std::size_t k = 0; k < places.size(); ++k)
        if (pthread_create(&running[k], &small, thread_main, &places[k])) die("the system gives no more threads");
    for (pthread_t thread : running) pthread_join(thread, nullptr);
    for (auto& [data, bytes] : arrays)
        if (bytes && std::fwrite(data, bytes, 1, stdout) != 1) die("standard output cannot be written");
}

#define LAUNCHER(name, barriers, ...) \
    if (!std::strcmp(kernel, #name)) return name(__VA_ARGS__);
