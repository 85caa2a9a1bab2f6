// Products of tiles: a warp's 32 rows of a left operand times rows or columns of a right one, and
// the way of their results to global memory.
#pragma once

#include "copy.cuh"
#include "tiers.cuh"

namespace jca_cuda {

typedef float Block[2][kWalked / 8][4];  // a warp's 32 x 32 numbers: 2 x 4 results of a product

template <int TILES>
__device__ void clear(float (&x)[2][TILES][4]) {
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int j = 0; j < TILES; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) x[m][j][e] = 0;
}

template <bool FRESH, int TILES>
__device__ void add(float (&sum)[2][TILES][4], const float (&low)[2][TILES][4],
                    const float (&high)[2][TILES][4]) {
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int j = 0; j < TILES; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const float x = __fadd_rn(low[m][j][e], high[m][j][e]);
                sum[m][j][e] = FRESH ? x : __fadd_rn(sum[m][j][e], x);
            }
}

// sum += left right over STEPS steps, or sum = left right where it is FRESH. `left(m, step)` is the
// operand of rows [16 m, 16 m + 16), `right(x, step, j)` gives those of the results j and j + 1.
//
// Tensor cores cut their sums toward zero. The exact tier therefore starts each sum from zero, its
// small products apart from its large ones, and adds both by adders that round.
template <class T, int STEPS, bool FRESH = false, int TILES, class Left, class Right>
__device__ void multiply(float (&sum)[2][TILES][4], Left left, Right right) {
    if constexpr (FRESH && !T::kExact) clear(sum);
    float high[2][TILES][4] = {}, low[2][TILES][4] = {};
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
        const typename T::Left a[2] = {left(0, step), left(1, step)};
#pragma unroll
        for (int j = 0; j < TILES; j += 2) {
            typename T::Right b[2];
            right(b, step, j);
#pragma unroll
            for (int m = 0; m < 2; ++m)
#pragma unroll
                for (int i = 0; i < 2; ++i)
                    if constexpr (T::kExact)
                        T::multiply(high[m][j + i], low[m][j + i], a[m], b[i]);
                    else
                        T::multiply(sum[m][j + i], a[m], b[i]);
        }
    }
    if constexpr (T::kExact) add<FRESH>(sum, low, high);
}

// s += left rightᵀ, both over COLUMNS columns of their tiles.
template <class T, int COLUMNS, class Left, class Right>
__device__ void add_scores(Block& s, const Left& left, const Right& right) {
    const int row = threadIdx.x / 32 * 32;
    multiply<T, COLUMNS / T::kStep>(
        s, [&](int m, int step) { return left.left(row + 16 * m, step * T::kStep); },
        [&](typename T::Right(&b)[2], int step, int j) {
            right.right_of_rows(b, 8 * j, step * T::kStep);
        });
}

// sum += x right, over the walked rows.
template <class T, int COLUMNS, class Right>
__device__ void add_product(float (&sum)[2][COLUMNS / 8][4], const Block& x, const Right& right) {
    multiply<T, kWalked / T::kStep>(
        sum, [&](int m, int step) { return T::left_of(x[m], step * T::kStep / 8); },
        [&](typename T::Right(&b)[2], int step, int j) {
            right.right_of_columns(b, step * T::kStep, 8 * j);
        });
}

// Where an element of a Block stands in the warp's 32 x 32 numbers.
__device__ inline int row_of(int m, int e, int lane = threadIdx.x % 32) {
    return 16 * m + lane / 4 + e / 2 * 8;
}
__device__ inline int column_of(int j, int e, int lane = threadIdx.x % 32) {
    return 8 * j + lane % 4 * 2 + e % 2;
}

// f(m, j, e) for every element of a Block.
template <class F>
__device__ void for_each(F f) {
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int j = 0; j < kWalked / 8; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) f(m, j, e);
}

template <class Number>
struct alignas(2 * sizeof(Number)) Pair {
    Number x, y;
};

