// Backward of the paper's layer: the tanh tiles first, which leave dP = gradient of W_j J and dQ =
// gradient of X through q, then one walk over the samples for everything that is small: dX, dJ and
// the gradients of W_j, W_x and W_h.
#pragma once

#include "joint_coattention.h"

namespace jca {
namespace JCA_ISA {
namespace {

// sum of a[r][c] b[n][c] over the columns of many tiles: `rows` x `cols` sums with unreduced lanes,
// then reduced once.
template <class T>
struct Outer {
    vec_t<T>* sums;
    int64_t rows, cols;

    static int64_t padded(int64_t rows) { return ceil_div(rows, kLaneRows) * kLaneRows; }
    // Rows of `a` up to the padded count must exist; their content does not matter.
    void add(const T* a, const T* b) const { lane_update<T, kTile>(a, b, cols, rows, kTile, sums); }
    void reduce(T* out) const {
        for (int64_t e = 0; e < rows * cols; e++) {
            T total = 0;
            for (int l = 0; l < Simd<T>::lanes; l++) total += sums[e][l];
            out[e] = total;
        }
    }
};

template <class St>
struct SmallGradients {
    using T = real_t<St>;
    const jca_joint_coattention& a;
    const LayerSource<St>* source;
    T* partial = nullptr;  // [group][modality]: dW_j, dW_x, dW_h
    int64_t groups = min_of(a.batch, 16);
    int64_t n = a.n;

    int64_t weights_size(int64_t m) const { return n * n + 2 * a.modality[m].attention * n; }
    int64_t partial_size() const {
        int64_t total = 0;
        for (int64_t m = 0; m < a.count; m++) total += weights_size(m);
        return total;
    }

    // Unreduced sums of modality m: those of dW_j, dW_x and dW_h follow each other.
    int64_t sums_size(int64_t m) const {
        return (Outer<T>::padded(n) + 2 * Outer<T>::padded(a.modality[m].attention)) * n;
    }
    int64_t sums_begin(int64_t m) const {
        int64_t begin = 0;
        for (int64_t o = 0; o < m; o++) begin += sums_size(o);
        return begin;
    }

    struct Scratch {
        T *x, *g, *h, *dh, *dx, *dp;
        vec_t<T>* sums;
    };

    Outer<T> w_j(const Scratch& s, int64_t m) const {
        return Outer<T>{s.sums + sums_begin(m), n, n};
    }
    Outer<T> w_x(const Scratch& s, int64_t m) const {
        return Outer<T>{w_j(s, m).sums + Outer<T>::padded(n) * n, a.modality[m].attention, n};
    }
    Outer<T> w_h(const Scratch& s, int64_t m) const {
        const Outer<T> before = w_x(s, m);
        return Outer<T>{before.sums + Outer<T>::padded(before.rows) * n, before.rows, n};
    }

    Scratch layout(Arena& arena) const {
        Scratch s;
        int64_t k = 0;
        for (int64_t m = 0; m < a.count; m++) k = max_of(k, a.modality[m].attention);
        s.sums = arena.take<vec_t<T>>(sums_begin(a.count));
        s.x = arena.take<T>(n, kTile);
        s.g = arena.take<T>(n, kTile);
        s.dx = arena.take<T>(n, kTile);
        s.dp = arena.take<T>(Outer<T>::padded(n), kTile);
        s.h = arena.take<T>(Outer<T>::padded(k), kTile);
        s.dh = arena.take<T>(Outer<T>::padded(k), kTile);
        return s;
    }

    void operator()(int64_t g, char* memory) const {
        Arena arena{memory};
        const Scratch s = layout(arena);
        memset(static_cast<void*>(s.sums), 0, (size_t)sums_begin(a.count) * sizeof(vec_t<T>));
        for (int64_t b = g * a.batch / groups; b < (g + 1) * a.batch / groups; b++)
            sample_gradients(s, b);
        T* out = partial + g * partial_size();
        for (int64_t m = 0; m < a.count; out += weights_size(m++)) {
            w_j(s, m).reduce(out);
            w_x(s, m).reduce(out + n * n);
            w_h(s, m).reduce(out + n * n + a.modality[m].attention * n);
        }
    }

    void sample_gradients(const Scratch& s, int64_t b) const {
        int64_t begin = 0;  // of modality m in the concatenation
        for (int64_t m = 0; m < a.count; begin += a.modality[m++].width)
            for (int64_t i = 0; i < a.modality[m].width; i += kTile)
                input_tile(s, b, m, i, begin + i);
        for (int64_t m = 0; m < a.count; m++)
            if (a.modality[m].joint.data)
                for (int64_t j = 0; j < a.modality[m].joint_width; j += kTile)
                    joint_tile(s, b, m, j);
    }

