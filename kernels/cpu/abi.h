// The C ABI of libjca_cpu: plain structs, integer status codes, no torch header and no exception
// across the border. Every argument block begins with its own size, so that a library and a caller
// of different versions refuse each other.
#pragma once

#include <stdint.h>

#define JCA_ABI_VERSION 1

#define JCA_OK 0
#define JCA_BAD_SIZE 1      // argument block of another version
#define JCA_BAD_DTYPE 2     // dtype code outside JCA_FLOAT32..JCA_FLOAT16
#define JCA_BAD_SHAPE 3     // a size below 1 (the batch: below 0)
#define JCA_NULL_POINTER 4  // a tensor without data
#define JCA_NO_MEMORY 5     // scratch could not be allocated
#define JCA_BAD_ISA 6  // JCA_FAST_ISA names a level that this processor or this build does not have
#define JCA_BAD_THRESHOLD 7  // dropout threshold outside 0..65536
#define JCA_STATUS_COUNT 8

#define JCA_FLOAT32 0
#define JCA_FLOAT64 1
#define JCA_BFLOAT16 2
#define JCA_FLOAT16 3

#define JCA_EPILOGUE_NONE 0
#define JCA_EPILOGUE_RELU_TANH 1  // out = relu(tanh(o)): the released form

#ifdef __cplusplus
extern "C" {
#endif

// A matrix per sample: element (b, r, c) is data[b * stride[0] + r * stride[1] + c * stride[2]].
// Strides count elements.
typedef struct {
    void* data;
    int64_t stride[3];
} jca_matrix;

// out = epilogue(keep * (mask o tanh(scale q k^T)) v)
typedef struct {
    int64_t struct_size;
    int64_t dtype;
    int64_t batch, m, l, n, d;
    int64_t shared_v;  // 1: v has one sample for the whole batch, and so has dv
    int64_t epilogue;
    int64_t threshold;  // dropout in 1/65536; 0 = off
    int64_t seed;
    double scale;
    jca_matrix q, k, v;  // (B, M, N), (B, L, N), (B or 1, L, D)
    jca_matrix out;   // (B, M, D): written by forward, read by backward when there is an epilogue
    jca_matrix dout;  // (B, M, D): backward only
    jca_matrix dq, dk, dv;
} jca_tanh_attention;

// c = tanh(scale q k^T), materialised; backward: ds = dc (1 - c^2) scale, dq = ds k, dk = ds^T q
typedef struct {
    int64_t struct_size;
    int64_t dtype;
    int64_t batch, m, l, n;
    double scale;
    jca_matrix q, k;  // (B, M, N), (B, L, N)
    jca_matrix c;     // (B, M, L)
    jca_matrix dc, dq, dk;
} jca_affinity;

typedef struct {
    void* data;
    int64_t stride[2];
} jca_weight;

// One modality of the paper's layer.
typedef struct {
    int64_t width;        // d_x
    int64_t joint_width;  // d
    int64_t attention;    // k
    double scale;
    jca_matrix x, joint;  // (B, N, d_x), (B, N, d); joint.data null: the concatenation of all x
    jca_weight w_j, w_x, w_c, w_h;  // (N, N), (k, N), (k, d), (k, N)
    jca_matrix h;                   // (B, k, d_x): written by forward unless null, read by backward
    jca_matrix out;                 // (B, N, d_x): the result; in the backward its gradient
    jca_matrix dx, djoint;          // djoint.data null where another modality holds the shared one
    jca_weight dw_j, dw_x, dw_c, dw_h;
} jca_modality;

// out = x + w_h^T relu(w_x x + w_c (mask o tanh(scale x^T w_j joint))^T) for every modality
typedef struct {
    int64_t struct_size;
    int64_t dtype;
    int64_t batch, n;
    int64_t count;   // modalities
    int64_t joints;  // 0: concatenation, 1: one for all, count: one each
    int64_t threshold;
    int64_t seed;              // of modality 0; modality i uses seed + i * 0x9e3779b97f4a7c15
    jca_modality modality[1];  // really `count` of them; struct_size covers them all
} jca_coattention;

// a = softmax(scale regions query), out = a regions; backward: dq and, unless its data is null,
// dregions
typedef struct {
    int64_t struct_size;
    int64_t dtype;
    int64_t samples, regions, width;
    double scale;
    jca_weight query;    // (S, D)
    jca_matrix keys;     // (S, R, D)
    jca_weight weights;  // (S, R): written by forward, read by backward
    jca_weight out;      // (S, D)
    jca_weight dout, dweights;
    jca_weight dquery;
    jca_matrix dkeys;
} jca_reduction;

#ifdef __cplusplus
}
#endif
