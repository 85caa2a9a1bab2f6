// The part that is compiled once: choice of the instruction set, checks of arguments, torch's
// thread pool, scratch memory.
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include <atomic>

#include "kernels.h"
#include "parallel.h"

#define JCA_EXPORT extern "C" __attribute__((visibility("default")))

namespace jca {

#define JCA_DECLARE(isa)          \
    namespace isa {               \
    extern const Kernels kernels; \
    }
#if defined(JCA_X86)
JCA_DECLARE(v2)
JCA_DECLARE(v3)
JCA_DECLARE(v4)
#else
JCA_DECLARE(baseline)
#endif

namespace {

struct Level {
    const char* name;
    const Kernels* kernels;
    bool supported;
};

const Level* levels(int* count) {
#if defined(JCA_X86)
    static const Level all[] = {
        {"v4", &v4::kernels,
         __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl")},
        {"v3", &v3::kernels,
         __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("f16c")},
        {"v2", &v2::kernels, __builtin_cpu_supports("sse4.2") != 0},
    };
#else
    static const Level all[] = {{"baseline", &baseline::kernels, true}};
#endif
    *count = (int)(sizeof(all) / sizeof(all[0]));
    return all;
}

std::atomic<const Level*> active{nullptr};

const Level* find(const char* name) {
    int count;
    const Level* all = levels(&count);
    for (int i = 0; i < count; i++)
        if (all[i].supported && (!name || !*name || !strcmp(name, all[i].name))) return &all[i];
    return nullptr;
}

typedef int (*ParallelFor)(int64_t, int64_t, int64_t, void (*)(int64_t, int64_t, void*), void*);
typedef int (*GetNumThreads)(uint32_t*);
ParallelFor parallel_for = nullptr;
GetNumThreads get_num_threads = nullptr;

// Scratch of one thread, kept between calls: fresh pages would cost more than a small call.
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
};
thread_local Scratch scratch;

int64_t thread_count() {
    uint32_t threads = 1;
    if (parallel_for) get_num_threads(&threads);
    return threads;
}

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
}

void work_range(int64_t begin, int64_t end, void* context) {
    for (; begin < end; begin++) work(*static_cast<Queue*>(context));
}

}  // namespace

char* allocate(size_t bytes) {
    void* p = nullptr;
    return bytes && posix_memalign(&p, 64, bytes) == 0 ? static_cast<char*>(p) : nullptr;
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
    return queue.failed ? JCA_NO_MEMORY : JCA_OK;
}

namespace {

bool bad_dtype(int64_t dtype) {
    return dtype < JCA_FLOAT32 || dtype > JCA_FLOAT16;
}
bool bad_threshold(int64_t threshold) {
    return threshold < 0 || threshold > 65536;
}

int check(const jca_tanh_attention& a, bool backward) {
    if (a.struct_size != (int64_t)sizeof(a)) return JCA_BAD_SIZE;
    if (bad_dtype(a.dtype)) return JCA_BAD_DTYPE;
    if (a.batch < 0 || a.m < 1 || a.l < 1 || a.n < 1 || a.d < 1) return JCA_BAD_SHAPE;
    if (bad_threshold(a.threshold)) return JCA_BAD_THRESHOLD;
    if (a.batch == 0) return JCA_OK;
    if (!a.q.data || !a.k.data || !a.v.data) return JCA_NULL_POINTER;
    if ((!backward || a.epilogue) && !a.out.data) return JCA_NULL_POINTER;
    if (backward && (!a.dout.data || !a.dq.data || !a.dk.data || !a.dv.data))
        return JCA_NULL_POINTER;
    return JCA_OK;
}

int check(const jca_affinity& a, bool backward) {
    if (a.struct_size != (int64_t)sizeof(a)) return JCA_BAD_SIZE;
    if (bad_dtype(a.dtype)) return JCA_BAD_DTYPE;
    if (a.batch < 0 || a.m < 1 || a.l < 1 || a.n < 1) return JCA_BAD_SHAPE;
    if (a.batch == 0) return JCA_OK;
    if (!a.q.data || !a.k.data || !a.c.data) return JCA_NULL_POINTER;
    return backward && (!a.dc.data || !a.dq.data || !a.dk.data) ? JCA_NULL_POINTER : JCA_OK;
}

int check(const jca_modality& m, const jca_coattention& a, bool backward) {
    if (m.width < 1 || m.joint_width < 1 || m.attention < 1) return JCA_BAD_SHAPE;
    if (!m.w_j.data || !m.w_x.data || !m.w_c.data || !m.w_h.data) return JCA_NULL_POINTER;
    if (backward && (!m.dw_j.data || !m.dw_x.data || !m.dw_c.data || !m.dw_h.data))
        return JCA_NULL_POINTER;
    if (a.batch == 0) return JCA_OK;
    if (!m.x.data || !m.out.data || (a.joints && !m.joint.data)) return JCA_NULL_POINTER;
    return backward && (!m.h.data || !m.dx.data) ? JCA_NULL_POINTER : JCA_OK;
}

int check(const jca_coattention& a, bool backward) {
    if (a.count < 1 ||
        a.struct_size != (int64_t)(sizeof(a) + (size_t)(a.count - 1) * sizeof(jca_modality)))
        return JCA_BAD_SIZE;
    if (bad_dtype(a.dtype)) return JCA_BAD_DTYPE;
    if (a.batch < 0 || a.n < 1) return JCA_BAD_SHAPE;
    if (bad_threshold(a.threshold)) return JCA_BAD_THRESHOLD;
    for (int64_t i = 0; i < a.count; i++)
        if (const int status = check(a.modality[i], a, backward)) return status;
    return JCA_OK;
}

int check(const jca_reduction& a, bool backward) {
    if (a.struct_size != (int64_t)sizeof(a)) return JCA_BAD_SIZE;
    if (bad_dtype(a.dtype)) return JCA_BAD_DTYPE;
    if (a.samples < 0 || a.regions < 1 || a.width < 1) return JCA_BAD_SHAPE;
    if (a.samples == 0) return JCA_OK;
    if (!a.query.data || !a.keys.data || !a.weights.data) return JCA_NULL_POINTER;
    if (!backward) return a.out.data ? JCA_OK : JCA_NULL_POINTER;
    return a.dout.data && a.dweights.data && a.dquery.data ? JCA_OK : JCA_NULL_POINTER;
}

template <class Args>
int call(const Args* a, bool backward, int (*Kernels::*kernel)(const Args&)) {
    const int status = a ? check(*a, backward) : JCA_NULL_POINTER;
    if (status != JCA_OK) return status;
    const Level* level = active.load(std::memory_order_acquire);
    return level ? (level->kernels->*kernel)(*a) : JCA_BAD_ISA;
}

}  // namespace
}  // namespace jca

