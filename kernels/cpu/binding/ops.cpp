// The ops as kernels of PyTorch's dispatcher, for the key CPU.
#include <dlfcn.h>
#include <stdlib.h>

#include "joint_affinity.h"
#include "joint_coattention.h"
#include "released_attention.h"
#include "tanh_attention.h"
#include "tanh_dropout.h"
#include "visual_reduction.h"

namespace jca {
namespace {

struct Op {
    const char* name;
    BoxedKernel kernel;
};

constexpr Op kOps[] = {
#define JCA_OP_ROWS(op) {#op, op}, {#op "_backward", op##_backward},
    JCA_OPS(JCA_OP_ROWS)
#undef JCA_OP_ROWS
};

#define JCA_HAS_SCHEMA(op)                                                     \
    static_assert(schema_of<jca_##op>.forward && schema_of<jca_##op>.backward, \
                  "the op " #op " has no schema: kernels/cpu/binding/" #op     \
                  ".h must define schema_of<jca_" #op ">, forward and backward");
JCA_OPS(JCA_HAS_SCHEMA)
#undef JCA_HAS_SCHEMA

// Null, or the function that this PyTorch lacks.
const char* look_up(const char* libtorch_cpu) {
    void* handle = dlopen(libtorch_cpu, RTLD_NOW | RTLD_NOLOAD);
    if (!handle) return "libtorch_cpu is not loaded";
#define JCA_SHIM_LOOKUP(result, name, arguments)                             \
    shim.name = reinterpret_cast<result(*) arguments>(dlsym(handle, #name)); \
    if (!shim.name) return "PyTorch has no function " #name;
    JCA_SHIM_FUNCTIONS(JCA_SHIM_LOOKUP)
#undef JCA_SHIM_LOOKUP
    return nullptr;
}

// For the overload of each op that is called "cpu" or "auto".
const char* register_kernels(const std::string& overload) {
    TorchLibrary* library;
    if (shim.aoti_torch_library_init_impl("jca_fast", "CPU", "kernels/cpu/binding/ops.cpp", 0,
                                          &library))
        return "PyTorch refused the library of kernels";
    for (const Op& op : kOps) {
        const std::string name = op.name + ("." + overload);
        if (shim.torch_library_impl(library, name.c_str(), op.kernel, kShimVersion))
            return "PyTorch refused a kernel";
    }
    return nullptr;
}

std::string schemas() {
    std::string lines;
    for (const char* const overload : {".cpu", ".auto"}) {
#define JCA_SCHEMA_LINES(op)                                                       \
    lines += #op + (overload + (schema_of<jca_##op>.forward + std::string("\n"))); \
    lines += #op "_backward" + (overload + (schema_of<jca_##op>.backward + std::string("\n")));
        JCA_OPS(JCA_SCHEMA_LINES)
#undef JCA_SCHEMA_LINES
    }
    return lines;
}

const char* define_ops() {
    TorchLibrary* library;
    if (shim.aoti_torch_library_init_def("jca_fast", "kernels/cpu/binding/ops.cpp", 0, &library))
        return "PyTorch refused the library of ops";
    const std::string lines = schemas();
    for (size_t begin = 0, end; (end = lines.find('\n', begin)) != std::string::npos;
         begin = end + 1)
        if (shim.aoti_torch_library_def(library, lines.substr(begin, end - begin).c_str()))
            return "PyTorch refused the schema of an op";
    return nullptr;
}

// Null, or the function that this PyTorch lacks.
const char* register_ops(const char* libtorch_cpu) {
    const char* problem = look_up(libtorch_cpu);
    return problem ? problem : register_kernels("cpu");
}

const char* load() {
    const char* const libtorch_cpu = "libtorch_cpu.so";
    if (jca_isa_select(getenv("JCA_FAST_ISA")))
        return "JCA_FAST_ISA names no instruction set of this machine";
    if (const char* problem = look_up(libtorch_cpu)) return problem;
    jca_use_torch(libtorch_cpu);
    if (const char* problem = define_ops()) return problem;
    if (const char* problem = register_kernels("cpu")) return problem;
    return register_kernels("auto");
}

}  // namespace
}  // namespace jca

#define JCA_EXPORT extern "C" __attribute__((visibility("default")))

// Registers the ops with the PyTorch whose library is at this path, once; their schemas must be
// there already. Returns null, or the function that this PyTorch lacks.
JCA_EXPORT const char* jca_register_ops(const char* libtorch_cpu) {
    static const char* const problem = jca::register_ops(libtorch_cpu);
    return problem;
}

JCA_EXPORT const char* jca_load(void) {
    static const char* const problem = jca::load();
    return problem;
}

JCA_EXPORT const char* jca_op_schemas(void) {
    static const std::string lines = jca::schemas();
    return lines.c_str();
}
