#include "plan_tanh_attention.h"

namespace jca_cuda {
namespace {

// The released form is tanh attention between channels: all matrices are transposed.
jca_cuda_tanh_attention attention(const jca_cuda_released_attention& a) {
    jca_cuda_tanh_attention t{};
    t.batch = a.batch;
    t.m = a.d;
    t.l = a.d_x;
    t.n = t.d = a.n;
    t.tier = a.tier;
    t.scale = a.scale;
    t.dropout_threshold = a.dropout_threshold;
    t.seed = a.seed;
    t.q = transposed(a.query);
    t.k = transposed(a.key);
    t.v = transposed(a.value);
    t.out = transposed(a.out);
    t.grad_out = transposed(a.grad_out);
    t.dq = transposed(a.dquery);
    t.dk = transposed(a.dkey);
    t.dv = transposed(a.dvalue);
    t.workspace = a.workspace;
    t.workspace_size = a.workspace_size;
    return t;
}

// The gradient in front of the activation goes to the workspace, where `t` takes it from.
int add_activation(const jca_cuda_released_attention& a, jca_cuda_tanh_attention* t,
                   jca_cuda_plan* plan) {
    const int64_t number = int64_t(Sizes(a.tier).number);
    const uint64_t address = reserve(plan, a.workspace, a.batch * a.n * a.d * number);
    const jca_cuda_matrix grad = {address, {a.n * a.d, a.d, 1}};
    t->grad_out = transposed(grad);
    const Activation activation{matrix(a.grad_out), matrix(a.out), matrix(grad), int32_t(a.n),
                                int32_t(a.d)};
    const int64_t vectors = a.n * blocks(a.d, 16 / number);
    return add(plan, JCA_CUDA_RELEASED_ACTIVATION, activation, blocks(vectors, kThreads) * a.batch,
               1, 0);
}

}  // namespace
}  // namespace jca_cuda

int jca_cuda_plan_released_attention(const jca_cuda_released_attention* a, jca_cuda_plan* plan) {
    using namespace jca_cuda;
    const jca_cuda_tanh_attention t = attention(*a);
    int status = begin(plan, t);
    if (!status) status = add_forward(t, true, plan);
    return finish(plan, status, a->workspace_size);
}

int jca_cuda_plan_released_attention_backward(const jca_cuda_released_attention* a,
                                              jca_cuda_plan* plan) {
    using namespace jca_cuda;
    jca_cuda_tanh_attention t = attention(*a);
    int status = begin(plan, t);
    if (!status && a->batch) status = add_activation(*a, &t, plan);
    if (!status) status = add_backward(t, plan);
    return finish(plan, status, a->workspace_size);
}
