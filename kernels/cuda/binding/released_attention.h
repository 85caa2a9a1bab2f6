// released_attention: query (B, N, d), key and value (B, N, d_x) -> out (B, N, d)
#pragma once

#include "checks.h"

namespace jca_cuda {
namespace {

// The arguments query, key, value, scale, dropout_p, seed.
class ReleasedAttention {
  public:
    ReleasedAttention(const char* op, StableValue* stack)
        : query(stack[0]),
          key(stack[1]),
          value(stack[2]),
          check(op, "query", query),
          seed_(take(stack[5])) {
        check.tensor("query", query, {kAny, kAny, kAny});
        call.batch = query.sizes()[0];
        call.n = query.sizes()[1];
        call.d = query.sizes()[2];
        check.tensor("key", key, {call.batch, call.n, kAny});
        call.d_x = key.sizes()[2];
        check.tensor("value", value, {call.batch, call.n, call.d_x});
        call.tier = check.tier();
        call.scale = number(stack[3]);
        call.dropout_threshold = check.threshold(number(stack[4]));
        call.seed = check.seed(seed_);
        call.query = query.matrix();
        call.key = key.matrix();
        call.value = value.matrix();
    }

    const Tensor query, key, value;
    const Checks check;
    jca_cuda_released_attention call{};

  private:
    const Tensor seed_;
};

// (query, key, value, scale, dropout_p, seed) -> out
void released_attention(StableValue* stack, uint64_t, uint64_t) {
    ReleasedAttention a("released_attention", stack);
    Tensor out = a.query.like();
    a.call.out = out.matrix();
    a.check.run(jca_cuda_plan_released_attention, a.call);
    stack[0] = out.release();
}

// (grad_out, out, query, key, value, scale, dropout_p, seed) -> dquery, dkey, dvalue
void released_attention_backward(StableValue* stack, uint64_t, uint64_t) {
    const Tensor grad_out(stack[0]), out(stack[1]);
    ReleasedAttention a("released_attention_backward", stack + 2);
    a.check.tensor("grad_out", grad_out, {a.call.batch, a.call.n, a.call.d});
    a.check.tensor("out", out, {a.call.batch, a.call.n, a.call.d});
    Tensor dquery = a.query.like(), dkey = a.key.like(), dvalue = a.value.like();
    a.call.grad_out = grad_out.matrix();
    a.call.out = out.matrix();
    a.call.dquery = dquery.matrix();
    a.call.dkey = dkey.matrix();
    a.call.dvalue = dvalue.matrix();
    a.check.run(jca_cuda_plan_released_attention_backward, a.call);
    stack[0] = dquery.release();
    stack[1] = dkey.release();
    stack[2] = dvalue.release();
}

}  // namespace
}  // namespace jca_cuda
