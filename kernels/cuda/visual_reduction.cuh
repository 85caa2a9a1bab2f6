// The kernels of the visual reduction: softmax attention of one query over the R regions of its
// segment. Memory bounds the time, so that both read each number of K once.
//
//     forward     s = scale K q          a = softmax(s)      out = Kᵀ a
//     backward    g = dA + K dO          δ = a·g             dq = scale (Kᵀ(a ∘ g) - δ Kᵀa)
//                 ds = scale a ∘ (g - δ)                     dK = a dOᵀ + ds qᵀ
//
// A CTA owns a segment. A warp holds 512 columns of two rows of K, and the 1, 2 or 4 warps that
// share a row are a team:
//
//                   D columns
//              ┌────────┬────────┐
//     two rows │ warp 0 │ warp 1 │ one team      each team: running maximum, sum of exponentials
//     of K     ├────────┼────────┤                          and out; the CTA adds the teams
//     each     │ warp 2 │ warp 3 │ another
//              └────────┴────────┘
//
// Matrices wider than a team pass block by block, and each block of a result is a CTA of the grid's
// second dimension. Scores, and g of the backward, stay in memory until the loop has ended.
#pragma once

#include "walk.cuh"

namespace jca_cuda {

// exp(x) of x <= 0 as 2^n exp(r) with |r| < 0.35, error 1e-7; below -87 it is 0. NaN stays NaN.
__device__ inline float exponential(float x) {
    constexpr float kShift = 12582912.0f;  // n stands in the low bits of n + kShift
    const float shifted = fmaf(x, 1.44269504f, kShift), n = shifted - kShift;
    const float r = fmaf(n, -1.42860677e-6f, fmaf(n, -0.693145752f, x));
    float y = fmaf(r, 1.0f / 5040, 1.0f / 720);
    y = fmaf(r, y, 1.0f / 120);
    y = fmaf(r, y, 1.0f / 24);
    y = fmaf(r, y, 1.0f / 6);
    y = fmaf(r, y, 0.5f);
    y = fmaf(r, y, 1.0f);
    y = fmaf(r, y, 1.0f);
    const float power = __int_as_float((__float_as_int(shifted) << 23) + 0x3f800000);
    return x < -87.0f ? 0.0f : y * power;
}

// What is subtracted from scores whose maximum is x: -inf - -inf would be NaN.
__device__ inline float base_of(float x) {
    return x == -INFINITY ? 0.0f : x;
}

template <class T>
class VisualReducer {
  public:
    __device__ explicit VisualReducer(const Visual& visual)
        : w(visual),
          tiles(*reinterpret_cast<VisualTiles*>(shared_memory)),
          lane_(threadIdx.x % 32),
          warp_(threadIdx.x / 32),
          member_(warp_ % w.team),
          column_((blockIdx.y * w.team + member_) * kReach),
          scratch_(w.scratch + (int64_t(blockIdx.y) * w.segments + blockIdx.x) * w.regions) {}

    __device__ void forward() {
        float q[kLane], x[kTogether][kLane], out[kLane] = {};
        float maximum = -INFINITY, total = 0;
        read_vector(q, w.query, column_);
        for (int row = first_row(); row < rows_end(); row += step()) {
            float s[kTogether];
            multiply(s, x, q, w.query, row);
            const float before = maximum;
#pragma unroll
            for (int i = 0; i < kTogether; ++i) {
                s[i] = row + i < w.regions ? s[i] * w.scale : -INFINITY;
                maximum = fmaxf(maximum, s[i]);
                keep(row + i, s[i], i);
            }
            const float base = base_of(maximum), shrink = exponential(before - base);
            total *= shrink;
#pragma unroll
            for (int j = 0; j < kLane; ++j) out[j] *= shrink;
#pragma unroll
            for (int i = 0; i < kTogether; ++i) {
                const float p = exponential(s[i] - base);
                total += p;
                add(out, p, x[i]);
            }
        }
        finish(out, maximum, total);
    }

