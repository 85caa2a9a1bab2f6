// The part that is compiled once: choice of the instruction set, checks of arguments, entry points.
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
    if (!backward) return a.out.data ? JCA_OK : JCA_NULL_POINTER;
    return a.dout.data && a.dq.data && a.dk.data && a.dv.data ? JCA_OK : JCA_NULL_POINTER;
}

int check(const jca_released_attention& a, bool backward) {
    if (a.struct_size != (int64_t)sizeof(a)) return JCA_BAD_SIZE;
    if (bad_dtype(a.dtype)) return JCA_BAD_DTYPE;
    if (a.batch < 0 || a.n < 1 || a.width < 1 || a.key_width < 1) return JCA_BAD_SHAPE;
    if (bad_threshold(a.threshold)) return JCA_BAD_THRESHOLD;
    if (a.batch == 0) return JCA_OK;
    if (!a.query.data || !a.key.data || !a.value.data || !a.out.data) return JCA_NULL_POINTER;
    const bool gradients = a.dout.data && a.dquery.data && a.dkey.data && a.dvalue.data;
    return gradients || !backward ? JCA_OK : JCA_NULL_POINTER;
}

int check(const jca_joint_affinity& a, bool backward) {
    if (a.struct_size != (int64_t)sizeof(a)) return JCA_BAD_SIZE;
    if (bad_dtype(a.dtype)) return JCA_BAD_DTYPE;
    if (a.batch < 0 || a.m < 1 || a.l < 1 || a.n < 1) return JCA_BAD_SHAPE;
    if (a.batch == 0) return JCA_OK;
    if (!a.q.data || !a.k.data || !a.c.data) return JCA_NULL_POINTER;
    return backward && (!a.dc.data || !a.dq.data || !a.dk.data) ? JCA_NULL_POINTER : JCA_OK;
}

int check(const jca_modality& m, const jca_joint_coattention& a, bool backward) {
    if (m.width < 1 || m.joint_width < 1 || m.attention < 1) return JCA_BAD_SHAPE;
    if (!m.w_j.data || !m.w_x.data || !m.w_c.data || !m.w_h.data) return JCA_NULL_POINTER;
    if (backward && (!m.dw_j.data || !m.dw_x.data || !m.dw_c.data || !m.dw_h.data))
        return JCA_NULL_POINTER;
    if (a.batch == 0) return JCA_OK;
    if (!m.x.data || !m.out.data || (a.joints && !m.joint.data)) return JCA_NULL_POINTER;
    return backward && (!m.h.data || !m.dx.data) ? JCA_NULL_POINTER : JCA_OK;
}

int check(const jca_joint_coattention& a, bool backward) {
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

int check(const jca_visual_reduction& a, bool backward) {
    if (a.struct_size != (int64_t)sizeof(a)) return JCA_BAD_SIZE;
    if (bad_dtype(a.dtype)) return JCA_BAD_DTYPE;
    if (a.samples < 0 || a.regions < 1 || a.width < 1) return JCA_BAD_SHAPE;
    if (a.samples == 0) return JCA_OK;
    if (!a.query.data || !a.keys.data || !a.weights.data) return JCA_NULL_POINTER;
    if (!backward) return a.out.data ? JCA_OK : JCA_NULL_POINTER;
    return a.dout.data && a.dweights.data && a.dquery.data ? JCA_OK : JCA_NULL_POINTER;
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
int call(const Args* a, bool backward, int (*Kernels::*kernel)(const Args&)) {
    const int status = a ? check(*a, backward) : JCA_NULL_POINTER;
    if (status != JCA_OK) return status;
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

#define JCA_ENTRY_POINTS(op)                                     \
    JCA_EXPORT int jca_##op##_forward(const jca_##op* a) {       \
        return jca::call(a, false, &jca::Kernels::op##_forward); \
    }                                                            \
    JCA_EXPORT int jca_##op##_backward(const jca_##op* a) {      \
        return jca::call(a, true, &jca::Kernels::op##_backward); \
    }
JCA_OPS(JCA_ENTRY_POINTS)
