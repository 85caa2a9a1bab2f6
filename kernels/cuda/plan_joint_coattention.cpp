#include "planning.h"

namespace jca_cuda {
namespace {

// The channels of a modality's joint feature.
int64_t joint_of(const jca_cuda_joint_coattention& a, int i) {
    if (a.joints) return a.joint[a.joints == 1 ? 0 : i].d;
    int64_t all = 0;
    for (int j = 0; j < a.modalities; ++j) all += a.modality[j].d;
    return all;
}

bool fits(const jca_cuda_joint_coattention& a, int i) {
    const jca_cuda_modality& m = a.modality[i];
    const int64_t joint = joint_of(a, i);
    return std::max({m.d, m.k, joint}) <= kLimit - kOwned && is_small(m.x, a.n, m.d) &&
           is_small(m.w_j, a.n, a.n) && is_small(m.w_x, m.k, a.n) && is_small(m.w_c, m.k, joint) &&
           is_small(m.w_h, m.k, a.n) && is_small(m.h, m.k, m.d) && is_small(m.out, a.n, m.d) &&
           is_small(m.grad_out, a.n, m.d) &&
           std::max({a.n, m.k}) * std::max({a.n, m.d, joint}) < kLimit;  // of the workspace
}

// An empty plan, and what is wrong with a call.
int begin(jca_cuda_plan* plan, const jca_cuda_joint_coattention& a) {
    const int status = begin_plan(plan, a.tier, a.batch, {a.n}, {});
    if (status) return status;
    if (a.modalities < 1 || a.modalities > JCA_CUDA_MODALITIES) return JCA_CUDA_BAD_MODALITIES;
    if (a.joints != 0 && a.joints != 1 && a.joints != a.modalities) return JCA_CUDA_BAD_MODALITIES;
    if (!is_dropout(a.dropout_threshold)) return JCA_CUDA_BAD_DROPOUT;
    for (int i = 0; i < a.modalities; ++i)
        if (std::min(a.modality[i].d, a.modality[i].k) < 1) return JCA_CUDA_BAD_SIZE;
    for (int i = 0; i < a.joints; ++i)
        if (a.joint[i].d < 1) return JCA_CUDA_BAD_SIZE;
    bool small = true;
    for (int i = 0; i < a.modalities; ++i) small = small && fits(a, i);
    for (int i = 0; i < a.joints; ++i) small = small && is_small(a.joint[i].x, a.n, a.joint[i].d);
    return small ? JCA_CUDA_SUCCESS : JCA_CUDA_TOO_LARGE;
}

Matrix weight(const jca_cuda_matrix& x) {
    Matrix w = matrix(x);
    w.batch_stride = 0;
    return w;
}

Modality modality(const jca_cuda_joint_coattention& a, int i) {
    const jca_cuda_modality& given = a.modality[i];
    Modality m{};
    m.x = matrix(transposed(given.x));
    m.w_j = weight(given.w_j);
    m.w_x = weight(given.w_x);
    m.w_c = weight(given.w_c);
    m.w_h = weight(given.w_h);
    m.h = matrix(transposed(given.h));
    m.rows = int32_t(given.d);
    m.width = int32_t(given.k);
    m.joint = int32_t(joint_of(a, i));
    m.first_part = a.joints == a.modalities ? i : 0;
    m.scale = float(given.scale);
    return m;
}

// What all launches share; the caller adds results and workspace.
Layer layer(const jca_cuda_joint_coattention& a) {
    Layer l{};
    int64_t first = 0, width = 0;
    for (int i = 0; i < a.modalities; ++i) {
        l.modalities[i] = modality(a, i);
        width = std::max(width, a.modality[i].k);
        if (a.joints) continue;
        l.parts[i] = {l.modalities[i].x, l.modalities[i].rows, int32_t(first)};
        first += a.modality[i].d;
    }
    for (int i = 0; i < a.joints; ++i)
        l.parts[i] = {matrix(transposed(a.joint[i].x)), int32_t(a.joint[i].d), 0};
    l.seed = reinterpret_cast<const int64_t*>(a.seed);
    l.count = a.modalities;
    l.batch = int32_t(a.batch);
    l.n = int32_t(a.n);
    l.n_blocks = int32_t(blocks(a.n, kSlots));
    l.width_blocks = int32_t(blocks(width, kWidth));
    l.concatenated = !a.joints;
    l.parts_each = a.joints ? 1 : a.modalities;
    l.residual = a.residual;
    l.group = int32_t(std::max<int64_t>(blocks(a.batch, kGroups), 1));
    l.groups = int32_t(blocks(a.batch, l.group));  // 0 for an empty batch: the sums are 0
    l.keep_scale = keep_scale(a.seed, a.dropout_threshold);
    l.threshold = uint32_t(a.dropout_threshold);
    return l;
}

// A workspace that the launches share.
class Workspace {
  public:
    Workspace(const jca_cuda_joint_coattention& a, jca_cuda_plan* plan) : a_(a), plan_(plan) {}

