// The checks of a call before any memory is touched. Each error names the op, the argument, the
// given value and the needed one.
#pragma once

#include <math.h>

#include <initializer_list>

#include "tensor.h"

namespace jca {
namespace {

constexpr int64_t kAny = -1;    // a size of at least 1
constexpr int64_t kBatch = -2;  // a size of at least 0

struct Dropout {
    int64_t threshold = 0, seed = 0;
};

class Checks {
  public:
    explicit Checks(const char* op) : op_(op) {}

    [[noreturn]] void fail(const std::string& text) const {
        throw std::runtime_error(std::string("jca_fast::") + op_ + ".cpu: " + text);
    }

    // `t` must be a CPU tensor of this shape, inside its storage, of the dtype of the first tensor
    // that was checked. `index` is its place in the list `name`, -1 where there is no list.
    void tensor(const char* name, const Tensor& t, std::initializer_list<int64_t> shape,
                int64_t index = -1) {
        if (t.device() != shim.aoti_torch_device_type_cpu() || !t.is_dense())
            fail(label(name, index) + " must be a dense CPU tensor");
        check_dtype(name, t, index);
        if (!has_shape(t, shape))
            fail(label(name, index) + " must have shape " + text(shape) + ", got " + text_of(t));
        if (!inside_storage(t, dtype_ == JCA_FLOAT64 ? 8 : dtype_ == JCA_FLOAT32 ? 4 : 2))
            fail(label(name, index) + " of shape " + text_of(t) +
                 " reaches outside its storage of " + std::to_string(t.storage_size()) + " bytes");
    }

    void count(const char* name, size_t got, size_t needed) const {
        if (got != needed)
            fail(std::string(name) + " must have " + std::to_string(needed) + " items, got " +
                 std::to_string(got));
    }

    // Threshold in 1/65536, to even on ties like Python's round, and the seed as a number.
    Dropout dropout(double p, const Seed& seed) const {
        if (!(p >= 0 && p <= 1))
            fail("dropout_p must be a probability between 0 and 1, got " + std::to_string(p));
        const Tensor* s = seed.tensor();
        if (!s) return {};
        if (s->device() != shim.aoti_torch_device_type_cpu() ||
            s->type() != shim.aoti_torch_dtype_int64() || !has_one_element(*s))
            fail("seed must be one int64 number on the CPU, got a tensor of shape " + text_of(*s));
        if (!inside_storage(*s, 8)) fail("seed reaches outside its storage");
        return {(int64_t)nearbyint(p * 65536.0), *static_cast<const int64_t*>(s->data())};
    }

    void status(int status) const {
        if (status) throw std::runtime_error(std::string(op_) + ": " + jca_status_string(status));
    }

  private:
    static std::string label(const char* name, int64_t index) {
        return index < 0 ? std::string(name) : name + ("[" + std::to_string(index) + "]");
    }

    static const char* dtype_name(int64_t dtype) {
        static const char* const names[] = {"float32", "float64", "bfloat16", "float16"};
        return dtype < 0 ? "another dtype" : names[dtype];
    }

    void check_dtype(const char* name, const Tensor& t, int64_t index) {
        const int64_t dtype = t.dtype();
        if (dtype < 0)
            fail(label(name, index) +
                 " must be float32, float64, bfloat16 or float16, got another dtype");
        if (!first_) {
            first_ = name;
            dtype_ = dtype;
        } else if (dtype != dtype_)
            fail(label(name, index) + " must be " + dtype_name(dtype_) + " like " + first_ +
                 ", got " + dtype_name(dtype));
    }

    static bool has_shape(const Tensor& t, std::initializer_list<int64_t> shape) {
        if (t.dims() != (int64_t)shape.size()) return false;
        const int64_t* size = t.sizes();
        for (const int64_t needed : shape) {
            const int64_t got = *size++;
            if (needed == kAny ? got < 1 : needed != kBatch && got != needed) return false;
        }
        return true;
    }

    static bool has_one_element(const Tensor& t) {
        const int64_t* sizes = t.sizes();
        for (int64_t i = 0; i < t.dims(); i++)
            if (sizes[i] != 1) return false;
        return true;
    }

    static bool inside_storage(const Tensor& t, int64_t element) {
        const int64_t *sizes = t.sizes(), *strides = t.strides();
        int64_t last = t.storage_offset(), step, bytes;
        for (int64_t i = 0; i < t.dims(); i++) {
            if (sizes[i] == 0) return true;
            if (__builtin_mul_overflow(sizes[i] - 1, strides[i], &step) ||
                __builtin_add_overflow(last, step, &last))
                return false;
        }
        return !__builtin_add_overflow(last, 1, &last) &&
               !__builtin_mul_overflow(last, element, &bytes) && bytes <= t.storage_size();
    }

    static std::string text(std::initializer_list<int64_t> shape) {
        std::string out;
        for (const int64_t n : shape)
            out += (out.empty() ? "" : ", ") + (n < 0 ? std::string("*") : std::to_string(n));
        return "(" + out + ")";
    }
    static std::string text_of(const Tensor& t) {
        std::string out;
        const int64_t* sizes = t.sizes();
        for (int64_t i = 0; i < t.dims(); i++) out += (i ? ", " : "") + std::to_string(sizes[i]);
        return "(" + out + ")";
    }

    const char* op_;
    const char* first_ = nullptr;
    int64_t dtype_ = -1;
};

}  // namespace
}  // namespace jca
