// The kernels of one precision tier: -DJCA_TIER=exact, tf32, bfloat16 or float16.
#include "joint_affinity.cuh"
#ifdef JCA_NARROW
#include "narrow.cuh"
#endif
#include "released_attention.cuh"
#include "visual_reduction.cuh"
#include "walk.cuh"

namespace jca_cuda {
namespace tiers {
using exact = Exact;
using tf32 = Tf32;
using bfloat16 = Half<__nv_bfloat16>;
using float16 = Half<__half>;
}  // namespace tiers
}  // namespace jca_cuda

using jca_cuda::Activation;
using jca_cuda::Affinity;
using jca_cuda::Visual;
using jca_cuda::Walk;
using Tier = jca_cuda::tiers::JCA_TIER;

extern "C" {

__global__ void __launch_bounds__(jca_cuda::kThreads, 2) tanh_attention_forward(const Walk w) {
    jca_cuda::walk<Tier, jca_cuda::kForward>(w);
}

__global__ void __launch_bounds__(jca_cuda::kThreads) tanh_attention_columns(const Walk w) {
    jca_cuda::walk<Tier, jca_cuda::kColumns>(w);
}

__global__ void __launch_bounds__(jca_cuda::kThreads) tanh_attention_rows(const Walk w) {
    jca_cuda::walk<Tier, jca_cuda::kRows>(w);
}

#ifdef JCA_NARROW
__global__ void __launch_bounds__(jca_cuda::kThreads, 2) narrow_attention_forward(const Walk w) {
    jca_cuda::narrow_walk<Tier, jca_cuda::kForward>(w);
}

__global__ void __launch_bounds__(jca_cuda::kThreads, 2) narrow_attention_backward(const Walk w) {
    jca_cuda::narrow_walk<Tier, jca_cuda::kColumns>(w);
}
#endif

__global__ void __launch_bounds__(jca_cuda::kThreads) sum_parts(const jca_cuda::Sum sum) {
    jca_cuda::sum_parts<Tier::Global>(sum);
}

__global__ void __launch_bounds__(jca_cuda::kThreads, 2) joint_affinity_forward(const Affinity w) {
    jca_cuda::AffinityWalker<Tier>(w).forward();
}

__global__ void __launch_bounds__(jca_cuda::kThreads) joint_affinity_backward(const Affinity w) {
    jca_cuda::AffinityWalker<Tier>(w).backward();
}

__global__ void __launch_bounds__(jca_cuda::kThreads) released_activation(const Activation a) {
    jca_cuda::activation_backward<Tier>(a);
}

__global__ void __launch_bounds__(jca_cuda::kThreads, 4) visual_reduction_forward(const Visual w) {
    jca_cuda::VisualReducer<Tier>(w).forward();
}

__global__ void __launch_bounds__(jca_cuda::kThreads, 3) visual_reduction_backward(const Visual w) {
    jca_cuda::VisualReducer<Tier>(w).backward();
}

}  // extern "C"
