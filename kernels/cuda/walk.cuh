// The kernel of tanh attention, forward and backward. Its tile of tanh(S) exists in registers only.
//
// A CTA owns 128 rows, 32 for each warp, and walks over the rows of the other side, 32 at a time:
//
//                     walked rows: c, d                 pass      owned        walked   out_a out_b
//                  ┌─────┬─────┬─────┬─────┐            forward   q            k, v            out
//     owned   a, b │  S  │  S  │ ... │     │ out_a      columns   k, v         q, g     dk     dv
//     rows         └─────┴─────┴─────┴─────┘ out_b      rows      q, g         k, v     dq
//
// Matrices wider than a block (16 columns of a and c, 32 of b and d) pass block by block, and each
// block of a result is a CTA of the grid's second dimension.
#pragma once

#include "copy.cuh"
#include "mask.cuh"
#include "products.cuh"

namespace jca_cuda {

template <class T, Pass PASS>
struct Tiles {
    typename T::template RightTile<kWalked, kSlots, use_of_c(PASS)> c;
    union {
        typename T::template RightTile<kWalked, kWidth, use_of_d(PASS)> d;
        typename T::template RightTile<kWalked, kSlots, kByColumns> w;  // of a layer, behind a walk
    };
    typename T::template LeftTile<kOwned, kSlots> a;
    typename T::template LeftTile<kOwned, kWidth> b;  // last: the forward has no memory for it
};

// The pass of a warp over one block of owned rows. LAYER: a pass of a whole layer, whose forward
// finds its owned rows in their tile where they are one block, and whose dk is float32.
template <class T, Pass PASS, bool LAYER = false>
class Walker {
  public:
    using Number = typename T::Global;
    static constexpr bool kBackward = PASS != kForward;
    // A layer's Q, dH and results of the backward lie in its workspace.
    static constexpr Order kWorkspace = LAYER ? kColumnByColumn : kAnyOrder;
    static constexpr Order kOrderOwned = PASS == kColumns ? kAnyOrder : kWorkspace;   // a and b
    static constexpr Order kOrderWalked = PASS == kColumns ? kWorkspace : kAnyOrder;  // c and d

    __device__ Walker(const Walk& walk, Tiles<T, PASS>& shared, int owned, int block)
        : w(walk),
          tiles(shared),
          owned_(owned),
          first_(owned + threadIdx.x / 32 * 32),
          result_(block),
          whole_(walk.n_blocks == 1 && (PASS == kForward || walk.width_blocks == 1)) {}

    __device__ void run(int group) {
        run(group, [&](int sample) { walk(sample); });
    }

    __device__ void walk(int sample) {
        const uint32_t key = key_of(sample);
        for (int walked = 0; walked < w.walked; walked += kWalked) step(sample, walked, key);
    }

    __device__ void store_a(int sample) {
        using Gradient = std::conditional_t<LAYER && PASS == kColumns, float, Number>;
        store<kWorkspace>(
            sum_a_, static_cast<Gradient*>(w.out_a.data) + sample * w.out_a.batch_stride, w.out_a,
            w.scale * w.keep_scale, first_, w.owned, result_ * kSlots, w.n, free_memory());
        clear(sum_a_);
    }

    // P d so far, without the factor of kept elements.
    __device__ const Block& sum_b() const { return sum_b_; }

  protected:
    template <class F>
    __device__ void run(int group, F walk) {
        const int end = min((group + 1) * w.group, w.batch);
        for (int sample = group * w.group; sample < end; ++sample) {
            walk(sample);
            if constexpr (kBackward) store_a(sample);
            if constexpr (PASS == kForward) {
                if (w.activate) activate_result();
                store_b(sample);
            }
            if constexpr (PASS == kColumns && !LAYER)
                if (!w.sums_group) store_b(sample);
        }
        if constexpr (PASS != kColumns) return;
        if (LAYER || w.sums_group)
            store<LAYER ? kColumnByColumn : kRowByRow>(
                sum_b_, static_cast<float*>(w.out_b.data) + group * w.out_b.batch_stride, w.out_b,
                w.keep_scale, first_, w.owned, result_ * kWidth, w.width, free_memory());
    }

    __device__ uint32_t key_of(int sample) const {
        return w.seed ? sample_key(*w.seed + w.seed_step, sample) : 0;
    }

    static constexpr bool kResident = LAYER && PASS == kForward;

    __device__ void step(int sample, int walked, uint32_t key) {
        Block p = {}, dp = {};
        // Where every matrix is one block wide, the owned rows stay and the loop runs once.
        // Otherwise the blocks of the results come once more at its end, for the products.
        const int blocks = PASS == kForward ? w.n_blocks : max(w.n_blocks, w.width_blocks);
        for (int block = 0; block < blocks + !whole_; ++block) {
            const bool again = block == blocks;
            __syncthreads();
            if ((walked == 0 || !whole_) && !again && !(kResident && whole_))
                copy_owned(sample, block);
            copy_walked(sample, walked, again ? result_ : block,
                        again || PASS == kForward ? result_ : block);
            __syncthreads();
            if (block < w.n_blocks) add_scores<T, kSlots>(p, tiles.a, tiles.c);
            if constexpr (kBackward)
                if (block < w.width_blocks) add_scores<T, kWidth>(dp, tiles.b, tiles.d);
        }
        activate(p, dp);
        if (walked + kWalked > w.walked) clear_edge(p, dp, walked);
        if (w.seed) drop(p, dp, walked, key);
        if constexpr (kBackward) add_product<T, kSlots>(sum_a_, dp, tiles.c);
        if constexpr (PASS != kRows) add_product<T, kWidth>(sum_b_, p, tiles.d);
    }

