// The paper's layer, all modalities in one call. Between the tanh tiles of engine.h it does the
// small products in place: W_j J while k is packed, and relu(W_x X + .), W_h^T H and the residual
// while a result tile is still in L1.
#pragma once

#include "engine.h"

namespace jca {
namespace JCA_ISA {
namespace {

// out[r][0..64) += sum_i coef[r][i] x[i][0..64) for small dense coefficients [rows][inner].
template <class T>
JCA_INLINE void small_product(const T* coef, int64_t rows, int64_t inner, const T* x, T* out) {
    rank_update<T, kTile, 0>(coef, rows, x, inner, kTile, out, inner);
}

// A weight as a dense [rows][cols] array of the arithmetic type; `transposed` swaps the two.
template <class St>
real_t<St>* dense(Arena& arena, const jca_weight& w, int64_t rows, int64_t cols, bool transposed,
                  bool fill) {
    real_t<St>* p = arena.take<real_t<St>>(rows, cols);
    const int64_t row = transposed ? w.stride[1] : w.stride[0],
                  col = transposed ? w.stride[0] : w.stride[1];
    if (fill) pack(static_cast<const St*>(w.data), row, col, rows, cols, real_t<St>(1), p, cols);
    return p;
}

// The state of one modality that both passes share. J is read from its parts where it is their
// concatenation.
template <class St>
struct LayerSource {
    using Real = real_t<St>;
    const jca_joint_coattention* layer;
    const jca_modality* own;
    Real sign, kept;
    Real *w_j, *w_x, *w_h;              // (N, N), (k, N), (k, N)
    Real *w_jt, *w_xt, *w_ht;           // (N, N), (N, k), (N, k)
    Real *dp = nullptr, *dq = nullptr;  // backward: (B, N, d), (B, N, d_x)

    // Weights as dense arrays; with `fill` false only their place is measured.
    void place(Arena& arena, bool fill) {
        const int64_t n = layer->n, k = own->attention;
        w_j = dense<St>(arena, own->w_j, n, n, false, fill);
        w_x = dense<St>(arena, own->w_x, k, n, false, fill);
        w_h = dense<St>(arena, own->w_h, k, n, false, fill);
        w_jt = dense<St>(arena, own->w_j, n, n, true, fill);
        w_xt = dense<St>(arena, own->w_x, n, k, true, fill);
        w_ht = dense<St>(arena, own->w_h, n, k, true, fill);
    }

    Shape shape() const {
        const uint64_t seed =
            (uint64_t)layer->seed + (uint64_t)(own - layer->modality) * 0x9e3779b97f4a7c15ull;
        Shape s{layer->batch, own->width, own->joint_width, layer->n, own->attention};
        s.shared_v = true;
        s.limit = dropout_limit(layer->threshold);
        s.seed = (int64_t)seed;
        s.scale = own->scale;
        s.kept = keep_scale(layer->threshold);
        return s;
    }

    int64_t temp_size() const { return product(3 * layer->n + own->attention, kTile); }

    void tile(const jca_matrix& x, int64_t b, int64_t first, int64_t count, int64_t rows,
              Real scale, Real* dst, int64_t width) const {
        pack(sample<const St>(x, b) + first * x.stride[2], x.stride[1], x.stride[2], rows, count,
             scale, dst, width);
    }

    void untile(const jca_matrix& x, int64_t b, int64_t first, int64_t count, int64_t rows,
                const Real* src) const {
        unpack(src, kTile, rows, count, Real(1), sample<St>(x, b) + first * x.stride[2],
               x.stride[1], x.stride[2]);
    }

