// torch's thread pool and the scratch memory of its threads.
#include "parallel.h"

#include <dlfcn.h>

#include <atomic>

namespace jca {
namespace {

typedef int (*ParallelFor)(int64_t, int64_t, int64_t, void (*)(int64_t, int64_t, void*), void*);
typedef int (*GetNumThreads)(uint32_t*);
ParallelFor parallel_for = nullptr;
GetNumThreads get_num_threads = nullptr;

// Scratch of one thread, kept between calls: fresh pages would cost more than a small call. The
// scratch of a huge call is given back.
constexpr size_t kKeptScratch = 16 << 20;

struct Scratch {
    char* data = nullptr;
    size_t size = 0;
    ~Scratch() { free(data); }
    char* reserve(size_t bytes) {
        if (bytes > size) {
            free(data);
            data = allocate(bytes);
            size = data ? bytes : 0;
        }
        return data;
    }
    void settle() {
        if (size <= kKeptScratch) return;
        free(data);
        data = nullptr;
        size = 0;
    }
};
thread_local Scratch scratch;

struct Queue {
    std::atomic<int64_t> next{0};
    std::atomic<bool> failed{false};
    int64_t units;
    size_t scratch_bytes;
    UnitFunction function;
    const void* context;
};

void work(Queue& queue) {
    char* memory = nullptr;
    for (int64_t unit; (unit = queue.next.fetch_add(1, std::memory_order_relaxed)) < queue.units;) {
        if (!memory && !(memory = scratch.reserve(queue.scratch_bytes))) {
            queue.failed = true;
            return;
        }
        queue.function(queue.context, unit, memory);
    }
    scratch.settle();
}

void work_range(int64_t begin, int64_t end, void* context) {
    for (; begin < end; begin++) work(*static_cast<Queue*>(context));
}

}  // namespace

int64_t thread_count() {
    uint32_t threads = 1;
    if (parallel_for) get_num_threads(&threads);
    return threads;
}

char* allocate(size_t bytes) {
    void* p = nullptr;
    if (bytes == 0 || bytes == kTooLarge) return nullptr;
    return posix_memalign(&p, 64, bytes) == 0 ? static_cast<char*>(p) : nullptr;
}

int run_units(int64_t units, size_t scratch_bytes, UnitFunction function, const void* context) {
    Queue queue;
    queue.units = units;
    queue.scratch_bytes = scratch_bytes;
    queue.function = function;
    queue.context = context;
    const int64_t threads = thread_count(), workers = units < threads ? units : threads;
    if (workers > 1)
        parallel_for(0, workers, 1, work_range, &queue);
    else
        work(queue);
    return queue.failed ? no_memory(scratch_bytes) : JCA_OK;
}

bool use_torch_threads(const char* libtorch_cpu) {
    void* handle = dlopen(libtorch_cpu, RTLD_NOW | RTLD_NOLOAD);
    if (!handle) return false;
    get_num_threads = (GetNumThreads)dlsym(handle, "torch_get_num_threads");
    parallel_for = get_num_threads ? (ParallelFor)dlsym(handle, "torch_parallel_for") : nullptr;
    return parallel_for != nullptr;
}

}  // namespace jca
