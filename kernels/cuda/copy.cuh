// From matrices in global memory to tiles in shared memory, as the numbers of a tier.
#pragma once

#include "tiers.cuh"
#include "walk.h"

namespace jca_cuda {

template <class T>
__device__ const T* sample_of(const Matrix& x, int sample) {
    return static_cast<const T*>(x.data) + sample * x.batch_stride;
}

// A piece of a matrix: `rows` x `columns` of its numbers exist.
struct Piece {
    int row_stride, column_stride;
    int rows, columns;
    float factor;

    __device__ bool has(int row, int column) const { return row < rows && column < columns; }
    __device__ int offset(int row, int column) const {
        return row * row_stride + column * column_stride;
    }
    __device__ Piece transposed() const {
        return {column_stride, row_stride, columns, rows, factor};
    }
};

// Whether 16 bytes of numbers along a row are one access, in each of the first `columns` columns.
template <class Number>
__device__ bool has_vectors(const Number* from, const Piece& piece, int columns) {
    constexpr int kVector = 16 / sizeof(Number);
    return reinterpret_cast<uint64_t>(from) % 16 == 0 && piece.column_stride == 1 &&
           piece.row_stride % kVector == 0 &&
           (piece.columns >= columns || piece.columns % kVector == 0);
}

// 16 bytes of numbers along the rows or the columns of a matrix, where they are contiguous.
template <class T, int ROWS, int COLUMNS, bool ALONG_ROWS>
__device__ void copy_vectors(typename T::Element (*tile)[COLUMNS + T::kPad],
                             const typename T::Global* from, const Piece& piece) {
    constexpr int kVector = 16 / sizeof(typename T::Global);
    constexpr int kVectors = ROWS * COLUMNS / kVector;
#pragma unroll 2
    for (int first = 0; first < kVectors; first += kThreads) {
        const int i = first + threadIdx.x;
        if (kVectors % kThreads && i >= kVectors) break;
        const int row = ALONG_ROWS ? i % (ROWS / kVector) * kVector : i / (COLUMNS / kVector);
        const int column = ALONG_ROWS ? i / (ROWS / kVector) : i % (COLUMNS / kVector) * kVector;
        union {
            uint4 bytes = {0, 0, 0, 0};
            typename T::Global x[kVector];
        };
        if (piece.has(row, column))
            bytes = *reinterpret_cast<const uint4*>(from + piece.offset(row, column));
#pragma unroll
        for (int e = 0; e < kVector; ++e)
            tile[row + ALONG_ROWS * e][column + !ALONG_ROWS * e] =
                T::element(T::read(x[e]) * piece.factor);
    }
}

template <class T, int ROWS, int COLUMNS>
__device__ void copy_numbers(typename T::Element (*tile)[COLUMNS + T::kPad],
                             const typename T::Global* from, const Piece& piece) {
    const bool along_rows = piece.row_stride == 1;  // neighbouring lanes read neighbouring memory
#pragma unroll 2
    for (int first = 0; first < ROWS * COLUMNS; first += kThreads) {
        const int i = first + threadIdx.x;
        const int row = along_rows ? i % ROWS : i / COLUMNS;
        const int column = along_rows ? i / ROWS : i % COLUMNS;
        const float x = piece.has(row, column) ? T::read(from[piece.offset(row, column)]) : 0.0f;
        tile[row][column] = T::element(x * piece.factor);
    }
}

// Copy ROWS x COLUMNS numbers from (row, column) on; numbers that do not exist become zero.
template <class T, int ROWS, int COLUMNS>
__device__ void copy(typename T::Element (*tile)[COLUMNS + T::kPad], const Matrix& x, int sample,
                     int row, int rows, int column, int columns, float factor = 1) {
    constexpr int kVector = 16 / sizeof(typename T::Global);
    const Piece piece{x.row_stride, x.column_stride, rows - row, columns - column, factor};
    const auto* from = sample_of<typename T::Global>(x, sample) + piece.offset(row, column);
    if (reinterpret_cast<uint64_t>(from) % 16 == 0 && x.row_stride == 1 &&
        x.column_stride % kVector == 0 && (piece.rows >= ROWS || piece.rows % kVector == 0))
        copy_vectors<T, ROWS, COLUMNS, true>(tile, from, piece);
    else if (has_vectors(from, piece, COLUMNS))
        copy_vectors<T, ROWS, COLUMNS, false>(tile, from, piece);
    else
        copy_numbers<T, ROWS, COLUMNS>(tile, from, piece);
}

// A thread's asynchronous copies from a matrix to a tile, ROWS rows at a time, numbers as they are.
// arrived() waits for them.
template <class T, int ROWS, int COLUMNS>
class Stream {
  public:
    using Number = typename T::Global;

    // From the columns from `column` on to the tile.
    __device__ void begin(typename T::Element (*tile)[COLUMNS + T::kPad], const Matrix& x,
                          int sample, int rows, int column, int columns) {
        const auto* first = sample_of<Number>(x, sample);
        const Piece piece{x.row_stride, x.column_stride, rows, columns - column, 1};
        is_async_ = has_vectors(first, piece, COLUMNS);
        const int r = threadIdx.x / kAcross, c = threadIdx.x % kAcross * kVector;
        from_ = first + r * x.row_stride + column + c;
        row_stride_ = x.row_stride;
        to_ = keep(shared_address(&tile[r][c]));
        left_ = column + c < columns ? rows - r : 0;
    }

    // Whether 16 bytes along a row are one access.
    __device__ bool is_async() const { return is_async_; }

    // Copy the next ROWS rows to the tile `offset` bytes further; those that do not exist become
    // zero.
    __device__ void next(unsigned offset) {
#pragma unroll
        for (int i = 0; i < ROWS; i += kStep) {
            asm volatile(
                "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to_ + offset + i * kRowBytes),
                "l"(from_), "r"(left_ > i ? 16 : 0)
                : "memory");
            from_ += int64_t(kStep) * row_stride_;
        }
        left_ -= ROWS;
    }

  private:
    static constexpr int kVector = 16 / sizeof(Number), kAcross = COLUMNS / kVector;
    static constexpr int kStep = kThreads / kAcross;  // rows that all threads copy at a time

    static constexpr unsigned kRowBytes = sizeof(Number) * (COLUMNS + T::kPad);

    const Number* from_;  // the thread's first number of the next rows
    unsigned to_;         // and its place in the tile
    int left_;            // rows from there on
    int row_stride_;
    bool is_async_;
};

__device__ inline void arrived() {
    asm volatile("cp.async.wait_all;" ::: "memory");
}

}  // namespace jca_cuda
