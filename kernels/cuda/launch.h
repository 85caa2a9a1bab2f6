// Sends plans to a GPU through the driver API. libcuda is opened at the first use, so that the
// library loads on a machine without a driver.
#pragma once

#include <stddef.h>

#include "plan.h"

#ifdef __cplusplus
extern "C" {
#endif

// Start the launches of `plan` on `stream`, a CUstream or cudaStream_t of CUDA device `device`; a
// jca_cuda_status. The device's primary context, which the CUDA runtime uses too, is current while
// it runs. The first launch of a tier on a device loads its kernels, which a stream capture
// forbids.
JCA_CUDA_API int jca_cuda_launch(const jca_cuda_plan* plan, int device, void* stream);

// Why no plan can be launched on this machine; "" where one can.
JCA_CUDA_API const char* jca_cuda_problem(void);

// The call of this thread that the driver refused last, like "cuLaunchKernel: invalid argument".
JCA_CUDA_API const char* jca_cuda_error(void);

// The compiled kernels of a tier: a fat binary with machine code of several chips and PTX.
JCA_CUDA_API const void* jca_cuda_image(int tier, size_t* bytes);

// The compiler and the chips of the kernels, like "nvcc 13.0.88, sm_80 sm_90 and PTX".
JCA_CUDA_API const char* jca_cuda_build(void);

#ifdef __cplusplus
}
#endif
