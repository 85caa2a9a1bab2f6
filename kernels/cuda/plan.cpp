#include "plan.h"

int jca_cuda_abi_version(void) {
    return JCA_CUDA_ABI_VERSION;
}

const char* jca_cuda_status_string(int status) {
    switch (status) {
        case JCA_CUDA_SUCCESS: return "success";
        case JCA_CUDA_BAD_SIZE: return "the batch must be 0 or more and every other size 1 or more";
        case JCA_CUDA_BAD_TIER: return "the tier is not one of jca_cuda_tier";
        case JCA_CUDA_BAD_MODALITIES:
            return "a layer has 1 to 12 modalities, and 0, 1 or as many joint features";
        case JCA_CUDA_BAD_DROPOUT: return "the dropout threshold must be between 0 and 65536";
        case JCA_CUDA_TOO_LARGE: return "a size or a grid is too large";
        case JCA_CUDA_NO_WORKSPACE: return "the workspace is smaller than the plan needs";
        case JCA_CUDA_BAD_DEVICE: return "the index of the device must be from 0 to 63";
        case JCA_CUDA_NO_DRIVER: return "there is no driver for CUDA";
        case JCA_CUDA_FAILED: return "the driver refused a call";
        default: return "unknown status";
    }
}

const char* jca_cuda_kernel_name(int kernel) {
    static const char* const names[JCA_CUDA_KERNELS] = {
        "tanh_attention_forward",    "tanh_attention_columns",      "tanh_attention_rows",
        "narrow_attention_forward",  "narrow_attention_backward",   "sum_parts",
        "joint_affinity_forward",    "joint_affinity_backward",     "joint_coattention_forward",
        "joint_coattention_prepare", "joint_coattention_attention", "joint_coattention_finish",
        "joint_coattention_sums",    "released_activation",         "visual_reduction_forward",
        "visual_reduction_backward",
    };
    return kernel >= 0 && kernel < JCA_CUDA_KERNELS ? names[kernel] : "";
}