    // Columns [j, j + count) of J, `count` <= 64, zero-padded to 64.
    void joint(int64_t b, int64_t j, int64_t count, Real* dst) const {
        if (own->joint.data) return tile(own->joint, b, j, count, layer->n, 1, dst, kTile);
        memset(dst, 0, (size_t)(layer->n * kTile) * sizeof(Real));
        int64_t begin = 0;
        for (const jca_modality* m = layer->modality; m < layer->modality + layer->count;
             begin += m++->width) {
            const int64_t from = max_of(j, begin), to = min_of(j + count, begin + m->width);
            if (from >= to) continue;
            const St* src = sample<const St>(m->x, b) + (from - begin) * m->x.stride[2];
            for (int64_t n = 0; n < layer->n; n++)
                pack(src + n * m->x.stride[1], 0, m->x.stride[2], 1, to - from, Real(1),
                     dst + n * kTile + from - j, to - from);
        }
    }

    void q(int64_t b, int64_t i, int64_t count, Real* dst) const {
        tile(own->x, b, i, count, layer->n, sign, dst, kTile);
    }

    void k(int64_t b, int64_t j, int64_t count, Real* dst, int64_t width, Real* temp) const {
        Real *x = temp, *y = temp + layer->n * kTile;
        for (int64_t c = 0; c < width; c += kTile) {
            joint(b, j + c, max_of(0, min_of(kTile, count - c)), x);
            memset(y, 0, (size_t)(layer->n * kTile) * sizeof(Real));
            small_product(w_j, layer->n, layer->n, x, y);
            for (int64_t n = 0; n < layer->n; n++)
                memcpy(dst + n * width + c, y + n * kTile, kTile * sizeof(Real));
        }
    }

    void v(int64_t, int64_t j, int64_t count, Real* dst, int64_t width) const {
        const jca_weight& w = own->w_c;
        pack(static_cast<const St*>(w.data) + j * w.stride[1], w.stride[0], w.stride[1],
             own->attention, count, Real(1), dst, width);
    }

    // o (k x 64) -> H = relu(W_x X + o), X' = X + W_h^T H, or W_h^T H without the residual
    void put(int64_t b, int64_t i, int64_t count, Real* o, Real* temp) const {
        const int64_t n = layer->n, k = own->attention;
        Real* x = temp;
        tile(own->x, b, i, count, n, 1, x, kTile);
        for (int64_t e = 0; e < k * kTile; e++) o[e] *= kept;
        small_product(w_x, k, n, x, o);
        for (int64_t e = 0; e < k * kTile; e += Simd<Real>::lanes) {
            const vec_t<Real> h = load(o + e);
            store(o + e, h < Real(0) ? vec_t<Real>{} : h);  // this way round NaN stays NaN
        }
        if (own->h.data) untile(own->h, b, i, count, k, o);
        if (layer->without_residual) memset(x, 0, (size_t)(n * kTile) * sizeof(Real));
        small_product(w_ht, n, k, o, x);
        untile(own->out, b, i, count, n, x);
    }

    // dH = W_h G where H is not 0, with G the gradient of X'; a NaN in H passes it on
    void dout(int64_t b, int64_t i, int64_t count, Real* dst, Real* temp) const {
        const int64_t n = layer->n, k = own->attention;
        Real *g = temp, *h = temp + n * kTile;
        tile(own->out, b, i, count, n, 1, g, kTile);
        tile(own->h, b, i, count, k, 1, h, kTile);
        memset(dst, 0, (size_t)(k * kTile) * sizeof(Real));
        small_product(w_h, k, n, g, dst);
        for (int64_t e = 0; e < k * kTile; e += Simd<Real>::lanes)
            store(dst + e, load(h + e) <= Real(0) ? vec_t<Real>{} : load(dst + e));
    }

