// released_attention: query (B, N, d), key (B, N, d_x), value (B, N, d_x) -> out (B, N, d)
#pragma once

#include "checks.h"
#include "schema.h"

namespace jca {
namespace {

template <>
constexpr Schema schema_of<jca_released_attention> = {
    "(Tensor query, Tensor key, Tensor value, float scale, float dropout_p, Tensor? seed) -> "
    "Tensor",
    "(Tensor grad_out, Tensor out, Tensor query, Tensor key, Tensor value, float scale, "
    "float dropout_p, Tensor? seed) -> (Tensor, Tensor, Tensor)"};

jca_released_attention released_attention_block(Checks& check, const Tensor& query,
                                                const Tensor& key, const Tensor& value) {
    check.tensor("query", query, {kBatch, kAny, kAny});
    const int64_t batch = query.sizes()[0], n = query.sizes()[1];
    check.tensor("key", key, {batch, n, kAny});
    const int64_t key_width = key.sizes()[2];
    check.tensor("value", value, {batch, n, key_width});
    jca_released_attention a{};
    a.struct_size = sizeof(a);
    a.dtype = query.dtype();
    a.batch = batch;
    a.n = n;
    a.width = query.sizes()[2];
    a.key_width = key_width;
    a.query = query.matrix();
    a.key = key.matrix();
    a.value = value.matrix();
    return a;
}

// (query, key, value, scale, dropout_p, seed) -> out
void released_attention(StableValue* stack, uint64_t, uint64_t) {
    const Tensor query(stack[0]), key(stack[1]), value(stack[2]);
    const Seed seed(stack[5]);
    Checks check("released_attention");
    jca_released_attention a = released_attention_block(check, query, key, value);
    const Dropout dropout = check.dropout(number(stack[4]), seed);
    Tensor out = query.like(3);
    a.scale = number(stack[3]);
    a.threshold = dropout.threshold;
    a.seed = dropout.seed;
    a.out = out.matrix();
    check.status(jca_released_attention_forward(&a));
    stack[0] = out.release();
}

// (grad_out, out, query, key, value, scale, dropout_p, seed) -> dquery, dkey, dvalue
void released_attention_backward(StableValue* stack, uint64_t, uint64_t) {
    const Tensor grad_out(stack[0]), out(stack[1]);
    const Tensor query(stack[2]), key(stack[3]), value(stack[4]);
    const Seed seed(stack[7]);
    Checks check("released_attention_backward");
    jca_released_attention a = released_attention_block(check, query, key, value);
    check.tensor("grad_out", grad_out, {a.batch, a.n, a.width});
    check.tensor("out", out, {a.batch, a.n, a.width});
    const Dropout dropout = check.dropout(number(stack[6]), seed);
    Tensor dquery = query.like(3), dkey = key.like(3), dvalue = value.like(3);
    a.scale = number(stack[5]);
    a.threshold = dropout.threshold;
    a.seed = dropout.seed;
    a.out = out.matrix();
    a.dout = grad_out.matrix();
    a.dquery = dquery.matrix();
    a.dkey = dkey.matrix();
    a.dvalue = dvalue.matrix();
    check.status(jca_released_attention_backward(&a));
    stack[0] = dquery.release();
    stack[1] = dkey.release();
    stack[2] = dvalue.release();
}

}  // namespace
}  // namespace jca
