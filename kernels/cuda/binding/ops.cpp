// Puts the kernels behind the registered ops: torch.ops.jca_fast.<op>.cuda, the overload that
// jca_fast/ops/library.py defines.
#include <dlfcn.h>

#include "joint_affinity.h"
#include "joint_coattention.h"
#include "released_attention.h"
#include "tanh_attention.h"
#include "visual_reduction.h"

namespace jca_cuda {
namespace {

struct Op {
    const char* name;
    BoxedKernel kernel;
};

constexpr Op kOps[] = {
    {"joint_affinity.cuda", joint_affinity},
    {"joint_affinity_backward.cuda", joint_affinity_backward},
    {"joint_coattention.cuda", joint_coattention},
    {"joint_coattention_backward.cuda", joint_coattention_backward},
    {"released_attention.cuda", released_attention},
    {"released_attention_backward.cuda", released_attention_backward},
    {"tanh_attention.cuda", tanh_attention},
    {"tanh_attention_backward.cuda", tanh_attention_backward},
    {"visual_reduction.cuda", visual_reduction},
    {"visual_reduction_backward.cuda", visual_reduction_backward},
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

std::string register_kernels(const char* key) {
    TorchLibrary* kernels;
    if (shim.aoti_torch_library_init_impl("jca_fast", key, "kernels/cuda/binding/ops.cpp", 0,
                                          &kernels))
        return "PyTorch refused the library of kernels";
    for (const Op& op : kOps)
        if (shim.torch_library_impl(kernels, op.name, op.kernel, kShimVersion))
            return std::string("PyTorch refused the kernel of ") + op.name;
    return "";
}

}  // namespace
}  // namespace jca_cuda

// Registers the kernels with the PyTorch whose libraries are at these paths, for dispatch key
// `key`, once. `precision` says whether PyTorch multiplies float32 in TF32 now. Returns "", or why
// it cannot.
extern "C" JCA_CUDA_API const char* jca_cuda_register_ops(const char* libtorch_cpu,
                                                          const char* libtorch_cuda,
                                                          const char* key, int (*precision)()) {
    static const std::string problem = [=] {
        jca_cuda::is_tf32 = precision;
        const std::string missing = jca_cuda::look_up(libtorch_cpu, libtorch_cuda);
        return missing.empty() ? jca_cuda::register_kernels(key) : missing;
    }();
    return problem.c_str();
}