    __device__ void backward() {
        float grad[kLane], x[kTogether][kLane], ag[kLane] = {}, a[kLane] = {};
        float delta = 0;
        read_vector(grad, w.grad_out, column_);
        for (int row = first_row(); row < rows_end(); row += step()) {
            float g[kTogether];
            multiply(g, x, grad, w.grad_out, row);
#pragma unroll
            for (int i = 0; i < kTogether; ++i) {
                if (row + i >= w.regions) continue;
                const float weight = number(w.weights, row + i);
                g[i] += number(w.grad_weights, row + i);
                if (w.dkeys.data) keep(row + i, g[i], i);
                delta += weight * g[i];
                add(ag, weight * g[i], x[i]);
                add(a, weight, x[i]);
            }
        }
        if (lane_ == 0) tiles.total[warp_] = delta;
        __syncthreads();
        delta = sum_of_teams();
#pragma unroll
        for (int j = 0; j < kLane; ++j) tiles.parts[warp_][j][lane_] = ag[j] - delta * a[j];
        __syncthreads();
        store_parts(w.scale);
        if (w.dkeys.data) store_keys(delta);
    }

  private:
    using Number = typename T::Global;
    static constexpr int kVector = 16 / sizeof(Number);
    union Vector {
        uint4 bytes = {0, 0, 0, 0};
        Number number[kVector];
    };

    // The rows of a team; all teams take part in the same number of steps, which have barriers.
    __device__ int first_row() const { return warp_ / w.team * kTogether; }
    __device__ int step() const { return kWarps / w.team * kTogether; }
    __device__ int rows_end() const { return w.regions + first_row(); }

    // The column of number j of a lane, from the first column of its warp.
    __device__ int column_of(int j) const {
        return (j / kVector * 32 + lane_) * kVector + j % kVector;
    }

    __device__ Number* segment(const Matrix& x) const {
        return static_cast<Number*>(x.data) + blockIdx.x * x.batch_stride;
    }

    __device__ float number(const Matrix& x, int column) const {
        return T::read(segment(x)[column * x.column_stride]);
    }

    static __device__ void add(float (&sum)[kLane], float factor, const float (&x)[kLane]) {
#pragma unroll
        for (int j = 0; j < kLane; ++j) sum[j] = fmaf(factor, x[j], sum[j]);
    }

    __device__ void read_vector(float (&x)[kLane], const Matrix& from, int first) const {
#pragma unroll
        for (int j = 0; j < kLane; ++j) {
            const int column = first + column_of(j);
            x[j] = column < w.width ? number(from, column) : 0.0f;
        }
    }

    // Numbers that do not exist become zero.
    __device__ void read_rows(float (&x)[kTogether][kLane], int row, int first) const {
        const Number* from = segment(w.keys);
        const Piece piece{w.keys.row_stride, w.keys.column_stride, w.regions, w.width, 1};
        Vector raw[kTogether][kLane / kVector];
#pragma unroll
        for (int i = 0; i < kTogether; ++i)
#pragma unroll
            for (int j = 0; j < kLane; j += kVector) {
                const int column = first + column_of(j);
                const Number* at = from + piece.offset(row + i, column);
                if (w.vectors) {
                    if (piece.has(row + i, column))
                        raw[i][j / kVector].bytes = *reinterpret_cast<const uint4*>(at);
                } else {
#pragma unroll
                    for (int e = 0; e < kVector; ++e)
                        if (piece.has(row + i, column + e))
                            raw[i][j / kVector].number[e] = at[e * piece.column_stride];
                }
            }
#pragma unroll
        for (int i = 0; i < kTogether; ++i)
#pragma unroll
            for (int j = 0; j < kLane; ++j)
                x[i][j] = T::read(raw[i][j / kVector].number[j % kVector]);
    }

    // s[i] = the product of a vector and row + i of K, in every lane of the team. x gets the warp's
    // columns of these rows, of which v is the part of the vector.
    __device__ void multiply(float (&s)[kTogether], float (&x)[kTogether][kLane], float (&v)[kLane],
                             const Matrix& vector, int row) {
#pragma unroll
        for (int i = 0; i < kTogether; ++i) s[i] = 0;
        // Of several blocks, that of the warp comes once more at the end.
        for (int block = 0; block < w.blocks + (w.blocks > 1); ++block) {
            const bool again = block == w.blocks;
            const int first = again ? column_ : (block * w.team + member_) * kReach;
            read_rows(x, row, first);
            if (again) break;
            if (w.blocks > 1) read_vector(v, vector, first);
#pragma unroll
            for (int i = 0; i < kTogether; ++i)
#pragma unroll
                for (int j = 0; j < kLane; ++j) s[i] = fmaf(x[i][j], v[j], s[i]);
        }
#pragma unroll
        for (int i = 0; i < kTogether; ++i)
#pragma unroll
            for (int distance = 16; distance; distance /= 2)
                s[i] += __shfl_xor_sync(0xffffffffu, s[i], distance);
        if (w.team > 1) add_team(s);
    }

