// The C ABI of libjca_cpu: plain structs, integer status codes, no torch header and no exception across the border.
// Every argument block begins with its own size, so that a library and a caller of different versions refuse each other.
#pragma once

#include <stdint.h>

#define JCA_ABI_VERSION 1
#define JCA_MAX_INPUTS 8

#define JCA_OK 0
#define JCA_BAD_SIZE 1       // argument block of another version
#define JCA_BAD_DTYPE 2      // dtype code outside JCA_FLOAT32..JCA_FLOAT16
#define JCA_BAD_SHAPE 3      // a negative size, or an inner size of zero
#define JCA_NULL_POINTER 4   // a non-empty tensor without data
#define JCA_NO_MEMORY 5      // scratch could not be allocated
#define JCA_BAD_ISA 6        // JCA_FAST_ISA names a level that this processor or this build does not have
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

// A matrix per sample: element (b, r, c) is data[b * stride[0] + r * stride[1] + c * stride[2]]. Strides count elements.
typedef struct {
    void* data;
    int64_t stride[3];
} jca_matrix;

// out = epilogue(keep * (mask o tanh(scale q k^T)) v)
typedef struct {
    int64_t struct_size;
    int64_t dtype;
    int64_t batch, m, l, n, d;
    int64_t shared_v;   // 1: v has one sample for the whole batch, and so has dv
    int64_t epilogue;
    int64_t threshold;  // dropout in 1/65536; 0 = off
    int64_t seed;
    double scale;
    jca_matrix q, k, v;  // (B, M, N), (B, L, N), (B or 1, L, D)
    jca_matrix out;      // (B, M, D): written by forward, read by backward when there is an epilogue
    jca_matrix dout;     // (B, M, D): backward only
    jca_matrix dq, dk, dv;
} jca_tanh_attention;

#ifdef __cplusplus
}
#endif
