// Vectors, tanh and the dropout hash, for one instruction set. GCC/Clang vector extensions carry
// everything; the few intrinsics below are shortcuts (82 % -> 90 % of the FMA bound in the
// forward), each beside its portable form. Included by isa.cpp, which defines JCA_ISA (namespace)
// and JCA_VECTOR_BYTES.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#define JCA_INLINE inline __attribute__((always_inline))
#define JCA_KERNEL \
    __attribute__((noinline))  // one copy for all storage types: otherwise the build takes minutes

namespace jca {
namespace JCA_ISA {
namespace {

constexpr int kTile =
    64;  // columns of a packed tile; dropout words and all packed layouts rest on it

typedef float f32v __attribute__((vector_size(JCA_VECTOR_BYTES)));
typedef double f64v __attribute__((vector_size(JCA_VECTOR_BYTES)));
typedef int32_t i32v __attribute__((vector_size(JCA_VECTOR_BYTES)));
typedef int64_t i64v __attribute__((vector_size(JCA_VECTOR_BYTES)));
typedef uint32_t u32v __attribute__((vector_size(JCA_VECTOR_BYTES)));
typedef uint32_t u32h __attribute__((vector_size(JCA_VECTOR_BYTES / 2)));  // as many lanes as f64v
typedef int32_t i32h __attribute__((vector_size(JCA_VECTOR_BYTES / 2)));

template <class T>
struct Simd;

template <>
struct Simd<float> {
    using vec = f32v;
    using bits = i32v;
    using hash = u32v;
    using hash_mask = i32v;
    static constexpr int lanes = JCA_VECTOR_BYTES / 4;
};

template <>
struct Simd<double> {
    using vec = f64v;
    using bits = i64v;
    using hash = u32h;
    using hash_mask = i32h;
    static constexpr int lanes = JCA_VECTOR_BYTES / 8;
};

template <class T>
using vec_t = typename Simd<T>::vec;

// Register blocks: `kVecs` vectors of lanes by `kScoreRows` (scores) or up to `kRankRows` (rank
// updates) rows.
#if JCA_VECTOR_BYTES == 64
constexpr int kVecs = 4, kScoreRows = 4, kRankRows = 6;
#else
constexpr int kVecs = 2, kScoreRows = 4, kRankRows = 5;
#endif

template <class T>
JCA_INLINE vec_t<T> load(const T* p) {
    return *reinterpret_cast<const vec_t<T>*>(p);
}

template <class T>
JCA_INLINE void store(T* p, vec_t<T> x) {
    *reinterpret_cast<vec_t<T>*>(p) = x;
}

template <class T>
JCA_INLINE vec_t<T> splat(T x) {
    return x - vec_t<T>{};
}

// Clamp to [-limit, limit]. The constant comes first: x86 min and max return the second operand
// when one is NaN. AVX-512 needs no lower clamp: there split_exponent takes every negative number,
// -inf included.
JCA_INLINE f32v clamp(f32v x, float limit) {
#if defined(__AVX512F__) && JCA_VECTOR_BYTES == 64
    return _mm512_min_ps(_mm512_set1_ps(limit), x);
#elif defined(__AVX2__) && JCA_VECTOR_BYTES == 32
    x = _mm256_min_ps(_mm256_set1_ps(limit), x);
    return _mm256_max_ps(_mm256_set1_ps(-limit), x);
#else
    x = x > limit ? splat(limit) : x;
    return x < -limit ? splat(-limit) : x;
#endif
}

JCA_INLINE f64v clamp(f64v x, double limit) {
    x = x > limit ? splat(limit) : x;
    return x < -limit ? splat(-limit) : x;
}

// x = n + z with n = round(x) and |z| <= 1/2, and s = 2^n. Portable form, |x| <= 126: adding 1.5 *
// 2^23 leaves n in the low bits of the mantissa.
JCA_INLINE void split_exponent(f32v x, f32v& z, f32v& s) {
#if defined(__AVX512F__) && JCA_VECTOR_BYTES == 64
    z = _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    s = _mm512_scalef_ps(_mm512_set1_ps(1.0f),
                         _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
    const f32v shifted = x + 12582912.0f;
    z = x - (shifted - 12582912.0f);
    s = (f32v)(((i32v)shifted << 23) + 0x3f800000);
#endif
}

JCA_INLINE void split_exponent(f64v x, f64v& z, f64v& s) {
    const f64v shifted = x + 6755399441055744.0;
    z = x - (shifted - 6755399441055744.0);
    s = (f64v)(((i64v)shifted << 52) + 0x3ff0000000000000LL);
}

// e / q. AVX-512: 14-bit reciprocal and one Newton step (error 2^-28); elsewhere the true division,
// whose 12-bit substitute would leave 1.3e-7 and make tanh(inf) differ from 1.
JCA_INLINE f32v quotient(f32v e, f32v q) {
#if defined(__AVX512F__) && JCA_VECTOR_BYTES == 64
    f32v r = _mm512_rcp14_ps(q);
    f32v a = e * r;
    return a + r * (e - q * a);
#else
    return e / q;
#endif
}

JCA_INLINE f64v quotient(f64v e, f64v q) {
    return e / q;
}

constexpr double kTwoLog2E =
    2.8853900817779268;  // scores arrive multiplied by it: tanh(y) = (2^x - 1) / (2^x + 1)

// 2^z - 1 for |z| <= 1/2, relatively accurate near 0. Degree 6 minimax fit, relative error 1e-8
// before rounding.
JCA_INLINE f32v power_minus_one(f32v z) {
    f32v w = 0.0013390735257416964f + z * 0.00015403512225020677f;
    w = 0.009618237614631653f + z * w;
    w = 0.05550357326865196f + z * w;
    w = 0.24022649228572845f + z * w;
    w = 0.6931471824645996f + z * w;
    return z * w;
}

// Taylor series to degree 13, remainder 1.2e-17.
JCA_INLINE f64v power_minus_one(f64v z) {
    constexpr double c[13] = {0.69314718055994531,   0.24022650695910071,    0.055504108664821580,
                              0.0096181291076284772, 0.0013333558146428443,  0.00015403530393381610,
                              1.5252733804059840e-5, 1.3215486790144309e-6,  1.0178086009239699e-7,
                              7.0549116208011233e-9, 4.4455382718708115e-10, 2.5678435993488202e-11,
                              1.3691488853904128e-12};
    f64v w = splat(c[12]);
#pragma GCC unroll 12
    for (int i = 11; i >= 0; i--) w = c[i] + z * w;
    return z * w;
}

// tanh(y) for x = 2 log2(e) y = n + z: with s = 2^n, e = s (2^z - 1) + (s - 1) = 2^x - 1 is
// relatively accurate near 0, and tanh = e / (e + 2). Relative error below 2.5e-7 (float) over the
// whole range, tanh(0) = 0, tanh(+-inf) = +-1, NaN stays NaN.
JCA_INLINE f32v tanh_folded(f32v x) {
    f32v z, s;
    split_exponent(clamp(x, 30.0f), z, s);
    const f32v e = s * power_minus_one(z) + (s - 1.0f);
    return quotient(e, e + 2.0f);
}

JCA_INLINE f64v tanh_folded(f64v x) {
    f64v z, s;
    split_exponent(clamp(x, 60.0), z, s);
    const f64v e = s * power_minus_one(z) + (s - 1.0);
    return quotient(e, e + 2.0);
}

// Sum of neighbouring lanes of a, then of b: applied log2(lanes) times to `lanes` vectors it leaves
// one vector of sums.
#if JCA_VECTOR_BYTES == 64
JCA_INLINE f32v add_pairs(f32v a, f32v b) {
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28,
                                   30) +
           __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}
JCA_INLINE f64v add_pairs(f64v a, f64v b) {
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14) +
           __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
}
#elif JCA_VECTOR_BYTES == 32
JCA_INLINE f32v add_pairs(f32v a, f32v b) {
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14) +
           __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
}
JCA_INLINE f64v add_pairs(f64v a, f64v b) {
    return __builtin_shufflevector(a, b, 0, 2, 4, 6) + __builtin_shufflevector(a, b, 1, 3, 5, 7);
}
#else
JCA_INLINE f32v add_pairs(f32v a, f32v b) {
    return __builtin_shufflevector(a, b, 0, 2, 4, 6) + __builtin_shufflevector(a, b, 1, 3, 5, 7);
}
JCA_INLINE f64v add_pairs(f64v a, f64v b) {
    return __builtin_shufflevector(a, b, 0, 2) + __builtin_shufflevector(a, b, 1, 3);
}
#endif

// sums[i] = sum of the lanes of x[i], i < lanes
template <class T>
JCA_INLINE vec_t<T> lane_sums(const vec_t<T>* x) {
    constexpr int lanes = Simd<T>::lanes;
    vec_t<T> t[lanes];
#pragma GCC unroll 16
    for (int i = 0; i < lanes; i++) t[i] = x[i];
#pragma GCC unroll 4
    for (int count = lanes; count > 1; count /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < count / 2; i++) t[i] = add_pairs(t[2 * i], t[2 * i + 1]);
    return t[0];
}

// The dropout mask: one 32-bit hash per (row, word) serves two columns 16 apart, by its low and its
// high half.
JCA_INLINE uint32_t mix(uint32_t h) {
    h ^= h >> 16;
    h *= 0x7feb352du;
    h ^= h >> 15;
    h *= 0x846ca68bu;
    return h ^ (h >> 16);
}

JCA_INLINE uint32_t dropout_key(int64_t seed, int64_t batch) {
    uint64_t s = (uint64_t)seed;
    uint32_t key = mix(mix((uint32_t)s) + (uint32_t)(s >> 32));
    return mix(key + (uint32_t)batch * 0x9e3779b9u);
}

JCA_INLINE uint32_t dropout_row(uint32_t key, int64_t row) {
    return mix(key + (uint32_t)row * 0x9e3779b1u);
}

// Key of the word of `column`; words of columns c and c + 16 (c % 32 < 16) are the same.
JCA_INLINE uint32_t dropout_word(int64_t column) {
    return (uint32_t)((column / 32) * 16 + column % 16) * 0x85ebca77u;
}

// The threshold in 1/65536 as a bound on 16 bits at the top of a word.
JCA_INLINE uint32_t dropout_limit(int64_t threshold) {
    return threshold < 65536 ? (uint32_t)threshold << 16 : 0xffffffffu;
}

// The factor of a kept element; 0 where nothing is kept.
JCA_INLINE double keep_scale(int64_t threshold) {
    return threshold < 65536 ? 65536.0 / (65536.0 - (double)threshold) : 0.0;
}

template <class H>
JCA_INLINE H dropout_hash(H row_xor_word) {
    H h = row_xor_word * 0x7feb352du;
    h ^= h >> 15;
    h *= 0x846ca68bu;
    return h ^ (h >> 16);
}

// x where the 16 bits at the top of h are >= threshold, 0 elsewhere; `limit` is threshold << 16.
template <class T>
JCA_INLINE vec_t<T> keep(vec_t<T> x, typename Simd<T>::hash h, uint32_t limit) {
    using bits = typename Simd<T>::bits;
    auto kept = (typename Simd<T>::hash_mask)(h >= limit);
    return (vec_t<T>)((bits)x & __builtin_convertvector(kept, bits));
}

}  // namespace
}  // namespace JCA_ISA
}  // namespace jca