    // Two buffers take turns, so that one barrier is enough.
    __device__ void add_team(float (&s)[kTogether]) {
        auto& partial = tiles.partial[turn_ ^= 1];
#pragma unroll
        for (int i = 0; i < kTogether; ++i)
            if (lane_ == 0) partial[warp_][i] = s[i];
        __syncthreads();
#pragma unroll
        for (int i = 0; i < kTogether; ++i) {
            s[i] = 0;
            for (int warp = warp_ - member_; warp < warp_ - member_ + w.team; ++warp)
                s[i] += partial[warp][i];
        }
    }

    // One lane of the team writes.
    __device__ void keep(int row, float x, int lane) {
        if (member_ == 0 && lane_ == lane && row < w.regions) scratch_[row] = x;
    }

    __device__ float sum_of_teams() const {
        float sum = 0;
        for (int warp = 0; warp < kWarps; warp += w.team) sum += tiles.total[warp];
        return sum;
    }

    // The teams have different maxima.
    __device__ void finish(const float (&out)[kLane], float maximum, float total) {
        if (lane_ == 0) tiles.maximum[warp_] = maximum;
        __syncthreads();
        float largest = -INFINITY;
        for (int warp = 0; warp < kWarps; ++warp) largest = fmaxf(largest, tiles.maximum[warp]);
        const float base = base_of(largest), factor = exponential(maximum - base);
        if (lane_ == 0) tiles.total[warp_] = total * factor;
#pragma unroll
        for (int j = 0; j < kLane; ++j) tiles.parts[warp_][j][lane_] = out[j] * factor;
        __syncthreads();
        const float inverse = __frcp_rn(sum_of_teams());
        store_parts(inverse);
        if (blockIdx.y > 0) return;
        Number* to = segment(w.weights);
        for (int row = threadIdx.x; row < w.regions; row += kThreads)
            to[row * w.weights.column_stride] = Number(exponential(scratch_[row] - base) * inverse);
    }

    // out = factor * the sum of the parts of all teams.
    __device__ void store_parts(float factor) const {
        Number* to = segment(w.out);
        for (int slot = warp_; slot < w.team * kLane; slot += kWarps) {
            const int member = slot / kLane, j = slot % kLane;
            const int column = (blockIdx.y * w.team + member) * kReach + column_of(j);
            float sum = 0;
            for (int warp = member; warp < kWarps; warp += w.team)
                sum += tiles.parts[warp][j][lane_];
            if (column < w.width) to[column * w.out.column_stride] = Number(sum * factor);
        }
    }

    __device__ void store_keys(float delta) const {
        float grad[kLane], q[kLane];
        read_vector(grad, w.grad_out, column_);
        read_vector(q, w.query, column_);
        for (int row = warp_ / w.team; row < w.regions; row += kWarps / w.team) {
            const float a = number(w.weights, row), ds = w.scale * a * (scratch_[row] - delta);
            Number* to = segment(w.dkeys) + row * w.dkeys.row_stride;
#pragma unroll
            for (int j = 0; j < kLane; j += kVector) {
                const int column = column_ + column_of(j);
                Vector x;
#pragma unroll
                for (int e = 0; e < kVector; ++e)
                    x.number[e] = Number(fmaf(a, grad[j + e], ds * q[j + e]));
                if (w.grad_vectors) {
                    if (column < w.width) *reinterpret_cast<uint4*>(to + column) = x.bytes;
                } else {
#pragma unroll
                    for (int e = 0; e < kVector; ++e)
                        if (column + e < w.width)
                            to[(column + e) * w.dkeys.column_stride] = x.number[e];
                }
            }
        }
    }

    const Visual& w;
    VisualTiles& tiles;
    const int lane_, warp_;
    const int member_;  // of the team
    const int column_;  // first column of the warp
    float* const scratch_;
    int turn_ = 0;
};

}  // namespace jca_cuda
