// Vectors and the dropout hash, for one instruction set. GCC/Clang vector extensions carry
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
typedef float f32h __attribute__((vector_size(JCA_VECTOR_BYTES / 2)));

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

// The dropout mask: one 32-bit hash for each (row, word). Its low and its high half decide on two
// columns 16 apart.
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

JCA_INLINE bool bad_threshold(int64_t threshold) {
    return threshold < 0 || threshold > 65536;
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
