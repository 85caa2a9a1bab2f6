// The schemas of the ops, for a program without Python: there the library itself defines them. They
// are those of jca_fast/ops/library.py, which a test compares.
#pragma once

namespace jca {
namespace {

#define JCA_DROPPED "float scale, float dropout_p, Tensor? seed"
#define JCA_QKV "Tensor query, Tensor key, Tensor value"
#define JCA_LAYER                                                                                 \
    "Tensor[] inputs, Tensor[]? joints, Tensor[] w_j, Tensor[] w_x, Tensor[] w_c, Tensor[] w_h, " \
    "float[] scales, float dropout_p, Tensor? seed"

struct Schema {
    const char *forward, *backward;
};

constexpr Schema schema_of_tanh_attention = {
    "(Tensor q, Tensor k, Tensor v, " JCA_DROPPED ") -> Tensor",
    "(Tensor grad_out, Tensor q, Tensor k, Tensor v, " JCA_DROPPED ") -> (Tensor, Tensor, Tensor)"};
constexpr Schema schema_of_released_attention = {"(" JCA_QKV ", " JCA_DROPPED ") -> Tensor",
                                                 "(Tensor grad_out, Tensor out, " JCA_QKV
                                                 ", " JCA_DROPPED ") -> (Tensor, Tensor, Tensor)"};
constexpr Schema schema_of_joint_affinity = {
    "(Tensor q, Tensor k, float scale) -> Tensor",
    "(Tensor grad_c, Tensor q, Tensor k, Tensor c, float scale) -> (Tensor, Tensor)"};
constexpr Schema schema_of_joint_coattention = {
    "(" JCA_LAYER ", bool keep_maps, bool residual=True) -> Tensor[]",
    "(Tensor[] grad_outs, Tensor[] maps, " JCA_LAYER ", bool residual=True) -> Tensor[]"};
constexpr Schema schema_of_visual_reduction = {
    "(Tensor query, Tensor regions, float scale) -> (Tensor, Tensor)",
    "(Tensor grad_out, Tensor grad_weights, Tensor query, Tensor regions, Tensor weights, "
    "float scale, bool need_regions) -> (Tensor, Tensor)"};

#undef JCA_DROPPED
#undef JCA_QKV
#undef JCA_LAYER

}  // namespace
}  // namespace jca
