// The register-blocked inner kernels on packed tiles. All three spend their time in FMA
// instructions whose operands sit in L1: a product of rows and lanes with tanh behind it (forward),
// the same with its derivative (backward), and rank updates. Everything with a shape known at
// compile time is unrolled, so that accumulators stay in registers.
#pragma once

#include "pack.h"
#include "tanh.h"

namespace jca {
namespace JCA_ISA {
namespace {

// The part of the dropout mask that a tile sees. Rows or lanes, whichever the tile broadcasts,
// carry the other key.
struct Mask {
    const uint32_t* row_key;   // [rows of the tile]
    const uint32_t* word_key;  // [columns of the tile / 2]
    uint32_t limit;            // threshold << 16
};

template <class T>
JCA_INLINE typename Simd<T>::hash load_keys(const uint32_t* p) {
    typename Simd<T>::hash h;
    memcpy(&h, p, sizeof(h));
    return h;
}

// Two packed tiles [inner][...] whose product over `inner` a kernel forms.
template <class T>
struct Operands {
    const T *rows, *lanes;
    int64_t inner;
};

// acc[r][c] = sum_n rows[n][row[r]] * lanes[n][col[c] ...]
template <class T, int R, int V, int ROW_LD, int LANE_LD>
JCA_INLINE void dot_block(vec_t<T> (&acc)[R][V], const Operands<T>& x, const int64_t (&row)[R],
                          const int64_t (&col)[V]) {
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int c = 0; c < V; c++) acc[r][c] = vec_t<T>{};
#pragma GCC unroll 1
    for (int64_t i = 0; i < x.inner; i++) {
        vec_t<T> lanes[V];
#pragma GCC unroll 8
        for (int c = 0; c < V; c++) lanes[c] = load(x.lanes + i * LANE_LD + col[c]);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            T a = x.rows[i * ROW_LD + row[r]];
#pragma GCC unroll 8
            for (int c = 0; c < V; c++) acc[r][c] += a * lanes[c];
        }
    }
}

// The next block of rows. With dropout a block has R / 2 rows and those 16 behind them, because
// such pairs share their hash.
template <int R, bool DROP>
JCA_INLINE int64_t next_rows(int64_t j) {
    if (!DROP) return j + R;
    return (j & 15) + R / 2 == 16 ? j + 16 + R / 2 : j + R / 2;
}

// c[j][i] = mask o tanh(sum_n k[n][j] q[n][i]), lanes along i; `count` valid rows j.
template <class T, bool DROP, class F>
JCA_KERNEL void score_tile(const Operands<T>& kq, const F& fold, int64_t count, const Mask& mask,
                           T* out) {
    constexpr int R = kScoreRows, V = kVecs, W = Simd<T>::lanes;
    for (int64_t j = 0; j < count; j = next_rows<R, DROP>(j)) {
        int64_t row[R];
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) row[r] = DROP ? j + r / 2 + 16 * (r % 2) : j + r;
        for (int64_t i = 0; i < kTile; i += V * W) {
            int64_t col[V];
#pragma GCC unroll 8
            for (int c = 0; c < V; c++) col[c] = i + c * W;
            vec_t<T> acc[R][V];
            dot_block<T, R, V, kTile, kTile>(acc, kq, row, col);
#pragma GCC unroll 8
            for (int c = 0; c < V; c++) {
#pragma GCC unroll 8
                for (int r = 0; r < R; r++) acc[r][c] = tanh_of(acc[r][c], fold);
                if (DROP) {
#pragma GCC unroll 8
                    for (int r = 0; r < R; r += 2) {
                        uint32_t word = mask.word_key[(row[r] / 32) * 16 + row[r] % 16];
                        auto h = dropout_hash(load_keys<T>(mask.row_key + col[c]) ^ word);
                        acc[r][c] = keep<T>(acc[r][c], h << 16, mask.limit);
                        acc[r + 1][c] = keep<T>(acc[r + 1][c], h, mask.limit);
                    }
                }
#pragma GCC unroll 8
                for (int r = 0; r < R; r++) store(out + row[r] * kTile + col[c], acc[r][c]);
            }
        }
    }
}

