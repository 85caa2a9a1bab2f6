// softmax(scale K q) K over the regions of each segment. Bound by memory: K comes from DRAM once,
// in the first pass, which reads it in the order of its addresses: the processor's own prefetching
// likes that best, and prefetch instructions only take the load slots it needs. The second pass
// finds the same 100 KB in L2.
#pragma once

#include <limits>

#include "engine.h"

namespace jca {
namespace JCA_ISA {
namespace {

template <class T>
JCA_INLINE vec_t<T> load_any(const T* p) {
    vec_t<T> x;
    memcpy(&x, p, sizeof(x));
    return x;
}

// The first `count` elements of a vector, 0 behind them.
template <class T>
JCA_INLINE vec_t<T> load_part(const T* p, int64_t count) {
    vec_t<T> x{};
    memcpy(&x, p, (size_t)count * sizeof(T));
    return x;
}

// dot[r] = sum_d rows[r][d] x[d]. `sums` keeps the lanes of one product per row, added together in
// one tree at the end.
template <class T>
JCA_KERNEL void all_dots(const T* rows, int64_t ld, int64_t count, const T* x, int64_t width,
                         vec_t<T>* sums, T* dot) {
    constexpr int W = Simd<T>::lanes, V = 4;
    for (int64_t r = 0; r < count; r++) {
        const T* p = rows + r * ld;
        vec_t<T> acc[V] = {};
        int64_t d = 0;
        for (; d + V * W <= width; d += V * W)
#pragma GCC unroll 4
            for (int c = 0; c < V; c++) acc[c] += load_any(p + d + c * W) * load_any(x + d + c * W);
        for (; d < width; d += W)
            acc[0] +=
                load_part(p + d, min_of(W, width - d)) * load_part(x + d, min_of(W, width - d));
        sums[r] = (acc[0] + acc[1]) + (acc[2] + acc[3]);
    }
    for (int64_t r = count; r % W; r++) sums[r] = vec_t<T>{};
    for (int64_t r = 0; r < count; r += W) store(dot + r, lane_sums<T>(sums + r));
}

// out[d] = sum_r weight[r] rows[r][d]
template <class T>
JCA_KERNEL void weighted_sum(const T* rows, int64_t ld, int64_t count, const T* weight,
                             int64_t width, T* out) {
    constexpr int W = Simd<T>::lanes, V = JCA_VECTOR_BYTES == 64 ? 16 : 8;
    int64_t d = 0;
    for (; d + V * W <= width; d += V * W) {
        vec_t<T> acc[V] = {};
        for (int64_t r = 0; r < count; r++) {
            const T* p = rows + r * ld + d;
#pragma GCC unroll 16
            for (int c = 0; c < V; c++) acc[c] += weight[r] * load_any(p + c * W);
        }
#pragma GCC unroll 16
        for (int c = 0; c < V; c++) memcpy(out + d + c * W, &acc[c], sizeof(acc[c]));
    }
    for (; d < width; d++) {
        T sum = 0;
        for (int64_t r = 0; r < count; r++) sum += weight[r] * rows[r * ld + d];
        out[d] = sum;
    }
}

// The lanes of x put together by f, in halves.
template <class T, class F>
JCA_INLINE T fold_lanes(vec_t<T> x, F f) {
    T t[Simd<T>::lanes];
    memcpy(t, &x, sizeof(t));
    for (int half = Simd<T>::lanes / 2; half; half /= 2)
        for (int l = 0; l < half; l++) t[l] = f(t[l], t[l + half]);
    return t[0];
}

template <class T>
JCA_INLINE T lane_total(vec_t<T> x) {
    return fold_lanes<T>(x, [](T a, T b) { return a + b; });
}

// In place: score -> softmax(scale * score). `count` is padded to whole vectors inside `score`; the
// padding becomes 0.
template <class T>
JCA_KERNEL void softmax(T* score, int64_t count, T scale) {
    constexpr int W = Simd<T>::lanes;
    for (int64_t r = 0; r < count; r += W) store(score + r, load(score + r) * scale);
    constexpr T infinity = std::numeric_limits<T>::infinity();
    for (int64_t r = count; r % W; r++) score[r] = -infinity;
    vec_t<T> top = load(score), sum{};
    for (int64_t r = 0; r < count; r += W) {
        const vec_t<T> x = load(score + r);
        top = x <= top || top != top ? top : x;  // NaN wins
    }
    const T most = fold_lanes<T>(top, [](T a, T b) { return b <= a || a != a ? a : b; });
    for (int64_t r = 0; r < count; r += W) {
        const vec_t<T> x = exp_negative(load(score + r) - most);
        store(score + r, x);
        sum += x;
    }
    const T all = lane_total<T>(sum);
    for (int64_t r = 0; r < count; r += W) store(score + r, load(score + r) / all);
}

template <class St>
struct VisualReduction {
    using T = real_t<St>;
    const jca_visual_reduction& a;
    static constexpr int64_t kBlock = 4;  // samples per unit

