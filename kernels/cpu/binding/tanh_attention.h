// tanh_attention: q (B, M, N), k (B, L, N), v (B or 1, L, D) -> out (B, M, D)
#pragma once

#include "checks.h"
#include "schema.h"

namespace jca {
namespace {

template <>
constexpr Schema schema_of<jca_tanh_attention> = {
    "(Tensor q, Tensor k, Tensor v, float scale, float dropout_p, Tensor? seed) -> Tensor",
    "(Tensor grad_out, Tensor q, Tensor k, Tensor v, float scale, float dropout_p, Tensor? seed) "
    "-> (Tensor, Tensor, Tensor)"};

jca_tanh_attention tanh_attention_block(Checks& check, const Tensor& q, const Tensor& k,
                                        const Tensor& v) {
    check.tensor("q", q, {kBatch, kAny, kAny});
    const int64_t batch = q.sizes()[0], m = q.sizes()[1], n = q.sizes()[2];
    check.tensor("k", k, {batch, kAny, n});
    const int64_t l = k.sizes()[1];
    const bool shared = v.dims() == 3 && v.sizes()[0] == 1;
    check.tensor("v", v, {shared ? 1 : batch, l, kAny});
    jca_tanh_attention a{};
    a.struct_size = sizeof(a);
    a.dtype = q.dtype();
    a.batch = batch;
    a.m = m;
    a.l = l;
    a.n = n;
    a.d = v.sizes()[2];
    a.shared_v = v.sizes()[0] != batch;
    a.q = q.matrix();
    a.k = k.matrix();
    a.v = v.matrix();
    return a;
}

// (q, k, v, scale, dropout_p, seed) -> out
void tanh_attention(StableValue* stack, uint64_t, uint64_t) {
    const Tensor q(stack[0]), k(stack[1]), v(stack[2]);
    const Seed seed(stack[5]);
    Checks check("tanh_attention");
    jca_tanh_attention a = tanh_attention_block(check, q, k, v);
    const Dropout dropout = check.dropout(number(stack[4]), seed);
    const int64_t sizes[3] = {a.batch, a.m, a.d};
    Tensor out = q.make(3, sizes);
    a.scale = number(stack[3]);
    a.threshold = dropout.threshold;
    a.seed = dropout.seed;
    a.out = out.matrix();
    check.status(jca_tanh_attention_forward(&a));
    stack[0] = out.release();
}

// (grad_out, q, k, v, scale, dropout_p, seed) -> dq, dk, dv
void tanh_attention_backward(StableValue* stack, uint64_t, uint64_t) {
    const Tensor grad_out(stack[0]), q(stack[1]), k(stack[2]), v(stack[3]);
    const Seed seed(stack[6]);
    Checks check("tanh_attention_backward");
    jca_tanh_attention a = tanh_attention_block(check, q, k, v);
    check.tensor("grad_out", grad_out, {a.batch, a.m, a.d});
    const Dropout dropout = check.dropout(number(stack[5]), seed);
    Tensor dq = q.like(3), dk = k.like(3), dv = v.like(3);
    a.scale = number(stack[4]);
    a.threshold = dropout.threshold;
    a.seed = dropout.seed;
    a.dout = grad_out.matrix();
    a.dq = dq.matrix();
    a.dk = dk.matrix();
    a.dv = dv.matrix();
    check.status(jca_tanh_attention_backward(&a));
    stack[0] = dq.release();
    stack[1] = dk.release();
    stack[2] = dv.release();
}

}  // namespace
}  // namespace jca
