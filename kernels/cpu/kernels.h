// The kernels of one instruction set. isa.cpp fills one such table per level; runtime.cpp picks
// one.
#pragma once

#include "abi.h"

namespace jca {

struct Kernels {
#define JCA_KERNEL_POINTERS(op)             \
    int (*op##_forward)(const jca_##op& a); \
    int (*op##_backward)(const jca_##op& a);
    JCA_OPS(JCA_KERNEL_POINTERS)
#undef JCA_KERNEL_POINTERS
    int64_t (*fma_yardstick)(int64_t steps, float* sink);
};

}  // namespace jca
