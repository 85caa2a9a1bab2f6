// The backward of a whole paper layer beyond the channels of a modality: columns of its attention,
// and the gradients of its small weights.
#pragma once

#include "joint_coattention.cuh"

namespace jca_cuda {

// dJ and the partial sums of dW_c, for one part of a modality's joint feature and one block of
// columns.
template <class T>
__device__ void part_columns(const Layer& l, int pair, int block) {
    const int modality = pair / l.parts_each;
    const Modality& m = l.modalities[modality];
    const Part& part = l.parts[m.first_part + pair % l.parts_each];
    const int blocks = (part.rows + kOwned - 1) / kOwned, group = blockIdx.x / blocks;
    if (group >= l.groups) return;
    const Walk& w = change_walk([&](Walk& w) {
        w = walk_of(l, modality);
        w.a = part.x;
        w.b = part_of(m.w_c, part, sizeof(typename T::Global));
        w.c = packed(m.q, m.rows, l.n);
        w.d = packed(m.dh, m.rows, m.width);
        w.out_a = packed(m.dj + part.first, m.joint, l.n);
        w.out_b = packed(m.dw_c + part.first, m.joint, m.width);
        w.owned = part.rows;
        w.walked = m.rows;
        w.first = part.first;
    });
    auto& tiles = *reinterpret_cast<Tiles<T, kColumns>*>(shared_memory);
    Walker<T, kColumns, true>(w, tiles, blockIdx.x % blocks * kOwned, block).run(group);
}

// The attention of the backward: columns of every pair of a modality and a part, then rows of
// every modality.
template <class T>
__device__ void layer_attention(const Layer& l) {
    const int blocks = max(l.n_blocks, l.width_blocks), pairs = l.count * l.parts_each;
    const int task = blockIdx.y / blocks, block = blockIdx.y % blocks;
    if (task < pairs) {
        part_columns<T>(l, task, block);
    } else if (block < l.n_blocks) {
        Channels<T, kRows> channels(l, task - pairs);
        if (channels.exist()) channels.rows(block);
    }
}

// Both operands of the gradient of a small weight: 32 rows and 32 columns of it, 128 channels.
template <class T>
struct WeightTiles {
    typename T::template LeftTile<kWalked, kOwned> left;
    typename T::template RightTile<kWalked, kOwned, kByRows> right;
};

// A 32 x 32 block of dW = left rightᵀ, summed over the channels of a group of samples: a partial
// sum for each warp, which takes 32 of 128 channels.
template <class T>
__device__ void weight_gradient(const Layer& l, int channels, const Matrix& left, int row, int rows,
                                const Matrix& right, int column, int columns, float* out) {
    auto& tiles = *reinterpret_cast<WeightTiles<T>*>(shared_memory);
    const int warp = threadIdx.x / 32, end = min(int(blockIdx.x + 1) * l.group, l.batch);
    Block sum = {};
    for (int sample = blockIdx.x * l.group; sample < end; ++sample)
        for (int channel = 0; channel < channels; channel += kOwned) {
            __syncthreads();
            copy<T, kWalked, kOwned>(tiles.left, left, sample, row, rows, channel, channels);
            copy<T, kWalked, kOwned>(tiles.right, right, sample, column, columns, channel,
                                     channels);
            __syncthreads();
            multiply<T, 32 / T::kStep>(
                sum,
                [&](int m, int step) {
                    return tiles.left.left(16 * m, 32 * warp + step * T::kStep);
                },
                [&](typename T::Right(&b)[2], int step, int j) {
                    tiles.right.right_of_rows(b, 8 * j, 32 * warp + step * T::kStep);
                });
        }
    const Matrix to = transposed(packed(out, columns, rows));
    const int64_t part = blockIdx.x * kWarps + warp;
    __syncthreads();
    store(sum, out + part * to.batch_stride, to, 1.0f, row, rows, column, columns,
          shared_memory + warp * kStoreBytes);
}

// Block `block` of the gradients of W_j, W_x and W_h, in this order.
template <class T>
__device__ void layer_weights(const Layer& l, const Modality& m, int block) {
    const int across = (l.n + kWalked - 1) / kWalked;
    const int down = max(across, l.width_blocks), weight = block / (across * down);
    const int row = block / across % down * kWalked, column = block % across * kWalked;
    const int rows = weight ? m.width : l.n;
    if (row >= rows || int(blockIdx.x) >= l.groups) return;
    const Matrix q = packed(m.dq, m.rows, l.n), h = packed(m.dh, m.rows, m.width);
    const Matrix left = weight == 0 ? m.x : weight == 1 ? h : m.h;
    const Matrix right = weight == 0 ? q : weight == 1 ? m.x : m.out;
    float* out = weight == 0 ? m.dw_j : weight == 1 ? m.dw_x : m.dw_h;
    weight_gradient<T>(l, m.rows, transposed(left), row, rows, transposed(right), column, l.n, out);
}

// The end of the backward: blocks of dX, then those of the weights' gradients.
template <class T>
__device__ void layer_finish(const Layer& l, int modality, int block) {
    const int across = (l.n + kWalked - 1) / kWalked;
    if (block < across) {
        Channels<T> channels(l, modality);
        if (channels.exist()) channels.finish(block * kWalked);
    } else {
        layer_weights<T>(l, l.modalities[modality], block - across);
    }
}

}  // namespace jca_cuda