    void* numbers(int64_t count) { return take(count * int64_t(Sizes(a_.tier).number)); }
    float* floats(int64_t count) {
        return static_cast<float*>(take(count * int64_t(sizeof(float))));
    }

  private:
    void* take(int64_t bytes) {
        return reinterpret_cast<void*>(reserve(plan_, a_.workspace, bytes));
    }

    const jca_cuda_joint_coattention& a_;
    jca_cuda_plan* plan_;
};

// Blocks of owned rows of the widest modality, and of the widest part.
int64_t row_blocks(const Layer& l) {
    int64_t most = 0;
    for (int i = 0; i < l.count; ++i) most = std::max(most, blocks(l.modalities[i].rows, kOwned));
    return most;
}

int64_t part_blocks(const Layer& l) {
    int64_t most = 0;
    for (const Part& part : l.parts) most = std::max(most, blocks(part.rows, kOwned));
    return most;
}

// Bytes of WeightTiles in joint_coattention_backward.cuh.
size_t weight_bytes(const Sizes& size) {
    return size.left(kWalked, kOwned) + size.right(kWalked, kOwned, kByRows);
}

int add_forward(const jca_cuda_joint_coattention& a, jca_cuda_plan* plan) {
    Layer l = layer(a);
    Workspace workspace(a, plan);
    for (int i = 0; i < a.modalities; ++i) {
        l.modalities[i].out = matrix(transposed(a.modality[i].out));
        if (l.n_blocks > 1) l.modalities[i].q = workspace.numbers(a.batch * a.modality[i].d * a.n);
    }
    return add(plan, JCA_CUDA_JOINT_COATTENTION_FORWARD, l, row_blocks(l) * a.batch, a.modalities,
               tile_bytes(Sizes(a.tier), kForward));
}

// The sums of the last launch, and the memory of what they add.
class Pending {
  public:
    explicit Pending(Workspace* workspace) : workspace_(workspace) {}

    // Memory for `count` parts of the gradient at `out`.
    float* parts(uint64_t out, int64_t elements, int64_t count) {
        float* memory = workspace_->floats(elements * count);
        sums_.sums[count_++] = {memory, reinterpret_cast<void*>(out), elements, int32_t(count)};
        most_ = std::max(most_, elements);
        return memory;
    }

    int launch(jca_cuda_plan* plan) const {
        return add(plan, JCA_CUDA_JOINT_COATTENTION_SUMS, sums_, blocks(most_, kThreads), count_,
                   0);
    }

