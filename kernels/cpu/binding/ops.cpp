// The ops as kernels of PyTorch's dispatcher, for the key CPU.
#include <dlfcn.h>

#include "joint_affinity.h"
#include "joint_coattention.h"
#include "released_attention.h"
#include "tanh_attention.h"
#include "visual_reduction.h"

namespace jca {
namespace {

struct Op {
    const char* name;
    BoxedKernel kernel;
};

constexpr Op kOps[] = {
#define JCA_OP_ROWS(op) {#op ".cpu", op}, {#op "_backward.cpu", op##_backward},
    JCA_OPS(JCA_OP_ROWS)
#undef JCA_OP_ROWS
};

// Null, or what this PyTorch lacks.
const char* register_ops(const char* libtorch_cpu) {
    void* handle = dlopen(libtorch_cpu, RTLD_NOW | RTLD_NOLOAD);
    if (!handle) return "libtorch_cpu is not loaded";
#define JCA_SHIM_LOOKUP(result, name, arguments)                             \
    shim.name = reinterpret_cast<result(*) arguments>(dlsym(handle, #name)); \
    if (!shim.name) return "PyTorch has no function " #name;
    JCA_SHIM_FUNCTIONS(JCA_SHIM_LOOKUP)
#undef JCA_SHIM_LOOKUP
    TorchLibrary* library;
    if (shim.aoti_torch_library_init_impl("jca_fast", "CPU", "kernels/cpu/binding/ops.cpp", 0,
                                          &library))
        return "PyTorch refused the library of kernels";
    for (const Op& op : kOps)
        if (shim.torch_library_impl(library, op.name, op.kernel, kShimVersion))
            return "PyTorch refused a kernel";
    return nullptr;
}

}  // namespace
}  // namespace jca

// Registers the ops with the PyTorch whose library is at this path, once; their schemas must be
// there already. Returns null, or what this PyTorch lacks.
extern "C" __attribute__((visibility("default"))) const char* jca_register_ops(
    const char* libtorch_cpu) {
    static const char* const problem = jca::register_ops(libtorch_cpu);
    return problem;
}
