// Tanh attention where N is one block wide; in the backward, which is of 16-bit numbers, D too.
// Walked rows come into one buffer while the other is read: 128 (backward 64) of 16 bits at a time,
// 32 of the exact tier. The operands of the owned rows stay in registers.
//
// The backward is one pass. It owns rows of k and v and walks over q and g:
//
//     dk += scale dSᵀ q      dv += Pᵀ g      a part of dq = dS (scale k), over 128 owned rows
//
// The last product needs dS of all warps, which pass it through shared memory. sum_parts adds the
// parts of dq, one for each block of owned rows.
#pragma once

#include "walk.cuh"

namespace jca_cuda {

template <class T, Pass PASS>
constexpr int kStage = T::kExact          ? kWalked
                       : PASS == kForward ? kStageForward
                                          : kStageBackward;

template <class T, Pass PASS>
struct Walked {
    typename T::template RightTile<kStage<T, PASS>, kSlots, use_of_c(PASS)> c;
    typename T::template RightTile<kStage<T, PASS>, kWidth, use_of_d(PASS)> d;
};

template <class T, Pass PASS>
struct NarrowTiles {
    Walked<T, PASS> walked[2];
    typename T::template LeftTile<kOwned, kSlots> a;
    union {
        typename T::template LeftTile<kOwned, kWidth> b;
        typename T::template LeftTile<kOwned, kStage<T, PASS>> ds;
    };
};

// The forward needs its owned rows in shared memory before the walk only.
template <class T>
struct NarrowTiles<T, kForward> {
    union {
        Walked<T, kForward> walked[2];
        typename T::template LeftTile<kOwned, kSlots> a;
    };
};

template <class T, Pass PASS>
class NarrowWalker : Walker<T, PASS> {
    using Base = Walker<T, PASS>;
    using Base::first_, Base::owned_, Base::result_, Base::w;
    static constexpr bool kBackward = PASS == kColumns;
    static constexpr int kStage = jca_cuda::kStage<T, PASS>;
    static constexpr unsigned kBuffer = sizeof(Walked<T, PASS>);
    using TileC = decltype(Walked<T, PASS>::c);
    using TileD = decltype(Walked<T, PASS>::d);

  public:
    __device__ NarrowWalker(const Walk& walk, NarrowTiles<T, PASS>& shared, int owned, int block)
        : Base(walk, *reinterpret_cast<Tiles<T, PASS>*>(&shared), owned, block),
          tiles(shared),
          whole_until_(
              keep(walk.seed || (kBackward && first_ + 32 > walk.owned) ? 0 : walk.walked)) {
        using Wide = Tiles<T, PASS>;
        static_assert(sizeof(Wide::c) + sizeof(Wide::d) + sizeof(Wide::a) / kWarps * (kWarps - 1) +
                              kStoreBytes <=
                          sizeof(NarrowTiles<T, PASS>),
                      "the results of the base class pass through these tiles");
        c_rows_ = keep(tiles.walked[0].c.rows_begin());
        d_columns_ = keep(tiles.walked[0].d.columns_begin());
        if constexpr (kBackward) {
            d_rows_ = keep(tiles.walked[0].d.rows_begin());
            c_columns_ = keep(tiles.walked[0].c.columns_begin());
        }
    }

    __device__ void run(int group) {
        Base::run(group, [&](int sample) { walk(sample); });
    }

  private:
    __device__ void walk(int sample) {
        const uint32_t key = this->key_of(sample);
        __syncthreads();
        copy_owned(sample);
        __syncthreads();
        load_owned();
        __syncthreads();
        sample_ = sample;
        c_.begin(tiles.walked[0].c, w.c, sample, w.walked, 0, w.n);
        d_.begin(tiles.walked[0].d, w.d, sample, w.walked, result_ * kWidth, w.width);
        fetch_walked(0, 0);
        unsigned buffer = 0;
        for (int walked = 0; walked < w.walked; walked += kStage) {
            arrive(buffer);
            __syncthreads();
            fetch_walked(walked + kStage, kBuffer - buffer);
            const bool masked = walked + kStage > whole_until_;
#pragma unroll
            for (int row = 0; row < kStage; row += kWalked)
                tile(buffer, row, walked + row, masked, key);
            if constexpr (kBackward) {
                __syncthreads();
                store_rows(sample, walked);
            }
            buffer = kBuffer - buffer;
        }
        arrive(buffer);
        __syncthreads();  // the results leave through this memory
    }

    __device__ void copy_owned(int sample) {
        copy<T, kOwned, kSlots>(tiles.a, w.a, sample, owned_, w.owned, 0, w.n, w.scale);
        if constexpr (kBackward)
            copy<T, kOwned, kWidth>(tiles.b, w.b, sample, owned_, w.owned, 0, w.width);
    }

    __device__ void fetch_walked(int walked, unsigned buffer) {
        if (is_stream()) [[likely]] {
            c_.next(buffer);
            d_.next(buffer);
        } else {
            auto& to = tiles.walked[buffer != 0];
            copy<T, kStage, kSlots>(to.c, w.c, sample_, walked, w.walked, 0, w.n);
            copy<T, kStage, kWidth>(to.d, w.d, sample_, walked, w.walked, result_ * kWidth,
                                    w.width);
        }
    }

    __device__ void arrive(unsigned buffer) {
        if (is_stream()) [[likely]] {
            c_.arrive(buffer);
            d_.arrive(buffer);
        }
    }