// Offset of lane vector s of pair p: the two vectors of a pair lie 16 columns apart and share their
// hashes.
template <class T>
JCA_INLINE int64_t pair_offset(int64_t p, int s) {
    constexpr int W = Simd<T>::lanes, half = 16 / W;
    return ((p / half) * 2 * half + p % half + s * half) * W;
}

// Columns that a backward tile really computes for `cols` valid ones: whole register blocks of
// whole pairs.
template <class T>
JCA_INLINE int64_t padded_columns(int64_t cols) {
    constexpr int64_t step = kVecs * Simd<T>::lanes > 32 ? kVecs * Simd<T>::lanes : 32;
    return ceil_div(cols, step) * step;
}

// Backward tile, lanes along the columns j: c = mask o tanh(q^T k),
// ds = gain (mask o dout^T v) (1 - tanh^2) / 4.
template <class T, bool DROP, int COLS>
JCA_KERNEL void gradient_tile(const Operands<T>& qk, const Fold<T>& fold, const Operands<T>& gv,
                              T gain, int64_t rows, int64_t cols, const Mask& mask, T* c_out,
                              T* ds_out) {
    constexpr int R = kScoreRows, V = kVecs, W = Simd<T>::lanes;
    const int64_t pairs = padded_columns<T>(cols) / (2 * W);
    for (int64_t i = 0; i < rows; i += R) {
        int64_t row[R];
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) row[r] = i + r;
        for (int64_t p = 0; p < pairs; p += V / 2) {
            int64_t col[V];
#pragma GCC unroll 8
            for (int c = 0; c < V; c++) col[c] = pair_offset<T>(p + c / 2, c % 2);
            vec_t<T> acc[R][V];
            dot_block<T, R, V, kTile, COLS>(acc, qk, row, col);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++)
#pragma GCC unroll 8
                for (int c = 0; c < V; c++) {
                    vec_t<T> slope;
                    store(c_out + row[r] * COLS + col[c], tanh_of<T>(acc[r][c], fold, slope));
                    store(ds_out + row[r] * COLS + col[c], slope);
                }
            dot_block<T, R, V, kTile, COLS>(acc, gv, row, col);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
#pragma GCC unroll 8
                for (int c = 0; c < V; c += 2) {
                    typename Simd<T>::hash h{};
                    if (DROP)
                        h = dropout_hash(load_keys<T>(mask.word_key + (p + c / 2) * W) ^
                                         mask.row_key[row[r]]);
#pragma GCC unroll 2
                    for (int s = 0; s < 2; s++) {
                        T* pc = c_out + row[r] * COLS + col[c + s];
                        T* ps = ds_out + row[r] * COLS + col[c + s];
                        vec_t<T> g = acc[r][c + s];
                        if (DROP) {
                            g = keep<T>(g, s ? h : h << 16, mask.limit);
                            store(pc, keep<T>(load(pc), s ? h : h << 16, mask.limit));
                        }
                        store(ps, g * load(ps) * gain);
                    }
                }
            }
        }
    }
}

