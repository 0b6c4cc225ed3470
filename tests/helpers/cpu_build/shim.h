// CUDA C's words for a C++17 compiler: what a kernel file may use, and the launch of a grid on the CPU.
//
// A built file is this header, the kernel file with each __shared__ array turned into SHARED(type, name, count), and a line
// LAUNCHER(...) or CALL(...) for each kernel. With CPU_BUILD_THREADS every CUDA thread is an OS thread (threads.h), else a fiber or a turn
// of a loop (fibers.h).
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#define __global__
#define __device__ static inline
#define __launch_bounds__(...)
using std::exp;
using std::log;
using std::sqrt;
using std::tanh;

static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) { return (unsigned __int128)a * b >> 64; }

struct dim3 {
    unsigned x, y, z;
};

// The arguments of a launch, eight bytes each.
template <class T> T argument(const char* slots, int number) {
    T value;
    std::memcpy(&value, slots + 8 * number, sizeof value);
    return value;
}

#define SHARED(type, name, count) type* const name = static_cast<type*>(shared_memory((count) * sizeof(type)))
const std::size_t SHARED_BYTES = 48 * 1024;  // what CUDA lets a block have without being asked

#ifdef CPU_BUILD_THREADS
#include "threads.h"
#else
#include "fibers.h"
#endif
