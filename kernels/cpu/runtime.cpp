// The part that is compiled once: choice of the instruction set, entry points.
#include <string.h>

#include <atomic>
#include <string>

#include "kernels.h"
#include "parallel.h"

#define JCA_EXPORT extern "C" __attribute__((visibility("default")))

// The instruction sets of this build, best first.
#if defined(JCA_X86)
#define JCA_LEVELS(X) X(v4) X(v3) X(v2)
#else
#define JCA_LEVELS(X) X(baseline)
#endif

namespace jca {

#define JCA_DECLARE_LEVEL(isa)    \
    namespace isa {               \
    extern const Kernels kernels; \
    }
JCA_LEVELS(JCA_DECLARE_LEVEL)

namespace {

#if defined(JCA_X86)
bool supports_v4() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
bool supports_v3() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("f16c");
}
bool supports_v2() {
    return __builtin_cpu_supports("sse4.2");
}
#else
bool supports_baseline() {
    return true;
}
#endif

struct Level {
    const char* name;
    const Kernels* kernels;
    bool supported;
};

const Level* levels(int* count) {
#define JCA_LEVEL_ROW(isa) {#isa, &isa::kernels, supports_##isa()},
    static const Level all[] = {JCA_LEVELS(JCA_LEVEL_ROW)};
#undef JCA_LEVEL_ROW
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

std::string names_of_levels() {
    std::string text;
    int count;
    const Level* all = levels(&count);
    for (int i = 0; i < count; i++)
        if (all[i].supported) text += (text.empty() ? "" : ",") + std::string(all[i].name);
    return text;
}

template <class Args>
int call(const Args* a, int (*Kernels::*kernel)(const Args&)) {
    if (!a) return JCA_NULL_POINTER;
    const Level* level = active.load(std::memory_order_acquire);
    return level ? (level->kernels->*kernel)(*a) : JCA_BAD_ISA;
}

}  // namespace
}  // namespace jca

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
        "sizes too large: the scratch would need more than 2^62 bytes",
    };
    return status >= 0 && status < JCA_STATUS_COUNT ? text[status] : "unknown status";
}

JCA_EXPORT const char* jca_isa_available(void) {
    static const std::string text = jca::names_of_levels();
    return text.c_str();
}

JCA_EXPORT int jca_isa_select(const char* name) {
    const jca::Level* level = jca::find(name);
    if (!level) return JCA_BAD_ISA;
    jca::active.store(level, std::memory_order_release);
    return JCA_OK;
}

JCA_EXPORT const char* jca_isa_name(void) {
    const jca::Level* level = jca::active.load();
    return level ? level->name : "";
}

JCA_EXPORT int jca_use_torch(const char* libtorch_cpu) {
    return jca::use_torch_threads(libtorch_cpu);
}

JCA_EXPORT int jca_threads(void) {
    return (int)jca::thread_count();
}

JCA_EXPORT int64_t jca_fma_yardstick(int64_t steps) {
    float sink;
    const jca::Level* level = jca::active.load();
    return level ? level->kernels->fma_yardstick(steps, &sink) : 0;
}

JCA_EXPORT const char* jca_op_names(void) {
#define JCA_NAME(op) #op " "
    return JCA_OPS(JCA_NAME);
#undef JCA_NAME
}

#define JCA_ENTRY_POINTS(op)                                \
    JCA_EXPORT int jca_##op##_forward(const jca_##op* a) {  \
        return jca::call(a, &jca::Kernels::op##_forward);   \
    }                                                       \
    JCA_EXPORT int jca_##op##_backward(const jca_##op* a) { \
        return jca::call(a, &jca::Kernels::op##_backward);  \
    }
JCA_OPS(JCA_ENTRY_POINTS)
