// joint_coattention: the paper's layer over a list of modalities, X_i (B, N, d_i) -> X_i' (B, N,
// d_i)
#pragma once

#include "checks.h"
#include "schema.h"

namespace jca {
namespace {

#define JCA_LAYER                                                                                 \
    "Tensor[] inputs, Tensor[]? joints, Tensor[] w_j, Tensor[] w_x, Tensor[] w_c, Tensor[] w_h, " \
    "float[] scales, float dropout_p, Tensor? seed"
template <>
constexpr Schema schema_of<jca_joint_coattention> = {
    "(" JCA_LAYER ", bool keep_maps, bool residual=True) -> Tensor[]",
    "(Tensor[] grad_outs, Tensor[] maps, " JCA_LAYER ", bool residual=True) -> Tensor[]"};
#undef JCA_LAYER

// The arguments of one layer in the order of its schema: inputs, joints, w_j, w_x, w_c, w_h,
// scales, dropout_p, seed.
class LayerArguments {
  public:
    LayerArguments(const char* op, StableValue* stack)
        : check(op),
          inputs_(stack[0]),
          joints_(take(stack[1])),
          w_j_(stack[2]),
          w_x_(stack[3]),
          w_c_(stack[4]),
          w_h_(stack[5]),
          scales_(stack[6]),
          dropout_p_(number(stack[7])),
          seed_(stack[8]) {}

    // Everything checked, and the sizes and inputs filled in.
    void read(bool residual) {
        inputs = inputs_.tensors();
        joints = joints_.tensors();
        weights[0] = w_j_.tensors();
        weights[1] = w_x_.tensors();
        weights[2] = w_c_.tensors();
        weights[3] = w_h_.tensors();
        const std::vector<double> scales = scales_.numbers();
        check_counts(scales.size());
        check_inputs();
        memory_.resize(sizeof(jca_joint_coattention) + (inputs.size() - 1) * sizeof(jca_modality));
        fill_head();
        block().without_residual = !residual;
        for (size_t i = 0; i < inputs.size(); i++) fill_modality(i, scales[i]);
    }

    // A list of one tensor (B, N, d_i) or (B, k_i, d_i) for each modality.
    void check_maps(const char* name, const std::vector<Tensor>& maps, bool attention) {
        check.count(name, maps.size(), inputs.size());
        for (size_t i = 0; i < maps.size(); i++) {
            const jca_modality& m = block().modality[i];
            check.tensor(name, maps[i],
                         {block().batch, attention ? m.attention : block().n, m.width}, (int64_t)i);
        }
    }

    jca_joint_coattention& block() {
        return *reinterpret_cast<jca_joint_coattention*>(memory_.data());
    }

    Checks check;
    std::vector<Tensor> inputs, joints, weights[4];  // weights: w_j, w_x, w_c, w_h

  private:
    void check_counts(size_t scales) const {
        if (inputs.empty()) check.fail("inputs must have at least 1 item");
        if (joints.size() > 1) check.count("joints", joints.size(), inputs.size());
        static const char* const names[4] = {"w_j", "w_x", "w_c", "w_h"};
        for (int w = 0; w < 4; w++) check.count(names[w], weights[w].size(), inputs.size());
        check.count("scales", scales, inputs.size());
    }

    void check_inputs() {
        check.tensor("inputs", inputs[0], {kBatch, kAny, kAny}, 0);
        const int64_t batch = inputs[0].sizes()[0], n = inputs[0].sizes()[1];
        for (size_t i = 1; i < inputs.size(); i++)
            check.tensor("inputs", inputs[i], {batch, n, kAny}, (int64_t)i);
        for (size_t i = 0; i < joints.size(); i++)
            check.tensor("joints", joints[i], {batch, n, kAny}, (int64_t)i);
    }

    const Tensor* joint_of(size_t i) const {
        return joints.empty() ? nullptr : &joints[joints.size() > 1 ? i : 0];
    }

    int64_t joint_width(size_t i) const {
        if (const Tensor* joint = joint_of(i)) return joint->sizes()[2];
        int64_t width = 0;
        for (const Tensor& x : inputs)
            if (__builtin_add_overflow(width, x.sizes()[2], &width))
                check.fail("inputs have more than 2^63 channels");
        return width;
    }

