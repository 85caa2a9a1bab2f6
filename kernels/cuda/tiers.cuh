// Tiles in shared memory, operands and products of each precision tier.
//
// A warp multiplies 16 x kStep by kStep x 8. A thread, with g = lane / 4 and t = lane % 4, holds
// columns 2t and 2t + 1 of rows g and g + 8 of the result.
//
// A tile of left operands has left(row, k), of rows [row, row + 16) and columns [k, k + kStep). A
// tile of right operands gives two at a time, those of the next 8 rows or columns too:
// right_of_rows(b, row, k) has columns [k, k + kStep) of rows [row, row + 8), and
// right_of_columns(b, k, column) has rows [k, k + kStep) of columns [column, column + 8).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "walk.h"

namespace jca_cuda {

__device__ inline unsigned shared_address(const void* p) {
    return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

// Keeps a value in its register, where the compiler would compute it again in each step.
template <class Value>
__device__ Value keep(Value x) {
    asm volatile("" : "+r"(x));
    return x;
}

__device__ inline float tanh_approximate(float x) {
    asm("tanh.approx.f32 %0, %0;" : "+f"(x));
    return x;
}

// x P(x²) / Q(x²), fitted on |x| < 9.01, where float32 tanh reaches 1; error 4.4e-7. NaN stays NaN.
__device__ inline float tanh_rational(float x) {
    asm("max.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(-9.01f));
    asm("min.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(9.01f));
    const float u = x * x;
    float p = fmaf(u, 1.3336875603897624e-08f, 2.0596295144059695e-05f);
    p = fmaf(u, p, 0.003494812408462167f);
    p = fmaf(u, p, 0.13380372524261475f);
    p = fmaf(u, p, 1.0f);
    float q = fmaf(u, 7.769294825266115e-07f, 0.00032843652297742665f);
    q = fmaf(u, q, 0.025874031707644463f);
    q = fmaf(u, q, 0.4671368896961212f);
    q = fmaf(u, q, 1.0f);
    float reciprocal;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(q));
    return x * p * reciprocal;
}

__device__ inline float round_to_tf32(float x) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return __uint_as_float(bits);
}

__device__ inline void multiply_tf32(float (&c)[4], const float (&a)[4], const float (&b)[2]) {
    const auto bits = __float_as_uint;
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(bits(a[0])), "r"(bits(a[1])), "r"(bits(a[2])), "r"(bits(a[3])), "r"(bits(b[0])),
          "r"(bits(b[1])));
}

// A copy brings patches of kLines rows or columns (DOWN) of adjacent numbers to a tile: here one,
// whose numbers are set one by one.
template <class Tile>
struct Singly {
    template <bool DOWN>
    static constexpr int kLines = 1;

    template <bool DOWN, int LINES, int COUNT>
    __device__ void put(int row, int column, const float (&numbers)[LINES][COUNT]) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i)
            static_cast<Tile*>(this)->set(row + DOWN * i, column + !DOWN * i, numbers[0][i]);
    }
};

// A tile of a tier's elements, row by row.
template <class T, int ROWS, int COLUMNS>
struct Rows : Singly<Rows<T, ROWS, COLUMNS>> {
    typename T::Element x[ROWS][COLUMNS + T::kPad];

    __device__ auto& operator[](int row) { return x[row]; }

    __device__ void set(int row, int column, float number) { x[row][column] = T::element(number); }
};

// 16-bit numbers, T = __nv_bfloat16 or __half.
template <class T>
struct Half {
    using Global = T;
    using Element = T;
    static constexpr int kStep = 16, kPad = 8;
    static constexpr bool kExact = false;
    struct Left {
        unsigned r[4];
    };
    struct Right {
        unsigned r[2];
    };

    static __device__ float read(T x) { return float(x); }
    static __device__ Element element(float x) { return T(x); }
    static __device__ float tanh(float x) { return tanh_approximate(x); }

    template <int ROWS, int COLUMNS>
    struct Tile : Rows<Half, ROWS, COLUMNS> {
        using Rows<Half, ROWS, COLUMNS>::x;

        __device__ Left left(int row, int k) const {
            const int lane = threadIdx.x % 32;
            Left a;
            matrices(a.r, shared_address(&x[row + lane % 16][k + lane / 16 * 8]));
            return a;
        }

        // Of the transposed tile: its rows are the columns [column, column + 16).
        __device__ Left left_of_columns(int column, int k) const {
            const int lane = threadIdx.x % 32;
            Left a;
            transposed_matrices(
                a.r, shared_address(&x[k + lane / 16 * 8 + lane % 8][column + lane / 8 % 2 * 8]));
            return a;
        }

        __device__ void right_of_rows(Right (&b)[2], int row, int k) const {
            right_of_rows(b, rows_begin(), row, k);
        }
        __device__ void right_of_columns(Right (&b)[2], int k, int column) const {
            right_of_columns(b, columns_begin(), k, column);
        }

