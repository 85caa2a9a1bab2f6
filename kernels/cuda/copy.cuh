// From matrices in global memory to tiles in shared memory, as the numbers of a tier.
#pragma once

#include "exact.cuh"
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

// threadIdx.x. In the exact tier each step computes addresses again from it: they would take the
// registers of products.
template <class T>
__device__ int thread() {
    const int i = threadIdx.x;
    return std::is_same_v<T, Exact> ? keep(i) : i;
}

// By 16 bytes of numbers along rows or down columns of a matrix, where they are contiguous.
template <class T, int ROWS, int COLUMNS, bool DOWN, class Tile>
__device__ void copy_vectors(Tile& tile, const typename T::Global* from, const Piece& piece) {
    constexpr int kVector = 16 / sizeof(typename T::Global);
    constexpr int kLines = Tile::template kLines<DOWN>;
    constexpr int kPatches = ROWS * COLUMNS / kVector / kLines;
#pragma unroll 2
    for (int first = 0; first < kPatches; first += kThreads) {
        const int i = first + thread<T>();
        if (kPatches % kThreads && i >= kPatches) break;
        const int row = DOWN ? i % (ROWS / kVector) * kVector : i / (COLUMNS / kVector) * kLines;
        const int column = DOWN ? i / (ROWS / kVector) * kLines : i % (COLUMNS / kVector) * kVector;
        float numbers[kLines][kVector];
#pragma unroll
        for (int line = 0; line < kLines; ++line) {
            const int r = row + !DOWN * line, c = column + DOWN * line;
            union {
                uint4 bytes = {0, 0, 0, 0};
                typename T::Global x[kVector];
            };
            if (piece.has(r, c)) bytes = *reinterpret_cast<const uint4*>(from + piece.offset(r, c));
#pragma unroll
            for (int e = 0; e < kVector; ++e) numbers[line][e] = T::read(x[e]) * piece.factor;
        }
        tile.template put<DOWN>(row, column, numbers);
    }
}

template <class T, int ROWS, int COLUMNS, class Tile>
__device__ void copy_numbers(Tile& tile, const typename T::Global* from, const Piece& piece) {
    const bool down = piece.row_stride == 1;  // neighbouring lanes read neighbouring memory
#pragma unroll 2
    for (int first = 0; first < ROWS * COLUMNS; first += kThreads) {
        const int i = first + thread<T>();
        const int row = down ? i % ROWS : i / COLUMNS;
        const int column = down ? i / ROWS : i % COLUMNS;
        const float x = piece.has(row, column) ? T::read(from[piece.offset(row, column)]) : 0.0f;
        tile.set(row, column, x * piece.factor);
    }
}

// How a matrix lies in memory, where that is known at compile time.
enum Order { kAnyOrder, kRowByRow, kColumnByColumn };

// Copy ROWS x COLUMNS numbers from (row, column) on; numbers that do not exist become zero.
template <class T, int ROWS, int COLUMNS, Order ORDER = kAnyOrder, class Tile>
__device__ void copy(Tile& tile, const Matrix& x, int sample, int row, int rows, int column,
                     int columns, float factor = 1) {
    const int row_stride = ORDER == kColumnByColumn ? 1 : x.row_stride;
    const Piece piece{row_stride, x.column_stride, rows - row, columns - column, factor};
    const auto* from = sample_of<typename T::Global>(x, sample) + piece.offset(row, column);
    if (has_vectors(from, piece.transposed(), ROWS))
        copy_vectors<T, ROWS, COLUMNS, true>(tile, from, piece);
    else if (ORDER != kColumnByColumn && has_vectors(from, piece, COLUMNS))
        copy_vectors<T, ROWS, COLUMNS, false>(tile, from, piece);
    else
        copy_numbers<T, ROWS, COLUMNS>(tile, from, piece);
}

// A thread's copies from a matrix to a tile, ROWS rows at a time, 16 bytes along a row. They are on
// their way from next() until arrive(); both take the tile's distance in bytes from the first one.
// Those of 16 bits are asynchronous.
template <class T, int ROWS, int COLUMNS, class Tile>
class Stream {
  public:
    using Number = typename T::Global;

