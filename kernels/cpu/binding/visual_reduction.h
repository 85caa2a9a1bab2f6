// visual_reduction: query (S, D), regions (S, R, D) -> out (S, D), weights (S, R)
#pragma once

#include "checks.h"
#include "schema.h"

namespace jca {
namespace {

template <>
constexpr Schema schema_of<jca_visual_reduction> = {
    "(Tensor query, Tensor regions, float scale) -> (Tensor, Tensor)",
    "(Tensor grad_out, Tensor grad_weights, Tensor query, Tensor regions, Tensor weights, "
    "float scale, bool need_regions) -> (Tensor, Tensor)"};

jca_visual_reduction visual_reduction_block(Checks& check, const Tensor& query,
                                            const Tensor& regions, double scale) {
    check.tensor("query", query, {kBatch, kAny});
    check.tensor("regions", regions, {query.sizes()[0], kAny, query.sizes()[1]});
    jca_visual_reduction a{};
    a.struct_size = sizeof(a);
    a.dtype = query.dtype();
    a.samples = regions.sizes()[0];
    a.regions = regions.sizes()[1];
    a.width = regions.sizes()[2];
    a.scale = scale;
    a.query = query.weight();
    a.keys = regions.matrix();
    return a;
}

// (query, regions, scale) -> out, weights
void visual_reduction(StableValue* stack, uint64_t, uint64_t) {
    const Tensor query(stack[0]), regions(stack[1]);
    Checks check("visual_reduction");
    jca_visual_reduction a = visual_reduction_block(check, query, regions, number(stack[2]));
    Tensor out = query.like(2), weights = query.make(2, regions.sizes());
    a.out = out.weight();
    a.weights = weights.weight();
    check.status(jca_visual_reduction_forward(&a));
    stack[0] = out.release();
    stack[1] = weights.release();
}

// (grad_out, grad_weights, query, regions, weights, scale, need_regions)
// -> dquery, dregions or an empty tensor
void visual_reduction_backward(StableValue* stack, uint64_t, uint64_t) {
    const Tensor grad_out(stack[0]), grad_weights(stack[1]);
    const Tensor query(stack[2]), regions(stack[3]), weights(stack[4]);
    Checks check("visual_reduction_backward");
    jca_visual_reduction a = visual_reduction_block(check, query, regions, number(stack[5]));
    check.tensor("grad_out", grad_out, {a.samples, a.width});
    check.tensor("grad_weights", grad_weights, {a.samples, a.regions});
    check.tensor("weights", weights, {a.samples, a.regions});
    const bool need_regions = flag(stack[6]);
    const int64_t none[1] = {0};
    Tensor dquery = query.like(2),
           dregions = need_regions ? regions.like(3) : regions.make(1, none);
    a.weights = weights.weight();
    a.dout = grad_out.weight();
    a.dweights = grad_weights.weight();
    a.dquery = dquery.weight();
    if (need_regions) a.dkeys = dregions.matrix();
    check.status(jca_visual_reduction_backward(&a));
    stack[0] = dquery.release();
    stack[1] = dregions.release();
}

}  // namespace
}  // namespace jca