    // P = tanh(S) and dS = dP (1 - P²), in place.
    static __device__ void activate(Block& p, Block& dp) {
        for_each([&](int m, int j, int e) {
            p[m][j][e] = T::tanh(p[m][j][e]);
            dp[m][j][e] *= fmaf(-p[m][j][e], p[m][j][e], 1.0f);
        });
    }

    __device__ void copy_owned(int sample, int block) {
        copy<T, kOwned, kSlots, kOrderOwned>(tiles.a, w.a, sample, owned_, w.owned, block * kSlots,
                                             w.n, w.scale);
        if constexpr (kBackward)
            copy<T, kOwned, kWidth, kOrderOwned>(tiles.b, w.b, sample, owned_, w.owned,
                                                 block * kWidth, w.width);
    }

    __device__ void copy_walked(int sample, int walked, int slots, int widths) {
        copy<T, kWalked, kSlots, kOrderWalked>(tiles.c, w.c, sample, walked, w.walked,
                                               slots * kSlots, w.n);
        copy<T, kWalked, kWidth, kOrderWalked>(tiles.d, w.d, sample, walked, w.walked,
                                               widths * kWidth, w.width);
    }

    // An Inf in an owned row times the zeros beyond the last walked row is NaN.
    __device__ void clear_edge(Block& p, Block& dp, int walked) {
        for_each([&](int m, int j, int e) {
            if (walked + column_of(j, e) >= w.walked) p[m][j][e] = dp[m][j][e] = 0;
        });
    }

    // Columns of the mask 16 apart share their random bits: a thread holds both of each pair.
    __device__ void drop(Block& p, Block& dp, int walked, uint32_t key) {
        if constexpr (LAYER)
            if (w.first % 32) return drop_singly(p, dp, walked, key);
        if constexpr (PASS == kColumns) {
#pragma unroll
            for (int j = 0; j < kWalked / 8; ++j)
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    const uint32_t row = row_key(key, walked + column_of(j, e));
#pragma unroll
                    for (int half = 0; half < 4; half += 2)
                        drop_pair(p, dp, 0, j, 1, j, e + half,
                                  pair_bits(row, w.first + first_ + row_of(0, half)));
                }
        } else {
#pragma unroll
            for (int m = 0; m < 2; ++m)
#pragma unroll
                for (int half = 0; half < 4; half += 2) {
                    const uint32_t row = row_key(key, first_ + row_of(m, half));
#pragma unroll
                    for (int j = 0; j < kWalked / 16; ++j)
#pragma unroll
                        for (int e = half; e < half + 2; ++e)
                            drop_pair(p, dp, m, j, m, j + 2, e,
                                      pair_bits(row, w.first + walked + column_of(j, e)));
                }
        }
    }

    // The same where the first column in the mask splits the pairs.
    __device__ void drop_singly(Block& p, Block& dp, int walked, uint32_t key) {
        for_each([&](int m, int j, int e) {
            const int owned = first_ + row_of(m, e), other = walked + column_of(j, e);
            const uint32_t row = row_key(key, PASS == kColumns ? other : owned);
            const int column = w.first + (PASS == kColumns ? owned : other);
            if ((pair_bits(row, column) >> (column & 16) & 0xffff) < w.threshold)
                p[m][j][e] = dp[m][j][e] = 0;
        });
    }

    __device__ void drop_pair(Block& p, Block& dp, int m, int j, int next_m, int next_j, int e,
                              uint32_t bits) {
        if ((bits & 0xffff) < w.threshold) p[m][j][e] = dp[m][j][e] = 0;
        if (bits >> 16 < w.threshold) p[next_m][next_j][e] = dp[next_m][next_j][e] = 0;
    }

    // relu(tanh(.)) of the result, in place; NaN stays NaN.
    __device__ void activate_result() {
        for_each([&](int m, int j, int e) {
            const float x = T::tanh(sum_b_[m][j][e] * w.keep_scale);
            sum_b_[m][j][e] = x < 0 ? 0.0f : x;
        });
    }

    __device__ void store_b(int sample) {
        store(sum_b_, static_cast<Number*>(w.out_b.data) + sample * w.out_b.batch_stride, w.out_b,
              w.activate ? 1.0f : w.keep_scale, first_, w.owned, result_ * kWidth, w.width,
              free_memory());
        clear(sum_b_);
    }

    // The warp's owned rows, when it has walked.
    __device__ void* free_memory() const { return rows_of_warp(tiles.a); }

    const Walk& w;
    Tiles<T, PASS>& tiles;
    const int owned_;   // first owned row of the CTA
    const int first_;   // and of the warp
    const int result_;  // block of the results' columns
    const bool whole_;  // every matrix is one block wide
    float sum_a_[2][kSlots / 8][4] = {};
    float sum_b_[2][kWidth / 8][4] = {};
};

extern __shared__ __align__(16) unsigned char shared_memory[];

// The grid: blocks of owned rows times groups of samples, blocks of columns of the results.
template <class T, Pass PASS>
__device__ void walk(const Walk& w) {
    const int blocks = (w.owned + kOwned - 1) / kOwned;
    auto& tiles = *reinterpret_cast<Tiles<T, PASS>*>(shared_memory);
    Walker<T, PASS> walker(w, tiles, blockIdx.x % blocks * kOwned, blockIdx.y);
    walker.run(blockIdx.x / blocks);
}

template <class Number>
__device__ void sum_parts(const Sum& sum) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= sum.elements) return;
    float total = 0;
    for (int part = 0; part < sum.count; ++part) total += sum.parts[part * sum.elements + i];
    static_cast<Number*>(sum.out)[i] = Number(total);
}

}  // namespace jca_cuda