using jca::Kernels;

JCA_EXPORT int jca_abi_version(void) {
    return JCA_ABI_VERSION;
}

JCA_EXPORT const char* jca_status_string(int status) {
    static const char* const text[JCA_STATUS_COUNT] = {
        "ok",
        "argument block of another version of the library",
        "unsupported dtype",
        "a size below 1 (the batch: below 0)",
        "null pointer for a tensor",
        "out of memory for scratch",
        "instruction set not available on this processor or in this build",
        "dropout threshold outside 0..65536",
    };
    return status >= 0 && status < JCA_STATUS_COUNT ? text[status] : "unknown status";
}

// Comma-separated instruction sets that this processor and this build share, best first.
JCA_EXPORT const char* jca_isa_available() {
    static char text[64];
    if (!text[0]) {
        int count;
        const jca::Level* all = jca::levels(&count);
        for (int i = 0; i < count; i++)
            if (all[i].supported) {
                if (text[0]) strcat(text, ",");
                strcat(text, all[i].name);
            }
    }
    return text;
}

// Selects an instruction set by name; null or "" takes the best.
JCA_EXPORT int jca_isa_select(const char* name) {
    const jca::Level* level = jca::find(name);
    if (!level) return JCA_BAD_ISA;
    jca::active.store(level, std::memory_order_release);
    return JCA_OK;
}

JCA_EXPORT const char* jca_isa_name() {
    const jca::Level* level = jca::active.load();
    return level ? level->name : "";
}

// Finds torch's thread pool in the library that Python has already loaded. Returns 1 when found, 0
// when calls stay on one thread.
JCA_EXPORT int jca_use_torch(const char* libtorch_cpu) {
    void* handle = dlopen(libtorch_cpu, RTLD_NOW | RTLD_NOLOAD);
    if (!handle) return 0;
    jca::get_num_threads = (jca::GetNumThreads)dlsym(handle, "torch_get_num_threads");
    jca::parallel_for =
        jca::get_num_threads ? (jca::ParallelFor)dlsym(handle, "torch_parallel_for") : nullptr;
    return jca::parallel_for != nullptr;
}

// Threads that the next call may use: torch.get_num_threads(), or 1 without torch's pool.
JCA_EXPORT int jca_threads(void) {
    return (int)jca::thread_count();
}

// Runs a loop of multiply-adds at this machine's peak rate and returns how many; for benchmarks.
JCA_EXPORT int64_t jca_fma_yardstick(int64_t steps) {
    float sink;
    const jca::Level* level = jca::active.load();
    return level ? level->kernels->fma_yardstick(steps, &sink) : 0;
}

#define JCA_ENTRY(name)                                         \
    JCA_EXPORT int jca_##name##_forward(const jca_##name* a) {  \
        return jca::call(a, false, &Kernels::name##_forward);   \
    }                                                           \
    JCA_EXPORT int jca_##name##_backward(const jca_##name* a) { \
        return jca::call(a, true, &Kernels::name##_backward);   \
    }

JCA_ENTRY(tanh_attention)
JCA_ENTRY(affinity)
JCA_ENTRY(coattention)
JCA_ENTRY(reduction)