    void fill_head() {
        const Dropout dropout = check.dropout(dropout_p_, seed_);
        jca_joint_coattention& a = block();
        a.struct_size = (int64_t)memory_.size();
        a.dtype = inputs[0].dtype();
        a.batch = inputs[0].sizes()[0];
        a.n = inputs[0].sizes()[1];
        a.count = (int64_t)inputs.size();
        a.joints = (int64_t)joints.size();
        a.threshold = dropout.threshold;
        a.seed = dropout.seed;
    }

    void fill_modality(size_t i, double scale) {
        const Tensor &w_j = weights[0][i], &w_x = weights[1][i], &w_c = weights[2][i],
                     &w_h = weights[3][i];
        const int64_t n = block().n, index = (int64_t)i;
        jca_modality& m = block().modality[i];
        m.scale = scale;
        m.width = inputs[i].sizes()[2];
        m.joint_width = joint_width(i);
        check.tensor("w_c", w_c, {kAny, m.joint_width}, index);
        m.attention = w_c.sizes()[0];
        check.tensor("w_j", w_j, {n, n}, index);
        check.tensor("w_x", w_x, {m.attention, n}, index);
        check.tensor("w_h", w_h, {m.attention, n}, index);
        m.x = inputs[i].matrix();
        if (const Tensor* joint = joint_of(i)) m.joint = joint->matrix();
        m.w_j = w_j.weight();
        m.w_x = w_x.weight();
        m.w_c = w_c.weight();
        m.w_h = w_h.weight();
    }

    const List inputs_, joints_, w_j_, w_x_, w_c_, w_h_, scales_;
    const double dropout_p_;
    const Seed seed_;
    std::vector<char> memory_;
};

// (<layer>, keep_maps, residual) -> X' and, with keep_maps, H of every modality
void joint_coattention(StableValue* stack, uint64_t, uint64_t) {
    LayerArguments layer("joint_coattention", stack);
    const bool keep_maps = flag(stack[9]);
    layer.read(flag(stack[10]));
    jca_joint_coattention& a = layer.block();
    std::vector<Tensor> results;
    results.reserve(2 * layer.inputs.size());
    for (size_t i = 0; i < layer.inputs.size(); i++) {
        results.push_back(layer.inputs[i].like(3));
        a.modality[i].out = results[i].matrix();
    }
    for (size_t i = 0; keep_maps && i < layer.inputs.size(); i++) {
        const int64_t sizes[3] = {a.batch, a.modality[i].attention, a.modality[i].width};
        results.push_back(layer.inputs[i].make(3, sizes));
        a.modality[i].h = results.back().matrix();
    }
    layer.check.status(jca_joint_coattention_forward(&a));
    stack[0] = list_of(results);
}

// (grad_outs, maps, <layer>, residual) -> the gradients of inputs, joints, w_j, w_x, w_c, w_h
void joint_coattention_backward(StableValue* stack, uint64_t, uint64_t) {
    const List grad_list(stack[0]), map_list(stack[1]);
    LayerArguments layer("joint_coattention_backward", stack + 2);
    layer.read(flag(stack[11]));
    const std::vector<Tensor> grads = grad_list.tensors(), maps = map_list.tensors();
    layer.check_maps("grad_outs", grads, false);
    layer.check_maps("maps", maps, true);
    jca_joint_coattention& a = layer.block();
    const size_t count = layer.inputs.size();
    std::vector<Tensor> results;
    results.reserve(6 * count);
    for (size_t i = 0; i < count; i++) {
        a.modality[i].out = grads[i].matrix();
        a.modality[i].h = maps[i].matrix();
        results.push_back(layer.inputs[i].like(3));
        a.modality[i].dx = results.back().matrix();
    }
    for (size_t i = 0; i < layer.joints.size(); i++) {
        results.push_back(layer.joints[i].like(3));
        a.modality[i].djoint = results.back().matrix();
    }
    jca_weight jca_modality::* targets[4] = {&jca_modality::dw_j, &jca_modality::dw_x,
                                             &jca_modality::dw_c, &jca_modality::dw_h};
    for (int w = 0; w < 4; w++)
        for (size_t i = 0; i < count; i++) {
            results.push_back(layer.weights[w][i].like(2));
            a.modality[i].*targets[w] = results.back().weight();
        }
    layer.check.status(jca_joint_coattention_backward(&a));
    stack[0] = list_of(results);
}

}  // namespace
}  // namespace jca
