// Work units on torch's own thread pool. The units depend on the shape alone; which thread
// runs it does not matter, so results are the same bits for any number of threads.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "abi.h"

namespace jca {

// The size of scratch that does not fit into 64 bits; it is never allocated.
constexpr size_t kTooLarge = SIZE_MAX;

// Called once per unit with scratch memory of the calling thread.
typedef void (*UnitFunction)(const void* context, int64_t unit, char* scratch);

int run_units(int64_t units, size_t scratch_bytes, UnitFunction function, const void* context);

char* allocate(size_t bytes);  // 64-byte aligned; null when bytes is 0 or memory is short

// The status of a call that could not allocate `bytes` of scratch.
static inline int no_memory(size_t bytes) {
    return bytes == kTooLarge ? JCA_TOO_LARGE : JCA_NO_MEMORY;
}

// Finds torch's thread pool in the library that Python has loaded; without it a call keeps to its
// own thread. Returns whether it was found.
bool use_torch_threads(const char* libtorch_cpu);
int64_t thread_count();

}  // namespace jca

namespace jca {
namespace JCA_ISA {
namespace {

template <class F>
int parallel_units(int64_t units, size_t scratch_bytes, const F& f) {
    return run_units(
        units, scratch_bytes,
        [](const void* context, int64_t unit, char* scratch) {
            (*static_cast<const F*>(context))(unit, scratch);
        },
        &f);
}

struct Buffer {
    size_t bytes;
    char* data;
    explicit Buffer(size_t size) : bytes(size), data(allocate(size)) {}
    ~Buffer() { free(data); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
};

}  // namespace
}  // namespace JCA_ISA
}  // namespace jca
