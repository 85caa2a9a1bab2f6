// The kernels of a whole paper layer, for all modalities at once. For a modality X with its joint
// feature J, given or in parts that are the modalities:
//
//     Q = Xᵀ W_j      P = tanh(scale Q J)      H = relu(W_x X + W_c Pᵀ)      X' = X + W_hᵀ H
//
//     launch      of each modality
//     forward     Q, a walk over all parts of J, H and X'
//     prepare     Q and dH = (W_h dX') (H > 0)
//     attention   columns: dJ and dW_c of a part; rows: dQ; both as in tanh attention
//     finish      dX = dX' + W_xᵀ dH + W_j dQᵀ + dJ, and partial sums of dW_j, dW_x and dW_h
//     sums        the partial sums of all weights, and dJ of a joint feature
//
// Channels are rows: a CTA owns 128 of one sample. Matrices of any size pass block by block.
#pragma once

#include "walk.cuh"

namespace jca_cuda {

__device__ inline Matrix transposed(const Matrix& x) {
    return {x.data, x.batch_stride, x.column_stride, x.row_stride};
}

// Contiguous matrices of all samples, column behind column: the channels lie side by side.
__device__ inline Matrix packed(void* data, int rows, int columns) {
    return {data, int64_t(rows) * columns, 1, rows};
}

// x += the numbers of a matrix, where they exist; like store().
template <class T, int TILES, class Number>
__device__ void add_numbers(float (&x)[2][TILES][4], const Number* from, const Matrix& matrix,
                            int row, int rows, int column, int columns) {
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int j = 0; j < TILES; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const int r = row + row_of(m, e), c = column + column_of(j, e);
                if (r < rows && c < columns)
                    x[m][j][e] += float(from[r * matrix.row_stride + c * matrix.column_stride]);
            }
}

// The walk of a CTA. In shared memory it needs no registers.
__shared__ Walk shared_walk;

template <class F>
__device__ const Walk& change_walk(F change) {
    __syncthreads();
    if (threadIdx.x == 0) change(shared_walk);
    __syncthreads();
    return shared_walk;
}

// What all walks of modality `i` share.
__device__ inline Walk walk_of(const Layer& l, int i) {
    const Modality& m = l.modalities[i];
    Walk w{};
    w.seed = l.seed;
    w.seed_step = i * 0x9e3779b97f4a7c15u;  // each modality has its own mask
    w.n = l.n;
    w.width = m.width;
    w.batch = l.batch;
    w.n_blocks = l.n_blocks;
    w.width_blocks = (m.width + kWidth - 1) / kWidth;
    w.group = l.group;
    w.sums_group = 1;
    w.scale = m.scale;
    w.keep_scale = l.keep_scale;
    w.threshold = l.threshold;
    return w;
}

// W_cᵀ of a part: rows are channels of J.
__device__ inline Matrix part_of(const Matrix& w_c, const Part& part, int size) {
    return {static_cast<char*>(w_c.data) + int64_t(part.first) * w_c.column_stride * size, 0,
            w_c.column_stride, w_c.row_stride};
}

// The rows [owned, owned + 128) of one sample of a modality. PASS: of the tiles.
template <class T, Pass PASS = kForward>
class Channels {
  public:
    using Number = typename T::Global;

    __device__ Channels(const Layer& layer, int modality)
        : l(layer),
          m(layer.modalities[modality]),
          tiles(*reinterpret_cast<Tiles<T, PASS>*>(shared_memory)),
          modality_(modality),
          sample_(blockIdx.x / blocks()),
          owned_(blockIdx.x % blocks() * kOwned),
          warp_(threadIdx.x / 32 * 32) {}

    // The grid is as large as the largest modality needs.
    __device__ bool exist() const { return sample_ < l.batch; }

    __device__ void forward() {
        if (l.n_blocks > 1) store_queries();
        Block h;
        for (int slots = 0; slots < l.n; slots += kSlots) {
            float out[2][kSlots / 8][4] = {};
            for (int width = 0; width < m.width; width += kWidth) {
                if (slots == 0 || m.width > kWidth) attend(h, width);
                if (slots == 0 && m.h.data) store_to(m.h, h, width, m.width);
                __syncthreads();
                copy<T, kWalked, kSlots>(tiles.w, m.w_h, 0, width, m.width, slots, l.n);
                __syncthreads();
                add_product<T, kSlots>(out, h, tiles.w);
            }
            if (l.residual) add_numbers<T>(out, numbers(m.x), m.x, first(), m.rows, slots, l.n);
            store_to(m.out, out, slots, l.n);
        }
    }

    // 32 columns of Q, or behind them of dH.
    __device__ void prepare(int block) {
        const int query_blocks = (l.n + kWalked - 1) / kWalked;
        const bool is_query = block < query_blocks;
        const int column = (is_query ? block : block - query_blocks) * kWalked;
        const int columns = is_query ? l.n : m.width;
        if (column >= columns) return;
        Block x = {};
        add_matrices(x, is_query ? m.x : m.out, is_query ? transposed(m.w_j) : m.w_h, column,
                     columns, l.n);
        if (!is_query) clear_inactive(x, column);
        store_to<kColumnByColumn>(is_query ? q() : dh(), x, column, columns);
    }

    // One block of columns of dQ.
    __device__ void rows(int block) {
        const Walk& w = change_walk([&](Walk& w) {
            w = walk_of(l, modality_);
            w.a = q();
            w.b = dh();
            w.out_a = dq();
            w.owned = m.rows;
        });
        Walker<T, PASS, true> walker(w, tiles, owned_, block);
        walk_parts(walker);
        walker.store_a(sample_);
    }

