// The materialised affinity matrix, for inspection: c = tanh(scale q k^T), lanes along the
// columns.
#pragma once

#include "engine.h"

namespace jca {
namespace JCA_ISA {
namespace {

template <class St>
struct JointAffinity {
    using T = real_t<St>;
    const jca_joint_affinity& a;
    int64_t tiles_i = ceil_div(a.m, kTile), tiles_j = ceil_div(a.l, kTile);

    struct Scratch {
        T *q, *k, *c, *ds, *dq, *dk;
        vec_t<T>* sums;
    };

    Scratch layout(Arena& arena) const {
        Scratch s;
        s.q = arena.take<T>(a.n, kTile);
        s.k = arena.take<T>(tiles_j, a.n, kTile);
        s.dk = arena.take<T>(tiles_j, a.n, kTile);
        s.dq = arena.take<T>(a.n, kTile);
        s.c = arena.take<T>(kTile * kTile);
        s.ds = arena.take<T>(kTile * kTile);
        s.sums = arena.take<vec_t<T>>(a.n, kTile);
        return s;
    }

    void tile(const jca_matrix& x, int64_t b, int64_t first, int64_t count, T scale, T* dst) const {
        pack(sample<const St>(x, b) + first * x.stride[1], x.stride[2], x.stride[1], a.n, count,
             scale, dst, kTile);
    }
    void untile(const jca_matrix& x, int64_t b, int64_t first, int64_t count, const T* src) const {
        unpack(src, kTile, a.n, count, T(1), sample<St>(x, b) + first * x.stride[1], x.stride[2],
               x.stride[1]);
    }

    // One unit: a row tile of one sample.
    void forward(int64_t unit, char* memory) const {
        Arena arena{memory};
        const Scratch s = layout(arena);
        const int64_t b = unit / tiles_i, i = unit % tiles_i * kTile, rows = min_of(kTile, a.m - i);
        const ExactFold<T> fold(a.scale);
        tile(a.q, b, i, rows, (T)sign_of(a.scale), s.q);
        for (int64_t j = 0; j < a.l; j += kTile) {
            const int64_t cols = min_of(kTile, a.l - j);
            tile(a.k, b, j, cols, 1, s.k);
            score_tile<T, false>(Operands<T>{s.q, s.k, a.n}, fold, rows, Mask{}, s.c);
            St* out = sample<St>(a.c, b) + i * a.c.stride[1] + j * a.c.stride[2];
            unpack(s.c, kTile, rows, cols, T(1), out, a.c.stride[1], a.c.stride[2]);
        }
    }

    // One unit: a sample. ds = dc (1 - c^2) scale, dq = ds k, dk = ds^T q.
    void backward(int64_t b, char* memory) const {
        Arena arena{memory};
        const Scratch s = layout(arena);
        const int64_t k_size = a.n * kTile;
        memset(s.dk, 0, (size_t)(tiles_j * k_size) * sizeof(T));
        for (int64_t t = 0; t < tiles_j; t++)
            tile(a.k, b, t * kTile, min_of(kTile, a.l - t * kTile), 1, s.k + t * k_size);
        for (int64_t i = 0; i < a.m; i += kTile) {
            const int64_t rows = min_of(kTile, a.m - i);
            tile(a.q, b, i, rows, 1, s.q);
            memset(static_cast<void*>(s.sums), 0, (size_t)k_size * sizeof(vec_t<T>));
            for (int64_t t = 0; t < tiles_j; t++) {
                slope(s, b, i, rows, t * kTile);
                rank_update<T, kTile>(s.q, a.n, s.ds, rows, kTile, s.dk + t * k_size);
                lane_update<T, kTile>(s.ds, s.k + t * k_size, a.n, rows, kTile, s.sums);
            }
            reduce_lanes<T>(s.sums, a.n, rows, s.dq);
            untile(a.dq, b, i, rows, s.dq);
        }
        for (int64_t t = 0; t < tiles_j; t++)
            untile(a.dk, b, t * kTile, min_of(kTile, a.l - t * kTile), s.dk + t * k_size);
    }

    void slope(const Scratch& s, int64_t b, int64_t i, int64_t rows, int64_t j) const {
        const int64_t cols = min_of(kTile, a.l - j);
        const St* c = sample<const St>(a.c, b) + i * a.c.stride[1] + j * a.c.stride[2];
        const St* dc = sample<const St>(a.dc, b) + i * a.dc.stride[1] + j * a.dc.stride[2];
        pack(c, a.c.stride[1], a.c.stride[2], rows, cols, T(1), s.c, kTile);
        pack(dc, a.dc.stride[1], a.dc.stride[2], rows, cols, T(1), s.ds, kTile);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t e = r * kTile; e < r * kTile + cols; e++)
                s.ds[e] = s.ds[e] * (1 - s.c[e] * s.c[e]) * (T)a.scale;
    }

    size_t scratch_bytes() const {
        Arena arena{nullptr};
        layout(arena);
        return arena.used;
    }
};

int check(const jca_joint_affinity& a, bool backward) {
    if (a.struct_size != (int64_t)sizeof(a)) return JCA_BAD_SIZE;
    if (a.batch < 0 || a.m < 1 || a.l < 1 || a.n < 1) return JCA_BAD_SHAPE;
    if (a.batch == 0) return JCA_OK;
    if (!a.q.data || !a.k.data || !a.c.data) return JCA_NULL_POINTER;
    return backward && (!a.dc.data || !a.dq.data || !a.dk.data) ? JCA_NULL_POINTER : JCA_OK;
}

template <class St>
int joint_affinity_forward(const jca_joint_affinity& a) {
    const JointAffinity<St> op{a};
    return parallel_units(a.batch * op.tiles_i, op.scratch_bytes(),
                          [&op](int64_t unit, char* memory) { op.forward(unit, memory); });
}

template <class St>
int joint_affinity_backward(const jca_joint_affinity& a) {
    const JointAffinity<St> op{a};
    return parallel_units(a.batch, op.scratch_bytes(),
                          [&op](int64_t b, char* memory) { op.backward(b, memory); });
}

}  // namespace
}  // namespace JCA_ISA
}  // namespace jca
