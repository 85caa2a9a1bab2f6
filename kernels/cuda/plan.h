// From sizes, strides and pointers to the launches of an op: pure functions, without a driver.
//
//     jca_cuda_tanh_attention a = {...};         // sizes, strides, addresses
//     jca_cuda_plan plan;
//     jca_cuda_plan_tanh_attention(&a, &plan);   // which kernels, grids and arguments
//     jca_cuda_launch(&plan, device, stream);    // launch.h
//
// The arguments are in the plan, packed as the driver takes them, so that a plan can be recorded in
// a CUDA graph, sent by any C++ program, or executed by the test suite without a GPU.
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define JCA_CUDA_API __attribute__((visibility("default")))

// One more with each change of these structs and functions, or of those of launch.h.
#define JCA_CUDA_ABI_VERSION 5

enum jca_cuda_tier {  // of float32: the exact one and TF32
    JCA_CUDA_EXACT,
    JCA_CUDA_TF32,
    JCA_CUDA_BFLOAT16,
    JCA_CUDA_FLOAT16,
    JCA_CUDA_TIERS
};

enum jca_cuda_status {
    JCA_CUDA_SUCCESS,
    JCA_CUDA_BAD_SIZE,        // a size is negative, or one but the batch is 0
    JCA_CUDA_BAD_TIER,        // not one of jca_cuda_tier
    JCA_CUDA_BAD_DROPOUT,     // the threshold is outside [0, 65536]
    JCA_CUDA_TOO_LARGE,       // a size, a grid or one sample of a matrix exceeds 2^31 - 128
    JCA_CUDA_NO_WORKSPACE,    // the plan needs more bytes of workspace than were given
    JCA_CUDA_BAD_DEVICE,      // launch.h: the index of the device is outside [0, 64)
    JCA_CUDA_NO_DRIVER,       // launch.h: jca_cuda_problem() says why
    JCA_CUDA_FAILED,          // launch.h: the driver refused a call; jca_cuda_error() names it
    JCA_CUDA_BAD_MODALITIES,  // a layer has 1 to 12 modalities and 0, 1 or as many joint features
};

// The kernels of a tier, in kernels.cu under these names in lower case.
enum jca_cuda_kernel {
    JCA_CUDA_TANH_ATTENTION_FORWARD,
    JCA_CUDA_TANH_ATTENTION_COLUMNS,
    JCA_CUDA_TANH_ATTENTION_ROWS,
    JCA_CUDA_NARROW_ATTENTION_FORWARD,   // of all tiers but TF32
    JCA_CUDA_NARROW_ATTENTION_BACKWARD,  // of the 16-bit tiers
    JCA_CUDA_SUM_PARTS,
    JCA_CUDA_JOINT_AFFINITY_FORWARD,
    JCA_CUDA_JOINT_AFFINITY_BACKWARD,
    JCA_CUDA_JOINT_COATTENTION_FORWARD,
    JCA_CUDA_JOINT_COATTENTION_PREPARE,
    JCA_CUDA_JOINT_COATTENTION_ATTENTION,
    JCA_CUDA_JOINT_COATTENTION_FINISH,
    JCA_CUDA_JOINT_COATTENTION_SUMS,
    JCA_CUDA_RELEASED_ACTIVATION,
    JCA_CUDA_VISUAL_REDUCTION_FORWARD,
    JCA_CUDA_VISUAL_REDUCTION_BACKWARD,
    JCA_CUDA_KERNELS
};

// A matrix of each sample; strides in elements.
typedef struct {
    uint64_t address;
    int64_t strides[3];  // of batch, row and column
} jca_cuda_matrix;

// out = tanh(scale q kᵀ) v with q (batch, m, n), k (batch, l, n), v (batch or 1, l, d).
typedef struct {
    int64_t batch, m, l, n, d;
    int32_t tier;
    int32_t shared_v;  // 1: v and dv have one matrix for all samples
    double scale;
    int64_t dropout_threshold;  // of 65536
    uint64_t seed;              // address of the int64 seed of the dropout mask; 0: no dropout
    jca_cuda_matrix q, k, v;
    jca_cuda_matrix out;         // of the forward
    jca_cuda_matrix grad_out;    // of the backward,
    jca_cuda_matrix dq, dk, dv;  // which writes contiguous gradients here
    uint64_t workspace;          // address, 16-byte aligned
    int64_t workspace_size;      // bytes
} jca_cuda_tanh_attention;

// out = relu(tanh(value cᵀ)) with c = tanh(scale keyᵀ query), query and out (batch, n, d), key and
// value (batch, n, d_x).
typedef struct {
    int64_t batch, n, d, d_x;
    int32_t tier;
    double scale;
    int64_t dropout_threshold;  // of 65536
    uint64_t seed;              // address of the int64 seed of the dropout mask; 0: no dropout
    jca_cuda_matrix query, key, value;
    jca_cuda_matrix out;                   // written by the forward, read by the backward
    jca_cuda_matrix grad_out;              // of the backward,
    jca_cuda_matrix dquery, dkey, dvalue;  // which writes contiguous gradients here
    uint64_t workspace;                    // address, 16-byte aligned
    int64_t workspace_size;                // bytes
} jca_cuda_released_attention;

