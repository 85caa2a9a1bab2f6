// The kernels of one precision tier: -DJCA_TIER=exact, tf32, bfloat16 or float16.
#include "joint_affinity.cuh"
#include "joint_coattention_backward.cuh"
#include "narrow.cuh"
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
using jca_cuda::Channels;
using jca_cuda::Layer;
using jca_cuda::Sums;
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

#ifdef JCA_NARROW_FORWARD
__global__ void __launch_bounds__(jca_cuda::kThreads, 2) narrow_attention_forward(const Walk w) {
    jca_cuda::narrow_walk<Tier, jca_cuda::kForward>(w);
}
#endif

#ifdef JCA_NARROW_BACKWARD
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

__global__ void __launch_bounds__(jca_cuda::kThreads, 4) joint_affinity_backward(const Affinity w) {
    jca_cuda::AffinityWalker<Tier>(w).backward();
}

// The second dimension of the grid holds the modalities and what each of them needs.
__global__ void __launch_bounds__(jca_cuda::kThreads, Tier::kExact ? 2 : 3)
    joint_coattention_forward(const Layer l) {
    Channels<Tier> channels(l, blockIdx.y);
    if (channels.exist()) channels.forward();
}

__global__ void __launch_bounds__(jca_cuda::kThreads) joint_coattention_prepare(const Layer l) {
    Channels<Tier> channels(l, blockIdx.y % l.count);
    if (channels.exist()) channels.prepare(blockIdx.y / l.count);
}

__global__ void __launch_bounds__(jca_cuda::kThreads) joint_coattention_attention(const Layer l) {
    jca_cuda::layer_attention<Tier>(l);
}

__global__ void __launch_bounds__(jca_cuda::kThreads, 2) joint_coattention_finish(const Layer l) {
    jca_cuda::layer_finish<Tier>(l, blockIdx.y % l.count, blockIdx.y / l.count);
}

__global__ void __launch_bounds__(jca_cuda::kThreads) joint_coattention_sums(const Sums sums) {
    jca_cuda::sum_parts<Tier::Global>(sums.sums[blockIdx.y]);
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
