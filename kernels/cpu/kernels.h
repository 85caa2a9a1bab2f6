// What one instruction set offers. isa.cpp fills one such table per level; runtime.cpp picks one.
#pragma once

#include "abi.h"

namespace jca {

struct Kernels {
    int (*tanh_attention_forward)(const jca_tanh_attention&);
    int (*tanh_attention_backward)(const jca_tanh_attention&);
};

}  // namespace jca
