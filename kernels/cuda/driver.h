// The part of the CUDA driver API that launches need, declared by hand: it is looked up at run
// time.
#pragma once

#include <stddef.h>

namespace jca_cuda {

// X(name, arguments): each returns 0 for success. Contexts, modules, functions and streams are
// pointers, a device is an int.
#define JCA_CUDA_DRIVER_FUNCTIONS(X)                                                      \
    X(cuInit, (unsigned))                                                                 \
    X(cuDriverGetVersion, (int*))                                                         \
    X(cuDeviceGet, (int*, int))                                                           \
    X(cuDevicePrimaryCtxRetain, (void**, int))                                            \
    X(cuCtxGetCurrent, (void**))                                                          \
    X(cuCtxPushCurrent_v2, (void*))                                                       \
    X(cuCtxPopCurrent_v2, (void**))                                                       \
    X(cuModuleLoadData, (void**, const void*))                                            \
    X(cuModuleGetFunction, (void**, void*, const char*))                                  \
    X(cuFuncSetAttribute, (void*, int, int))                                              \
    X(cuGetErrorString, (int, const char**))                                              \
    X(cuLaunchKernel, (void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, \
                       unsigned, void*, void**, void**))

struct Driver {
#define JCA_CUDA_MEMBER(name, arguments) int(*name) arguments;
    JCA_CUDA_DRIVER_FUNCTIONS(JCA_CUDA_MEMBER)
#undef JCA_CUDA_MEMBER
};

// From cuda.h.
constexpr int kMaxDynamicShared = 8;  // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
void* const kParamBuffer = reinterpret_cast<void*>(1);
void* const kParamSize = reinterpret_cast<void*>(2);
void* const kParamEnd = nullptr;

}  // namespace jca_cuda