        // The same from the address of the thread's first numbers of rows, or of columns.
        static __device__ void right_of_rows(Right (&b)[2], unsigned begin, int row, int k) {
            unsigned r[4];
            matrices(r, begin + offset(row, k));
            b[0] = {r[0], r[1]};
            b[1] = {r[2], r[3]};
        }
        static __device__ void right_of_columns(Right (&b)[2], unsigned begin, int k, int column) {
            unsigned r[4];
            transposed_matrices(r, begin + offset(k, column));
            b[0] = {r[0], r[1]};
            b[1] = {r[2], r[3]};
        }
        __device__ unsigned rows_begin() const {
            const int lane = threadIdx.x % 32;
            return shared_address(&x[lane / 16 * 8 + lane % 8][lane / 8 % 2 * 8]);
        }
        __device__ unsigned columns_begin() const {
            const int lane = threadIdx.x % 32;
            return shared_address(&x[lane % 16][lane / 16 * 8]);
        }

      private:
        static __device__ unsigned offset(int row, int column) {
            return sizeof(Element) * (row * (COLUMNS + kPad) + column);
        }
    };
    template <int ROWS, int COLUMNS>
    using LeftTile = Tile<ROWS, COLUMNS>;
    template <int ROWS, int COLUMNS, Use>
    using RightTile = Tile<ROWS, COLUMNS>;

    // The left operand of columns [8j, 8j + 16) of a result; j is even.
    template <int TILES>
    static __device__ Left left_of(const float (&x)[TILES][4], int j) {
        return {pack(x[j][0], x[j][1]), pack(x[j][2], x[j][3]), pack(x[j + 1][0], x[j + 1][1]),
                pack(x[j + 1][2], x[j + 1][3])};
    }

    static __device__ void multiply(float (&c)[4], const Left& a, const Right& b) {
        if constexpr (kIsFloat16)
            asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
                "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "r"(b.r[0]), "r"(b.r[1]));
        else
            asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "r"(b.r[0]), "r"(b.r[1]));
    }

  private:
    static constexpr bool kIsFloat16 = std::is_same_v<T, __half>;

    static __device__ void matrices(unsigned (&r)[4], unsigned address) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(address));
    }

    static __device__ void transposed_matrices(unsigned (&r)[4], unsigned address) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(address));
    }

    static __device__ unsigned pack(float low, float high) {
        unsigned x;
        if constexpr (kIsFloat16)
            asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(x) : "f"(high), "f"(low));
        else
            asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(x) : "f"(high), "f"(low));
        return x;
    }
};

// float32, rounded, in products of 8 columns. A thread holds columns 2t and 2t + 1 of a result, but
// t and t + 4 of a left operand: where a result becomes a left operand, its columns are renamed,
// and the rows of the right operand with them.
struct Tf32 {
    using Global = float;
    using Element = float;
    static constexpr int kStep = 8, kPad = 4;
    static constexpr bool kExact = false;
    struct Left {
        float x[4];
    };
    struct Right {
        float x[2];
    };

    static __device__ float read(float x) { return x; }
    static __device__ float element(float x) { return round_to_tf32(x); }
    static __device__ float tanh(float x) { return tanh_approximate(x); }

    template <int ROWS, int COLUMNS>
    struct Tile : Rows<Tf32, ROWS, COLUMNS> {
        using Rows<Tf32, ROWS, COLUMNS>::x;

        __device__ Left left(int row, int k) const {
            const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
            return {x[row + g][k + t], x[row + g + 8][k + t], x[row + g][k + t + 4],
                    x[row + g + 8][k + t + 4]};
        }

        __device__ void right_of_rows(Right (&b)[2], int row, int k) const {
            const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
            for (int i = 0; i < 2; ++i)
                b[i] = {x[row + 8 * i + g][k + t], x[row + 8 * i + g][k + t + 4]};
        }

        __device__ void right_of_columns(Right (&b)[2], int k, int column) const {
            const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
            for (int i = 0; i < 2; ++i)
                b[i] = {x[k + 2 * t][column + 8 * i + g], x[k + 2 * t + 1][column + 8 * i + g]};
        }
    };
    template <int ROWS, int COLUMNS>
    using LeftTile = Tile<ROWS, COLUMNS>;
    template <int ROWS, int COLUMNS, Use>
    using RightTile = Tile<ROWS, COLUMNS>;

    template <int TILES>
    static __device__ Left left_of(const float (&x)[TILES][4], int j) {
        return {element(x[j][0]), element(x[j][2]), element(x[j][1]), element(x[j][3])};
    }

    static __device__ void multiply(float (&c)[4], const Left& a, const Right& b) {
        multiply_tf32(c, a.x, b.x);
    }
};

}  // namespace jca_cuda
