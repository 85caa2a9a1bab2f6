// All kernels for one instruction set. CMake compiles this file once per level with JCA_ISA and
// JCA_VECTOR_BYTES set; everything is in an anonymous namespace, because a template the linker may
// merge could carry AVX-512 code into the baseline.
#include "joint_affinity.h"
#include "joint_coattention_backward.h"
#include "kernels.h"
#include "tanh_attention.h"
#include "visual_reduction.h"

namespace jca {
namespace JCA_ISA {
namespace {

template <template <class> class Op, class Args>
int by_dtype(const Args& a) {
    switch (a.dtype) {
        case JCA_FLOAT32: return Op<float>::run(a);
        case JCA_FLOAT64: return Op<double>::run(a);
        case JCA_BFLOAT16: return Op<bfloat16>::run(a);
        case JCA_FLOAT16: return Op<float16>::run(a);
        default: return JCA_BAD_DTYPE;
    }
}

#define JCA_OP(name, Args)                                   \
    template <class S>                                       \
    struct name##_op {                                       \
        static int run(const Args& a) { return name<S>(a); } \
    };                                                       \
    int name##_any(const Args& a) {                          \
        return by_dtype<name##_op>(a);                       \
    }

JCA_OP(tanh_attention_forward, jca_tanh_attention)
JCA_OP(tanh_attention_backward, jca_tanh_attention)
JCA_OP(affinity_forward, jca_affinity)
JCA_OP(affinity_backward, jca_affinity)
JCA_OP(coattention_forward, jca_coattention)
JCA_OP(coattention_backward, jca_coattention)
JCA_OP(reduction_forward, jca_reduction)
JCA_OP(reduction_backward, jca_reduction)

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
    tanh_attention_forward_any, tanh_attention_backward_any, affinity_forward_any,
    affinity_backward_any,      coattention_forward_any,     coattention_backward_any,
    reduction_forward_any,      reduction_backward_any,      fma_yardstick,
};

}  // namespace JCA_ISA
}  // namespace jca
