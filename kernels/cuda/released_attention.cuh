// The released form's own kernel. Its attention is that of walk.cuh on transposed matrices; the
// backward first multiplies the gradient of T = relu(tanh(.)) by the slope of this activation.
#pragma once

#include "copy.cuh"

namespace jca_cuda {

// 16 bytes of neighbouring numbers of a row.
template <class Number>
struct Numbers {
    static constexpr int kCount = 16 / sizeof(Number);

    union {
        uint4 bytes = {0, 0, 0, 0};
        Number x[kCount];
    };
};

// Whether they are one access at this address.
template <class Number>
__device__ bool is_vector(const Number* address, const Matrix& x, int count) {
    return x.column_stride == 1 && count >= Numbers<Number>::kCount &&
           reinterpret_cast<uint64_t>(address) % 16 == 0;
}

template <class Number>
__device__ Number* address(const Matrix& x, int sample, int row, int column) {
    return static_cast<Number*>(x.data) + sample * x.batch_stride + row * x.row_stride +
           column * x.column_stride;
}

// The first `count` numbers, 1 or more, exist.
template <class Number>
__device__ Numbers<Number> load(const Number* from, const Matrix& x, int count) {
    Numbers<Number> loaded;
    if (is_vector(from, x, count))
        loaded.bytes = *reinterpret_cast<const uint4*>(from);
    else
        for (int e = 0; e < loaded.kCount; ++e)
            if (e < count) loaded.x[e] = from[e * x.column_stride];
    return loaded;
}

template <class Number>
__device__ void store(const Numbers<Number>& numbers, Number* to, const Matrix& x, int count) {
    if (is_vector(to, x, count))
        *reinterpret_cast<uint4*>(to) = numbers.bytes;
    else
        for (int e = 0; e < numbers.kCount; ++e)
            if (e < count) to[e * x.column_stride] = numbers.x[e];
}

// A thread computes neighbouring numbers of one row; blocks of threads, sample by sample.
template <class T>
__device__ void activation_backward(const Activation& a) {
    using Number = typename T::Global;
    constexpr int kCount = Numbers<Number>::kCount;
    const int across = (a.columns + kCount - 1) / kCount;
    const int blocks = (a.rows * across + kThreads - 1) / kThreads;
    const int sample = blockIdx.x / blocks;
    const int i = blockIdx.x % blocks * kThreads + threadIdx.x;
    if (i >= a.rows * across) return;
    const int row = i / across, column = i % across * kCount, count = a.columns - column;
    const auto at = [&](const Matrix& x) { return address<Number>(x, sample, row, column); };
    const auto activated = load(at(a.activated), a.activated, count);
    auto grad = load(at(a.grad), a.grad, count);
#pragma unroll
    for (int e = 0; e < kCount; ++e) {
        const float t = T::read(activated.x[e]);
        grad.x[e] = Number((t <= 0 ? 0.0f : T::read(grad.x[e])) * fmaf(-t, t, 1.0f));
    }
    store(grad, at(a.out), a.out, count);
}

}  // namespace jca_cuda