    // K of one sample as rows of T: the tensor itself where it is one already, else a packed copy.
    const T* keys(int64_t s, T* copy, int64_t& ld) const {
        const St* src = sample<const St>(a.keys, s);
        if constexpr (sizeof(St) == sizeof(T))
            if (a.keys.stride[2] == 1) {
                ld = a.keys.stride[1];
                return src;
            }
        pack(src, a.keys.stride[1], a.keys.stride[2], a.regions, a.width, T(1), copy, a.width);
        ld = a.width;
        return copy;
    }
    // `count` elements, padded with zeros to whole vectors.
    void read(const jca_weight& x, int64_t s, int64_t count, T* dst) const {
        constexpr int W = Simd<T>::lanes;
        pack(static_cast<const St*>(x.data) + s * x.stride[0], 0, x.stride[1], 1, count, T(1), dst,
             ceil_div(count, W) * W);
    }
    void write(const jca_weight& x, int64_t s, int64_t count, const T* src) const {
        unpack(src, count, 1, count, T(1), static_cast<St*>(x.data) + s * x.stride[0], 0,
               x.stride[1]);
    }

    struct Scratch {
        T *copy, *query, *dout, *out, *score, *dscore;
        vec_t<T>* sums;
    };

    Scratch layout(Arena& arena) const {
        constexpr int64_t pad = Simd<T>::lanes;
        Scratch s;
        s.query = arena.take<T>(a.width);
        s.dout = arena.take<T>(a.width);
        s.out = arena.take<T>(max_of(a.width, a.regions));
        s.sums = arena.take<vec_t<T>>(a.regions + pad);
        s.score = arena.take<T>(a.regions + pad);
        s.dscore = arena.take<T>(a.regions + pad);
        s.copy = arena.take<T>(sizeof(St) == sizeof(T) && a.keys.stride[2] == 1 ? 0 : a.regions,
                               a.width);
        return s;
    }

    void forward(const Scratch& s, int64_t i) const {
        int64_t ld;
        const T* rows = keys(i, s.copy, ld);
        read(a.query, i, a.width, s.query);
        all_dots(rows, ld, a.regions, s.query, a.width, s.sums, s.score);
        softmax(s.score, a.regions, (T)a.scale);
        weighted_sum(rows, ld, a.regions, s.score, a.width, s.out);
        write(a.weights, i, a.regions, s.score);
        write(a.out, i, a.width, s.out);
    }

    // g = dA + K dO, ds = a o (g - a.g) scale, dq = K^T ds, dK = a dO^T + ds q^T
    void backward(const Scratch& s, int64_t i) const {
        int64_t ld;
        const T* rows = keys(i, s.copy, ld);
        T* g = s.dscore;
        read(a.dout, i, a.width, s.dout);
        all_dots(rows, ld, a.regions, s.dout, a.width, s.sums, g);
        read(a.weights, i, a.regions, s.score);
        read(a.dweights, i, a.regions, s.out);
        constexpr int W = Simd<T>::lanes;
        vec_t<T> sum{};
        for (int64_t r = 0; r < a.regions; r += W) {
            store(g + r, load(g + r) + load(s.out + r));
            sum += load(s.score + r) * load(g + r);
        }
        const T mean = lane_total<T>(sum);
        for (int64_t r = 0; r < a.regions; r += W)
            store(g + r, load(s.score + r) * (load(g + r) - mean) * (T)a.scale);
        weighted_sum(rows, ld, a.regions, g, a.width, s.out);
        write(a.dquery, i, a.width, s.out);
        if (a.dkeys.data) write_dkeys(s, i);
    }

    void write_dkeys(const Scratch& s, int64_t i) const {
        read(a.query, i, a.width, s.query);
        for (int64_t r = 0; r < a.regions; r++) {
            const T weight = s.score[r], slope = s.dscore[r];
            for (int64_t d = 0; d < a.width; d++)
                s.out[d] = weight * s.dout[d] + slope * s.query[d];
            unpack(s.out, a.width, 1, a.width, T(1), sample<St>(a.dkeys, i) + r * a.dkeys.stride[1],
                   0, a.dkeys.stride[2]);
        }
    }

    template <bool BACKWARD>
    int run() const {
        Arena measure{nullptr};
        layout(measure);
        return parallel_units(
            ceil_div(a.samples, kBlock), measure.used, [this](int64_t unit, char* memory) {
                Arena arena{memory};
                const Scratch s = layout(arena);
                for (int64_t i = unit * kBlock; i < min_of(a.samples, (unit + 1) * kBlock); i++)
                    BACKWARD ? backward(s, i) : forward(s, i);
            });
    }
};

int check(const jca_visual_reduction& a, bool backward) {
    if (a.struct_size != (int64_t)sizeof(a)) return JCA_BAD_SIZE;
    if (a.samples < 0 || a.regions < 1 || a.width < 1) return JCA_BAD_SHAPE;
    if (a.samples == 0) return JCA_OK;
    if (!a.query.data || !a.keys.data || !a.weights.data) return JCA_NULL_POINTER;
    if (!backward) return a.out.data ? JCA_OK : JCA_NULL_POINTER;
    return a.dout.data && a.dweights.data && a.dquery.data ? JCA_OK : JCA_NULL_POINTER;
}

template <class St>
int visual_reduction_forward(const jca_visual_reduction& a) {
    return VisualReduction<St>{a}.template run<false>();
}

template <class St>
int visual_reduction_backward(const jca_visual_reduction& a) {
    return VisualReduction<St>{a}.template run<true>();
}

}  // namespace
}  // namespace JCA_ISA
}  // namespace jca
