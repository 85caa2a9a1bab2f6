#include "planning.h"

namespace jca_cuda {
namespace {

int begin(jca_cuda_plan* plan, const jca_cuda_visual_reduction& a) {
    return begin_plan(plan, a.tier, a.segments, {a.regions, a.width},
                      {{a.query, 1, a.width},
                       {a.keys, a.regions, a.width},
                       {a.out, 1, a.width},
                       {a.weights, 1, a.regions},
                       {a.grad_out, 1, a.width},
                       {a.grad_weights, 1, a.regions},
                       {a.dquery, 1, a.width},
                       {a.dkeys, a.regions, a.width}});
}

// Whether 16 bytes along a row are one access, in every row.
bool has_vectors(const jca_cuda_matrix& x, int64_t width, int tier) {
    const int64_t vector = 16 / int64_t(Sizes(tier).number);
    return x.address % 16 == 0 && x.strides[0] % vector == 0 && x.strides[1] % vector == 0 &&
           x.strides[2] == 1 && width % vector == 0;
}

// Either way; the caller adds the result.
Visual common(const jca_cuda_visual_reduction& a) {
    Visual w{};
    const int64_t warps = blocks(a.width, kReach);
    w.query = matrix(a.query);
    w.keys = matrix(a.keys);
    w.weights = matrix(a.weights);
    w.segments = int32_t(a.segments);
    w.regions = int32_t(a.regions);
    w.width = int32_t(a.width);
    w.team = warps > 2 ? kWarps : int32_t(warps);
    w.blocks = int32_t(blocks(warps, w.team));
    w.vectors = has_vectors(a.keys, a.width, a.tier);
    w.scale = float(a.scale);
    return w;
}

int add_visual(const jca_cuda_visual_reduction& a, jca_cuda_plan* plan, int kernel, Visual* w,
               bool needs_scratch) {
    const int64_t bytes = a.regions * w->blocks * int64_t(sizeof(float));  // of a segment
    if (bytes >= kLimit) return JCA_CUDA_TOO_LARGE;
    plan->workspace_size = needs_scratch ? a.segments * bytes : 0;
    if (a.workspace_size < plan->workspace_size) return JCA_CUDA_NO_WORKSPACE;
    w->scratch = reinterpret_cast<float*>(a.workspace);
    return add(plan, kernel, *w, a.segments, w->blocks, sizeof(VisualTiles));
}

}  // namespace
}  // namespace jca_cuda

int jca_cuda_plan_visual_reduction(const jca_cuda_visual_reduction* a, jca_cuda_plan* plan) {
    using namespace jca_cuda;
    const int status = begin(plan, *a);
    if (status || !a->segments) return status;
    Visual w = common(*a);
    w.out = matrix(a->out);
    return add_visual(*a, plan, JCA_CUDA_VISUAL_REDUCTION_FORWARD, &w, true);
}

int jca_cuda_plan_visual_reduction_backward(const jca_cuda_visual_reduction* a,
                                            jca_cuda_plan* plan) {
    using namespace jca_cuda;
    const int status = begin(plan, *a);
    if (status || !a->segments) return status;
    Visual w = common(*a);
    w.grad_out = matrix(a->grad_out);
    w.grad_weights = matrix(a->grad_weights);
    w.out = matrix(a->dquery);
    w.dkeys = matrix(a->dkeys);
    w.grad_vectors = has_vectors(a->dkeys, a->width, a->tier);
    return add_visual(*a, plan, JCA_CUDA_VISUAL_REDUCTION_BACKWARD, &w, a->dkeys.address != 0);
}
