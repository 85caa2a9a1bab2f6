// joint_coattention: inputs (B, N, d_i) -> X' of every modality, then H (B, k, d_i) if they are
// kept
#pragma once

#include "checks.h"

namespace jca_cuda {
namespace {

// The arguments inputs, joints, w_j, w_x, w_c, w_h, scales, dropout_p, seed; inputs first.
class JointCoattention {
  public:
    JointCoattention(const char* op, StableValue* stack)
        : inputs(tensors(stack[0])),
          joints(tensors(take(stack[1]))),
          w_j(tensors(stack[2])),
          w_x(tensors(stack[3])),
          w_c(tensors(stack[4])),
          w_h(tensors(stack[5])),
          scales_(items(stack[6])),
          seed_(take(stack[8])),
          check(op, "inputs[0]", first_of(op, inputs)) {
        check_counts();
        check.tensor("inputs[0]", inputs[0], {kAny, kAny, kAny});
        call.batch = inputs[0].sizes()[0];
        call.n = inputs[0].sizes()[1];
        call.modalities = int32_t(inputs.size());
        call.joints = int32_t(joints.size());
        call.tier = check.tier();
        call.dropout_threshold = check.threshold(number(stack[7]));
        call.seed = check.seed(seed_);
        for (size_t i = 0; i < joints.size(); ++i) add_joint(i);
        for (size_t i = 0; i < inputs.size(); ++i) add_input(i);
        for (size_t i = 0; i < inputs.size(); ++i) add_weights(i, number(scales_[i]));
    }

    // A group of one tensor (B, N, d_i), or of one (B, k, d_i), for each modality.
    void expect(const char* name, const std::vector<Tensor>& group, bool maps) const {
        if (group.size() != inputs.size()) check.fail(count(name, group.size()));
        for (size_t i = 0; i < group.size(); ++i)
            check.tensor({name, i}, group[i],
                         {call.batch, maps ? call.modality[i].k : call.n, call.modality[i].d});
    }

    const std::vector<Tensor> inputs, joints, w_j, w_x, w_c, w_h;

  private:
    const std::vector<StableValue> scales_;
    const Tensor seed_;

  public:
    const Checks check;
    jca_cuda_joint_coattention call{};

  private:
    static const Tensor& first_of(const char* op, const std::vector<Tensor>& inputs) {
        if (inputs.empty())
            throw std::runtime_error(std::string("jca_fast::") + op + ".cuda: inputs is empty");
        return inputs[0];
    }

    std::string count(const char* name, size_t got) const {
        return std::string(name) + " must hold one item for each of the " +
               std::to_string(inputs.size()) + " modalities, got " + std::to_string(got);
    }

    void check_counts() const {
        const size_t n = inputs.size();
        if (n > JCA_CUDA_MODALITIES)
            check.fail("inputs must hold at most " + std::to_string(JCA_CUDA_MODALITIES) +
                       " modalities, got " + std::to_string(n));
        if (joints.size() > 1 && joints.size() != n)
            check.fail("joints must hold 0, 1 or " + std::to_string(n) + " tensors, got " +
                       std::to_string(joints.size()));
        if (w_j.size() != n) check.fail(count("w_j", w_j.size()));
        if (w_x.size() != n) check.fail(count("w_x", w_x.size()));
        if (w_c.size() != n) check.fail(count("w_c", w_c.size()));
        if (w_h.size() != n) check.fail(count("w_h", w_h.size()));
        if (scales_.size() != n) check.fail(count("scales", scales_.size()));
    }

    void add_joint(size_t i) {
        check.tensor({"joints", i}, joints[i], {call.batch, call.n, kAny});
        call.joint[i].d = joints[i].sizes()[2];
        call.joint[i].x = joints[i].matrix();
    }

    void add_input(size_t i) {
        check.tensor({"inputs", i}, inputs[i], {call.batch, call.n, kAny});
        call.modality[i].d = inputs[i].sizes()[2];
        call.modality[i].x = inputs[i].matrix();
    }

    // Behind all inputs, whose channels together may be those of the joint feature.
    void add_weights(size_t i, double scale) {
        jca_cuda_modality& m = call.modality[i];
        check.tensor({"w_x", i}, w_x[i], {kAny, call.n});
        m.k = w_x[i].sizes()[0];
        int64_t joint = 0;
        for (size_t j = 0; j < inputs.size(); ++j) joint += call.modality[j].d;
        if (!joints.empty()) joint = call.joint[joints.size() == 1 ? 0 : i].d;
        check.tensor({"w_j", i}, w_j[i], {call.n, call.n});
        check.tensor({"w_c", i}, w_c[i], {m.k, joint});
        check.tensor({"w_h", i}, w_h[i], {m.k, call.n});
        m.scale = scale;
        m.w_j = w_j[i].matrix();
        m.w_x = w_x[i].matrix();
        m.w_c = w_c[i].matrix();
        m.w_h = w_h[i].matrix();
    }
};

// (inputs, joints, w_j, w_x, w_c, w_h, scales, dropout_p, seed, keep_maps, residual) -> X', H
void joint_coattention(StableValue* stack, uint64_t, uint64_t) {
    JointCoattention a("joint_coattention", stack);
    const bool keeps_maps = stack[9] & 1;
    a.call.residual = stack[10] & 1;
    std::vector<Tensor> results;
    results.reserve(2 * a.inputs.size());
    for (const Tensor& x : a.inputs) results.push_back(x.like());
    for (size_t i = 0; i < a.inputs.size(); ++i) {
        jca_cuda_modality& m = a.call.modality[i];
        m.out = results[i].matrix();
        if (!keeps_maps) continue;
        results.push_back(a.inputs[i].make({a.call.batch, m.k, m.d}, a.inputs[i].dtype()));
        m.h = results.back().matrix();
    }
    a.check.run(jca_cuda_plan_joint_coattention, a.call);
    stack[0] = release(results);
}

// (grad_outs, maps, inputs, joints, ..., seed, residual) -> a gradient of every tensor, in order
void joint_coattention_backward(StableValue* stack, uint64_t, uint64_t) {
    const std::vector<Tensor> grad_outs = tensors(stack[0]), maps = tensors(stack[1]);
    JointCoattention a("joint_coattention_backward", stack + 2);
    a.call.residual = stack[11] & 1;
    a.expect("grad_outs", grad_outs, false);
    a.expect("maps", maps, true);
    std::vector<Tensor> results;
    results.reserve(5 * a.inputs.size() + a.joints.size());
    const auto grad_of = [&](const Tensor& t) {
        results.push_back(t.like());
        return results.back().address();
    };
    jca_cuda_modality* const m = a.call.modality;
    const size_t n = a.inputs.size();
    for (size_t i = 0; i < n; ++i) {
        m[i].grad_out = grad_outs[i].matrix();
        m[i].h = maps[i].matrix();
        m[i].dx = grad_of(a.inputs[i]);
    }
    for (size_t i = 0; i < a.joints.size(); ++i) a.call.joint[i].dx = grad_of(a.joints[i]);
    for (size_t i = 0; i < n; ++i) m[i].dw_j = grad_of(a.w_j[i]);
    for (size_t i = 0; i < n; ++i) m[i].dw_x = grad_of(a.w_x[i]);
    for (size_t i = 0; i < n; ++i) m[i].dw_c = grad_of(a.w_c[i]);
    for (size_t i = 0; i < n; ++i) m[i].dw_h = grad_of(a.w_h[i]);
    a.check.run(jca_cuda_plan_joint_coattention_backward, a.call);
    stack[0] = release(results);
}

}  // namespace
}  // namespace jca_cuda
