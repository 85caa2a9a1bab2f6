// The walk over tiles that every tanh kernel shares. A Source reads the operands of one op and
// writes its results, so that plain tensors and the fused layer differ only there.
#pragma once

#include "tiles.h"

namespace jca {
namespace JCA_ISA {
namespace {

// Shape of the backward's tiles: 64 rows by kCols columns; the two L1 buffers hold kRows * kCols
// elements each.
constexpr int kRows = 32, kCols = 128;

struct Shape {
    int64_t batch, m, l, n, d;
    bool shared_v = false;
    uint32_t limit = 0;  // dropout threshold << 16
    int64_t seed = 0;
    double scale = 1;
    double kept = 1;  // the factor of a kept element

    // The factor from a quarter of tanh's slope to the derivative of a kept element.
    template <class T>
    T gain() const {
        return (T)(4 * (scale < 0 ? -scale : scale) * kept);
    }
};

// The contract of engine and Source. Tiles are packed; `count` rows or columns of a tile are valid
// and the rest is zero; `temp` is scratch of temp_size() elements of Real (float or double).
template <class S>
constexpr bool is_source() {
    using T = typename S::Real;
    // N x 64 of q, with the sign of the scale
    [[maybe_unused]] void (S::*q)(int64_t b, int64_t i, int64_t count, T* dst) const = &S::q;
    // N x width of k
    [[maybe_unused]] void (S::*k)(int64_t b, int64_t j, int64_t count, T* dst, int64_t width,
                                  T* temp) const = &S::k;
    // D x width of v
    [[maybe_unused]] void (S::*v)(int64_t b, int64_t j, int64_t count, T* dst, int64_t width)
        const = &S::v;
    // D x 64 of the product with v, which it multiplies by the scale of kept elements and may
    // overwrite
    [[maybe_unused]] void (S::*put)(int64_t b, int64_t i, int64_t count, T* o, T* temp) const =
        &S::put;
    // D x 64 of the gradient of the product with v
    [[maybe_unused]] void (S::*dout)(int64_t b, int64_t i, int64_t count, T* dst, T* temp) const =
        &S::dout;
    // N x 64, N x width and D x width of the gradients; it applies the sign of the scale to that of
    // q and the scale of kept elements to that of v
    [[maybe_unused]] void (S::*put_dq)(int64_t b, int64_t i, int64_t count, const T* x) const =
        &S::put_dq;
    [[maybe_unused]] void (S::*put_dk)(int64_t b, int64_t j, int64_t count, const T* x,
                                       int64_t width) const = &S::put_dk;
    [[maybe_unused]] void (S::*put_dv)(int64_t b, int64_t j, int64_t count, const T* x,
                                       int64_t width) const = &S::put_dv;
    [[maybe_unused]] int64_t (S::*temp_size)() const = &S::temp_size;
    return true;
}

// Row keys of `count` rows from `first`, for the mask of one sample.
JCA_INLINE void fill_rows(uint32_t key, int64_t first, int64_t count, uint32_t* out) {
    for (int64_t i = 0; i < count; i++) out[i] = dropout_row(key, first + i);
}

// Word keys of `columns` columns from `first` (a multiple of 32): [columns / 2].
JCA_INLINE void fill_words(int64_t first, int64_t columns, uint32_t* out) {
    for (int64_t w = 0; w < columns / 2; w++) out[w] = dropout_word(first + (w / 16) * 32 + w % 16);
}

// Runs the units of several engines (one per modality) as one parallel region. An engine has
// units(), scratch_bytes(), shared_bytes() of memory that prepare() fills before the region, and
// operator()(unit, scratch).
template <class E>
struct Engines {
    E* engine;
    int64_t count;

    void operator()(int64_t unit, char* scratch) const {
        const E* e = engine;
        for (; unit >= e->units(); e++) unit -= e->units();
        (*e)(unit, scratch);
    }

