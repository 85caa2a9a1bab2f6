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
    Real q_scale = (Real)(a.scale * kTwoLog2E);
    Real kept = a.threshold == 65536 ? Real(0) : (Real)(65536.0 / (65536.0 - (double)a.threshold));

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
        tile(a.q, b, i, count, a.n, q_scale, dst, kTile);
    }
    int64_t temp_size() const { return 0; }
    void k(int64_t b, int64_t j, int64_t count, Real* dst, int64_t w, Real*) const {
        tile(a.k, b, j, count, a.n, 1, dst, w);
    }
    void v(int64_t b, int64_t j, int64_t count, Real* dst, int64_t w) const {
        tile(a.v, a.shared_v ? 0 : b, j, count, a.d, kept, dst, w);
    }

    // relu(tanh(o)); NaN stays NaN because the comparison asks for o < 0.
    void put(int64_t b, int64_t i, int64_t count, Real* o, Real*) const {
        if (a.epilogue == JCA_EPILOGUE_RELU_TANH)
            for (int64_t e = 0; e < a.d * kTile; e += Simd<Real>::lanes) {
                vec_t<Real> t = tanh_folded(load(o + e) * (Real)kTwoLog2E);
                store(o + e, t < Real(0) ? vec_t<Real>{} : t);
            }
        untile(a.out, b, i, count, a.d, 1, o, kTile);
    }

    // The gradient before the epilogue: t = relu(tanh(o)) is positive exactly where it passes, with
    // slope 1 - t^2.
    void dout(int64_t b, int64_t i, int64_t count, Real* dst, Real*) const {
        tile(a.dout, b, i, count, a.d, 1, dst, kTile);
        if (a.epilogue != JCA_EPILOGUE_RELU_TANH) return;
        const St* t = sample<const St>(a.out, b) + i * a.out.stride[1];
        for (int64_t r = 0; r < a.d; r++)
            for (int64_t c = 0; c < count; c++) {
                const Real y = to_real(t[c * a.out.stride[1] + r * a.out.stride[2]]);
                dst[r * kTile + c] = y <= 0 ? Real(0) : dst[r * kTile + c] * (1 - y * y);
            }
    }

    void put_dq(int64_t b, int64_t i, int64_t count, const Real* x) const {
        untile(a.dq, b, i, count, a.n, (Real)a.scale, x, kTile);
    }
    void put_dk(int64_t b, int64_t j, int64_t count, const Real* x, int64_t w) const {
        untile(a.dk, b, j, count, a.n, (Real)(1 / kTwoLog2E), x, w);
    }
    void put_dv(int64_t b, int64_t j, int64_t count, const Real* x, int64_t w) const {
        untile(a.dv, b, j, count, a.d, kept, x, w);
    }
};

inline Shape shape_of(const jca_tanh_attention& a) {
    const int64_t t = a.threshold < 65536 ? a.threshold << 16 : 0xffffffffll;
    return Shape{a.batch, a.m, a.l, a.n, a.d, a.shared_v != 0, (uint32_t)t, a.seed};
}

template <template <class, bool> class Engine, bool DROP, class St>
int run_tanh_attention(const jca_tanh_attention& a) {
    const TensorSource<St> source{a};
    Engine<TensorSource<St>, DROP> engine{shape_of(a), &source};
    return Engines<Engine<TensorSource<St>, DROP>>{&engine, 1}.run();
}

template <class St>
int tanh_attention_forward(const jca_tanh_attention& a) {
    return a.threshold ? run_tanh_attention<Forward, true, St>(a)
                       : run_tanh_attention<Forward, false, St>(a);
}

template <class St>
int tanh_attention_backward(const jca_tanh_attention& a) {
    return a.threshold ? run_tanh_attention<Backward, true, St>(a)
                       : run_tanh_attention<Backward, false, St>(a);
}

}  // namespace
}  // namespace JCA_ISA
}  // namespace jca
