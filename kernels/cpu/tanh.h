// tanh and its slope on vectors of scores, and exp for the softmax.
#pragma once

#include <limits>

#include "simd.h"

namespace jca {
namespace JCA_ISA {
namespace {

constexpr double kTwoLog2E = 2.8853900817779268;

// tanh(scale y) = (2^x - 1) / (2^x + 1) for x = y factor. The factor is positive: where the scale
// is negative, its sign goes into an operand of the score. It is applied to the finished score,
// because an operand times the factor could overflow where the score does not. Scores above `limit`
// count as `limit`, where x is 60 and tanh has long been 1.
template <class T>
struct Fold {
    T factor, limit;
    T rest = 0;  // the slope at the limit, less than 2^-60

    explicit Fold(double scale);
};

JCA_INLINE double sign_of(double scale) {
    return scale < 0 ? -1.0 : 1.0;
}

// The constant comes first: x86 min returns the second operand when one is NaN.
JCA_INLINE f32v at_most(f32v x, float limit) {
#if defined(__AVX512F__) && JCA_VECTOR_BYTES == 64
    return _mm512_min_ps(_mm512_set1_ps(limit), x);
#elif defined(__AVX2__) && JCA_VECTOR_BYTES == 32
    return _mm256_min_ps(_mm256_set1_ps(limit), x);
#else
    return x > limit ? splat(limit) : x;
#endif
}

JCA_INLINE f64v at_most(f64v x, double limit) {
    return x > limit ? splat(limit) : x;
}

template <class T>
constexpr auto kSign = std::numeric_limits<decltype(typename Simd<T>::bits{}[0] + 0)>::min();

template <class T>
JCA_INLINE vec_t<T> magnitude(vec_t<T> x) {
    return (vec_t<T>)((typename Simd<T>::bits)x & ~kSign<T>);
}

// `x` with the sign of `from`; x is not negative.
template <class T>
JCA_INLINE vec_t<T> with_sign(vec_t<T> x, vec_t<T> from) {
    using bits = typename Simd<T>::bits;
    return (vec_t<T>)((bits)x | ((bits)from & kSign<T>));
}

// y factor = n + z with a whole n and |z| <= 1/2, and s = 2^n, for |n| <= 126. Adding 1.5 * 2^23
// leaves n in the low bits of the mantissa. With multiply-adds the product is not rounded.
JCA_INLINE void split_exponent(f32v y, float factor, f32v& z, f32v& s) {
    const f32v shifted = y * factor + 12582912.0f;
    z = y * factor - (shifted - 12582912.0f);
    s = (f32v)(((i32v)shifted << 23) + 0x3f800000);
}

JCA_INLINE void split_exponent(f64v y, double factor, f64v& z, f64v& s) {
    const f64v shifted = y * factor + 6755399441055744.0;
    z = y * factor - (shifted - 6755399441055744.0);
    s = (f64v)(((i64v)shifted << 52) + 0x3ff0000000000000LL);
}

// 1 / q and e / q. AVX-512: 14-bit reciprocal and one Newton step (error 2^-28). Elsewhere the true
// division: the 12-bit reciprocal and a step would leave 1.3e-7 and make tanh(inf) differ from 1.
JCA_INLINE f32v reciprocal(f32v q) {
#if defined(__AVX512F__) && JCA_VECTOR_BYTES == 64
    const f32v r = _mm512_rcp14_ps(q);
    return r + r * (1.0f - q * r);
#else
    return 1.0f / q;
#endif
}

JCA_INLINE f32v quotient(f32v e, f32v q) {
#if defined(__AVX512F__) && JCA_VECTOR_BYTES == 64
    const f32v r = _mm512_rcp14_ps(q), a = e * r;
    return a + r * (e - q * a);
#else
    return e / q;
#endif
}

JCA_INLINE f64v reciprocal(f64v q) {
    return 1.0 / q;
}

JCA_INLINE f64v quotient(f64v e, f64v q) {
    return e / q;
}

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

// 2^|x| - 1, relatively accurate near 0
template <class T>
JCA_INLINE vec_t<T> exponential(vec_t<T> y, const Fold<T>& fold) {
    vec_t<T> z, s;
    split_exponent(at_most(magnitude<T>(y), fold.limit), fold.factor, z, s);
    return s * power_minus_one(z) + (s - T(1));
}

// Largest error of tanh in float: 9.0e-8 (1.0e-7 without multiply-adds), 2.5e-7 relative. tanh(0)
// is 0 and keeps its sign, tanh(+-inf) = +-1, NaN stays NaN.
template <class T>
JCA_INLINE vec_t<T> tanh_of(vec_t<T> y, const Fold<T>& fold) {
    const vec_t<T> e = exponential<T>(y, fold);
    return with_sign<T>(quotient(e, e + T(2)), y);
}

// tanh and a quarter of its slope, (1 - tanh^2) / 4 = h - h^2 with h = 1 / (2^|x| + 1), which loses
// nothing where tanh is close to 1. At the limit it is exactly 0, because an infinite score has the
// slope 0.
template <class T>
JCA_INLINE vec_t<T> tanh_of(vec_t<T> y, const Fold<T>& fold, vec_t<T>& quarter_slope) {
    const vec_t<T> e = exponential<T>(y, fold), h = reciprocal(e + T(2));
    quarter_slope = h - h * h - fold.rest;
    return with_sign<T>(e * h, y);
}

template <class T>
Fold<T>::Fold(double scale) {
    constexpr double most = std::numeric_limits<T>::max();
    const double exact = __builtin_fabs(scale) * kTwoLog2E;  // 0, and not -0, for -0
    factor = (T)(exact > most ? most : exact);
    const double bound = 60.0 / (double)factor;
    limit = factor > 0 && bound > most ? (T)most : (T)bound;
    vec_t<T> slope;
    tanh_of<T>(splat(limit), *this, slope);
    rest = bound > most ? T(0) : slope[0];  // a scale of 0, or close to it, reaches no limit
}

// tanh(y) for a slope that is later taken from it, as 1 - tanh^2: where tanh is over 0.8 it is
// 1 - 2 / (e + 2), whose error is 0.6 units in the last place.
template <class T>
JCA_INLINE vec_t<T> tanh_for_slope(vec_t<T> y, const Fold<T>& fold) {
    const vec_t<T> e = exponential<T>(y, fold);
    const auto large = e > T(8);
    const vec_t<T> part = quotient(large ? splat(T(2)) : e, e + T(2));
    return with_sign<T>(large ? 1 - part : part, y);
}

// tanh rounded once: float scores are computed in double.
template <class T>
struct ExactFold {
    Fold<double> fold;
    explicit ExactFold(double scale) : fold(scale) {}
};

JCA_INLINE f64v tanh_of(f64v y, const ExactFold<double>& exact) {
    return tanh_of<double>(y, exact.fold);
}

JCA_INLINE f32v tanh_of(f32v y, const ExactFold<float>& exact) {
    f32h half[2];
    memcpy(half, &y, sizeof(y));
    for (f32h& h : half) {
        const f64v t = tanh_of<double>(__builtin_convertvector(h, f64v), exact.fold);
        h = __builtin_convertvector(t, f32h);
    }
    memcpy(&y, half, sizeof(y));
    return y;
}

// exp(x) for x <= 0, 0 below the smallest normal number.
JCA_INLINE f32v exp_negative(f32v x) {
    f32v z, s;
    split_exponent(x < -87.0f ? splat(-87.0f) : x, 1.44269504088896f, z, s);
    return x < -87.0f ? f32v{} : s + s * power_minus_one(z);
}

JCA_INLINE f64v exp_negative(f64v x) {
    f64v z, s;
    split_exponent(x < -708.0 ? splat(-708.0) : x, 1.4426950408889634, z, s);
    return x < -708.0 ? f64v{} : s + s * power_minus_one(z);
}

}  // namespace
}  // namespace JCA_ISA
}  // namespace jca