    // From the columns from `column` on to the tile.
    __device__ void begin(Tile& tile, const Matrix& x, int sample, int rows, int column,
                          int columns) {
        const auto* first = sample_of<Number>(x, sample);
        const Piece piece{x.row_stride, x.column_stride, rows, columns - column, 1};
        is_possible_ = has_vectors(first, piece, COLUMNS);
        const int r = threadIdx.x / kAcross, c = threadIdx.x % kAcross * kVector;
        from_ = first + r * x.row_stride + column + c;
        row_stride_ = x.row_stride;
        to_ = keep(shared_address(&tile[r][c]));
        left_ = column + c < columns ? rows - r : 0;
    }

    // Whether 16 bytes along a row are one access.
    __device__ bool is_possible() const { return is_possible_; }

    // Copy the next ROWS rows; those that do not exist become zero.
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

    __device__ void arrive(unsigned) { asm volatile("cp.async.wait_all;" ::: "memory"); }

  private:
    static constexpr int kVector = 16 / sizeof(Number), kAcross = COLUMNS / kVector;
    static constexpr int kStep = kThreads / kAcross;  // rows that all threads copy at a time

    static constexpr unsigned kRowBytes = sizeof(Number) * (COLUMNS + T::kPad);

    const Number* from_;  // the thread's first number of the next rows
    unsigned to_;         // and its place in the tile
    int left_;            // rows from there on
    int row_stride_;
    bool is_possible_;
};

// The exact tier's numbers wait in registers, because a tile holds their parts. Those that do not
// lie by 16 bytes along a row are read one by one.
template <int ROWS, int COLUMNS, class Tile>
class Stream<Exact, ROWS, COLUMNS, Tile> {
  public:
    __device__ void begin(Tile& tile, const Matrix& x, int sample, int rows, int column,
                          int columns) {
        const auto* first = sample_of<float>(x, sample);
        const Piece piece{x.row_stride, x.column_stride, rows, columns - column, 1};
        by_vectors_ = has_vectors(first, piece, COLUMNS);
        columns_ = piece.columns - first_column();
        from_ = first + piece.offset(row(), column + first_column());
        row_stride_ = x.row_stride;
        column_stride_ = x.column_stride;
        tile_ = &tile;
        left_ = columns_ > 0 ? rows - row() : 0;
    }

    static constexpr __device__ bool is_possible() { return true; }

    __device__ void next(unsigned) {
#pragma unroll
        for (int line = 0; line < kLines; ++line) {
            auto& bytes = *reinterpret_cast<float4*>(numbers_[line]);
            bytes = {0, 0, 0, 0};
            const float* from = from_ + line * row_stride_;
            if (left_ <= line) continue;
            if (by_vectors_) [[likely]] {
                bytes = *reinterpret_cast<const float4*>(from);
            } else {
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    if (i < columns_) numbers_[line][i] = from[i * column_stride_];
            }
        }
        from_ += int64_t(ROWS) * row_stride_;
        left_ -= ROWS;
    }

    __device__ void arrive(unsigned offset) {
        auto& tile = *reinterpret_cast<Tile*>(reinterpret_cast<char*>(tile_) + offset);
        tile.template put<false>(row(), first_column(), numbers_);
    }

  private:
    static constexpr int kAcross = COLUMNS / 4, kLines = Tile::template kLines<false>;
    static_assert(kThreads / kAcross * kLines == ROWS, "each thread copies one patch");

    static __device__ int row() { return threadIdx.x / kAcross * kLines; }
    static __device__ int first_column() { return threadIdx.x % kAcross * 4; }

    const float* from_;  // the thread's first number of the next rows
    Tile* tile_;
    int left_;     // rows from there on
    int columns_;  // and columns
    int row_stride_, column_stride_;
    alignas(16) float numbers_[kLines][4];
    bool by_vectors_;
};

}  // namespace jca_cuda