    // dX = G (the residual's) + W_x^T dH + dQ, and where J is the concatenation + sum_m W_jm^T dP_m
    // on these columns
    void input_tile(const Scratch& s, int64_t b, int64_t m, int64_t i, int64_t column) const {
        const LayerSource<St>& src = source[m];
        const jca_modality& own = a.modality[m];
        const int64_t count = min_of(kTile, own.width - i), k = own.attention;
        src.tile(own.x, b, i, count, n, 1, s.x, kTile);
        src.tile(own.out, b, i, count, n, 1, s.g, kTile);
        src.tile(own.h, b, i, count, k, 1, s.h, kTile);
        memset(s.dh, 0, (size_t)(k * kTile) * sizeof(T));
        small_product(src.w_h, k, n, s.g, s.dh);
        for (int64_t e = 0; e < k * kTile; e += Simd<T>::lanes)
            store(s.dh + e, load(s.h + e) <= T(0) ? vec_t<T>{} : load(s.dh + e));
        w_x(s, m).add(s.dh, s.x);
        w_h(s, m).add(s.h, s.g);
        pack(src.dq + b * n * own.width + i, own.width, 1, n, count, T(1), s.dx, kTile);
        if (!a.without_residual) add_tile(s.dx, s.g);
        small_product(src.w_xt, n, k, s.dh, s.dx);
        if (!own.joint.data)
            for (int64_t o = 0; o < a.count; o++) through_joint(s, b, o, column, count, s.x, s.dx);
        src.untile(own.dx, b, i, count, n, s.dx);
    }

    // dJ of the modalities that read the joint feature of m, summed in their order; m is the one
    // that owns it.
    void joint_tile(const Scratch& s, int64_t b, int64_t m, int64_t j) const {
        const jca_modality& own = a.modality[m];
        if (!own.djoint.data) return;
        const int64_t count = min_of(kTile, own.joint_width - j);
        source[m].joint(b, j, count, s.x);
        memset(s.dx, 0, (size_t)(n * kTile) * sizeof(T));
        const int64_t last = a.joints == 1 ? a.count : m + 1;
        for (int64_t o = m; o < last; o++) through_joint(s, b, o, j, count, s.x, s.dx);
        source[m].untile(own.djoint, b, j, count, n, s.dx);
    }

    // dW_jo += dP_o J^T and dj += W_jo^T dP_o on columns [j, j + count) of the joint feature
    void through_joint(const Scratch& s, int64_t b, int64_t o, int64_t j, int64_t count,
                       const T* joint, T* dj) const {
        const int64_t d = a.modality[o].joint_width;
        pack(source[o].dp + b * n * d + j, d, 1, n, count, T(1), s.dp, kTile);
        w_j(s, o).add(s.dp, joint);
        small_product(source[o].w_jt, n, n, s.dp, dj);
    }

    void add_tile(T* to, const T* from) const {
        for (int64_t e = 0; e < n * kTile; e++) to[e] += from[e];
    }

    // Sums over the groups, in their order, and out to the caller.
    void finish() const {
        const int64_t size = partial_size();
        for (int64_t g = 1; g < groups; g++)
            for (int64_t e = 0; e < size; e++) partial[e] += partial[g * size + e];
        if (groups == 0) memset(partial, 0, (size_t)size * sizeof(T));
        const T* p = partial;
        for (int64_t m = 0; m < a.count; p += weights_size(m++)) {
            const jca_modality& own = a.modality[m];
            put(own.dw_j, p, n);
            put(own.dw_x, p + n * n, own.attention);
            put(own.dw_h, p + n * n + own.attention * n, own.attention);
        }
    }

    void put(const jca_weight& w, const T* p, int64_t rows) const {
        unpack(p, n, rows, n, T(1), static_cast<St*>(w.data), w.stride[0], w.stride[1]);
    }
};

template <class St>
int joint_coattention_backward(const jca_joint_coattention& a) {
    using T = real_t<St>;
    Sources<St> sources(a);
    SmallGradients<St> small{a, sources.source};
    Arena layout{nullptr};
    small.layout(layout);
    const auto place = [&](Arena& arena) {
        small.partial = arena.take<T>(max_of(small.groups, 1), small.partial_size());
        for (int64_t m = 0; m < a.count; m++) {
            const int64_t rows = product(a.batch, a.n);
            T* dq = arena.take<T>(rows, a.modality[m].width);
            T* dp = arena.take<T>(rows, a.modality[m].joint_width);
            if (!arena.base) continue;
            sources.source[m].dq = dq;
            sources.source[m].dp = dp;
        }
    };
    if (!sources.buffer.data) return no_memory(sources.buffer.bytes);
    Arena measure{nullptr};
    place(measure);
    Buffer buffer(measure.used);
    if (!buffer.data) return no_memory(buffer.bytes);
    Arena arena{buffer.data};
    place(arena);
    int status = a.threshold ? run_layer<Backward, true, St>(a, sources.source)
                             : run_layer<Backward, false, St>(a, sources.source);
    if (status == JCA_OK) status = parallel_units(small.groups, layout.used, small);
    if (status == JCA_OK) small.finish();
    return status;
}

}  // namespace
}  // namespace JCA_ISA
}  // namespace jca
