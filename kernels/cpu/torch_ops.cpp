// The ops as kernels of PyTorch's dispatcher, for the key CPU: the same argument blocks as the
// ctypes launchers of
// __init__.py fill, without their 3 to 40 microseconds of Python. A boxed kernel owns the handles
// it is given.
#include <dlfcn.h>

#include "torch_tensor.h"

extern "C" {
const char* jca_status_string(int status);
#define JCA_DECLARE_OP(name)                       \
    int jca_##name##_forward(const jca_##name* a); \
    int jca_##name##_backward(const jca_##name* a);
JCA_DECLARE_OP(tanh_attention)
JCA_DECLARE_OP(coattention)
JCA_DECLARE_OP(reduction)
}

namespace jca {
namespace {

void check_status(int status, const char* op) {
    if (status) throw std::runtime_error(std::string(op) + ": " + jca_status_string(status));
}

// tanh_attention and released_attention are one kernel: the second reads and writes transposed, and
// has an epilogue.
template <bool RELEASED>
jca_matrix view(const Tensor& t) {
    return RELEASED ? t.transposed() : t.matrix();
}

template <bool RELEASED>
jca_tanh_attention attention_block(const Tensor& q, const Tensor& k, const Tensor& v, double scale,
                                   const Dropout& drop) {
    constexpr int inner = RELEASED ? 1 : 2, outer = RELEASED ? 2 : 1;
    jca_tanh_attention a{};
    a.struct_size = sizeof(a);
    a.dtype = q.dtype();
    a.batch = q.sizes()[0];
    a.m = q.sizes()[outer];
    a.n = q.sizes()[inner];
    a.l = k.sizes()[outer];
    a.d = v.sizes()[inner];
    a.shared_v = v.sizes()[0] != a.batch;
    a.epilogue = RELEASED ? JCA_EPILOGUE_RELU_TANH : JCA_EPILOGUE_NONE;
    a.threshold = drop.threshold;
    a.seed = drop.seed;
    a.scale = scale;
    a.q = view<RELEASED>(q);
    a.k = view<RELEASED>(k);
    a.v = view<RELEASED>(v);
    return a;
}

// (q, k, v, scale, dropout_p, seed) -> out
template <bool RELEASED>
void attention(StableValue* stack, uint64_t, uint64_t) {
    const Tensor q(stack[0]), k(stack[1]), v(stack[2]);
    const Dropout drop(number(stack[4]), stack[5]);
    jca_tanh_attention a = attention_block<RELEASED>(q, k, v, number(stack[3]), drop);
    const int64_t sizes[3] = {a.batch, RELEASED ? a.d : a.m, RELEASED ? a.m : a.d};
    Tensor out = q.make(3, sizes);
    a.out = view<RELEASED>(out);
    check_status(jca_tanh_attention_forward(&a), "tanh_attention");
    stack[0] = out.release();
}

// (grad_out, [out,] q, k, v, scale, dropout_p, seed) -> dq, dk, dv
template <bool RELEASED>
void attention_backward(StableValue* stack, uint64_t, uint64_t) {
    const Tensor grad(stack[0]);
    const Tensor out(RELEASED ? stack[1] : 0);
    StableValue* rest = stack + (RELEASED ? 2 : 1);
    const Tensor q(rest[0]), k(rest[1]), v(rest[2]);
    const Dropout drop(number(rest[4]), rest[5]);
    jca_tanh_attention a = attention_block<RELEASED>(q, k, v, number(rest[3]), drop);
    Tensor dq = q.like(3), dk = k.like(3), dv = v.like(3);
    a.dout = view<RELEASED>(grad);
    if (RELEASED) a.out = view<RELEASED>(out);
    a.dq = view<RELEASED>(dq);
    a.dk = view<RELEASED>(dk);
    a.dv = view<RELEASED>(dv);
    check_status(jca_tanh_attention_backward(&a), "tanh_attention_backward");
    stack[0] = dq.release();
    stack[1] = dk.release();
    stack[2] = dv.release();
}

// The tensors of one layer in the order of its schema: inputs, joints, w_j, w_x, w_c, w_h, then
// scales, p and seed.
struct Layer {
    std::vector<Tensor> inputs, joints, w_j, w_x, w_c, w_h;
    std::vector<char> memory;