    // 32 columns of dX.
    __device__ void finish(int column) {
        Block x = {};
#pragma unroll 1
        for (int term = 0; term < 2; ++term)
            add_matrices<kColumnByColumn>(x, term ? dq() : dh(), term ? m.w_j : transposed(m.w_x),
                                          column, l.n, term ? l.n : m.width);
        if (l.residual) add_numbers<T>(x, numbers(m.out), m.out, first(), m.rows, column, l.n);
        if (l.concatenated)
            for (int i = 0; i < l.count; ++i) add_part(x, l.modalities[i], column);
        store_to<kColumnByColumn>(packed(m.dx, m.rows, l.n), x, column, l.n);
    }

  private:
    __device__ int blocks() const { return (m.rows + kOwned - 1) / kOwned; }
    __device__ int first() const { return owned_ + warp_; }  // row of the warp
    __device__ Matrix q() const { return packed(m.q, m.rows, l.n); }
    __device__ Matrix dh() const { return packed(m.dh, m.rows, m.width); }
    __device__ Matrix dq() const { return packed(m.dq, m.rows, l.n); }

    __device__ Number* numbers(const Matrix& x) const {
        return static_cast<Number*>(x.data) + sample_ * x.batch_stride;
    }

    template <Order ORDER = kAnyOrder, int TILES>
    __device__ void store_to(const Matrix& to, const float (&x)[2][TILES][4], int column,
                             int columns) {
        store<ORDER>(x, numbers(to), to, 1.0f, first(), m.rows, column, columns,
                     rows_of_warp(tiles.a));
    }

    // sum += left rightᵀ over their `size` columns, for the rows [column, column + 32) of `right`,
    // which all samples share. ORDER is that of `left`.
    template <Order ORDER = kAnyOrder>
    __device__ void add_matrices(Block& sum, const Matrix& left, const Matrix& right, int column,
                                 int columns, int size) {
#pragma unroll 1
        for (int k = 0; k < size; k += kSlots) {
            __syncthreads();
            copy<T, kOwned, kSlots, ORDER>(tiles.a, left, sample_, owned_, m.rows, k, size);
            copy<T, kWalked, kSlots>(tiles.c, right, 0, column, columns, k, size);
            __syncthreads();
            add_scores<T, kSlots>(sum, tiles.a, tiles.c);
        }
    }

    // One block of columns of H.
    __device__ void attend(Block& h, int width) {
        if (l.n_blocks == 1) put_queries();
        const Walk& w = change_walk([&](Walk& w) {
            w = walk_of(l, modality_);
            w.a = q();
            w.owned = m.rows;
        });
        Walker<T, PASS, true> walker(w, tiles, owned_, width / kWidth);
        walk_parts(walker);
        for_each([&](int i, int j, int e) { h[i][j][e] = walker.sum_b()[i][j][e] * w.keep_scale; });
        add_matrices(h, m.x, m.w_x, width, m.width, l.n);
        for_each([&](int i, int j, int e) {
            // An Inf in X times the zeros beyond W_x is NaN. A NaN stays.
            if (h[i][j][e] < 0 || width + column_of(j, e) >= m.width) h[i][j][e] = 0;
        });
    }

    __device__ void walk_parts(Walker<T, PASS, true>& walker) {
        for (int i = 0; i < l.parts_each; ++i) {
            change_walk([&](Walk& w) {
                const Part& part = l.parts[m.first_part + i];
                w.c = part.x;
                w.d = part_of(m.w_c, part, sizeof(Number));
                w.walked = part.rows;
                w.first = part.first;
            });
            walker.walk(sample_);
        }
    }

    // Q in place of the owned rows, in one block of columns.
    __device__ void put_queries() {
        Block x = {};
        add_matrices(x, m.x, transposed(m.w_j), 0, l.n, l.n);
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int j = 0; j < kSlots / 8; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e)
                    tiles.a.set(warp_ + row_of(i, e), column_of(j, e),
                                column_of(j, e) < l.n ? x[i][j][e] * m.scale : 0.0f);
    }

    __device__ void store_queries() {
        for (int column = 0; column < l.n; column += kWalked) {
            Block x = {};
            add_matrices(x, m.x, transposed(m.w_j), column, l.n, l.n);
            store_to<kColumnByColumn>(q(), x, column, l.n);
        }
    }

    // The gradient passes where H > 0, or is NaN.
    __device__ void clear_inactive(Block& x, int column) {
        for_each([&](int i, int j, int e) {
            const int row = first() + row_of(i, e), width = column + column_of(j, e);
            if (row >= m.rows || width >= m.width) return;
            const Number h = numbers(m.h)[row * m.h.row_stride + width * m.h.column_stride];
            if (float(h) <= 0) x[i][j][e] = 0;
        });
    }

    // x += dJ of a modality, where J is X.
    __device__ void add_part(Block& x, const Modality& other, int column) {
        const Matrix dj = packed(other.dj, other.joint, l.n);
        const float* from = other.dj + sample_ * dj.batch_stride + l.parts[modality_].first;
        add_numbers<T>(x, from, dj, first(), m.rows, column, l.n);
    }

    const Layer& l;
    const Modality& m;
    Tiles<T, PASS>& tiles;
    const int modality_;
    const int sample_;
    const int owned_;  // first owned row of the CTA
    const int warp_;   // and of the warp, from there
};

}  // namespace jca_cuda