  private:
    Workspace* workspace_;
    Sums sums_{};
    int count_ = 0;
    int64_t most_ = 0;
};

// Results and memory of modality `i`, but for dJ.
void add_memory(const jca_cuda_modality& given, const Layer& l, Modality* m, Workspace* workspace,
                Pending* sums) {
    const int64_t warps = int64_t(l.groups) * kWarps, n = l.n;
    m->out = matrix(transposed(given.grad_out));
    m->q = workspace->numbers(l.batch * given.d * n);
    m->dh = workspace->numbers(l.batch * given.d * given.k);
    m->dq = workspace->numbers(l.batch * given.d * n);
    m->dx = reinterpret_cast<void*>(given.dx);
    m->dw_j = sums->parts(given.dw_j, n * n, warps);
    m->dw_x = sums->parts(given.dw_x, given.k * n, warps);
    m->dw_c = sums->parts(given.dw_c, given.k * m->joint, l.groups);
    m->dw_h = sums->parts(given.dw_h, given.k * n, warps);
}

// dJ of each modality: parts of the gradient of a given joint feature, or of the modalities.
void add_joints(const jca_cuda_joint_coattention& a, Layer* l, Workspace* workspace,
                Pending* sums) {
    for (int i = 0; i < l->count; ++i) {
        const int64_t elements = a.batch * a.n * l->modalities[i].joint;
        if (a.joints == 1 && i > 0)
            l->modalities[i].dj = l->modalities[i - 1].dj + elements;
        else if (a.joints)
            l->modalities[i].dj =
                sums->parts(a.joint[i].dx, elements, a.joints == 1 ? l->count : 1);
        else
            l->modalities[i].dj = workspace->floats(elements);
    }
}

int add_passes(const Layer& l, jca_cuda_plan* plan) {
    const Sizes size(plan->tier);
    const int64_t across = blocks(l.n, kWalked), down = std::max<int64_t>(across, l.width_blocks);
    const int64_t results = std::max(l.n_blocks, l.width_blocks);
    const int64_t rows = row_blocks(l) * l.batch, columns = part_blocks(l) * l.groups;
    int status = add(plan, JCA_CUDA_JOINT_COATTENTION_PREPARE, l, rows,
                     l.count * (across + l.width_blocks), tile_bytes(size, kForward));
    if (!status)
        status = add(plan, JCA_CUDA_JOINT_COATTENTION_ATTENTION, l, std::max(rows, columns),
                     l.count * (l.parts_each + 1) * results, tile_bytes(size, kColumns));
    if (!status)
        status = add(plan, JCA_CUDA_JOINT_COATTENTION_FINISH, l, std::max<int64_t>(rows, l.groups),
                     l.count * across * (1 + 3 * down),
                     std::max(tile_bytes(size, kForward), weight_bytes(size)));
    return status;
}

int add_backward(const jca_cuda_joint_coattention& a, jca_cuda_plan* plan) {
    Layer l = layer(a);
    Workspace workspace(a, plan);
    Pending sums(&workspace);
    for (int i = 0; i < l.count; ++i)
        add_memory(a.modality[i], l, &l.modalities[i], &workspace, &sums);
    add_joints(a, &l, &workspace, &sums);
    if (a.workspace_size < plan->workspace_size) return JCA_CUDA_NO_WORKSPACE;
    const int status = a.batch ? add_passes(l, plan) : JCA_CUDA_SUCCESS;
    return status ? status : sums.launch(plan);
}

}  // namespace
}  // namespace jca_cuda

int jca_cuda_plan_joint_coattention(const jca_cuda_joint_coattention* a, jca_cuda_plan* plan) {
    using namespace jca_cuda;
    int status = begin(plan, *a);
    if (!status && a->batch) status = add_forward(*a, plan);
    return finish(plan, status, a->workspace_size);
}

int jca_cuda_plan_joint_coattention_backward(const jca_cuda_joint_coattention* a,
                                             jca_cuda_plan* plan) {
    using namespace jca_cuda;
    int status = begin(plan, *a);
    if (!status) status = add_backward(*a, plan);
    return finish(plan, status, a->workspace_size);
}
