// tanh_dropout: c = keep (mask o tanh(scale scores)), element by element.
#pragma once

#include "engine.h"

namespace jca {
namespace JCA_ISA {
namespace {

template <class St>
struct TanhDropout {
    using T = real_t<St>;
    const jca_tanh_dropout& a;
    int64_t tiles = ceil_div(a.m, kRows);
    T kept = (T)keep_scale(a.threshold);
    T unkept = (T)(1 - (double)a.threshold / 65536);
    uint32_t limit = dropout_limit(a.threshold);

    struct Scratch {
        T *x, *grad;
        uint32_t *row, *word;
    };

    // A tile of at most kRows x kCols elements.
    struct Place {
        int64_t b, i, j, rows, cols;
    };

    Scratch layout(Arena& arena) const {
        Scratch s;
        s.x = arena.take<T>(kRows * kCols);
        s.grad = arena.take<T>(kRows * kCols);
        s.row = arena.take<uint32_t>(kRows);
        s.word = arena.take<uint32_t>(kCols / 2);
        return s;
    }

    size_t scratch_bytes() const {
        Arena arena{nullptr};
        layout(arena);
        return arena.used;
    }

    // One unit is kRows rows of one sample; `tile` is called for each of its tiles.
    template <class F>
    int run(const F& tile) const {
        const auto unit_of = [&](int64_t unit, char* memory) {
            Arena arena{memory};
            const Scratch s = layout(arena);
            const int64_t b = unit / tiles, i = unit % tiles * kRows, rows = min_of(kRows, a.m - i);
            if (a.threshold) fill_rows(dropout_key(a.seed, b), i, rows, s.row);
            for (int64_t j = 0; j < a.l; j += kCols) {
                if (a.threshold) fill_words(j, kCols, s.word);
                tile(s, Place{b, i, j, rows, min_of(kCols, a.l - j)});
            }
        };
        return parallel_units(product(a.batch, tiles), scratch_bytes(), unit_of);
    }

    // x = f(x, its place in the tile) for every vector; 0 where the mask drops an element.
    template <bool DROP, class F>
    void each_vector(const Scratch& s, const Place& at, const F& f) const {
        constexpr int W = Simd<T>::lanes;
        const int64_t pairs = padded_columns<T>(at.cols) / (2 * W);
        for (int64_t r = 0; r < at.rows; r++)
            for (int64_t p = 0; p < pairs; p++) {
                typename Simd<T>::hash h{};
                if (DROP) h = dropout_hash(load_keys<T>(s.word + p * W) ^ s.row[r]);
#pragma GCC unroll 2
                for (int second = 0; second < 2; second++) {
                    const int64_t place = r * kCols + pair_offset<T>(p, second);
                    vec_t<T> x = f(load(s.x + place), place);
                    if (DROP) x = keep<T>(x, second ? h : h << 16, limit);
                    store(s.x + place, x);
                }
            }
    }

    template <class F>
    void masked(const Scratch& s, const Place& at, const F& f) const {
        a.threshold ? each_vector<true>(s, at, f) : each_vector<false>(s, at, f);
    }

    static void read(const jca_matrix& x, const Place& at, T factor, T* dst) {
        pack(sample<const St>(x, at.b) + at.i * x.stride[1] + at.j * x.stride[2], x.stride[1],
             x.stride[2], at.rows, at.cols, factor, dst, kCols);
    }
    static void write(const jca_matrix& x, const Place& at, T factor, const T* src) {
        unpack(src, kCols, at.rows, at.cols, factor,
               sample<St>(x, at.b) + at.i * x.stride[1] + at.j * x.stride[2], x.stride[1],
               x.stride[2]);
    }

    int forward() const {
        const Fold<T> fold(a.scale);
        return run([&](const Scratch& s, const Place& at) {
            read(a.scores, at, (T)sign_of(a.scale), s.x);
            masked(s, at, [&](vec_t<T> x, int64_t) { return tanh_for_slope<T>(x, fold); });
            write(a.out, at, kept, s.x);
        });
    }

    // The slope is 1 - c^2, where c is the result before it was multiplied by `kept`.
    int backward() const {
        return run([&](const Scratch& s, const Place& at) {
            read(a.out, at, unkept, s.x);
            read(a.dout, at, 1, s.grad);
            masked(s, at, [&](vec_t<T> c, int64_t place) {
                return load(s.grad + place) * (T(1) - c * c);
            });
            write(a.dscores, at, (T)a.scale * kept, s.x);
        });
    }
};

int check(const jca_tanh_dropout& a, bool backward) {
    if (a.struct_size != (int64_t)sizeof(a)) return JCA_BAD_SIZE;
    if (a.batch < 0 || a.m < 1 || a.l < 1) return JCA_BAD_SHAPE;
    if (bad_threshold(a.threshold)) return JCA_BAD_THRESHOLD;
    if (a.batch == 0) return JCA_OK;
    if (!a.out.data) return JCA_NULL_POINTER;
    if (!backward) return a.scores.data ? JCA_OK : JCA_NULL_POINTER;
    return a.dout.data && a.dscores.data ? JCA_OK : JCA_NULL_POINTER;
}

template <class St>
int tanh_dropout_forward(const jca_tanh_dropout& a) {
    return TanhDropout<St>{a}.forward();
}

template <class St>
int tanh_dropout_backward(const jca_tanh_dropout& a) {
    return TanhDropout<St>{a}.backward();
}

}  // namespace
}  // namespace JCA_ISA
}  // namespace jca
