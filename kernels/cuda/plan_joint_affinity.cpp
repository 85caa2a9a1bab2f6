#include "planning.h"

namespace jca_cuda {
namespace {

int begin(jca_cuda_plan* plan, const jca_cuda_joint_affinity& a) {
    return begin_plan(plan, a.tier, a.batch, {a.m, a.l, a.n},
                      {{a.q, a.m, a.n},
                       {a.k, a.l, a.n},
                       {a.c, a.m, a.l},
                       {a.grad_c, a.m, a.l},
                       {a.dq, a.m, a.n},
                       {a.dk, a.l, a.n}});
}

// Rows of q are owned, rows of k walked over.
Affinity rows(const jca_cuda_joint_affinity& a) {
    Affinity w{};
    w.a = matrix(a.q);
    w.c = matrix(a.k);
    w.values = matrix(a.c);
    w.grad = matrix(a.grad_c);
    w.out = matrix(a.dq);
    w.owned = int32_t(a.m);
    w.walked = int32_t(a.l);
    w.n = int32_t(a.n);
    w.n_blocks = int32_t(blocks(a.n, kSlots));
    w.scale = float(a.scale);
    return w;
}

// Rows of k are owned, rows of q walked over.
Affinity columns(const jca_cuda_joint_affinity& a) {
    Affinity w = rows(a);
    w.a = matrix(a.k);
    w.c = matrix(a.q);
    w.values = matrix(transposed(a.c));
    w.grad = matrix(transposed(a.grad_c));
    w.out = matrix(a.dk);
    w.owned = int32_t(a.l);
    w.walked = int32_t(a.m);
    return w;
}

// Bytes of AffinityTiles in joint_affinity.cuh.
size_t affinity_bytes(const Sizes& size) {
    const size_t values = size.number * kOwned * (kWalked + kAffinityPad);
    return size.right(kWalked, kSlots, kByRows) + values +
           std::max(size.left(kOwned, kSlots), values);
}

int add_affinity(jca_cuda_plan* plan, int kernel, const Affinity& w, int64_t batch, int64_t y) {
    return add(plan, kernel, w, blocks(w.owned, kOwned) * batch, y,
               affinity_bytes(Sizes(plan->tier)));
}

}  // namespace
}  // namespace jca_cuda

int jca_cuda_plan_joint_affinity(const jca_cuda_joint_affinity* a, jca_cuda_plan* plan) {
    using namespace jca_cuda;
    const int status = begin(plan, *a);
    if (status || !a->batch) return status;
    Affinity w = rows(*a);
    w.out = matrix(a->c);
    return add_affinity(plan, JCA_CUDA_JOINT_AFFINITY_FORWARD, w, a->batch, blocks(a->l, kSpan));
}

int jca_cuda_plan_joint_affinity_backward(const jca_cuda_joint_affinity* a, jca_cuda_plan* plan) {
    using namespace jca_cuda;
    int status = begin(plan, *a);
    if (status || !a->batch) return status;
    const int64_t slots = blocks(a->n, kSlots);
    status = add_affinity(plan, JCA_CUDA_JOINT_AFFINITY_BACKWARD, rows(*a), a->batch, slots);
    if (status) return status;
    return add_affinity(plan, JCA_CUDA_JOINT_AFFINITY_BACKWARD, columns(*a), a->batch, slots);
}
