// The C ABI of libjca_cpu: plain structs, integer status codes, no torch header and no exception
// across the border. Every argument block begins with its own size, so that a library and a caller
// of different versions refuse each other.
#pragma once

#include <stdint.h>

#define JCA_ABI_VERSION 4

// The list of ops. The op NAME has an argument block jca_NAME and the entry points
// jca_NAME_forward and jca_NAME_backward; every table of ops is an expansion of this list.
#define JCA_OPS(X)        \
    X(tanh_attention)     \
    X(released_attention) \
    X(tanh_dropout)       \
    X(joint_affinity)     \
    X(joint_coattention)  \
    X(visual_reduction)

#define JCA_OK 0
#define JCA_BAD_SIZE 1      // argument block of another version
#define JCA_BAD_DTYPE 2     // dtype code outside JCA_FLOAT32..JCA_FLOAT16
#define JCA_BAD_SHAPE 3     // a size below 1 (the batch: below 0)
#define JCA_NULL_POINTER 4  // a tensor without data
#define JCA_NO_MEMORY 5     // scratch could not be allocated
#define JCA_BAD_ISA 6  // JCA_FAST_ISA names a level that this processor or this build does not have
#define JCA_BAD_THRESHOLD 7  // dropout threshold outside 0..65536
#define JCA_TOO_LARGE 8      // the size of the scratch does not fit into 64 bits
#define JCA_STATUS_COUNT 9

#define JCA_FLOAT32 0
#define JCA_FLOAT64 1
#define JCA_BFLOAT16 2
#define JCA_FLOAT16 3

#ifdef __cplusplus
extern "C" {
#endif

// A matrix per sample: element (b, r, c) is data[b * stride[0] + r * stride[1] + c * stride[2]].
// Strides count elements.
typedef struct {
    void* data;
    int64_t stride[3];
} jca_matrix;

// out = keep (mask o tanh(scale q k^T)) v
typedef struct {
    int64_t struct_size;
    int64_t dtype;
    int64_t batch, m, l, n, d;
    int64_t shared_v;   // 1: v has one sample for the whole batch, and so has dv
    int64_t threshold;  // dropout in 1/65536; 0 = off
    int64_t seed;
    double scale;
    jca_matrix q, k, v;    // (B, M, N), (B, L, N), (B or 1, L, D)
    jca_matrix out, dout;  // (B, M, D)
    jca_matrix dq, dk, dv;
} jca_tanh_attention;

// out = relu(tanh(value keep (mask o tanh(scale key^T query))))
typedef struct {
    int64_t struct_size;
    int64_t dtype;
    int64_t batch, n;
    int64_t width;      // d, of query and out
    int64_t key_width;  // d_x, of key and value
    int64_t threshold;
    int64_t seed;
    double scale;
    jca_matrix query, key, value;  // (B, N, d), (B, N, d_x), (B, N, d_x)
    jca_matrix out;                // (B, N, d): written by forward, read by backward
    jca_matrix dout, dquery, dkey, dvalue;
} jca_released_attention;

// out = keep (mask o tanh(scale scores)), element by element; backward:
// dscores = keep (mask o dout) (1 - tanh^2) scale
typedef struct {
    int64_t struct_size;
    int64_t dtype;
    int64_t batch, m, l;
    int64_t threshold;
    int64_t seed;
    double scale;
    jca_matrix scores;  // (B, M, L), read by forward
    jca_matrix out;     // (B, M, L): written by forward, read by backward
    jca_matrix dout, dscores;
} jca_tanh_dropout;

// c = tanh(scale q k^T), materialised; backward: ds = dc (1 - c^2) scale, dq = ds k, dk = ds^T q
typedef struct {
    int64_t struct_size;
    int64_t dtype;
    int64_t batch, m, l, n;
    double scale;
    jca_matrix q, k;  // (B, M, N), (B, L, N)
    jca_matrix c;     // (B, M, L)
    jca_matrix dc, dq, dk;
} jca_joint_affinity;

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

// out = x + w_h^T relu(w_x x + w_c (mask o tanh(scale x^T w_j joint))^T) for every modality;
// without the residual the first x is left out, and so is its share of dx
typedef struct {
    int64_t struct_size;
    int64_t dtype;
    int64_t batch, n;
    int64_t count;   // modalities
    int64_t joints;  // 0: concatenation, 1: one for all, count: one each
    int64_t threshold;
    int64_t seed;              // of modality 0; modality i uses seed + i * 0x9e3779b97f4a7c15
    int64_t without_residual;  // 0 or 1
    jca_modality modality[1];  // really `count` of them; struct_size covers them all
} jca_joint_coattention;

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
} jca_visual_reduction;

// Each call returns JCA_OK or a status that jca_status_string explains.
#define JCA_DECLARE_ENTRY_POINTS(op)           \
    int jca_##op##_forward(const jca_##op* a); \
    int jca_##op##_backward(const jca_##op* a);
JCA_OPS(JCA_DECLARE_ENTRY_POINTS)
#undef JCA_DECLARE_ENTRY_POINTS

int jca_abi_version(void);
const char* jca_status_string(int status);
const char* jca_isa_available(void);          // comma-separated instruction sets, best first
const char* jca_isa_name(void);               // the one in use, "" before the first choice
int jca_isa_select(const char* name);         // null or "" takes the best
int jca_use_torch(const char* libtorch_cpu);  // 1: calls share torch's thread pool
const char* jca_register_ops(const char* libtorch_cpu);  // null, or a missing function
// All that a program without Python needs: ops, kernels, threads and the instruction set of
// JCA_FAST_ISA. Returns null, or the reason for a failure.
const char* jca_load(void);
const char* jca_op_schemas(void);          // those that jca_load defines, one a line
int jca_threads(void);                     // that the next call may use
int64_t jca_fma_yardstick(int64_t steps);  // runs multiply-adds at peak rate, returns how many
const char* jca_op_names(void);            // separated by blanks

#ifdef __cplusplus
}
#endif