    explicit Layer(StableValue* s)
        : inputs(tensors(s[0])),
          joints(tensors(s[1])),
          w_j(tensors(s[2])),
          w_x(tensors(s[3])),
          w_c(tensors(s[4])),
          w_h(tensors(s[5])),
          memory(sizeof(jca_coattention) + (inputs.size() - 1) * sizeof(jca_modality)) {
        auto* scales = reinterpret_cast<TorchList*>(s[6]);
        const Dropout drop(number(s[7]), s[8]);
        jca_coattention& a = block();
        a.struct_size = (int64_t)memory.size();
        a.dtype = inputs[0].dtype();
        a.batch = inputs[0].sizes()[0];
        a.n = inputs[0].sizes()[1];
        a.count = (int64_t)inputs.size();
        a.joints = (int64_t)joints.size();
        a.threshold = drop.threshold;
        a.seed = drop.seed;
        for (size_t i = 0; i < inputs.size(); i++) {
            jca_modality& m = a.modality[i];
            StableValue scale;
            check(shim.torch_list_get_item(scales, i, &scale), "the scales of a layer");
            m.scale = number(scale);
            m.width = inputs[i].sizes()[2];
            m.attention = w_c[i].sizes()[0];
            m.joint_width = w_c[i].sizes()[1];
            m.x = inputs[i].matrix();
            if (!joints.empty()) m.joint = joints[joints.size() > 1 ? i : 0].matrix();
            m.w_j = w_j[i].weight();
            m.w_x = w_x[i].weight();
            m.w_c = w_c[i].weight();
            m.w_h = w_h[i].weight();
        }
        shim.torch_delete_list(scales);
    }
    jca_coattention& block() { return *reinterpret_cast<jca_coattention*>(memory.data()); }
};

// (inputs, joints, w_j, w_x, w_c, w_h, scales, dropout_p, seed, keep_maps) -> X' and, if kept, H of
// every modality
void coattention(StableValue* stack, uint64_t, uint64_t) {
    Layer layer(stack);
    jca_coattention& a = layer.block();
    const bool keep_maps = stack[9] & 1;
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
    check_status(jca_coattention_forward(&a), "joint_coattention");
    stack[0] = list_of(results);
}

// (grad_outs, maps, <layer>) -> the gradients of inputs, joints, w_j, w_x, w_c, w_h
void coattention_backward(StableValue* stack, uint64_t, uint64_t) {
    const std::vector<Tensor> grads = tensors(stack[0]), maps = tensors(stack[1]);
    Layer layer(stack + 2);
    jca_coattention& a = layer.block();
    std::vector<Tensor> results;
    results.reserve(6 * layer.inputs.size());
    const size_t count = layer.inputs.size();
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
    const std::vector<Tensor>* weights[4] = {&layer.w_j, &layer.w_x, &layer.w_c, &layer.w_h};
    jca_weight jca_modality::* targets[4] = {&jca_modality::dw_j, &jca_modality::dw_x,
                                             &jca_modality::dw_c, &jca_modality::dw_h};
    for (int w = 0; w < 4; w++)
        for (size_t i = 0; i < count; i++) {
            results.push_back((*weights[w])[i].like(2));
            a.modality[i].*targets[w] = results.back().weight();
        }
    check_status(jca_coattention_backward(&a), "joint_coattention_backward");
    stack[0] = list_of(results);
}

jca_reduction reduction_block(const Tensor& query, const Tensor& keys, double scale) {
    jca_reduction a{};
    a.struct_size = sizeof(a);
    a.dtype = query.dtype();
    a.samples = keys.sizes()[0];
    a.regions = keys.sizes()[1];
    a.width = keys.sizes()[2];
    a.scale = scale;
    a.query = query.weight();
    a.keys = keys.matrix();
    return a;
}

// (query, regions, scale) -> out, weights
void reduction(StableValue* stack, uint64_t, uint64_t) {
    const Tensor query(stack[0]), keys(stack[1]);
    jca_reduction a = reduction_block(query, keys, number(stack[2]));
    Tensor out = query.like(2), weights = query.make(2, keys.sizes());
    a.out = out.weight();
    a.weights = weights.weight();
    check_status(jca_reduction_forward(&a), "visual_reduction");
    stack[0] = out.release();
    stack[1] = weights.release();
}

// (grad_out, grad_weights, query, regions, weights, scale, need_regions) -> dquery, dregions or an
// empty tensor
void reduction_backward(StableValue* stack, uint64_t, uint64_t) {
    const Tensor dout(stack[0]), dweights(stack[1]), query(stack[2]), keys(stack[3]),
        weights(stack[4]);
    const bool need_regions = stack[6] & 1;
    jca_reduction a = reduction_block(query, keys, number(stack[5]));
    const int64_t none[1] = {0};
    Tensor dquery = query.like(2), dkeys = need_regions ? keys.like(3) : keys.make(1, none);
    a.weights = weights.weight();
    a.dout = dout.weight();
    a.dweights = dweights.weight();
    a.dquery = dquery.weight();
    if (need_regions) a.dkeys = dkeys.matrix();
    check_status(jca_reduction_backward(&a), "visual_reduction_backward");
    stack[0] = dquery.release();
    stack[1] = dkeys.release();
}

struct Op {
    const char* name;
    BoxedKernel kernel;
};

constexpr Op kOps[] = {
    {"tanh_attention.cpu", attention<false>},
    {"tanh_attention_backward.cpu", attention_backward<false>},
    {"released_attention.cpu", attention<true>},
    {"released_attention_backward.cpu", attention_backward<true>},
    {"joint_coattention.cpu", coattention},
    {"joint_coattention_backward.cpu", coattention_backward},
    {"visual_reduction.cpu", reduction},
    {"visual_reduction_backward.cpu", reduction_backward},
};

}  // namespace
}  // namespace jca

// Registers the ops with the PyTorch whose library is at this path; their schemas must be there
// already. Returns 1, or 0 where this PyTorch lacks a function of the shim.
extern "C" __attribute__((visibility("default"))) int jca_register_ops(const char* libtorch_cpu) {
    using namespace jca;
    void* handle = dlopen(libtorch_cpu, RTLD_NOW | RTLD_NOLOAD);
    if (!handle) return 0;
#define JCA_SHIM_LOOKUP(result, name, arguments)                             \
    shim.name = reinterpret_cast<result(*) arguments>(dlsym(handle, #name)); \
    if (!shim.name) return 0;
    JCA_SHIM_FUNCTIONS(JCA_SHIM_LOOKUP)
    TorchLibrary* library;
    if (shim.aoti_torch_library_init_impl("jca_fast", "CPU", "torch_ops.cpp", 0, &library))
        return 0;
    for (const Op& op : kOps)
        if (shim.torch_library_impl(library, op.name, op.kernel, kShimVersion)) return 0;
    return 1;
}
