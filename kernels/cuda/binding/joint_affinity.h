// joint_affinity: q (B, M, N), k (B, L, N) -> c (B, M, L)
#pragma once

#include "checks.h"

namespace jca_cuda {
namespace {

// The arguments q and k, and of the backward c between k and scale.
class JointAffinity {
  public:
    JointAffinity(const char* op, StableValue q_value, StableValue k_value, StableValue scale)
        : q(q_value), k(k_value), check(op, "q", q) {
        check.tensor("q", q, {kAny, kAny, kAny});
        call.batch = q.sizes()[0];
        call.m = q.sizes()[1];
        call.n = q.sizes()[2];
        check.tensor("k", k, {call.batch, kAny, call.n});
        call.l = k.sizes()[1];
        call.tier = check.tier();
        call.scale = number(scale);
        call.q = q.matrix();
        call.k = k.matrix();
    }

    const Tensor q, k;
    const Checks check;
    jca_cuda_joint_affinity call{};
};

// (q, k, scale) -> c
void joint_affinity(StableValue* stack, uint64_t, uint64_t) {
    JointAffinity a("joint_affinity", stack[0], stack[1], stack[2]);
    Tensor c = a.q.make({a.call.batch, a.call.m, a.call.l}, a.q.dtype());
    a.call.c = c.matrix();
    a.check.run(jca_cuda_plan_joint_affinity, a.call);
    stack[0] = c.release();
}

// (grad_c, q, k, c, scale) -> dq, dk
void joint_affinity_backward(StableValue* stack, uint64_t, uint64_t) {
    const Tensor grad_c(stack[0]), c(stack[3]);
    JointAffinity a("joint_affinity_backward", stack[1], stack[2], stack[4]);
    a.check.tensor("grad_c", grad_c, {a.call.batch, a.call.m, a.call.l});
    a.check.tensor("c", c, {a.call.batch, a.call.m, a.call.l});
    Tensor dq = a.q.like(), dk = a.k.like();
    a.call.grad_c = grad_c.matrix();
    a.call.c = c.matrix();
    a.call.dq = dq.matrix();
    a.call.dk = dk.matrix();
    a.check.run(jca_cuda_plan_joint_affinity_backward, a.call);
    stack[0] = dq.release();
    stack[1] = dk.release();
}

}  // namespace
}  // namespace jca_cuda