// The memory of a warp's rows in the tile of owned rows, through which it stores results when it
// has read them.
template <class Tile>
__device__ void* rows_of_warp(Tile& owned) {
    constexpr unsigned kBytes = sizeof(Tile) / kWarps;
    static_assert(kBytes >= kStoreBytes && kBytes % 16 == 0);
    return reinterpret_cast<unsigned char*>(&owned) + threadIdx.x / 32 * kBytes;
}

// Store factor * x by 16 bytes along the rows or the columns of a matrix, 8 columns at a time
// through `shared`, which is the warp's own.
template <bool ALONG_ROWS, class Number, int HALVES, int TILES>
__device__ void store_vectors(const float (&x)[HALVES][TILES][4], Number* to, const Piece& piece,
                              void* shared, int lane) {
    constexpr int kVector = 16 / sizeof(Number), kLine = ALONG_ROWS ? 8 : 16 * HALVES;
    using Line = Number[kLine + kVector];
    Line* const lines = static_cast<Line*>(shared);
#pragma unroll
    for (int j = 0; j < TILES; ++j) {
        __syncwarp();
#pragma unroll
        for (int m = 0; m < HALVES; ++m)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const int row = row_of(m, e, lane), column = column_of(0, e, lane);
                lines[ALONG_ROWS ? row : column][ALONG_ROWS ? column : row] =
                    Number(x[m][j][e] * piece.factor);
            }
        __syncwarp();
#pragma unroll
        for (int first = 0; first < 16 * HALVES * 8 / kVector; first += 32) {
            const int i = first + lane;
            const int line = i / (kLine / kVector), place = i % (kLine / kVector) * kVector;
            const int row = ALONG_ROWS ? line : place, column = 8 * j + (ALONG_ROWS ? place : line);
            if (piece.has(row, column))
                *reinterpret_cast<uint4*>(to + piece.offset(row, column)) =
                    *reinterpret_cast<const uint4*>(&lines[line][place]);
        }
    }
}

// Store factor * x at `row` of the matrix and its block of columns, by pairs where it can.
template <class Number, int HALVES, int TILES>
__device__ void store_pairs(const float (&x)[HALVES][TILES][4], Number* to, const Matrix& out,
                            float factor, int row, int rows, int column, int columns,
                            int lane = threadIdx.x % 32) {
    const bool by_pairs = out.column_stride == 1 && out.row_stride % 2 == 0 && columns % 2 == 0 &&
                          reinterpret_cast<uint64_t>(to) % sizeof(Pair<Number>) == 0;
#pragma unroll
    for (int m = 0; m < HALVES; ++m)
#pragma unroll
        for (int j = 0; j < TILES; ++j)
#pragma unroll
            for (int e = 0; e < 4; e += 2) {
                const int r = row + row_of(m, e, lane), c = column + column_of(j, e, lane);
                if (r >= rows || c >= columns) continue;
                const Number first(x[m][j][e] * factor), second(x[m][j][e + 1] * factor);
                Number* at = to + r * out.row_stride + c * out.column_stride;
                if (by_pairs)
                    *reinterpret_cast<Pair<Number>*>(at) = {first, second};
                else {
                    at[0] = first;
                    if (c + 1 < columns) at[out.column_stride] = second;
                }
            }
}

// The same by 16 bytes where it can, through `shared`.
template <Order ORDER = kAnyOrder, class Number, int HALVES, int TILES>
__device__ void store(const float (&x)[HALVES][TILES][4], Number* to, const Matrix& out,
                      float factor, int row, int rows, int column, int columns, void* shared) {
    constexpr int kAny = 1 << 30;
    const int lane = keep(threadIdx.x % 32);  // no address of results waits in a register
    const Piece whole{out.row_stride, out.column_stride, rows, columns, factor};
    const Piece piece{out.row_stride, out.column_stride, rows - row, columns - column, factor};
    if (ORDER != kColumnByColumn && has_vectors(to, whole, kAny))  // the same in all warps
        store_vectors<true>(x, to + piece.offset(row, column), piece, shared, lane);
    else if (ORDER != kRowByRow && has_vectors(to, whole.transposed(), kAny))
        store_vectors<false>(x, to + piece.offset(row, column), piece, shared, lane);
    else
        store_pairs(x, to, out, factor, row, rows, column, columns, lane);
}

}  // namespace jca_cuda
