// Fragments and products of each precision tier, for tiles in shared memory.
//
// A warp multiplies 16 x kStep by kStep x 8. A thread, with g = lane / 4 and t = lane % 4, holds
// columns 2t and 2t + 1 of rows g and g + 8 of the result.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

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
    x = x < -9.01f ? -9.01f : x;
    x = x > 9.01f ? 9.01f : x;
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

    // Rows [row, row + 16) and columns [k, k + 16) of a tile.
    template <int COLUMNS>
    static __device__ Left left(const Element (*tile)[COLUMNS], int row, int k) {
        const int lane = threadIdx.x % 32;
        Left x;
        matrices(x.r, shared_address(&tile[row + lane % 16][k + lane / 16 * 8]));
        return x;
    }

    // Two right operands: columns [k, k + 16) of rows [row, row + 8) and [row + 8, row + 16).
    template <int COLUMNS>
    static __device__ void right_of_rows(Right (&x)[2], const Element (*tile)[COLUMNS], int row,
                                         int k) {
        const int lane = threadIdx.x % 32;
        right_at(x, shared_address(&tile[row + lane / 16 * 8 + lane % 8][k + lane / 8 % 2 * 8]));
    }

    // The same, at the address of the thread's row.
    static __device__ void right_at(Right (&x)[2], unsigned address) {
        unsigned r[4];
        matrices(r, address);
        x[0] = {r[0], r[1]};
        x[1] = {r[2], r[3]};
    }

    // Two right operands: rows [k, k + 16) of columns [column, column + 8) and the next 8.
    template <int COLUMNS>
    static __device__ void right_of_columns(Right (&x)[2], const Element (*tile)[COLUMNS], int k,
                                            int column) {
        const int lane = threadIdx.x % 32;
        right_transposed_at(x, shared_address(&tile[k + lane % 16][column + lane / 16 * 8]));
    }

    static __device__ void right_transposed_at(Right (&x)[2], unsigned address) {
        unsigned r[4];
        transposed_matrices(r, address);
        x[0] = {r[0], r[1]};
        x[1] = {r[2], r[3]};
    }

    // Of the transposed tile: its rows are the columns [column, column + 16), its columns [k, k +
    // 16).
    template <int COLUMNS>
    static __device__ Left left_of_columns(const Element (*tile)[COLUMNS], int column, int k) {
        const int lane = threadIdx.x % 32;
        Left x;
        transposed_matrices(
            x.r, shared_address(&tile[k + lane / 16 * 8 + lane % 8][column + lane / 8 % 2 * 8]));
        return x;
    }

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

// float32 in products of 8 columns. A thread holds columns 2t and 2t + 1 of a result, but columns t
// and t + 4 of a left operand: where a result becomes a left operand, its columns are renamed, and
// the rows of the right operand with them.
template <class Number>
struct Single {
    using Global = float;
    using Element = Number;
    static constexpr int kStep = 8, kPad = 4;
    struct Left {
        Number x[4];
    };
    struct Right {
        Number x[2];
    };

    static __device__ float read(float x) { return x; }

    template <int COLUMNS>
    static __device__ Left left(const Element (*tile)[COLUMNS], int row, int k) {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        return {tile[row + g][k + t], tile[row + g + 8][k + t], tile[row + g][k + t + 4],
                tile[row + g + 8][k + t + 4]};
    }

    template <int COLUMNS>
    static __device__ void right_of_rows(Right (&x)[2], const Element (*tile)[COLUMNS], int row,
                                         int k) {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        x[0] = {tile[row + g][k + t], tile[row + g][k + t + 4]};
        x[1] = {tile[row + g + 8][k + t], tile[row + g + 8][k + t + 4]};
    }

    template <int COLUMNS>
    static __device__ void right_of_columns(Right (&x)[2], const Element (*tile)[COLUMNS], int k,
                                            int column) {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        for (int i = 0; i < 2; ++i)
            x[i] = {tile[k + 2 * t][column + 8 * i + g], tile[k + 2 * t + 1][column + 8 * i + g]};
    }
};

struct Tf32 : Single<float> {
    static constexpr bool kExact = false;
    static __device__ float element(float x) { return round_to_tf32(x); }
    static __device__ float tanh(float x) { return tanh_approximate(x); }

    template <int TILES>
    static __device__ Left left_of(const float (&x)[TILES][4], int j) {
        return {element(x[j][0]), element(x[j][2]), element(x[j][1]), element(x[j][3])};
    }

    static __device__ void multiply(float (&c)[4], const Left& a, const Right& b) {
        multiply_tf32(c, a.x, b.x);
    }
};

// A float32 as the sum of two TF32 numbers, high + low, and a product as three.
struct Exact : Single<float2> {
    static constexpr bool kExact = true;

    // Rounded like cvt.rna, which takes twice as many instructions because it keeps NaN. A NaN may
    // become -0 in the first number; the second is NaN.
    static __device__ float2 element(float x) {
        const float high = __uint_as_float((__float_as_uint(x) + 0x1000) & 0xffffe000);
        return {high, x - high};
    }
    static __device__ float tanh(float x) { return tanh_rational(x); }

    template <int TILES>
    static __device__ Left left_of(const float (&x)[TILES][4], int j) {
        return {element(x[j][0]), element(x[j][2]), element(x[j][1]), element(x[j][3])};
    }

    static __device__ void multiply(float (&high)[4], float (&low)[4], const Left& a,
                                    const Right& b) {
        const float a_high[4] = {a.x[0].x, a.x[1].x, a.x[2].x, a.x[3].x};
        const float a_low[4] = {a.x[0].y, a.x[1].y, a.x[2].y, a.x[3].y};
        const float b_high[2] = {b.x[0].x, b.x[1].x}, b_low[2] = {b.x[0].y, b.x[1].y};
        multiply_tf32(low, a_low, b_high);
        multiply_tf32(low, a_high, b_low);
        multiply_tf32(high, a_high, b_high);
    }
};

}  // namespace jca_cuda
