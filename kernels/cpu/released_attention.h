// released_attention: tanh_attention of the transposed tensors, with relu(tanh(o)) behind it.
#pragma once

#include "tanh_attention.h"

namespace jca {
namespace JCA_ISA {
namespace {

template <class St>
struct ReleasedSource : TensorSource<St> {
    using Base = TensorSource<St>;
    using Real = typename Base::Real;
    using Base::a;

    // NaN stays NaN because the comparison asks for t < 0.
    void put(int64_t b, int64_t i, int64_t count, Real* o, Real*) const {
        const Fold<Real> fold(keep_scale(a.threshold));
        for (int64_t e = 0; e < a.d * kTile; e += Simd<Real>::lanes) {
            vec_t<Real> t = tanh_for_slope<Real>(load(o + e), fold);
            store(o + e, t < Real(0) ? vec_t<Real>{} : t);
        }
        Base::untile(a.out, b, i, count, a.d, 1, o, kTile);
    }

    // The gradient before the epilogue: t = relu(tanh(o)) is positive exactly where it passes, with
    // slope 1 - t^2.
    void dout(int64_t b, int64_t i, int64_t count, Real* dst, Real* temp) const {
        Base::dout(b, i, count, dst, temp);
        const St* t = sample<const St>(a.out, b) + i * a.out.stride[1];
        for (int64_t r = 0; r < a.d; r++)
            for (int64_t c = 0; c < count; c++) {
                const Real y = to_real(t[c * a.out.stride[1] + r * a.out.stride[2]]);
                dst[r * kTile + c] = y <= 0 ? Real(0) : dst[r * kTile + c] * (1 - y * y);
            }
    }
};

inline jca_matrix transposed(const jca_matrix& x) {
    return {x.data, {x.stride[0], x.stride[2], x.stride[1]}};
}

inline jca_tanh_attention as_tanh_attention(const jca_released_attention& a) {
    jca_tanh_attention t{};
    t.dtype = a.dtype;
    t.batch = a.batch;
    t.m = a.width;
    t.l = a.key_width;
    t.n = t.d = a.n;
    t.threshold = a.threshold;
    t.seed = a.seed;
    t.scale = a.scale;
    t.q = transposed(a.query);
    t.k = transposed(a.key);
    t.v = transposed(a.value);
    t.out = transposed(a.out);
    t.dout = transposed(a.dout);
    t.dq = transposed(a.dquery);
    t.dk = transposed(a.dkey);
    t.dv = transposed(a.dvalue);
    return t;
}

int check(const jca_released_attention& a, bool backward) {
    if (a.struct_size != (int64_t)sizeof(a)) return JCA_BAD_SIZE;
    if (a.batch < 0 || a.n < 1 || a.width < 1 || a.key_width < 1) return JCA_BAD_SHAPE;
    if (bad_threshold(a.threshold)) return JCA_BAD_THRESHOLD;
    if (a.batch == 0) return JCA_OK;
    if (!a.query.data || !a.key.data || !a.value.data || !a.out.data) return JCA_NULL_POINTER;
    const bool gradients = a.dout.data && a.dquery.data && a.dkey.data && a.dvalue.data;
    return gradients || !backward ? JCA_OK : JCA_NULL_POINTER;
}

template <class St>
int released_attention_forward(const jca_released_attention& a) {
    const jca_tanh_attention t = as_tanh_attention(a);
    return run_attention<Forward>(t, ReleasedSource<St>{{t}});
}

template <class St>
int released_attention_backward(const jca_released_attention& a) {
    const jca_tanh_attention t = as_tanh_attention(a);
    return run_attention<Backward>(t, ReleasedSource<St>{{t}});
}

}  // namespace
}  // namespace JCA_ISA
}  // namespace jca
