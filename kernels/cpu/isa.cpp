// All kernels for one instruction set. CMake compiles this file once per level with JCA_ISA and JCA_VECTOR_BYTES set;
// everything is in an anonymous namespace, because a template the linker may merge could carry AVX-512 code into the
// baseline.
#include "affinity.h"
#include "coattention_backward.h"
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

#define JCA_OP(name, Args)                                       \
    template <class S>                                           \
    struct name##_op {                                           \
        static int run(const Args& a) { return name<S>(a); }     \
    };                                                           \
    int name##_any(const Args& a) { return by_dtype<name##_op>(a); }

JCA_OP(tanh_attention_forward, jca_tanh_attention)
JCA_OP(tanh_attention_backward, jca_tanh_attention)
JCA_OP(affinity_forward, jca_affinity)
JCA_OP(affinity_backward, jca_affinity)
JCA_OP(coattention_forward, jca_coattention)
JCA_OP(coattention_backward, jca_coattention)
JCA_OP(reduction_forward, jca_reduction)
JCA_OP(reduction_backward, jca_reduction)

}  // namespace

extern const Kernels kernels;
const Kernels kernels = {
    tanh_attention_forward_any, tanh_attention_backward_any, affinity_forward_any,  affinity_backward_any,
    coattention_forward_any,    coattention_backward_any,    reduction_forward_any, reduction_backward_any,
};

}  // namespace JCA_ISA
}  // namespace jca
