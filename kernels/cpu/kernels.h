// What one instruction set offers. isa.cpp fills one such table per level; runtime.cpp picks one.
#pragma once

#include "abi.h"

namespace jca {

struct Kernels {
    int (*tanh_attention_forward)(const jca_tanh_attention&);
    int (*tanh_attention_backward)(const jca_tanh_attention&);
    int (*affinity_forward)(const jca_affinity&);
    int (*affinity_backward)(const jca_affinity&);
    int (*coattention_forward)(const jca_coattention&);
    int (*coattention_backward)(const jca_coattention&);
    int (*reduction_forward)(const jca_reduction&);
    int (*reduction_backward)(const jca_reduction&);
    int64_t (*fma_yardstick)(int64_t steps, float* sink);
};

}  // namespace jca
