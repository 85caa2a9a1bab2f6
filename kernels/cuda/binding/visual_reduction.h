// visual_reduction: query (S, D), regions (S, R, D) -> out (S, D), weights (S, R)
#pragma once

#include "checks.h"

namespace jca_cuda {
namespace {

// The arguments query and regions, and of the backward weights between regions and scale.
class VisualReduction {
  public:
    VisualReduction(const char* op, StableValue query_value, StableValue regions_value,
                    StableValue scale)
        : query(query_value), regions(regions_value), check(op, "query", query) {
        check.tensor("query", query, {kAny, kAny});
        call.segments = query.sizes()[0];
        call.width = query.sizes()[1];
        check.tensor("regions", regions, {call.segments, kAny, call.width});
        call.regions = regions.sizes()[1];
        call.tier = check.tier();
        call.scale = number(scale);
        call.query = query.vectors();
        call.keys = regions.matrix();
    }

    const Tensor query, regions;
    const Checks check;
    jca_cuda_visual_reduction call{};
};

// (query, regions, scale) -> out, weights
void visual_reduction(StableValue* stack, uint64_t, uint64_t) {
    VisualReduction a("visual_reduction", stack[0], stack[1], stack[2]);
    Tensor out = a.query.make({a.call.segments, a.call.width}, a.query.dtype());
    Tensor weights = a.query.make({a.call.segments, a.call.regions}, a.query.dtype());
    a.call.out = out.vectors();
    a.call.weights = weights.vectors();
    a.check.run(jca_cuda_plan_visual_reduction, a.call);
    stack[0] = out.release();
    stack[1] = weights.release();
}

// (grad_out, grad_weights, query, regions, weights, scale, need_regions) -> dquery, dregions, which
// is empty where it is not needed
void visual_reduction_backward(StableValue* stack, uint64_t, uint64_t) {
    const Tensor grad_out(stack[0]), grad_weights(stack[1]), weights(stack[4]);
    const bool need_regions = stack[6] & 0xff;
    VisualReduction a("visual_reduction_backward", stack[2], stack[3], stack[5]);
    const int64_t segments = a.call.segments, regions = a.call.regions, width = a.call.width;
    a.check.tensor("grad_out", grad_out, {segments, width});
    a.check.tensor("grad_weights", grad_weights, {segments, regions});
    a.check.tensor("weights", weights, {segments, regions});
    Tensor dquery = a.query.make({segments, width}, a.query.dtype());
    Tensor dregions = need_regions ? a.regions.like() : a.regions.make({0}, a.regions.dtype());
    a.call.grad_out = grad_out.vectors();
    a.call.grad_weights = grad_weights.vectors();
    a.call.weights = weights.vectors();
    a.call.dquery = dquery.vectors();
    if (need_regions) a.call.dkeys = dregions.matrix();
    a.check.run(jca_cuda_plan_visual_reduction_backward, a.call);
    stack[0] = dquery.release();
    stack[1] = dregions.release();
}

}  // namespace
}  // namespace jca_cuda
