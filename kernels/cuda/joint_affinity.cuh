// The kernels of the joint affinity. C = tanh(scale q kᵀ) is stored whole, so that memory bounds
// the time: the forward writes C, and each pass of the backward reads C and dC.
//
//     pass       owned   walked   of each 32 x 32 tile
//     forward    q       k        C = tanh(scale S)
//     backward   q       k        dq += scale dS k        with dS = dC (1 - C²)
//     backward   k       q        dk += scale dSᵀ q
#pragma once

#include "walk.cuh"

namespace jca_cuda {

// Numbers as they are in memory, in place of a tier's elements.
template <class T>
struct Raw {
    using Global = typename T::Global;
    using Element = Global;
    static constexpr int kPad = kAffinityPad;

    static __device__ float read(Global x) { return T::read(x); }
    static __device__ Element element(float x) { return Global(x); }
};

template <class T>
struct AffinityTiles {
    union {
        typename T::template RightTile<kWalked, kSlots, kByRows> c;
        typename T::template RightTile<kWalked, kSlots, kByColumns> c_backward;
    };
    Rows<Raw<T>, kOwned, kWalked> values;  // of C
    union {
        typename T::template LeftTile<kOwned, kSlots> a;  // forward
        Rows<Raw<T>, kOwned, kWalked> grad;               // backward: of dC
    };
};

// The factor comes behind the product: 16-bit numbers are rounded only once.
template <class T>
class AffinityWalker {
  public:
    __device__ explicit AffinityWalker(const Affinity& affinity)
        : w(affinity),
          tiles(*reinterpret_cast<AffinityTiles<T>*>(shared_memory)),
          sample_(blockIdx.x / blocks()),
          owned_(blockIdx.x % blocks() * kOwned),
          warp_(threadIdx.x / 32 * 32) {}

    __device__ void forward() {
        const int start = blockIdx.y * kSpan, end = min(start + kSpan, w.walked);
        for (int walked = start; walked < end; walked += kWalked) {
            Block c = {};
            for (int block = 0; block < w.n_blocks; ++block) {
                __syncthreads();
                if (walked == start || w.n_blocks > 1)
                    copy<T, kOwned, kSlots>(tiles.a, w.a, sample_, owned_, w.owned, block * kSlots,
                                            w.n);
                copy_walked(tiles.c, walked, block);
                __syncthreads();
                add_scores<T, kSlots>(c, tiles.a, tiles.c);
            }
            for_each([&](int m, int j, int e) {
                value(tiles.values, m, j, e) = Number(T::tanh(c[m][j][e] * w.scale));
            });
            __syncwarp();
            store_tile(walked);
        }
    }

    // One block of columns of the gradient of the owned rows.
    __device__ void backward() {
        const int block = blockIdx.y;
        float sum[2][kSlots / 8][4] = {};
        for (int walked = 0; walked < w.walked; walked += kWalked) {
            __syncthreads();
            copy_walked(tiles.c_backward, walked, block);
            copy_matrix(tiles.values, w.values, walked);
            copy_matrix(tiles.grad, w.grad, walked);
            __syncthreads();
            Block ds;
            for_each([&](int m, int j, int e) {
                const float c = T::read(value(tiles.values, m, j, e));
                ds[m][j][e] = T::read(value(tiles.grad, m, j, e)) * fmaf(-c, c, 1.0f);
            });
            add_product<T, kSlots>(sum, ds, tiles.c_backward);
        }
        auto* to = static_cast<Number*>(w.out.data) + sample_ * w.out.batch_stride;
        store(sum, to, w.out, w.scale, owned_ + warp_, w.owned, block * kSlots, w.n,
              tiles.values[warp_]);
    }

  private:
    using Number = typename T::Global;
    using Matrices = Rows<Raw<T>, kOwned, kWalked>;

    __device__ int blocks() const { return (w.owned + kOwned - 1) / kOwned; }

    template <class Tile>
    __device__ void copy_walked(Tile& tile, int walked, int block) {
        copy<T, kWalked, kSlots>(tile, w.c, sample_, walked, w.walked, block * kSlots, w.n);
    }

    __device__ void copy_matrix(Matrices& tile, const Matrix& x, int walked) {
        copy<Raw<T>, kOwned, kWalked>(tile, x, sample_, owned_, w.owned, walked, w.walked);
    }

    // The element of a Block in the warp's rows of a tile.
    __device__ Number& value(Matrices& tile, int m, int j, int e) const {
        return tile[warp_ + row_of(m, e)][column_of(j, e)];
    }

    // The warp's rows of C, by 16 bytes where possible.
    __device__ void store_tile(int walked) {
        constexpr int kVector = 16 / sizeof(Number), kVectors = kWalked / kVector;
        const Piece piece{w.out.row_stride, w.out.column_stride, w.owned - owned_ - warp_,
                          w.walked - walked, 1};
        Number* to = static_cast<Number*>(w.out.data) + sample_ * w.out.batch_stride +
                     piece.offset(owned_ + warp_, walked);
        const auto* from = &tiles.values[warp_];
        const int lane = threadIdx.x % 32;
        if (has_vectors(to, piece, kWalked)) {
#pragma unroll 2
            for (int i = lane; i < 32 * kVectors; i += 32) {
                const int row = i / kVectors, column = i % kVectors * kVector;
                if (piece.has(row, column))
                    *reinterpret_cast<uint4*>(to + piece.offset(row, column)) =
                        *reinterpret_cast<const uint4*>(&from[row][column]);
            }
        } else {
#pragma unroll 2
            for (int row = 0; row < 32; ++row)
                if (piece.has(row, lane)) to[piece.offset(row, lane)] = from[row][lane];
        }
    }

    const Affinity& w;
    AffinityTiles<T>& tiles;
    const int sample_;
    const int owned_;  // first owned row of the CTA
    const int warp_;   // and of the warp, from there
};

}  // namespace jca_cuda
