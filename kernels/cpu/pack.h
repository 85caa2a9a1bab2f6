// Moving tiles between the caller's tensors (any storage type, any strides) and packed tiles of the
// arithmetic type. A packed tile is [row][width], 64-byte aligned: with plain 4 KB row strides the
// rows would alias in L1.
#pragma once

#include "abi.h"
#include "parallel.h"
#include "simd.h"

namespace jca {
namespace JCA_ISA {
namespace {

struct bfloat16 {
    uint16_t bits;
};
#if defined(__ARM_FP16_FORMAT_IEEE)  // GCC 12 has no _Float16 in C++ for ARM
typedef __fp16 float16;
#else
typedef _Float16 float16;
#endif

JCA_INLINE float to_real(float x) {
    return x;
}
JCA_INLINE double to_real(double x) {
    return x;
}
JCA_INLINE float to_real(float16 x) {
    return (float)x;
}
JCA_INLINE float to_real(bfloat16 x) {
    uint32_t bits = (uint32_t)x.bits << 16;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}

JCA_INLINE void from_real(float x, float& y) {
    y = x;
}
JCA_INLINE void from_real(double x, double& y) {
    y = x;
}
JCA_INLINE void from_real(float x, float16& y) {
    y = (float16)x;
}
JCA_INLINE void from_real(float x, bfloat16& y) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to nearest, ties to even
    y.bits = (uint16_t)(x != x ? 0x7fc0u : rounded);
}

// Storage type -> arithmetic type: float64 in float64, all others in float32.
template <class S>
struct Real {
    using type = float;
};
template <>
struct Real<double> {
    using type = double;
};
template <class S>
using real_t = typename Real<S>::type;

// dst[r][c] = scale * src[r * row_stride + c * col_stride] for c < cols, 0 up to `width`.
template <class S, class T>
JCA_KERNEL void pack(const S* src, int64_t row_stride, int64_t col_stride, int64_t rows,
                     int64_t cols, T scale, T* dst, int64_t width) {
    if (col_stride == 1) {
        for (int64_t r = 0; r < rows; r++) {
            const S* p = src + r * row_stride;
            T* o = dst + r * width;
            for (int64_t c = 0; c < cols; c++) o[c] = scale * to_real(p[c]);
        }
    } else {
        for (int64_t c = 0; c < cols; c++)
            for (int64_t r = 0; r < rows; r++)
                dst[r * width + c] = scale * to_real(src[r * row_stride + c * col_stride]);
    }
    if (cols < width)
        for (int64_t r = 0; r < rows; r++)
            memset(dst + r * width + cols, 0, (size_t)(width - cols) * sizeof(T));
}

// dst[r * row_stride + c * col_stride] = scale * src[r][c]
template <class S, class T>
JCA_KERNEL void unpack(const T* src, int64_t width, int64_t rows, int64_t cols, T scale, S* dst,
                       int64_t row_stride, int64_t col_stride) {
    if (col_stride == 1) {
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < cols; c++)
                from_real(scale * src[r * width + c], dst[r * row_stride + c]);
    } else {
        for (int64_t c = 0; c < cols; c++)
            for (int64_t r = 0; r < rows; r++)
                from_real(scale * src[r * width + c], dst[r * row_stride + c * col_stride]);
    }
}

template <class S>
JCA_INLINE S* sample(const jca_matrix& x, int64_t b) {
    return static_cast<S*>(x.data) + b * x.stride[0];
}

JCA_INLINE int64_t ceil_div(int64_t a, int64_t b) {
    return a / b + (a % b != 0);
}
JCA_INLINE int64_t min_of(int64_t a, int64_t b) {
    return a < b ? a : b;
}
JCA_INLINE int64_t max_of(int64_t a, int64_t b) {
    return a > b ? a : b;
}

// The product of sizes; the largest number where it does not fit.
JCA_INLINE int64_t product(int64_t a, int64_t b) {
    int64_t out;
    return __builtin_mul_overflow(a, b, &out) ? INT64_MAX : out;
}

template <class... Sizes>
JCA_INLINE int64_t product(int64_t a, int64_t b, Sizes... rest) {
    return product(product(a, b), rest...);
}

// Hands out aligned pieces of one scratch block. A null base only computes the size, which is
// kTooLarge where it does not fit.
struct Arena {
    uintptr_t base;
    size_t used = 0;
    explicit Arena(char* memory) : base(reinterpret_cast<uintptr_t>(memory)) {}

    template <class T, class... Sizes>
    T* take(Sizes... sizes) {
        const int64_t bytes = product((int64_t)sizeof(T), sizes...);
        return reinterpret_cast<T*>(add(bytes == INT64_MAX ? kTooLarge : (size_t)bytes));
    }
    char* add(size_t bytes) {
        constexpr size_t most = kTooLarge / 4;
        char* p = reinterpret_cast<char*>(base + used);
        used = bytes > most || used > most ? kTooLarge : used + ((bytes + 63) & ~(size_t)63);
        return p;
    }
};

}  // namespace
}  // namespace JCA_ISA
}  // namespace jca