    __device__ bool is_stream() const { return c_.is_possible() && d_.is_possible(); }

    __device__ void load_owned() {
        const int row = threadIdx.x / 32 * 32;
#pragma unroll
        for (int m = 0; m < 2; ++m) {
#pragma unroll
            for (int step = 0; step < kSlots / T::kStep; ++step)
                a_[m][step] = tiles.a.left(row + 16 * m, step * T::kStep);
            if constexpr (kBackward)
#pragma unroll
                for (int step = 0; step < kWidth / T::kStep; ++step)
                    b_[m][step] = tiles.b.left(row + 16 * m, step * T::kStep);
        }
    }

    // 32 walked rows, from `row` of the buffer on.
    __device__ void tile(unsigned buffer, int row, int walked, bool masked, uint32_t key) {
        Block p, dp = {};
        set_scores<TileC, kSlots>(p, a_, buffer + c_rows_, row);
        if constexpr (kBackward) set_scores<TileD, kWidth>(dp, b_, buffer + d_rows_, row);
        this->activate(p, dp);
        if (masked) {
            clear_outside(p, dp, walked);
            if (w.seed) this->drop(p, dp, walked, key);
        }
        add_product<TileD, kWidth>(this->sum_b_, p, buffer + d_columns_, row);
        if constexpr (kBackward) {
            add_product<TileC, kSlots>(this->sum_a_, dp, buffer + c_columns_, row);
            store_operand(dp, row);
        }
    }

    template <int COLUMNS>
    using Lefts = typename T::Left[2][COLUMNS / T::kStep];

    // s = left rightᵀ, and add_product of products.cuh, for 32 rows of a buffer from `row` on.
    template <class Tile, int COLUMNS>
    static __device__ void set_scores(Block& s, const Lefts<COLUMNS>& left, unsigned right,
                                      int row) {
        multiply<T, COLUMNS / T::kStep, true>(
            s, [&](int m, int step) { return left[m][step]; },
            [&](typename T::Right(&b)[2], int step, int j) {
                Tile::right_of_rows(b, right, row + 8 * j, step * T::kStep);
            });
    }

    template <class Tile, int COLUMNS>
    static __device__ void add_product(float (&sum)[2][COLUMNS / 8][4], const Block& x,
                                       unsigned right, int row) {
        multiply<T, kWalked / T::kStep>(
            sum, [&](int m, int step) { return T::left_of(x[m], step * T::kStep / 8); },
            [&](typename T::Right(&b)[2], int step, int j) {
                Tile::right_of_columns(b, right, row + step * T::kStep, 8 * j);
            });
    }

    // An Inf of one side times the zeros of rows of the other that do not exist is NaN.
    __device__ void clear_outside(Block& p, Block& dp, int walked) {
        for_each([&](int m, int j, int e) {
            if (walked + column_of(j, e) >= w.walked || first_ + row_of(m, e) >= w.owned)
                p[m][j][e] = dp[m][j][e] = 0;
        });
    }

    // dS goes to shared memory, as the operand that add_product made of it.
    __device__ void store_operand(const Block& ds, int column) {
        const int row = threadIdx.x / 32 * 32;
#pragma unroll
        for (int m = 0; m < 2; ++m)
#pragma unroll
            for (int j = 0; j < kWalked / 8; j += 2) {
                const typename T::Left x = T::left_of(ds[m], j);
#pragma unroll
                for (int r = 0; r < 4; ++r)
                    *reinterpret_cast<unsigned*>(
                        &tiles.ds[row + row_of(m, r % 2 * 2)][column + column_of(j + r / 2, 0)]) =
                        x.r[r];
            }
    }

    // The part of dq of 16 walked rows for each warp.
    __device__ void store_rows(int sample, int walked) {
        const int row = threadIdx.x / 32 * 16;
        float sum[1][kSlots / 8][4] = {};
#pragma unroll
        for (int k = 0; k < kOwned; k += T::kStep) {
            const typename T::Left x = tiles.ds.left_of_columns(row, k);
            typename T::Right y[2];
            tiles.a.right_of_columns(y, k, 0);
            T::multiply(sum[0][0], x, y[0]);
            T::multiply(sum[0][1], x, y[1]);
        }
        float* to = static_cast<float*>(w.part.data) + owned_ / kOwned * w.part_stride +
                    sample * w.part.batch_stride;
        store_pairs(sum, to, w.part, w.keep_scale, walked + row, w.walked, 0, w.n);
    }

    NarrowTiles<T, PASS>& tiles;
    const int whole_until_;  // walked rows before it: no element is dropped or does not exist
    int sample_;
    unsigned c_rows_, d_rows_, c_columns_, d_columns_;  // where the thread reads the first buffer
    Stream<T, kStage, kSlots, TileC> c_;
    Stream<T, kStage, kWidth, TileD> d_;
    Lefts<kSlots> a_;
    Lefts<kWidth> b_;
};

template <class T, Pass PASS>
__device__ void narrow_walk(const Walk& w) {
    const int blocks = (w.owned + kOwned - 1) / kOwned;
    auto& tiles = *reinterpret_cast<NarrowTiles<T, PASS>*>(shared_memory);
    NarrowWalker<T, PASS> walker(w, tiles, blockIdx.x % blocks * kOwned, blockIdx.y);
    walker.run(blockIdx.x / blocks);
}

}  // namespace jca_cuda