    void put_dq(int64_t b, int64_t i, int64_t count, const Real* x) const {
        unpack(x, kTile, layer->n, count, sign, dq + b * layer->n * own->width + i, own->width, 1);
    }
    void put_dk(int64_t b, int64_t j, int64_t count, const Real* x, int64_t w) const {
        const int64_t d = own->joint_width;
        unpack(x, w, layer->n, count, Real(1), dp + b * layer->n * d + j, d, 1);
    }
    void put_dv(int64_t, int64_t j, int64_t count, const Real* x, int64_t w) const {
        const jca_weight& out = own->dw_c;
        unpack(x, w, own->attention, count, kept, static_cast<St*>(out.data) + j * out.stride[1],
               out.stride[0], out.stride[1]);
    }
};

template <class St>
LayerSource<St> layer_source(const jca_joint_coattention& a, int64_t i) {
    LayerSource<St> s{};
    s.layer = &a;
    s.own = a.modality + i;
    s.sign = (real_t<St>)sign_of(s.own->scale);
    s.kept = (real_t<St>)keep_scale(a.threshold);
    return s;
}

// The sources of all modalities with their weights, in one buffer.
template <class St>
struct Sources {
    Buffer buffer;
    LayerSource<St>* source;

    explicit Sources(const jca_joint_coattention& a) : buffer(place(a, nullptr)) {
        if (buffer.data) place(a, buffer.data);
    }

    size_t place(const jca_joint_coattention& a, char* memory) {
        Arena arena{memory};
        source = arena.take<LayerSource<St>>(a.count);
        for (int64_t i = 0; i < a.count; i++) {
            LayerSource<St> s = layer_source<St>(a, i);
            s.place(arena, memory != nullptr);
            if (memory) source[i] = s;
        }
        return arena.used;
    }
};

template <template <class, bool> class Engine, bool DROP, class St>
int run_layer(const jca_joint_coattention& a, const LayerSource<St>* source) {
    using E = Engine<LayerSource<St>, DROP>;
    Buffer memory((size_t)a.count * sizeof(E));
    if (!memory.data) return JCA_NO_MEMORY;
    E* engine = reinterpret_cast<E*>(memory.data);
    static_assert(__is_trivially_copyable(E), "engines are copied as bytes");
    for (int64_t i = 0; i < a.count; i++) {
        const E one{source[i].shape(), source + i};
        memcpy(static_cast<void*>(engine + i), &one, sizeof(E));
    }
    return Engines<E>{engine, a.count}.run();
}

int check(const jca_modality& m, const jca_joint_coattention& a, bool backward) {
    if (m.width < 1 || m.joint_width < 1 || m.attention < 1) return JCA_BAD_SHAPE;
    if (!m.w_j.data || !m.w_x.data || !m.w_c.data || !m.w_h.data) return JCA_NULL_POINTER;
    if (backward && (!m.dw_j.data || !m.dw_x.data || !m.dw_c.data || !m.dw_h.data))
        return JCA_NULL_POINTER;
    if (a.batch == 0) return JCA_OK;
    if (!m.x.data || !m.out.data || (a.joints && !m.joint.data)) return JCA_NULL_POINTER;
    return backward && (!m.h.data || !m.dx.data) ? JCA_NULL_POINTER : JCA_OK;
}

int check(const jca_joint_coattention& a, bool backward) {
    if (a.count < 1 ||
        a.struct_size != (int64_t)(sizeof(a) + (size_t)(a.count - 1) * sizeof(jca_modality)))
        return JCA_BAD_SIZE;
    if (a.batch < 0 || a.n < 1) return JCA_BAD_SHAPE;
    if (bad_threshold(a.threshold)) return JCA_BAD_THRESHOLD;
    for (int64_t i = 0; i < a.count; i++)
        if (const int status = check(a.modality[i], a, backward)) return status;
    return JCA_OK;
}

template <class St>
int joint_coattention_forward(const jca_joint_coattention& a) {
    Sources<St> sources(a);
    if (!sources.buffer.data) return no_memory(sources.buffer.bytes);
    return a.threshold ? run_layer<Forward, true, St>(a, sources.source)
                       : run_layer<Forward, false, St>(a, sources.source);
}

}  // namespace
}  // namespace JCA_ISA
}  // namespace jca
