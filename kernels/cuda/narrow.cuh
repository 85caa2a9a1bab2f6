// Tanh attention of 16-bit numbers where N is one block wide, and in the backward D too. Walked
// rows come 128 (backward 64) at a time by asynchronous copies, into one buffer while the other is
// read. The operands of the owned rows stay in registers.
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

template <Pass PASS>
constexpr int kStage = PASS == kForward ? kStageForward : kStageBackward;

template <class T, Pass PASS>
struct NarrowTiles {
    static constexpr int kStage = jca_cuda::kStage<PASS>;
    struct {
        typename T::Element c[kStage][kSlots + T::kPad];
        typename T::Element d[kStage][kWidth + T::kPad];
    } walked[2];
    typename T::Element a[kOwned][kSlots + T::kPad];
    union {  // of the backward
        typename T::Element b[kOwned][kWidth + T::kPad];
        typename T::Element ds[kOwned][kStage + T::kPad];
    };
};

template <class T, Pass PASS>
class NarrowWalker : Walker<T, PASS> {
    using Base = Walker<T, PASS>;
    using Base::first_, Base::owned_, Base::result_, Base::w;
    using Element = typename T::Element;
    static constexpr bool kBackward = PASS == kColumns;
    static constexpr int kStage = jca_cuda::kStage<PASS>;
    static constexpr unsigned kBuffer = sizeof(NarrowTiles<T, PASS>::walked[0]);

  public:
    __device__ NarrowWalker(const Walk& walk, NarrowTiles<T, PASS>& shared, int owned, int block)
        : Base(walk, *reinterpret_cast<Tiles<T>*>(&shared), owned, block),
          tiles(shared),
          whole_until_(
              keep(walk.seed || (kBackward && first_ + 32 > walk.owned) ? 0 : walk.walked)) {
        const int lane = threadIdx.x % 32, half = lane / 16 * 8, other = lane / 8 % 2 * 8;
        c_rows_ = keep(shared_address(&tiles.walked[0].c[half + lane % 8][other]));
        d_rows_ = keep(shared_address(&tiles.walked[0].d[half + lane % 8][other]));
        c_columns_ = keep(shared_address(&tiles.walked[0].c[lane % 16][half]));
        d_columns_ = keep(shared_address(&tiles.walked[0].d[lane % 16][half]));
    }

    __device__ void run(int group) {
        Base::run(group, [&](int sample) { walk(sample); });
    }