// c = tanh(scale q kᵀ) with q (batch, m, n), k (batch, l, n), c (batch, m, l).
typedef struct {
    int64_t batch, m, l, n;
    int32_t tier;
    double scale;
    jca_cuda_matrix q, k, c;
    jca_cuda_matrix grad_c;  // of the backward,
    jca_cuda_matrix dq, dk;  // which writes contiguous gradients here
} jca_cuda_joint_affinity;

// weights = softmax(scale keys query), out = keysᵀ weights with query (segments, width), keys
// (segments, regions, width). A vector is a matrix of one row.
typedef struct {
    int64_t segments, regions, width;
    int32_t tier;
    double scale;
    jca_cuda_matrix query, keys, weights;
    jca_cuda_matrix out;                     // of the forward
    jca_cuda_matrix grad_out, grad_weights;  // of the backward,
    jca_cuda_matrix dquery, dkeys;  // which writes contiguous gradients here; dkeys.address 0: none
    uint64_t workspace;             // address, 16-byte aligned
    int64_t workspace_size;         // bytes
} jca_cuda_visual_reduction;

enum { JCA_CUDA_MODALITIES = 12 };  // of a layer, at most

// x (batch, n, d) of a layer; the backward writes contiguous gradients to the addresses.
typedef struct {
    int64_t d, k;  // channels and attention width
    double scale;
    jca_cuda_matrix x;
    jca_cuda_matrix w_j, w_x, w_c, w_h;  // (n, n), (k, n), (k, channels of the joint), (k, n)
    jca_cuda_matrix h;         // (batch, k, d): the forward writes it, where it has an address
    jca_cuda_matrix out;       // (batch, n, d), of the forward
    jca_cuda_matrix grad_out;  // of the backward
    uint64_t dx, dw_j, dw_x, dw_c, dw_h;
} jca_cuda_modality;

typedef struct {
    int64_t d;
    jca_cuda_matrix x;  // (batch, n, d)
    uint64_t dx;        // address of its contiguous gradient
} jca_cuda_joint;

// A whole layer: h = relu(w_x x + w_c tanh(scale xᵀ w_j joint)ᵀ), out = x + w_hᵀ h.
typedef struct {
    int64_t batch, n;
    int32_t tier;
    int32_t modalities, joints;  // joints: 0 (all modalities side by side), 1, or `modalities`
    int32_t residual;            // 0: out has no term x
    int64_t dropout_threshold;   // of 65536
    uint64_t seed;               // as in tanh attention
    jca_cuda_modality modality[JCA_CUDA_MODALITIES];
    jca_cuda_joint joint[JCA_CUDA_MODALITIES];
    uint64_t workspace;  // address, 16-byte aligned
    int64_t workspace_size;
} jca_cuda_joint_coattention;

// A kernel's parameters take 4 KB at most.
enum { JCA_CUDA_ARGUMENT_BYTES = 4096, JCA_CUDA_LAUNCHES = 4 };

typedef struct {
    int32_t kernel;  // one of jca_cuda_kernel
    uint32_t grid[3];
    uint32_t threads;
    uint32_t shared_bytes;
    uint32_t argument_bytes;
    unsigned char arguments[JCA_CUDA_ARGUMENT_BYTES];
} jca_cuda_launch_plan;

typedef struct {
    int32_t tier;
    int32_t count;
    int64_t workspace_size;  // bytes that the launches need
    jca_cuda_launch_plan launches[JCA_CUDA_LAUNCHES];
} jca_cuda_plan;

// Fill `plan`; a jca_cuda_status. With JCA_CUDA_NO_WORKSPACE, plan->workspace_size says how many
// bytes are needed. An empty batch has no launches forward.
JCA_CUDA_API int jca_cuda_plan_tanh_attention(const jca_cuda_tanh_attention* a,
                                              jca_cuda_plan* plan);
JCA_CUDA_API int jca_cuda_plan_tanh_attention_backward(const jca_cuda_tanh_attention* a,
                                                       jca_cuda_plan* plan);
JCA_CUDA_API int jca_cuda_plan_joint_affinity(const jca_cuda_joint_affinity* a,
                                              jca_cuda_plan* plan);
JCA_CUDA_API int jca_cuda_plan_joint_affinity_backward(const jca_cuda_joint_affinity* a,
                                                       jca_cuda_plan* plan);
JCA_CUDA_API int jca_cuda_plan_joint_coattention(const jca_cuda_joint_coattention* a,
                                                 jca_cuda_plan* plan);
JCA_CUDA_API int jca_cuda_plan_joint_coattention_backward(const jca_cuda_joint_coattention* a,
                                                          jca_cuda_plan* plan);
JCA_CUDA_API int jca_cuda_plan_released_attention(const jca_cuda_released_attention* a,
                                                  jca_cuda_plan* plan);
JCA_CUDA_API int jca_cuda_plan_released_attention_backward(const jca_cuda_released_attention* a,
                                                           jca_cuda_plan* plan);
JCA_CUDA_API int jca_cuda_plan_visual_reduction(const jca_cuda_visual_reduction* a,
                                                jca_cuda_plan* plan);
JCA_CUDA_API int jca_cuda_plan_visual_reduction_backward(const jca_cuda_visual_reduction* a,
                                                         jca_cuda_plan* plan);
JCA_CUDA_API int jca_cuda_abi_version(void);
JCA_CUDA_API const char* jca_cuda_status_string(int status);
JCA_CUDA_API const char* jca_cuda_kernel_name(int kernel);

#ifdef __cplusplus
}
#endif
