// The dropout mask of jca_fast/ops/dropout.py, element by element inside the kernels.
#pragma once

#include <stdint.h>

namespace jca_cuda {

__device__ inline uint32_t mix(uint32_t h) {
    h = (h ^ (h >> 16)) * 0x7feb352du;
    h = (h ^ (h >> 15)) * 0x846ca68bu;
    return h ^ (h >> 16);
}

__device__ inline uint32_t sample_key(int64_t seed, int sample) {
    const uint32_t key = mix(mix(uint32_t(seed)) + uint32_t(uint64_t(seed) >> 32));
    return mix(key + uint32_t(sample) * 0x9e3779b9u);
}

__device__ inline uint32_t row_key(uint32_t sample_key, int row) {
    return mix(sample_key + uint32_t(row) * 0x9e3779b1u);
}

// The 32 random bits of `column` and of the column 16 further, whose bit 4 is 0 and 1: the low and
// the high half.
__device__ inline uint32_t pair_bits(uint32_t row_key, int column) {
    const uint32_t word = uint32_t(column) / 32 * 16 + uint32_t(column) % 16;
    uint32_t h = (row_key ^ (word * 0x85ebca77u)) * 0x7feb352du;
    h = (h ^ (h >> 15)) * 0x846ca68bu;
    return h ^ (h >> 16);
}

}  // namespace jca_cuda