    int run() const {
        int64_t units = 0;
        size_t scratch = 0;
        Arena shared{nullptr};
        for (int64_t i = 0; i < count; i++) {
            units += engine[i].units();
            const size_t bytes = engine[i].scratch_bytes();
            if (bytes > scratch) scratch = bytes;
            shared.add(engine[i].shared_bytes());
        }
        Buffer buffer(shared.used);
        if (!buffer.data && shared.used) return no_memory(shared.used);
        Arena arena{buffer.data};
        for (int64_t i = 0; i < count; i++) engine[i].prepare(arena.add(engine[i].shared_bytes()));
        const int status = parallel_units(units, scratch, *this);
        for (int64_t i = 0; status == JCA_OK && i < count; i++) engine[i].finish();
        return status;
    }
};

template <class S, bool DROP>
struct Forward {
    static_assert(is_source<S>());
    using T = typename S::Real;
    Shape shape;
    const S* source;
    Fold<T> fold{shape.scale};
    T* shared_v = nullptr;  // [tile j][D][64]
    int64_t tiles_i = ceil_div(shape.m, kTile), tiles_j = ceil_div(shape.l, kTile);
    // Row tiles per unit: about 32 units in all, chosen from the shape alone, so that packing k and
    // v is paid seldom.
    int64_t group = min_of(tiles_i, max_of(1, product(shape.batch, tiles_i) / 32));
    int64_t groups = ceil_div(tiles_i, group);

    struct Scratch {
        T *k, *v, *q, *c, *o, *temp;
        uint32_t *row, *word;
    };

    int64_t units() const { return product(shape.batch, groups); }
    size_t shared_bytes() const {
        Arena arena{nullptr};
        if (shape.shared_v) arena.take<T>(tiles_j, shape.d, kTile);
        return arena.used;
    }
    size_t scratch_bytes() const {
        Arena arena{nullptr};
        layout(arena);
        return arena.used;
    }
    void prepare(char* shared) {
        shared_v = reinterpret_cast<T*>(shared);
        if (shape.shared_v)
            for (int64_t t = 0; t < tiles_j; t++) load_v(0, t, shared_v);
    }
    void finish() const {}

    void load_v(int64_t b, int64_t t, T* v) const {
        source->v(b, t * kTile, min_of(kTile, shape.l - t * kTile), v + t * shape.d * kTile, kTile);
    }

    Scratch layout(Arena& arena) const {
        Scratch s;
        s.v = shape.shared_v ? shared_v : arena.take<T>(tiles_j, shape.d, kTile);
        s.temp = arena.take<T>(source->temp_size());
        s.k = arena.take<T>(tiles_j, shape.n, kTile);
        s.q = arena.take<T>(shape.n, kTile);
        s.c = arena.take<T>(kTile * kTile);
        s.o = arena.take<T>(shape.d, kTile);
        s.row = arena.take<uint32_t>(kTile);
        s.word = arena.take<uint32_t>(tiles_j, kTile / 2);
        return s;
    }

    void operator()(int64_t unit, char* memory) const {
        Arena arena{memory};
        const Scratch s = layout(arena);
        const int64_t b = unit / groups, i_tile = unit % groups * group;
        for (int64_t t = 0; t < tiles_j; t++) {
            const int64_t j = t * kTile, count = min_of(kTile, shape.l - j);
            source->k(b, j, count, s.k + t * shape.n * kTile, kTile, s.temp);
            if (!shape.shared_v) load_v(b, t, s.v);
        }
        const uint32_t key = DROP ? dropout_key(shape.seed, b) : 0;
        if (DROP) fill_words(0, tiles_j * kTile, s.word);
        for (int64_t t = i_tile; t < min_of(tiles_i, i_tile + group); t++)
            row_tile(s, b, t * kTile, key);
    }

