// tanh_dropout: scores (B, M, L) -> out (B, M, L)
#pragma once

#include "checks.h"
#include "schema.h"

namespace jca {
namespace {

template <>
constexpr Schema schema_of<jca_tanh_dropout> = {
    "(Tensor scores, float scale, float dropout_p, Tensor? seed) -> Tensor",
    "(Tensor grad_out, Tensor out, float scale, float dropout_p, Tensor? seed) -> Tensor"};

// The argument block of a call from its first checked tensor.
jca_tanh_dropout tanh_dropout_block(Checks& check, const char* name, const Tensor& first,
                                    double scale, double dropout_p, const Seed& seed) {
    check.tensor(name, first, {kBatch, kAny, kAny});
    const Dropout dropout = check.dropout(dropout_p, seed);
    jca_tanh_dropout a{};
    a.struct_size = sizeof(a);
    a.dtype = first.dtype();
    a.batch = first.sizes()[0];
    a.m = first.sizes()[1];
    a.l = first.sizes()[2];
    a.threshold = dropout.threshold;
    a.seed = dropout.seed;
    a.scale = scale;
    return a;
}

// (scores, scale, dropout_p, seed) -> out
void tanh_dropout(StableValue* stack, uint64_t, uint64_t) {
    const Tensor scores(stack[0]);
    const Seed seed(stack[3]);
    Checks check("tanh_dropout");
    jca_tanh_dropout a =
        tanh_dropout_block(check, "scores", scores, number(stack[1]), number(stack[2]), seed);
    Tensor out = scores.like(3);
    a.scores = scores.matrix();
    a.out = out.matrix();
    check.status(jca_tanh_dropout_forward(&a));
    stack[0] = out.release();
}

// (grad_out, out, scale, dropout_p, seed) -> dscores
void tanh_dropout_backward(StableValue* stack, uint64_t, uint64_t) {
    const Tensor grad_out(stack[0]), out(stack[1]);
    const Seed seed(stack[4]);
    Checks check("tanh_dropout_backward");
    jca_tanh_dropout a =
        tanh_dropout_block(check, "out", out, number(stack[2]), number(stack[3]), seed);
    check.tensor("grad_out", grad_out, {a.batch, a.m, a.l});
    Tensor dscores = out.like(3);
    a.out = out.matrix();
    a.dout = grad_out.matrix();
    a.dscores = dscores.matrix();
    check.status(jca_tanh_dropout_backward(&a));
    stack[0] = dscores.release();
}

}  // namespace
}  // namespace jca
