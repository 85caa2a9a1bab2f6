// What the plans of all ops share.
#pragma once

#include <string.h>

#include <algorithm>

#include "plan.h"
#include "walk.h"

namespace jca_cuda {

constexpr int64_t kLimit = int64_t(1) << 31;
constexpr int64_t kGroups = 16;  // of samples, at most, that share a partial sum

inline int64_t blocks(int64_t size, int64_t block) {
    return (size + block - 1) / block;
}

inline Matrix matrix(const jca_cuda_matrix& x) {
    return {reinterpret_cast<void*>(x.address), x.strides[0], int32_t(x.strides[1]),
            int32_t(x.strides[2])};
}

// Rows and columns exchanged.
inline jca_cuda_matrix transposed(const jca_cuda_matrix& x) {
    return {x.address, {x.strides[0], x.strides[2], x.strides[1]}};
}

// Whether 32 bits hold every offset inside one sample. The stride of a single row or column is any.
inline bool is_small(const jca_cuda_matrix& x, int64_t rows, int64_t columns) {
    const auto fits = [](int64_t n) { return n > -kLimit && n < kLimit; };
    const int64_t down = rows > 1 ? x.strides[1] : 0, right = columns > 1 ? x.strides[2] : 0;
    if (!fits(down) || !fits(right)) return false;
    return fits((rows - 1) * down) && fits((columns - 1) * right) &&
           fits((rows - 1) * down + (columns - 1) * right);
}

struct Sized {
    const jca_cuda_matrix& x;
    int64_t rows, columns;
};

// An empty plan, and what is wrong with the tier, the sizes or the strides of a call.
inline int begin_plan(jca_cuda_plan* plan, int tier, int64_t batch,
                      std::initializer_list<int64_t> sizes, std::initializer_list<Sized> matrices) {
    plan->tier = tier;
    plan->count = 0;
    plan->workspace_size = 0;
    if (tier < 0 || tier >= JCA_CUDA_TIERS) return JCA_CUDA_BAD_TIER;
    if (batch < 0 || std::min(sizes) < 1) return JCA_CUDA_BAD_SIZE;
    // The last tile may reach beyond the last row.
    if (std::max(batch, std::max(sizes)) > kLimit - kOwned) return JCA_CUDA_TOO_LARGE;
    for (const Sized& m : matrices)
        if (!is_small(m.x, m.rows, m.columns)) return JCA_CUDA_TOO_LARGE;
    return JCA_CUDA_SUCCESS;
}

inline bool is_dropout(int64_t threshold) {
    return threshold >= 0 && threshold <= 65536;
}

// The factor on the elements that dropout keeps; a seed of 0 is none.
inline float keep_scale(uint64_t seed, int64_t threshold) {
    if (!seed) return 1.0f;
    return threshold < 65536 ? float(65536.0 / double(65536 - threshold)) : 0.0f;
}

// The address of `bytes` more of the workspace.
inline uint64_t reserve(jca_cuda_plan* plan, uint64_t workspace, int64_t bytes) {
    const uint64_t address = workspace + uint64_t(plan->workspace_size);
    plan->workspace_size += (bytes + 15) / 16 * 16;
    return address;
}

// What the function of a plan returns; a plan that fails has no launches.
inline int finish(jca_cuda_plan* plan, int status, int64_t workspace_size) {
    if (!status && workspace_size < plan->workspace_size) status = JCA_CUDA_NO_WORKSPACE;
    if (status) plan->count = 0;
    return status;
}

template <class Arguments>
int add(jca_cuda_plan* plan, int kernel, const Arguments& arguments, int64_t x, int64_t y,
        size_t shared_bytes) {
    static_assert(sizeof(Arguments) <= JCA_CUDA_ARGUMENT_BYTES, "the plan has room for them");
    if (x >= kLimit || y > 65535) return JCA_CUDA_TOO_LARGE;
    jca_cuda_launch_plan& launch = plan->launches[plan->count++];
    launch.kernel = kernel;
    launch.grid[0] = uint32_t(x);
    launch.grid[1] = uint32_t(y);
    launch.grid[2] = 1;
    launch.threads = kThreads;
    launch.shared_bytes = uint32_t(shared_bytes);
    launch.argument_bytes = sizeof(Arguments);
    memcpy(launch.arguments, &arguments, sizeof(Arguments));
    return JCA_CUDA_SUCCESS;
}

// Bytes of a number in memory, and of tiles.cuh's tiles.
struct Sizes {
    explicit Sizes(int tier)
        : is_exact(tier == JCA_CUDA_EXACT),
          number(tier == JCA_CUDA_BFLOAT16 || tier == JCA_CUDA_FLOAT16 ? 2 : 4),
          element(is_exact ? 8 : number),
          pad(tier == JCA_CUDA_TF32 ? 4 : 8) {}

    size_t left(size_t rows, size_t columns) const {
        return element * rows * (columns + (is_exact ? 1 : pad));
    }

    size_t right(size_t rows, size_t columns, Use use) const {
        const size_t by_rows = element * rows * (columns + pad);
        const size_t by_columns = element * rows * (columns + 2);
        if (!is_exact || use == kByRows) return by_rows;
        return by_columns + (use == kBothWays ? by_rows : 0);
    }

    const bool is_exact;
    const size_t number, element, pad;
};

// Bytes of Tiles in walk.cuh.
inline size_t tile_bytes(const Sizes& size, Pass pass) {
    return size.right(kWalked, kSlots, use_of_c(pass)) +
           size.right(kWalked, kWidth, use_of_d(pass)) + size.left(kOwned, kSlots) +
           (pass == kForward ? 0 : size.left(kOwned, kWidth));
}

}  // namespace jca_cuda
