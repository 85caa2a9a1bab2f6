// The exact tier: a float32 is the sum of two TF32 numbers, high + low, and a product is three.
//
// A thread takes columns 2t and 2t + 1 of both operands, because the order of a contraction is
// free. Tiles hold operands, so that a product reads its numbers by 16 bytes into the registers
// where it needs them.
#pragma once

#include "tiers.cuh"

namespace jca_cuda {

struct Exact {
    using Global = float;
    static constexpr int kStep = 8;
    static constexpr bool kExact = true;
    struct Left {
        float high[4], low[4];
    };
    struct alignas(16) Right {
        float high[2], low[2];
    };

    static __device__ float read(float x) { return x; }
    static __device__ float tanh(float x) { return tanh_rational(x); }

    // Rounded like cvt.rna, which takes twice as many instructions because it keeps NaN. A NaN may
    // become -0 in the high part; the low one is NaN.
    static __device__ float high_part(float x) {
        return __uint_as_float((__float_as_uint(x) + 0x1000) & 0xffffe000);
    }

    static __device__ Right right_of(float x, float y) {
        const float high[2] = {high_part(x), high_part(y)};
        return {{high[0], high[1]}, {x - high[0], y - high[1]}};
    }

    template <int TILES>
    static __device__ Left left_of(const float (&x)[TILES][4], int j) {
        const Right first = right_of(x[j][0], x[j][2]), second = right_of(x[j][1], x[j][3]);
        return {{first.high[0], first.high[1], second.high[0], second.high[1]},
                {first.low[0], first.low[1], second.low[0], second.low[1]}};
    }

    // Both columns of rows g and g + 8 side by side, their high parts and behind them the low ones.
    template <int ROWS, int COLUMNS>
    struct LeftTile : Singly<LeftTile<ROWS, COLUMNS>> {
        float4 x[ROWS / 2][COLUMNS + 1];

        __device__ void set(int row, int column, float number) {
            const int r = row / 16 * 8 + row % 8, i = column % 2 * 2 + row / 8 % 2;
            auto* parts = reinterpret_cast<float*>(&x[r][column / 2 * 2]);
            const float high = high_part(number);
            parts[i] = high;
            parts[4 + i] = number - high;
        }

        __device__ Left left(int row, int k) const {
            const float4* parts = &x[row / 2 + threadIdx.x % 32 / 4][k + threadIdx.x % 4 * 2];
            const float4 high = parts[0], low = parts[1];
            return {{high.x, high.y, high.z, high.w}, {low.x, low.y, low.z, low.w}};
        }
    };

    // Pairs of columns for products with rows, behind them pairs of rows for those with columns.
    template <int ROWS, int COLUMNS, Use USE>
    struct RightTile {
        static constexpr bool kRows = USE & kByRows, kColumns = USE & kByColumns;
        static constexpr int kRow = COLUMNS / 2 + 4, kRowPair = COLUMNS + 2;
        static constexpr int kBegin = kRows * ROWS * kRow;  // of the pairs of rows
        Right x[kBegin + kColumns * ROWS / 2 * kRowPair];

        __device__ void set(int row, int column, float number) {
            if (kRows) set(x[row * kRow + column / 2], column % 2, number);
            if (kColumns) set(x[kBegin + row / 2 * kRowPair + column], row % 2, number);
        }

        template <bool DOWN>
        static constexpr int kLines = (DOWN ? kRows : kColumns) ? 2 : 1;

        template <bool DOWN, int LINES, int COUNT>
        __device__ void put(int row, int column, const float (&numbers)[LINES][COUNT]) {
            constexpr int kDown = DOWN ? COUNT : LINES, kRight = DOWN ? LINES : COUNT;
            const auto at = [&](int r, int c) { return numbers[DOWN ? c : r][DOWN ? r : c]; };
            if constexpr (kRows)
#pragma unroll
                for (int r = 0; r < kDown; ++r)
#pragma unroll
                    for (int c = 0; c < kRight; c += 2)
                        x[(row + r) * kRow + (column + c) / 2] = right_of(at(r, c), at(r, c + 1));
            if constexpr (kColumns)
#pragma unroll
                for (int c = 0; c < kRight; ++c)
#pragma unroll
                    for (int r = 0; r < kDown; r += 2)
                        x[kBegin + (row + r) / 2 * kRowPair + column + c] =
                            right_of(at(r, c), at(r + 1, c));
        }

        __device__ void right_of_rows(Right (&b)[2], int row, int k) const {
            right_of_rows(b, rows_begin(), row, k);
        }
        __device__ void right_of_columns(Right (&b)[2], int k, int column) const {
            right_of_columns(b, columns_begin(), k, column);
        }

        // The same from the address of the thread's first numbers of rows, or of columns.
        static __device__ void right_of_rows(Right (&b)[2], unsigned begin, int row, int k) {
            for (int i = 0; i < 2; ++i)
                b[i] = load(begin + sizeof(Right) * ((row + 8 * i) * kRow + k / 2));
        }
        static __device__ void right_of_columns(Right (&b)[2], unsigned begin, int k, int column) {
            for (int i = 0; i < 2; ++i)
                b[i] = load(begin + sizeof(Right) * (k / 2 * kRowPair + column + 8 * i));
        }
        __device__ unsigned rows_begin() const {
            static_assert(kRows, "the tile has pairs of columns");
            return shared_address(&x[threadIdx.x % 32 / 4 * kRow + threadIdx.x % 4]);
        }
        __device__ unsigned columns_begin() const {
            static_assert(kColumns, "the tile has pairs of rows");
            return shared_address(&x[kBegin + threadIdx.x % 4 * kRowPair + threadIdx.x % 32 / 4]);
        }

      private:
        static __device__ void set(Right& pair, int i, float number) {
            pair.high[i] = high_part(number);
            pair.low[i] = number - pair.high[i];
        }

        static __device__ Right load(unsigned address) {
            Right x;
            asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                         : "=f"(x.high[0]), "=f"(x.high[1]), "=f"(x.low[0]), "=f"(x.low[1])
                         : "r"(address));
            return x;
        }
    };

    static __device__ void multiply(float (&high)[4], float (&low)[4], const Left& a,
                                    const Right& b) {
        multiply_tf32(low, a.low, b.high);
        multiply_tf32(low, a.high, b.low);
        multiply_tf32(high, a.high, b.high);
    }
};

}  // namespace jca_cuda
