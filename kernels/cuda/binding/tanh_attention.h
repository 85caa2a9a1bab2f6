// tanh_attention: q (B, M, N), k (B, L, N), v (B or 1, L, D) -> out (B, M, D)
#pragma once

#include "checks.h"

namespace jca_cuda {
namespace {

// The arguments q, k, v, scale, dropout_p, seed.
class TanhAttention {
  public:
    TanhAttention(const char* op, StableValue* stack)
        : q(stack[0]), k(stack[1]), v(stack[2]), check(op, "q", q), seed_(take(stack[5])) {
        check.tensor("q", q, {kAny, kAny, kAny});
        const int64_t batch = q.sizes()[0], n = q.sizes()[2];
        check.tensor("k", k, {batch, kAny, n});
        const bool is_shared = v.dims() == 3 && v.sizes()[0] == 1;
        check.tensor("v", v, {is_shared ? 1 : batch, k.sizes()[1], kAny});
        call.batch = batch;
        call.m = q.sizes()[1];
        call.l = k.sizes()[1];
        call.n = n;
        call.d = v.sizes()[2];
        call.tier = check.tier();
        call.shared_v = is_shared && batch != 1;
        call.scale = number(stack[3]);
        call.dropout_threshold = check.threshold(number(stack[4]));
        call.seed = check.seed(seed_);
        call.q = q.matrix();
        call.k = k.matrix();
        call.v = v.matrix();
        if (call.shared_v) call.v.strides[0] = 0;
    }

    const Tensor q, k, v;
    const Checks check;
    jca_cuda_tanh_attention call{};

  private:
    const Tensor seed_;
};

// (q, k, v, scale, dropout_p, seed) -> out
void tanh_attention(StableValue* stack, uint64_t, uint64_t) {
    TanhAttention a("tanh_attention", stack);
    Tensor out = a.q.make({a.call.batch, a.call.m, a.call.d}, a.q.dtype());
    a.call.out = out.matrix();
    a.check.run(jca_cuda_plan_tanh_attention, a.call);
    stack[0] = out.release();
}

// (grad_out, q, k, v, scale, dropout_p, seed) -> dq, dk, dv
void tanh_attention_backward(StableValue* stack, uint64_t, uint64_t) {
    const Tensor grad_out(stack[0]);
    TanhAttention a("tanh_attention_backward", stack + 1);
    a.check.tensor("grad_out", grad_out, {a.call.batch, a.call.m, a.call.d});
    Tensor dq = a.q.like(), dk = a.k.like(), dv = a.v.like();
    a.call.grad_out = grad_out.matrix();
    a.call.dq = dq.matrix();
    a.call.dk = dk.matrix();
    a.call.dv = dv.matrix();
    a.check.run(jca_cuda_plan_tanh_attention_backward, a.call);
    stack[0] = dq.release();
    stack[1] = dk.release();
    stack[2] = dv.release();
}

}  // namespace
}  // namespace jca_cuda