// out[r][lanes] += sum_i coef[r][i] x[i][lanes] for R rows and the first `cols` lanes. The sum over
// one tile starts at zero and is added once: one running sum over the whole contraction would cost
// more accuracy than tanh does. COEF_LD is the row length of coef where it is known, 0 where
// `coef_ld` says it.
template <class T, int R, int LD, int COEF_LD>
JCA_KERNEL void rank_rows(const T* coef, int64_t coef_ld, const T* x, int64_t count, int64_t cols,
                          T* out) {
    constexpr int V = kVecs, W = Simd<T>::lanes;
    const int64_t ld = COEF_LD ? COEF_LD : coef_ld;
    for (int64_t j = 0; j < cols; j += V * W) {
        vec_t<T> acc[R][V] = {};
#pragma GCC unroll 1
        for (int64_t i = 0; i < count; i++) {
            vec_t<T> xs[V];
#pragma GCC unroll 8
            for (int c = 0; c < V; c++) xs[c] = load(x + i * LD + j + c * W);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                T a = coef[r * ld + i];
#pragma GCC unroll 8
                for (int c = 0; c < V; c++) acc[r][c] += a * xs[c];
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 8
            for (int c = 0; c < V; c++) {
                T* p = out + r * LD + j + c * W;
                store(p, load(p) + acc[r][c]);
            }
    }
}

// The same for any number of rows, cut into balanced blocks (32 -> 6,6,5,5,5,5), never full ones
// and a small rest.
template <class T, int LD, int COEF_LD = kTile>
void rank_update(const T* coef, int64_t rows, const T* x, int64_t count, int64_t cols, T* out,
                 int64_t coef_ld = COEF_LD) {
    const int64_t blocks = ceil_div(rows, kRankRows);
    for (int64_t b = 0, r = 0; b < blocks; b++) {
        const int64_t size = (rows - r + blocks - b - 1) / (blocks - b);
        const T* a = coef + r * coef_ld;
        T* o = out + r * LD;
        switch (size) {
            case 1: rank_rows<T, 1, LD, COEF_LD>(a, coef_ld, x, count, cols, o); break;
            case 2: rank_rows<T, 2, LD, COEF_LD>(a, coef_ld, x, count, cols, o); break;
            case 3: rank_rows<T, 3, LD, COEF_LD>(a, coef_ld, x, count, cols, o); break;
            case 4: rank_rows<T, 4, LD, COEF_LD>(a, coef_ld, x, count, cols, o); break;
            case 5: rank_rows<T, 5, LD, COEF_LD>(a, coef_ld, x, count, cols, o); break;
            default: rank_rows<T, kRankRows, LD, COEF_LD>(a, coef_ld, x, count, cols, o);
        }
        r += size;
    }
}

constexpr int kLaneRows = kScoreRows == 4 && kVecs == 4 ? 4 : 2;

// sums[i][n] (vectors, lanes not yet added) += ds[i][lanes] k[n][lanes] for kLaneRows rows and C
// inner indices.
template <class T, int C, int LD>
JCA_INLINE void lane_block(const T* ds, const T* k, int64_t cols, vec_t<T>* sums, int64_t n) {
    constexpr int R = kLaneRows, W = Simd<T>::lanes;
    vec_t<T> acc[R][C];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) acc[r][c] = sums[r * n + c];
#pragma GCC unroll 1
    for (int64_t j = 0; j < cols; j += W) {
        vec_t<T> x[R];
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) x[r] = load(ds + r * LD + j);
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) {
            vec_t<T> y = load(k + c * LD + j);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) acc[r][c] += x[r] * y;
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) sums[r * n + c] = acc[r][c];
}

// dq of one tile, as unreduced lanes: a horizontal sum per element would cost as much as the
// products.
template <class T, int LD>
JCA_KERNEL void lane_update(const T* ds, const T* k, int64_t n, int64_t rows, int64_t cols,
                            vec_t<T>* sums) {
    const int64_t blocks = ceil_div(n, kRankRows);
    for (int64_t i = 0; i < rows; i += kLaneRows) {
        for (int64_t b = 0, c = 0; b < blocks; b++) {
            const int64_t size = (n - c + blocks - b - 1) / (blocks - b);
            const T *x = ds + i * LD, *y = k + c * LD;
            vec_t<T>* s = sums + i * n + c;
            switch (size) {
                case 1: lane_block<T, 1, LD>(x, y, cols, s, n); break;
                case 2: lane_block<T, 2, LD>(x, y, cols, s, n); break;
                case 3: lane_block<T, 3, LD>(x, y, cols, s, n); break;
                case 4: lane_block<T, 4, LD>(x, y, cols, s, n); break;
                case 5: lane_block<T, 5, LD>(x, y, cols, s, n); break;
                default: lane_block<T, kRankRows, LD>(x, y, cols, s, n);
            }
            c += size;
        }
    }
}

// dq[n][i] = sum of the lanes of sums[i][n]
template <class T>
JCA_KERNEL void reduce_lanes(const vec_t<T>* sums, int64_t n, int64_t rows, T* dq) {
    constexpr int W = Simd<T>::lanes;
    for (int64_t i = 0; i < rows; i += W)
        for (int64_t c = 0; c < n; c++) {
            vec_t<T> x[W];
#pragma GCC unroll 16
            for (int r = 0; r < W; r++) x[r] = sums[(i + r) * n + c];
            store(dq + c * kTile + i, lane_sums<T>(x));
        }
}

}  // namespace
}  // namespace JCA_ISA
}  // namespace jca
