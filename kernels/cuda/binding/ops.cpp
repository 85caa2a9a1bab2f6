// The launchers as ops of PyTorch's dispatcher, torch.ops.jca_fast_cuda.<op>. They take the
// arguments of the registered op and the float32 precision, which Python knows.
#include <dlfcn.h>

#include "tanh_attention.h"

namespace jca_cuda {
namespace {

struct Op {
    const char *name, *schema;
    BoxedKernel kernel;
};

constexpr Op kOps[] = {
    {"tanh_attention", kTanhAttentionSchemas[0], tanh_attention},
    {"tanh_attention_backward", kTanhAttentionSchemas[1], tanh_attention_backward},
};

// "", or the function that this PyTorch lacks. Functions of CUDA are in libtorch_cuda.
std::string look_up(const char* libtorch_cpu, const char* libtorch_cuda) {
    void* const cuda = dlopen(libtorch_cuda, RTLD_NOW);
    void* const cpu = dlopen(libtorch_cpu, RTLD_NOW | RTLD_NOLOAD);
    if (!cuda || !cpu) return "PyTorch's libraries are not loaded";
#define JCA_CUDA_SHIM_LOOK_UP(result, name, arguments)                                    \
    shim.name = reinterpret_cast<result(*) arguments>(dlsym(cuda, #name));                \
    if (!shim.name) shim.name = reinterpret_cast<result(*) arguments>(dlsym(cpu, #name)); \
    if (!shim.name) return "PyTorch has no function " #name;
    JCA_CUDA_SHIM_FUNCTIONS(JCA_CUDA_SHIM_LOOK_UP)
#undef JCA_CUDA_SHIM_LOOK_UP
    return "";
}

std::string register_ops(const char* libtorch_cpu, const char* libtorch_cuda) {
    const std::string problem = look_up(libtorch_cpu, libtorch_cuda);
    if (!problem.empty()) return problem;
    const char* const file = "kernels/cuda/binding/ops.cpp";
    TorchLibrary *ops, *kernels;
    if (shim.aoti_torch_library_init_def("jca_fast_cuda", file, 0, &ops) ||
        shim.aoti_torch_library_init_impl("jca_fast_cuda", "CompositeExplicitAutograd", file, 0,
                                          &kernels))
        return "PyTorch refused the library of ops";
    for (const Op& op : kOps)
        if (shim.aoti_torch_library_def(ops, op.schema) ||
            shim.torch_library_impl(kernels, op.name, op.kernel, kShimVersion))
            return std::string("PyTorch refused the op ") + op.name;
    return "";
}

}  // namespace
}  // namespace jca_cuda

// Registers the ops with the PyTorch whose libraries are at these paths, once. Returns "", or why
// it cannot.
extern "C" JCA_CUDA_API const char* jca_cuda_register_ops(const char* libtorch_cpu,
                                                          const char* libtorch_cuda) {
    static const std::string problem = jca_cuda::register_ops(libtorch_cpu, libtorch_cuda);
    return problem.c_str();
}

// The names of the ops with kernels, with a space behind each.
extern "C" JCA_CUDA_API const char* jca_cuda_op_names(void) {
    static const std::string names = [] {
        std::string text;
        for (const jca_cuda::Op& op : jca_cuda::kOps) text += op.name + std::string(" ");
        return text;
    }();
    return names.c_str();
}