    void row_tile(const Scratch& s, int64_t b, int64_t i, uint32_t key) const {
        const int64_t rows = min_of(kTile, shape.m - i);
        source->q(b, i, rows, s.q);
        if (DROP) fill_rows(key, i, kTile, s.row);
        memset(s.o, 0, (size_t)(shape.d * kTile) * sizeof(T));
        for (int64_t t = 0; t < tiles_j; t++) {
            const int64_t count = min_of(kTile, shape.l - t * kTile);
            const Mask mask{s.row, s.word + t * kTile / 2, shape.limit};
            const Operands<T> kq{s.k + t * shape.n * kTile, s.q, shape.n};
            score_tile<T, DROP>(kq, fold, count, mask, s.c);
            rank_update<T, kTile>(s.v + t * shape.d * kTile, shape.d, s.c, count, kTile, s.o);
        }
        source->put(b, i, rows, s.o, s.temp);
    }
};

// One pass: c is recomputed, dv and dk are rank updates of L1 tiles, dq keeps its lanes until the
// end of a row tile. Units are (group of samples) x (chunk of columns). Sums over units are made
// afterwards in a fixed order.
template <class S, bool DROP>
struct Backward {
    static_assert(is_source<S>());
    using T = typename S::Real;
    Shape shape;
    const S* source;
    Fold<T> fold{shape.scale};
    T gain = shape.template gain<T>();
    int64_t tiles_i = ceil_div(shape.m, kRows), tiles_j = ceil_div(shape.l, kCols);
    int64_t groups = shape.shared_v ? max_of(1, min_of(shape.batch, 16)) : shape.batch;
    // Column tiles per unit.
    int64_t chunk = ceil_div(tiles_j, min_of(tiles_j, ceil_div(8, max_of(groups, 1))));
    int64_t chunks = ceil_div(tiles_j, chunk);
    int64_t k_size = product(shape.n, kCols), v_size = product(shape.d, kCols);
    int64_t q_size = product(shape.n, kTile);
    T* shared_v = nullptr;    // [tile j][D][kCols]
    T* dv_partial = nullptr;  // [group][tile j][D][kCols], shared v only
    T* dq_partial = nullptr;  // [chunk][sample][tile i][N][64], more than one chunk only

    struct Scratch {
        T *k, *v, *dk, *dv, *q, *dout, *dq, *c, *ds, *temp;
        vec_t<T>* sums;
        uint32_t *row, *word;
    };

    int64_t units() const { return groups * chunks; }
    size_t scratch_bytes() const {
        Arena arena{nullptr};
        layout(arena);
        return arena.used;
    }
    size_t shared_bytes() const {
        Backward copy = *this;
        Arena arena{nullptr};
        copy.share(arena);
        return arena.used;
    }
    void share(Arena& arena) {
        shared_v = arena.take<T>(shape.shared_v ? tiles_j : 0, v_size);
        dv_partial = arena.take<T>(shape.shared_v ? groups : 0, tiles_j, v_size);
        dq_partial = arena.take<T>(chunks > 1 ? chunks : 0, shape.batch, tiles_i, q_size);
    }
    void prepare(char* shared) {
        Arena arena{shared};
        share(arena);
        for (int64_t t = 0; shape.shared_v && t < tiles_j; t++)
            source->v(0, t * kCols, min_of(kCols, shape.l - t * kCols), shared_v + t * v_size,
                      kCols);
    }

    Scratch layout(Arena& arena) const {
        Scratch s;
        s.v = shape.shared_v ? nullptr : arena.take<T>(chunk, v_size);
        s.temp = arena.take<T>(source->temp_size());
        s.k = arena.take<T>(chunk, k_size);
        s.dk = arena.take<T>(chunk, k_size);
        s.dv = shape.shared_v ? nullptr : arena.take<T>(chunk, v_size);
        s.q = arena.take<T>(q_size);
        s.dq = arena.take<T>(q_size);
        s.dout = arena.take<T>(shape.d, kTile);
        s.c = arena.take<T>(kRows * kCols);
        s.ds = arena.take<T>(kRows * kCols);
        s.sums = arena.take<vec_t<T>>(kTile, shape.n);
        s.row = arena.take<uint32_t>(kTile);
        s.word = arena.take<uint32_t>(chunk, kCols / 2);
        return s;
    }

    void operator()(int64_t unit, char* memory) const {
        Arena arena{memory};
        Scratch s = layout(arena);
        const int64_t g = unit / chunks, c = unit % chunks;
        const int64_t t0 = c * chunk, t1 = min_of(tiles_j, t0 + chunk);
        if (shape.shared_v) {
            s.v = shared_v + t0 * v_size;
            s.dv = dv_partial + (g * tiles_j + t0) * v_size;
            memset(s.dv, 0, (size_t)((t1 - t0) * v_size) * sizeof(T));
        }
        if (DROP) fill_words(t0 * kCols, (t1 - t0) * kCols, s.word);
        for (int64_t b = g * shape.batch / groups; b < (g + 1) * shape.batch / groups; b++)
            sample(s, b, c, t0, t1);
    }

