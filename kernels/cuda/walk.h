// The parameters of the kernels, as the host packs them and a kernel reads them.
#pragma once

#include <stdint.h>

namespace jca_cuda {

// Matrices of all samples; strides in elements, that of the batch 0 where samples share a matrix.
// One sample spans less than 2^31 elements.
struct Matrix {
    void* data;
    int64_t batch_stride;
    int32_t row_stride, column_stride;
};

// A CTA owns kOwned rows of one side and walks over all rows of the other side, kWalked at a time:
//     S = a cᵀ        dP = b dᵀ        out_a = scale dS c        out_b = P d
struct Walk {
    Matrix a, b;          // owned rows, N and D columns; the forward does not read b
    Matrix c, d;          // walked rows, N and D columns
    Matrix out_a, out_b;  // owned rows, N and D columns
    Matrix part;          // walked rows, N columns, float32: for each block of owned rows
    int64_t part_stride;  // between these
    const int64_t* seed;  // of the dropout mask; null: no dropout
    uint64_t seed_step;   // added to it
    int32_t first;        // the column of the mask at which the rows of k begin
    int32_t owned, walked, n, width, batch;
    int32_t n_blocks, width_blocks;  // of kSlots and kWidth columns
    int32_t group;                   // samples of a CTA
    int32_t sums_group;  // 1: out_b has one float32 matrix for each group, the sum of its samples
    int32_t activate;    // 1: the forward stores relu(tanh(out_b))
    float scale, keep_scale;
    uint32_t threshold;
};

// The joint affinity: a CTA owns kOwned rows of one side. Forward, it walks over kSpan rows of the
// other side, and `out` is C; backward, over all of them, and `out` is the gradient of `a`.
struct Affinity {
    Matrix a, c;          // owned and walked rows, N columns; the backward does not read a
    Matrix values, grad;  // C and dC (owned, walked) of the backward
    Matrix out;
    int32_t owned, walked, n, n_blocks;
    float scale;
};

// out = grad (T > 0) (1 - T²), the gradient in front of the activation T = relu(tanh(.)).
struct Activation {
    Matrix grad, activated, out;  // all rows x columns
    int32_t rows, columns;
};

// The visual reduction of R regions: a CTA owns a segment. Matrices are (S, R, D); a vector is a
// matrix of one row.
struct Visual {
    Matrix query, keys, weights;
    Matrix grad_out, grad_weights;  // of the backward
    Matrix out;                     // or the gradient of the query
    Matrix dkeys;                   // of the backward; null: not needed
    float* scratch;                 // (blocks, S, R): scores, or g of the backward
    int32_t segments, regions, width;
    int32_t team;                   // warps that share a row: 1, 2 or 4
    int32_t blocks;                 // of as many columns as a team holds
    int32_t vectors, grad_vectors;  // whether rows of keys, and of dkeys, are accessed by 16 bytes
    float scale;
};

// out (rows, columns) = the sum of `count` float32 matrices, in their order.
struct Sum {
    const float* parts;  // contiguous, like out
    void* out;
    int64_t elements;
    int32_t count;
};

constexpr int kModalities = 12;  // of a layer, at most

// A modality of a layer. Rows are its channels. Memory without strides is contiguous.
struct Modality {
    Matrix x;                          // (rows, N)
    Matrix w_j, w_x, w_c, w_h;         // (N, N), (width, N), (width, joint), (width, N)
    Matrix h;                          // (rows, width); without data it is not stored
    Matrix out;                        // (rows, N): X' of the forward, its gradient in the backward
    void *q, *dq, *dh;                 // (N, rows), (N, rows), (width, rows)
    void* dx;                          // (N, rows)
    float* dj;                         // (N, joint)
    float *dw_j, *dw_x, *dw_c, *dw_h;  // partial sums of each warp or, of dw_c, each group
    int32_t rows, width, joint;
    int32_t first_part;
    float scale;
};

// Channels [first, first + rows) of a joint feature.
struct Part {
    Matrix x;  // (rows, N)
    int32_t rows, first;
};

struct Layer {
    Modality modalities[kModalities];
    Part parts[kModalities];
    const int64_t* seed;   // of the dropout mask; null: no dropout
    int32_t count;         // of the modalities
    int32_t parts_each;    // parts of each modality's joint feature
    int32_t concatenated;  // 1: the parts are the modalities
    int32_t residual;      // 1: X' has the term X
    int32_t batch, n, n_blocks;
    int32_t width_blocks;   // of the widest modality
    int32_t group, groups;  // samples of a partial sum, and their number
    float keep_scale;
    uint32_t threshold;
};

struct Sums {
    Sum sums[5 * kModalities];
};

enum Pass { kForward, kColumns, kRows };

// What products read of a tile of right operands, and of those of c and d.
enum Use { kByRows = 1, kByColumns = 2, kBothWays = 3 };

constexpr Use use_of_c(Pass pass) {
    return pass == kForward ? kByRows : kBothWays;
}
constexpr Use use_of_d(Pass pass) {
    return pass == kForward ? kByColumns : pass == kColumns ? kBothWays : kByRows;
}

constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int kOwned = 32 * kWarps;                      // rows of a CTA, 32 for each warp
constexpr int kWalked = 32;                              // rows of a step
constexpr int kStageForward = 128, kStageBackward = 64;  // rows of a step of narrow.cuh
constexpr int kSpan = 256;         // rows that a CTA of the affinity walks over
constexpr int kAffinityPad = 8;    // numbers behind each row of a tile of C
constexpr int kSlots = 16;         // columns of a block of a and c
constexpr int kWidth = 32;         // columns of a block of b and d
constexpr int kStoreBytes = 1536;  // shared memory of a warp through which it stores 32 rows

constexpr int kLane = 16;           // numbers of a row that a lane of the visual reduction holds
constexpr int kReach = 32 * kLane;  // and a warp
constexpr int kTogether = 2;        // rows that it reads at once

// Shared memory of the visual reduction.
struct VisualTiles {
    float parts[kWarps][kLane][32];  // of a result
    float maximum[kWarps], total[kWarps];
    float partial[2][kWarps][kTogether];  // of the scores of rows that a team shares
};

}  // namespace jca_cuda
