// tanh_attention on plain tensors: the Source of engine.h that packs from and unpacks to any
// strides and storage type.
#pragma once

#include "engine.h"

namespace jca {
namespace JCA_ISA {
namespace {

template <class St>
struct TensorSource {
    using Real = real_t<St>;
    const jca_tanh_attention& a;
    Real sign = (Real)sign_of(a.scale);
    Real kept = (Real)keep_scale(a.threshold);

    static void tile(const jca_matrix& x, int64_t b, int64_t first, int64_t count, int64_t inner,
                     Real scale, Real* dst, int64_t width) {
        pack(sample<const St>(x, b) + first * x.stride[1], x.stride[2], x.stride[1], inner, count,
             scale, dst, width);
    }

    static void untile(const jca_matrix& x, int64_t b, int64_t first, int64_t count, int64_t inner,
                       Real scale, const Real* src, int64_t width) {
        unpack(src, width, inner, count, scale, sample<St>(x, b) + first * x.stride[1], x.stride[2],
               x.stride[1]);
    }

    void q(int64_t b, int64_t i, int64_t count, Real* dst) const {
        tile(a.q, b, i, count, a.n, sign, dst, kTile);
    }
    int64_t temp_size() const { return 0; }
    void k(int64_t b, int64_t j, int64_t count, Real* dst, int64_t w, Real*) const {
        tile(a.k, b, j, count, a.n, 1, dst, w);
    }
    void v(int64_t b, int64_t j, int64_t count, Real* dst, int64_t w) const {
        tile(a.v, a.shared_v ? 0 : b, j, count, a.d, 1, dst, w);
    }

    void put(int64_t b, int64_t i, int64_t count, Real* o, Real*) const {
        untile(a.out, b, i, count, a.d, kept, o, kTile);
    }
    void dout(int64_t b, int64_t i, int64_t count, Real* dst, Real*) const {
        tile(a.dout, b, i, count, a.d, 1, dst, kTile);
    }

    void put_dq(int64_t b, int64_t i, int64_t count, const Real* x) const {
        untile(a.dq, b, i, count, a.n, sign, x, kTile);
    }
    void put_dk(int64_t b, int64_t j, int64_t count, const Real* x, int64_t w) const {
        untile(a.dk, b, j, count, a.n, 1, x, w);
    }
    void put_dv(int64_t b, int64_t j, int64_t count, const Real* x, int64_t w) const {
        untile(a.dv, b, j, count, a.d, kept, x, w);
    }
};

inline Shape shape_of(const jca_tanh_attention& a) {
    Shape s{a.batch, a.m, a.l, a.n, a.d};
    s.shared_v = a.shared_v != 0;
    s.limit = dropout_limit(a.threshold);
    s.seed = a.seed;
    s.scale = a.scale;
    s.kept = keep_scale(a.threshold);
    return s;
}

template <template <class, bool> class Engine, bool DROP, class Source>
int run_engine(const jca_tanh_attention& a, const Source& source) {
    Engine<Source, DROP> engine{shape_of(a), &source};
    return Engines<Engine<Source, DROP>>{&engine, 1}.run();
}

template <template <class, bool> class Engine, class Source>
int run_attention(const jca_tanh_attention& a, const Source& source) {
    return a.threshold ? run_engine<Engine, true>(a, source) : run_engine<Engine, false>(a, source);
}

int check(const jca_tanh_attention& a, bool backward) {
    if (a.struct_size != (int64_t)sizeof(a)) return JCA_BAD_SIZE;
    if (a.batch < 0 || a.m < 1 || a.l < 1 || a.n < 1 || a.d < 1) return JCA_BAD_SHAPE;
    if (bad_threshold(a.threshold)) return JCA_BAD_THRESHOLD;
    if (a.batch == 0) return JCA_OK;
    if (!a.q.data || !a.k.data || !a.v.data) return JCA_NULL_POINTER;
    if (!backward) return a.out.data ? JCA_OK : JCA_NULL_POINTER;
    return a.dout.data && a.dq.data && a.dk.data && a.dv.data ? JCA_OK : JCA_NULL_POINTER;
}

template <class St>
int tanh_attention_forward(const jca_tanh_attention& a) {
    return run_attention<Forward>(a, TensorSource<St>{a});
}

template <class St>
int tanh_attention_backward(const jca_tanh_attention& a) {
    return run_attention<Backward>(a, TensorSource<St>{a});
}

}  // namespace
}  // namespace JCA_ISA
}  // namespace jca
