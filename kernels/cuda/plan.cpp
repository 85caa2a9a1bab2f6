#include "plan.h"

#include <string.h>

#include <algorithm>

#include "walk.h"

namespace jca_cuda {
namespace {

constexpr int64_t kLimit = int64_t(1) << 31;
constexpr int64_t kGroups = 16;  // at most, of samples that share v: as in the other GPU kernels

int64_t blocks(int64_t size, int64_t block) {
    return (size + block - 1) / block;
}

Matrix matrix(const jca_cuda_matrix& x) {
    return {reinterpret_cast<void*>(x.address), x.strides[0], int32_t(x.strides[1]),
            int32_t(x.strides[2])};
}

// Whether 32 bits hold every offset inside one sample. The stride of a single row or column is any.
bool is_small(const jca_cuda_matrix& x, int64_t rows, int64_t columns) {
    const auto fits = [](int64_t n) { return n > -kLimit && n < kLimit; };
    const int64_t down = rows > 1 ? x.strides[1] : 0, right = columns > 1 ? x.strides[2] : 0;
    if (!fits(down) || !fits(right)) return false;
    return fits((rows - 1) * down) && fits((columns - 1) * right) &&
           fits((rows - 1) * down + (columns - 1) * right);
}

bool are_small(const jca_cuda_attention& a) {
    return is_small(a.q, a.m, a.n) && is_small(a.k, a.l, a.n) && is_small(a.v, a.l, a.d) &&
           is_small(a.out, a.m, a.d) && is_small(a.grad_out, a.m, a.d) &&
           is_small(a.dq, a.m, a.n) && is_small(a.dk, a.l, a.n) && is_small(a.dv, a.l, a.d) &&
           a.l * a.d < kLimit;  // of the workspace
}

int problem(const jca_cuda_attention& a) {
    if (a.tier < 0 || a.tier >= JCA_CUDA_TIERS) return JCA_CUDA_BAD_TIER;
    if (a.batch < 0 || std::min({a.m, a.l, a.n, a.d}) < 1) return JCA_CUDA_BAD_SIZE;
    if (a.dropout_threshold < 0 || a.dropout_threshold > 65536) return JCA_CUDA_BAD_DROPOUT;
    // The last tile may reach beyond the last row.
    if (std::max({a.batch, a.m, a.l, a.n, a.d}) > kLimit - kOwned || !are_small(a))
        return JCA_CUDA_TOO_LARGE;
    return JCA_CUDA_SUCCESS;
}

// What all passes share; the caller adds the sides.
Walk common(const jca_cuda_attention& a) {
    Walk w{};
    const int64_t kept = 65536 - a.dropout_threshold;
    w.seed = reinterpret_cast<const int64_t*>(a.seed);
    w.n = int32_t(a.n);
    w.width = int32_t(a.d);
    w.batch = int32_t(a.batch);
    w.n_blocks = int32_t(blocks(a.n, kSlots));
    w.width_blocks = int32_t(blocks(a.d, kWidth));
    w.group = 1;
    w.scale = float(a.scale);
    w.keep_scale = !a.seed ? 1.0f : kept ? float(65536.0 / double(kept)) : 0.0f;
    w.threshold = uint32_t(a.dropout_threshold);
    return w;
}

Walk forward(const jca_cuda_attention& a) {
    Walk w = common(a);
    w.owned = int32_t(a.m);
    w.walked = int32_t(a.l);
    w.a = matrix(a.q);
    w.c = matrix(a.k);
    w.d = matrix(a.v);
    w.out_b = matrix(a.out);
    return w;
}

Walk rows(const jca_cuda_attention& a) {
    Walk w = forward(a);
    w.b = matrix(a.grad_out);
    w.out_a = matrix(a.dq);
    w.out_b = {};
    return w;
}

Walk columns(const jca_cuda_attention& a) {
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

template <class Arguments>
int add(jca_cuda_plan* plan, int kernel, const Arguments& arguments, int64_t x, int64_t y,
        size_t shared_bytes) {
    static_assert(sizeof(Arguments) <= JCA_CUDA_ARGUMENT_BYTES, "the plan has room for them");
    if (x >= kLimit || y > 65535) return JCA_CUDA_TOO_LARGE;
    jca_cuda_launch_plan& launch = plan->launches[plan->count++];
    launch = {
        kernel, {uint32_t(x), uint32_t(y), 1}, kThreads, uint32_t(shared_bytes), sizeof(Arguments),
        {}};
    memcpy(launch.arguments, &arguments, sizeof(Arguments));
    return JCA_CUDA_SUCCESS;
}

// Bytes of Tiles in walk.cuh.
size_t tile_bytes(int tier, bool forward) {
    const bool half = tier == JCA_CUDA_BFLOAT16 || tier == JCA_CUDA_FLOAT16;
    const size_t element = half ? 2 : tier == JCA_CUDA_TF32 ? 4 : 8, pad = half ? 8 : 4;
    const size_t slots = kSlots + pad, width = kWidth + pad;
    return element * (kWalked * (slots + width) + kOwned * (slots + (forward ? 0 : width)));
}

int add_walk(jca_cuda_plan* plan, int kernel, const Walk& w, int64_t column_blocks) {
    const int64_t groups = blocks(w.batch, w.group);
    return add(plan, kernel, w, blocks(w.owned, kOwned) * groups, column_blocks,
               tile_bytes(plan->tier, !w.out_a.data));
}

// dv of all samples is the sum of one float32 matrix for each group, in the workspace.
int share_value(const jca_cuda_attention& a, jca_cuda_plan* plan, Walk* w, Sum* sum) {
    const int64_t elements = a.l * a.d;
    w->group = int32_t(std::max<int64_t>(blocks(a.batch, kGroups), 1));
    sum->count = int32_t(blocks(a.batch, w->group));  // 0 for an empty batch: dv is 0
    w->sums_group = 1;
    plan->workspace_size = sum->count * elements * int64_t(sizeof(float));
    if (a.workspace_size < plan->workspace_size) return JCA_CUDA_NO_WORKSPACE;
    sum->parts = reinterpret_cast<const float*>(a.workspace);
    sum->out = reinterpret_cast<void*>(a.dv.address);
    sum->elements = elements;
    w->out_b = {reinterpret_cast<void*>(a.workspace), elements, int32_t(a.d), 1};
    return JCA_CUDA_SUCCESS;
}

int plan_backward(const jca_cuda_attention& a, jca_cuda_plan* plan) {
    const int64_t slots = blocks(a.n, kSlots), widths = blocks(a.d, kWidth);
    Walk w = columns(a);
    Sum sum{};
    int status = a.shared_v ? share_value(a, plan, &w, &sum) : JCA_CUDA_SUCCESS;
    if (!status && a.batch)
        status = add_walk(plan, JCA_CUDA_TANH_ATTENTION_COLUMNS, w, std::max(slots, widths));
    if (!status && a.batch) status = add_walk(plan, JCA_CUDA_TANH_ATTENTION_ROWS, rows(a), slots);
    if (!status && a.shared_v)
        status = add(plan, JCA_CUDA_SUM_PARTS, sum, blocks(sum.elements, kThreads), 1, 0);
    return status;
}

int begin(const jca_cuda_attention* a, jca_cuda_plan* plan) {
    plan->tier = a->tier;
    plan->count = 0;
    plan->workspace_size = 0;
    return problem(*a);
}

}  // namespace
}  // namespace jca_cuda

int jca_cuda_plan_forward(const jca_cuda_attention* a, jca_cuda_plan* plan) {
    const int status = jca_cuda::begin(a, plan);
    if (status || !a->batch) return status;
    return jca_cuda::add_walk(plan, JCA_CUDA_TANH_ATTENTION_FORWARD, jca_cuda::forward(*a),
                              jca_cuda::blocks(a->d, jca_cuda::kWidth));
}

int jca_cuda_plan_backward(const jca_cuda_attention* a, jca_cuda_plan* plan) {
    const int status = jca_cuda::begin(a, plan);
    return status ? status : jca_cuda::plan_backward(*a, plan);
}

const char* jca_cuda_status_string(int status) {
    switch (status) {
        case JCA_CUDA_SUCCESS: return "success";
        case JCA_CUDA_BAD_SIZE: return "the batch must be 0 or more and every other size 1 or more";
        case JCA_CUDA_BAD_TIER: return "the tier is not one of jca_cuda_tier";
        case JCA_CUDA_BAD_DROPOUT: return "the dropout threshold must be between 0 and 65536";
        case JCA_CUDA_TOO_LARGE: return "a size or a grid is too large";
        case JCA_CUDA_NO_WORKSPACE: return "the workspace is smaller than the plan needs";
        case JCA_CUDA_BAD_DEVICE: return "the index of the device must be from 0 to 63";
        case JCA_CUDA_NO_DRIVER: return "there is no driver for CUDA";
        case JCA_CUDA_FAILED: return "the driver refused a call";
        default: return "unknown status";
    }
}

const char* jca_cuda_kernel_name(int kernel) {
    static const char* const names[JCA_CUDA_KERNELS] = {
        "tanh_attention_forward", "tanh_attention_columns", "tanh_attention_rows", "sum_parts"};
    return kernel >= 0 && kernel < JCA_CUDA_KERNELS ? names[kernel] : "";
}
