// What CMake compiles to see whether nvcc, its headers and the C++ compiler fit together.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

static_assert(__cplusplus >= 201703L, "C++17");
__global__ void probe(float* x) {
    *x = float(__nv_bfloat16(*x)) + float(__half(*x));
}
