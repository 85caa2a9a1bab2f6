// joint_affinity: q (B, M, N), k (B, L, N) -> c (B, M, L)
#pragma once

#include "checks.h"
#include "schema.h"

namespace jca {
namespace {

template <>
constexpr Schema schema_of<jca_joint_affinity> = {
    "(Tensor q, Tensor k, float scale) -> Tensor",
    "(Tensor grad_c, Tensor q, Tensor k, Tensor c, float scale) -> (Tensor, Tensor)"};

jca_joint_affinity joint_affinity_block(Checks& check, const Tensor& q, const Tensor& k,
                                        double scale) {
    check.tensor("q", q, {kBatch, kAny, kAny});
    check.tensor("k", k, {q.sizes()[0], kAny, q.sizes()[2]});
    jca_joint_affinity a{};
    a.struct_size = sizeof(a);
    a.dtype = q.dtype();
    a.batch = q.sizes()[0];
    a.m = q.sizes()[1];
    a.l = k.sizes()[1];
    a.n = q.sizes()[2];
    a.scale = scale;
    a.q = q.matrix();
    a.k = k.matrix();
    return a;
}

// (q, k, scale) -> c
void joint_affinity(StableValue* stack, uint64_t, uint64_t) {
    const Tensor q(stack[0]), k(stack[1]);
    Checks check("joint_affinity");
    jca_joint_affinity a = joint_affinity_block(check, q, k, number(stack[2]));
    const int64_t sizes[3] = {a.batch, a.m, a.l};
    Tensor c = q.make(3, sizes);
    a.c = c.matrix();
    check.status(jca_joint_affinity_forward(&a));
    stack[0] = c.release();
}

// (grad_c, q, k, c, scale) -> dq, dk
void joint_affinity_backward(StableValue* stack, uint64_t, uint64_t) {
    const Tensor grad_c(stack[0]), q(stack[1]), k(stack[2]), c(stack[3]);
    Checks check("joint_affinity_backward");
    jca_joint_affinity a = joint_affinity_block(check, q, k, number(stack[4]));
    check.tensor("grad_c", grad_c, {a.batch, a.m, a.l});
    check.tensor("c", c, {a.batch, a.m, a.l});
    Tensor dq = q.like(3), dk = k.like(3);
    a.c = c.matrix();
    a.dc = grad_c.matrix();
    a.dq = dq.matrix();
    a.dk = dk.matrix();
    check.status(jca_joint_affinity_backward(&a));
    stack[0] = dq.release();
    stack[1] = dk.release();
}

}  // namespace
}  // namespace jca
