// out (M, N) = A (M, K) B (N, K)^T, float16 in, float32 sums: the executor runs what nvcc compiles.
//
// A CTA of four warps computes 64 x 64, a warp 32 x 32 of it. Shared memory holds two stages of 32
// along K: one is multiplied while cp.async brings the next. M and N are any, K is a multiple of 32.
// Without the wait (-DWAIT=0) or the barrier at the end of a step (-DLAST_BARRIER=0) it is wrong.
#include <cuda_fp16.h>

#ifndef WAIT
#define WAIT 1
#endif
#ifndef LAST_BARRIER
#define LAST_BARRIER 1
#endif

constexpr int kTile = 64, kStep = 32, kRow = kStep + 8;  // padded rows: ldmatrix meets no bank twice

struct Stage {
  __half a[kTile][kRow];
  __half b[kTile][kRow];
};

__device__ unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

// Copy rows [first, first + 64) of x (rows, k), columns [at, at + 32); rows beyond the end become zero.
__device__ void copy_tile(__half (*to)[kRow], const __half* x, int first, int rows, int k, int at) {
  for (int i = threadIdx.x; i < kTile * kStep / 8; i += blockDim.x) {
    int row = i / (kStep / 8), column = i % (kStep / 8) * 8;
    bool inside = first + row < rows;
    const __half* from = x + (inside ? (first + row) * k + at + column : 0);
    unsigned at_shared = shared_address(&to[row][column]);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at_shared), "l"(from),
                 "r"(inside ? 16 : 0));
  }
}

__device__ void load_matrices(unsigned (&r)[4], const __half* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

extern "C" __global__ void __launch_bounds__(128)
    gemm(const __half* a, const __half* b, float* out, int m, int n, int k) {
  __shared__ __align__(16) Stage stages[2];
  int first_m = blockIdx.x * kTile, first_n = blockIdx.y * kTile;
  int lane = threadIdx.x % 32, warp_m = threadIdx.x / 64 * 32, warp_n = threadIdx.x / 32 % 2 * 32;
  auto copy = [&](int step) {
    if (step * kStep < k) {
      copy_tile(stages[step % 2].a, a, first_m, m, k, step * kStep);
      copy_tile(stages[step % 2].b, b, first_n, n, k, step * kStep);
    }
    asm volatile("cp.async.commit_group;");
  };
  float c[2][4][4] = {};
  copy(0);
  for (int step = 0; step * kStep < k; ++step) {
    copy(step + 1);
#if WAIT
    asm volatile("cp.async.wait_group 1;" ::: "memory");
#endif
    __syncthreads();
    const Stage& stage = stages[step % 2];
#pragma unroll
    for (int at = 0; at < kStep; at += 16) {
      unsigned left[2][4], right[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        load_matrices(left[i], &stage.a[warp_m + 16 * i + lane % 16][at + lane / 16 * 8]);
        int row = warp_n + 16 * i + lane / 16 * 8 + lane % 8;
        load_matrices(right[i], &stage.b[row][at + lane / 8 % 2 * 8]);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          multiply(c[i][j], left[i], right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]);
    }
#if LAST_BARRIER
    __syncthreads();
#endif
  }
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 4; ++j)
      for (int e = 0; e < 4; ++e) {
        int row = first_m + warp_m + 16 * i + lane / 4 + e / 2 * 8;
        int column = first_n + warp_n + 8 * j + lane % 4 * 2 + e % 2;
        if (row < m && column < n) out[row * n + column] = c[i][j][e];
      }
}
