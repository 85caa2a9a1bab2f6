// The plans of tanh attention, for the ops that are built on it.
#pragma once

#include "planning.h"

namespace jca_cuda {

// An empty plan, and what is wrong with a call; a jca_cuda_status.
int begin(jca_cuda_plan* plan, const jca_cuda_tanh_attention& a);

// The launches of the forward, or of the activated one of the released form.
int add_forward(const jca_cuda_tanh_attention& a, bool activate, jca_cuda_plan* plan);

// The launches of the backward. Its part of the workspace begins where that of the plan ends.
int add_backward(const jca_cuda_tanh_attention& a, jca_cuda_plan* plan);

}  // namespace jca_cuda
