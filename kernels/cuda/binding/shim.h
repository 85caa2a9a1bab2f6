// The part of PyTorch's stable C shim that this binding uses, declared by hand so that no torch
// header is needed to build. Every function is looked up at run time.
// Version gates (torch/csrc/inductor/aoti_torch/c/shim.h and torch/csrc/stable/c/shim.h): all but
// `torch_library_impl` and the lists, which came with 2.10, are older than 2.9.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace jca_cuda {

struct TorchTensor;   // AtenTensorHandle points to it
struct TorchLibrary;  // TorchLibraryHandle points to it
struct TorchList;     // StableListHandle points to it

// An argument or result of a boxed kernel: a handle, an int64, a double or a bool in the low bytes
// of 64 bits. An optional is null or a pointer to such a value, allocated with operator new and
// owned by the kernel. A list is a handle; its items are owned by whoever takes them.
typedef uint64_t StableValue;
typedef void (*BoxedKernel)(StableValue* stack, uint64_t arguments, uint64_t results);

constexpr uint64_t kShimVersion = 0x020a000000000000ull;  // 2.10: the layout written down above

// X(result, name, arguments): status 0 is success.
#define JCA_CUDA_SHIM_FUNCTIONS(X)                                                         \
    X(int32_t, aoti_torch_dtype_float32, (void))                                           \
    X(int32_t, aoti_torch_dtype_bfloat16, (void))                                          \
    X(int32_t, aoti_torch_dtype_float16, (void))                                           \
    X(int32_t, aoti_torch_dtype_int64, (void))                                             \
    X(int32_t, aoti_torch_dtype_uint8, (void))                                             \
    X(int32_t, aoti_torch_device_type_cuda, (void))                                        \
    X(int32_t, aoti_torch_layout_strided, (void))                                          \
    X(int32_t, aoti_torch_get_data_ptr, (TorchTensor*, void**))                            \
    X(int32_t, aoti_torch_get_dim, (TorchTensor*, int64_t*))                               \
    X(int32_t, aoti_torch_get_numel, (TorchTensor*, int64_t*))                             \
    X(int32_t, aoti_torch_get_sizes, (TorchTensor*, int64_t**))                            \
    X(int32_t, aoti_torch_get_strides, (TorchTensor*, int64_t**))                          \
    X(int32_t, aoti_torch_get_dtype, (TorchTensor*, int32_t*))                             \
    X(int32_t, aoti_torch_get_layout, (TorchTensor*, int32_t*))                            \
    X(int32_t, aoti_torch_get_device_type, (TorchTensor*, int32_t*))                       \
    X(int32_t, aoti_torch_get_device_index, (TorchTensor*, int32_t*))                      \
    X(int32_t, aoti_torch_get_current_cuda_stream, (int32_t, void**))                      \
    X(int32_t, aoti_torch_empty_strided,                                                   \
      (int64_t, const int64_t*, const int64_t*, int32_t, int32_t, int32_t, TorchTensor**)) \
    X(int32_t, aoti_torch_delete_tensor_object, (TorchTensor*))                            \
    X(int32_t, aoti_torch_library_init_impl,                                               \
      (const char*, const char*, const char*, uint32_t, TorchLibrary**))                   \
    X(int32_t, torch_library_impl, (TorchLibrary*, const char*, BoxedKernel, uint64_t))    \
    X(int32_t, torch_new_list_reserve_size, (size_t, TorchList**))                         \
    X(int32_t, torch_list_size, (TorchList*, size_t*))                                     \
    X(int32_t, torch_list_get_item, (TorchList*, size_t, StableValue*))                    \
    X(int32_t, torch_list_push_back, (TorchList*, StableValue))                            \
    X(int32_t, torch_delete_list, (TorchList*))

struct Shim {
#define JCA_CUDA_SHIM_MEMBER(result, name, arguments) result(*name) arguments;
    JCA_CUDA_SHIM_FUNCTIONS(JCA_CUDA_SHIM_MEMBER)
#undef JCA_CUDA_SHIM_MEMBER
};

}  // namespace jca_cuda
