// All kernels for one instruction set. CMake compiles this file once per level with JCA_ISA and
// JCA_VECTOR_BYTES set; everything is in an anonymous namespace, because a template the linker may
// merge could carry AVX-512 code into the baseline.
#include "joint_affinity.h"
#include "joint_coattention_backward.h"
#include "kernels.h"
#include "released_attention.h"
#include "tanh_dropout.h"
#include "visual_reduction.h"

namespace jca {
namespace JCA_ISA {
namespace {

template <class St>
struct Storage {
    using type = St;
};

// f(Storage<St>{}) for the storage type of `dtype`.
template <class F>
int by_dtype(int64_t dtype, const F& f) {
    switch (dtype) {
        case JCA_FLOAT32: return f(Storage<float>{});
        case JCA_FLOAT64: return f(Storage<double>{});
        case JCA_BFLOAT16: return f(Storage<bfloat16>{});
        case JCA_FLOAT16: return f(Storage<float16>{});
        default: return JCA_BAD_DTYPE;
    }
}

// The op's check of its arguments, then its kernel for their storage type.
#define JCA_ANY_DTYPE(kernel, Args, backward)                                                     \
    int any_##kernel(const Args& a) {                                                             \
        const int status = check(a, backward);                                                    \
        if (status != JCA_OK) return status;                                                      \
        return by_dtype(a.dtype, [&a](auto s) { return kernel<typename decltype(s)::type>(a); }); \
    }
#define JCA_ANY_DTYPES(op)                       \
    JCA_ANY_DTYPE(op##_forward, jca_##op, false) \
    JCA_ANY_DTYPE(op##_backward, jca_##op, true)
JCA_OPS(JCA_ANY_DTYPES)

// The yardstick of the benchmarks: `steps` x 12 independent multiply-adds of whole float32 vectors,
// in registers. Returns the number of multiply-adds of single numbers, which divided by the time is
// this machine's peak.
int64_t fma_yardstick(int64_t steps, float* sink) {
    f32v acc[12];
    const f32v x = splat(0.999f);
    for (int i = 0; i < 12; i++) acc[i] = splat((float)i);
    for (int64_t s = 0; s < steps; s++) {
#pragma GCC unroll 16
        for (int i = 0; i < 12; i++) acc[i] = acc[i] * x + x;
    }
    f32v sum = acc[0];
    for (int i = 1; i < 12; i++) sum += acc[i];
    *sink = sum[0];
    return steps * 12 * Simd<float>::lanes;
}

}  // namespace

extern const Kernels kernels;
const Kernels kernels = {
#define JCA_ENTRIES(op) any_##op##_forward, any_##op##_backward,
    JCA_OPS(JCA_ENTRIES)
#undef JCA_ENTRIES
        fma_yardstick,
};

}  // namespace JCA_ISA
}  // namespace jca
