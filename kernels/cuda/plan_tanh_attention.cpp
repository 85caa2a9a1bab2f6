#include "plan_tanh_attention.h"

namespace jca_cuda {
namespace {

// What all passes share; the caller adds the sides.
Walk common(const jca_cuda_tanh_attention& a) {
    Walk w{};
    w.seed = reinterpret_cast<const int64_t*>(a.seed);
    w.n = int32_t(a.n);
    w.width = int32_t(a.d);
    w.batch = int32_t(a.batch);
    w.n_blocks = int32_t(blocks(a.n, kSlots));
    w.width_blocks = int32_t(blocks(a.d, kWidth));
    w.group = 1;
    w.scale = float(a.scale);
    w.keep_scale = keep_scale(a.seed, a.dropout_threshold);
    w.threshold = uint32_t(a.dropout_threshold);
    return w;
}

Walk forward(const jca_cuda_tanh_attention& a) {
    Walk w = common(a);
    w.owned = int32_t(a.m);
    w.walked = int32_t(a.l);
    w.a = matrix(a.q);
    w.c = matrix(a.k);
    w.d = matrix(a.v);
    w.out_b = matrix(a.out);
    return w;
}

Walk rows(const jca_cuda_tanh_attention& a) {
    Walk w = forward(a);
    w.b = matrix(a.grad_out);
    w.out_a = matrix(a.dq);
    w.out_b = {};
    return w;
}

Walk columns(const jca_cuda_tanh_attention& a) {
    Walk w = common(a);
    w.owned = int32_t(a.l);
    w.walked = int32_t(a.m);
    w.a = matrix(a.k);
    w.b = matrix(a.v);
    w.c = matrix(a.q);
    w.d = matrix(a.grad_out);
    w.out_a = matrix(a.dk);
    w.out_b = matrix(a.dv);
    return w;
}

// Bytes of NarrowTiles in narrow.cuh.
size_t narrow_bytes(const Sizes& size, Pass pass) {
    const size_t stage = size.is_exact      ? kWalked
                         : pass == kForward ? kStageForward
                                            : kStageBackward;
    const size_t walked =
        2 * (size.right(stage, kSlots, use_of_c(pass)) + size.right(stage, kWidth, use_of_d(pass)));
    const size_t a = size.left(kOwned, kSlots);
    if (pass == kForward) return std::max(walked, a);
    return walked + a + std::max(size.left(kOwned, kWidth), size.left(kOwned, stage));
}

// Tiers with the kernels of narrow.cuh.
bool is_narrow(const jca_cuda_tanh_attention& a) {
    return a.tier != JCA_CUDA_TF32 && a.n <= kSlots;
}

bool is_one_pass(const jca_cuda_tanh_attention& a) {
    return is_narrow(a) && a.tier != JCA_CUDA_EXACT && a.d <= kWidth;
}

int add_walk(jca_cuda_plan* plan, int kernel, const Walk& w, int64_t column_blocks) {
    const int64_t groups = blocks(w.batch, w.group);
    const bool is_narrow =
        kernel == JCA_CUDA_NARROW_ATTENTION_FORWARD || kernel == JCA_CUDA_NARROW_ATTENTION_BACKWARD;
    const Pass pass = kernel == JCA_CUDA_TANH_ATTENTION_ROWS ? kRows
                      : w.out_a.data                         ? kColumns
                                                             : kForward;
    const auto bytes = is_narrow ? narrow_bytes : tile_bytes;
    return add(plan, kernel, w, blocks(w.owned, kOwned) * groups, column_blocks,
               bytes(Sizes(plan->tier), pass));
}

// dv of all samples is the sum of one float32 matrix for each group, in the workspace.
Sum share_value(const jca_cuda_tanh_attention& a, jca_cuda_plan* plan, Walk* w) {
    Sum sum{};
    sum.elements = a.l * a.d;
    w->group = int32_t(std::max<int64_t>(blocks(a.batch, kGroups), 1));
    w->sums_group = 1;
    sum.count = int32_t(blocks(a.batch, w->group));  // 0 for an empty batch: dv is 0
    const int64_t bytes = sum.count * sum.elements * int64_t(sizeof(float));
    auto* parts = reinterpret_cast<float*>(reserve(plan, a.workspace, bytes));
    sum.parts = parts;
    sum.out = reinterpret_cast<void*>(a.dv.address);
    w->out_b = {parts, sum.elements, int32_t(a.d), 1};
    return sum;
}

int add_sum(jca_cuda_plan* plan, const Sum& sum) {
    return add(plan, JCA_CUDA_SUM_PARTS, sum, blocks(sum.elements, kThreads), 1, 0);
}

// dq is the sum of one float32 matrix for each block of rows of k, in the workspace.
int add_one_pass(const jca_cuda_tanh_attention& a, jca_cuda_plan* plan, Walk w) {
    Sum sum{};
    sum.elements = a.batch * a.m * a.n;
    sum.count = int32_t(blocks(a.l, kOwned));
    const int64_t bytes = sum.count * sum.elements * int64_t(sizeof(float));
    w.part = matrix(a.dq);
    w.part.data = reinterpret_cast<void*>(reserve(plan, a.workspace, bytes));
    w.part_stride = sum.elements;
    sum.parts = static_cast<const float*>(w.part.data);
    sum.out = reinterpret_cast<void*>(a.dq.address);
    const int status = add_walk(plan, JCA_CUDA_NARROW_ATTENTION_BACKWARD, w, 1);
    return status ? status : add_sum(plan, sum);
}

int add_two_passes(const jca_cuda_tanh_attention& a, jca_cuda_plan* plan, const Walk& w) {
    const int64_t result_blocks = std::max(w.n_blocks, w.width_blocks);
    const int status = add_walk(plan, JCA_CUDA_TANH_ATTENTION_COLUMNS, w, result_blocks);
    return status ? status : add_walk(plan, JCA_CUDA_TANH_ATTENTION_ROWS, rows(a), w.n_blocks);
}

}  // namespace

int begin(jca_cuda_plan* plan, const jca_cuda_tanh_attention& a) {
    const int status = begin_plan(plan, a.tier, a.batch, {a.m, a.l, a.n, a.d},
                                  {{a.q, a.m, a.n},
                                   {a.k, a.l, a.n},
                                   {a.v, a.l, a.d},
                                   {a.out, a.m, a.d},
                                   {a.grad_out, a.m, a.d},
                                   {a.dq, a.m, a.n},
                                   {a.dk, a.l, a.n},
                                   {a.dv, a.l, a.d}});
    if (status) return status;
    if (!is_dropout(a.dropout_threshold)) return JCA_CUDA_BAD_DROPOUT;
    return a.l * a.d < kLimit ? JCA_CUDA_SUCCESS : JCA_CUDA_TOO_LARGE;  // of the workspace
}

int add_forward(const jca_cuda_tanh_attention& a, bool activate, jca_cuda_plan* plan) {
    if (!a.batch) return JCA_CUDA_SUCCESS;
    Walk w = forward(a);
    w.activate = activate;
    const int kernel =
        is_narrow(a) ? JCA_CUDA_NARROW_ATTENTION_FORWARD : JCA_CUDA_TANH_ATTENTION_FORWARD;
    return add_walk(plan, kernel, w, blocks(a.d, kWidth));
}

int add_backward(const jca_cuda_tanh_attention& a, jca_cuda_plan* plan) {
    Walk w = columns(a);
    Sum sum{};
    if (a.shared_v) sum = share_value(a, plan, &w);
    int status = JCA_CUDA_SUCCESS;
    if (a.batch && is_one_pass(a))
        status = add_one_pass(a, plan, w);
    else if (a.batch)
        status = add_two_passes(a, plan, w);
    return !status && a.shared_v ? add_sum(plan, sum) : status;
}

}  // namespace jca_cuda

int jca_cuda_plan_tanh_attention(const jca_cuda_tanh_attention* a, jca_cuda_plan* plan) {
    using namespace jca_cuda;
    int status = begin(plan, *a);
    if (!status) status = add_forward(*a, false, plan);
    return finish(plan, status, a->workspace_size);
}

int jca_cuda_plan_tanh_attention_backward(const jca_cuda_tanh_attention* a, jca_cuda_plan* plan) {
    using namespace jca_cuda;
    int status = begin(plan, *a);
    if (!status) status = add_backward(*a, plan);
    return finish(plan, status, a->workspace_size);
}