    void sample(const Scratch& s, int64_t b, int64_t c, int64_t t0, int64_t t1) const {
        for (int64_t t = t0; t < t1; t++) {
            const int64_t j = t * kCols, count = min_of(kCols, shape.l - j);
            source->k(b, j, count, s.k + (t - t0) * k_size, kCols, s.temp);
            if (!shape.shared_v) source->v(b, j, count, s.v + (t - t0) * v_size, kCols);
        }
        memset(s.dk, 0, (size_t)((t1 - t0) * k_size) * sizeof(T));
        if (!shape.shared_v) memset(s.dv, 0, (size_t)((t1 - t0) * v_size) * sizeof(T));
        const uint32_t key = DROP ? dropout_key(shape.seed, b) : 0;
        for (int64_t t = 0; t < tiles_i; t++) {
            row_tile(s, b, t * kRows, t0, t1, key);
            if (chunks == 1)
                source->put_dq(b, t * kRows, min_of(kRows, shape.m - t * kRows), s.dq);
            else
                memcpy(dq_partial + ((c * shape.batch + b) * tiles_i + t) * q_size, s.dq,
                       (size_t)q_size * sizeof(T));
        }
        for (int64_t t = t0; t < t1; t++) {
            const int64_t j = t * kCols, count = min_of(kCols, shape.l - j);
            source->put_dk(b, j, count, s.dk + (t - t0) * k_size, kCols);
            if (!shape.shared_v) source->put_dv(b, j, count, s.dv + (t - t0) * v_size, kCols);
        }
    }

    void row_tile(const Scratch& s, int64_t b, int64_t i, int64_t t0, int64_t t1,
                  uint32_t key) const {
        const int64_t rows = min_of(kRows, shape.m - i);
        source->q(b, i, rows, s.q);
        source->dout(b, i, rows, s.dout, s.temp);
        if (DROP) fill_rows(key, i, kRows, s.row);
        memset(s.sums, 0, (size_t)(kRows * shape.n) * sizeof(vec_t<T>));
        for (int64_t t = 0; t < t1 - t0; t++) {
            const int64_t cols = min_of(kCols, shape.l - (t0 + t) * kCols),
                          padded = padded_columns<T>(cols);
            const Mask mask{s.row, s.word + t * kCols / 2, shape.limit};
            const T *k = s.k + t * k_size, *v = s.v + t * v_size;
            const Operands<T> qk{s.q, k, shape.n}, gv{s.dout, v, shape.d};
            gradient_tile<T, DROP, kCols>(qk, fold, gv, gain, rows, cols, mask, s.c, s.ds);
            if (cols < padded)  // 0 * inf in the padding must not reach dq
                for (int64_t r = 0; r < rows; r++)
                    memset(s.ds + r * kCols + cols, 0, (size_t)(padded - cols) * sizeof(T));
            rank_update<T, kCols>(s.dout, shape.d, s.c, rows, padded, s.dv + t * v_size);
            rank_update<T, kCols>(s.q, shape.n, s.ds, rows, padded, s.dk + t * k_size);
            lane_update<T, kCols>(s.ds, k, shape.n, rows, padded, s.sums);
        }
        reduce_lanes<T>(s.sums, shape.n, rows, s.dq);
    }

    // Sums of the partial dq and dv, in the order of chunks and groups.
    void finish() const {
        for (int64_t c = 1; c < chunks; c++)
            add(dq_partial, dq_partial + c * shape.batch * tiles_i * q_size,
                shape.batch * tiles_i * q_size);
        for (int64_t r = 0; chunks > 1 && r < shape.batch * tiles_i; r++) {
            const int64_t i = r % tiles_i * kRows;
            source->put_dq(r / tiles_i, i, min_of(kRows, shape.m - i), dq_partial + r * q_size);
        }
        if (!shape.shared_v) return;
        for (int64_t g = 1; g < groups; g++)
            add(dv_partial, dv_partial + g * tiles_j * v_size, tiles_j * v_size);
        for (int64_t t = 0; t < tiles_j; t++)
            source->put_dv(0, t * kCols, min_of(kCols, shape.l - t * kCols),
                           dv_partial + t * v_size, kCols);
    }

    static void add(T* to, const T* from, int64_t count) {
        for (int64_t i = 0; i < count; i++) to[i] += from[i];
    }
};

}  // namespace
}  // namespace JCA_ISA
}  // namespace jca