  private:
    __device__ void walk(int sample) {
        const uint32_t key = this->key_of(sample);
        __syncthreads();
        copy_owned(sample);
        sample_ = sample;
        c_.begin(tiles.walked[0].c, w.c, sample, w.walked, 0, w.n);
        d_.begin(tiles.walked[0].d, w.d, sample, w.walked, result_ * kWidth, w.width);
        fetch_walked(0, 0);
        __syncthreads();
        load_owned();
        unsigned buffer = 0;
        for (int walked = 0; walked < w.walked; walked += kStage) {
            arrived();
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
        arrived();
        __syncthreads();  // the results leave through this memory
    }

    __device__ void copy_owned(int sample) {
        copy<T, kOwned, kSlots>(tiles.a, w.a, sample, owned_, w.owned, 0, w.n, w.scale);
        if constexpr (kBackward)
            copy<T, kOwned, kWidth>(tiles.b, w.b, sample, owned_, w.owned, 0, w.width);
    }

    __device__ void fetch_walked(int walked, unsigned buffer) {
        if (c_.is_async() && d_.is_async()) [[likely]] {
            c_.next(buffer);
            d_.next(buffer);
        } else {
            auto& to = tiles.walked[buffer != 0];
            copy<T, kStage, kSlots>(to.c, w.c, sample_, walked, w.walked, 0, w.n);
            copy<T, kStage, kWidth>(to.d, w.d, sample_, walked, w.walked, result_ * kWidth,
                                    w.width);
        }
    }

    __device__ void load_owned() {
        const int row = threadIdx.x / 32 * 32;
#pragma unroll
        for (int m = 0; m < 2; ++m) {
            a_[m][0] = T::left(tiles.a, row + 16 * m, 0);
            if constexpr (kBackward)
#pragma unroll
                for (int step = 0; step < kWidth / T::kStep; ++step)
                    b_[m][step] = T::left(tiles.b, row + 16 * m, step * T::kStep);
        }
    }

    // 32 walked rows, from `row` of the buffer on.
    __device__ void tile(unsigned buffer, int row, int walked, bool masked, uint32_t key) {
        const unsigned c = buffer + offset<kSlots>(row, 0), d = buffer + offset<kWidth>(row, 0);
        Block p = {}, dp = {};
        add_scores<kSlots>(p, a_, c + c_rows_);
        if constexpr (kBackward) add_scores<kWidth>(dp, b_, d + d_rows_);
        this->activate(p, dp);
        if (masked) {
            clear_outside(p, dp, walked);
            if (w.seed) this->drop(p, dp, walked, key);
        }
        add_product<kWidth>(this->sum_b_, p, d + d_columns_);
        if constexpr (kBackward) {
            add_product<kSlots>(this->sum_a_, dp, c + c_columns_);
            store_operand(dp, row);
        }
    }

    // add_scores and add_product of products.cuh, at the addresses of the thread's rows.
    template <int COLUMNS>
    static __device__ void add_scores(Block& s, const Lefts<T, COLUMNS>& left, unsigned right) {
        multiply<T, COLUMNS / T::kStep>(
            s, [&](int m, int step) { return left[m][step]; },
            [&](typename T::Right(&b)[2], int step, int j) {
                T::right_at(b, right + offset<COLUMNS>(8 * j, step * T::kStep));
            });
    }

    template <int COLUMNS>
    static __device__ void add_product(float (&sum)[2][COLUMNS / 8][4], const Block& x,
                                       unsigned right) {
        multiply<T, kWalked / T::kStep>(
            sum, [&](int m, int step) { return T::left_of(x[m], step * T::kStep / 8); },
            [&](typename T::Right(&b)[2], int step, int j) {
                T::right_transposed_at(b, right + offset<COLUMNS>(step * T::kStep, 8 * j));
            });
    }

    // Bytes from the beginning of a tile to one of its elements.
    template <int COLUMNS>
    static __device__ unsigned offset(int row, int column) {
        return sizeof(Element) * (row * (COLUMNS + T::kPad) + column);
    }

    // An Inf of one side times the zeros of rows of the other that do not exist is NaN.
    __device__ void clear_outside(Block& p, Block& dp, int walked) {
#pragma unroll
        for (int m = 0; m < 2; ++m)
#pragma unroll
            for (int j = 0; j < kWalked / 8; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e)
                    if (walked + column_of(j, e) >= w.walked || first_ + row_of(m, e) >= w.owned)
                        p[m][j][e] = dp[m][j][e] = 0;
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
            const typename T::Left x = T::left_of_columns(tiles.ds, row, k);
            typename T::Right y[2];
            T::right_of_columns(y, tiles.a, k, 0);
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
    unsigned c_rows_, d_rows_, c_columns_, d_columns_;  // the thread's rows of ldmatrix in a tile
    Stream<T, kStage, kSlots> c_;
    Stream<T, kStage, kWidth> d_;
    Lefts<T, kSlots> a_;
    Lefts<T, kWidth> b_;
};

template <class T, Pass PASS>
__device__ void narrow_walk(const Walk& w) {
    const int blocks = (w.owned + kOwned - 1) / kOwned;
    auto& tiles = *reinterpret_cast<NarrowTiles<T, PASS>*>(shared_memory);
    NarrowWalker<T, PASS> walker(w, tiles, blockIdx.x % blocks * kOwned, blockIdx.y);
    walker.run(blockIdx.x / blocks);
}

}  // namespace jca_cuda
