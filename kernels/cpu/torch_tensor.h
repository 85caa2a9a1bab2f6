// What a boxed kernel gets and gives back, on the shim of torch_shim.h: tensors that own their
// handle, numbers, lists.
#pragma once

#include <math.h>
#include <string.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "abi.h"
#include "torch_shim.h"

namespace jca {
namespace {

Shim shim;

void check(int32_t error, const char* what) {
    if (error) throw std::runtime_error(std::string("jca_fast: PyTorch refused ") + what);
}

// A tensor that this kernel owns.
class Tensor {
  public:
    explicit Tensor(TorchTensor* handle) : handle_(handle) {}
    explicit Tensor(StableValue value) : handle_(reinterpret_cast<TorchTensor*>(value)) {}
    Tensor(Tensor&& other) noexcept : handle_(other.handle_) { other.handle_ = nullptr; }
    Tensor& operator=(Tensor&&) = delete;
    ~Tensor() {
        if (handle_) shim.aoti_torch_delete_tensor_object(handle_);
    }

    const int64_t* sizes() const {
        int64_t* p;
        check(shim.aoti_torch_get_sizes(handle_, &p), "the sizes of a tensor");
        return p;
    }
    const int64_t* strides() const {
        int64_t* p;
        check(shim.aoti_torch_get_strides(handle_, &p), "the strides of a tensor");
        return p;
    }
    void* data() const {
        void* p;
        check(shim.aoti_torch_get_data_ptr(handle_, &p), "the data of a tensor");
        return p;
    }
    int32_t type() const {
        int32_t type;
        check(shim.aoti_torch_get_dtype(handle_, &type), "the dtype of a tensor");
        return type;
    }
    // The code of abi.h, or one that the kernels reject.
    int64_t dtype() const {
        const int32_t t = type();
        if (t == shim.aoti_torch_dtype_float32()) return JCA_FLOAT32;
        if (t == shim.aoti_torch_dtype_float64()) return JCA_FLOAT64;
        if (t == shim.aoti_torch_dtype_bfloat16()) return JCA_BFLOAT16;
        return t == shim.aoti_torch_dtype_float16() ? JCA_FLOAT16 : -1;
    }
    jca_matrix matrix() const {
        const int64_t* s = strides();
        return {data(), {s[0], s[1], s[2]}};
    }
    jca_matrix transposed() const {
        const int64_t* s = strides();
        return {data(), {s[0], s[2], s[1]}};
    }
    jca_weight weight() const {
        const int64_t* s = strides();
        return {data(), {s[0], s[1]}};
    }
    StableValue release() {
        const StableValue value = reinterpret_cast<StableValue>(handle_);
        handle_ = nullptr;
        return value;
    }

    // Contiguous, uninitialised, of the dtype of this one.
    Tensor make(int64_t dims, const int64_t* sizes) const {
        int64_t strides[3] = {1, 1, 1};
        for (int64_t i = dims - 2; i >= 0; i--)
            strides[i] = strides[i + 1] * (sizes[i + 1] > 1 ? sizes[i + 1] : 1);
        TorchTensor* made;
        check(shim.aoti_torch_empty_strided(dims, sizes, strides, type(),
                                            shim.aoti_torch_device_type_cpu(), 0, &made),
              "memory for a result");
        return Tensor(made);
    }
    Tensor like(int64_t dims) const { return make(dims, sizes()); }

  private:
    TorchTensor* handle_;
};

double number(StableValue value) {
    double x;
    memcpy(&x, &value, sizeof(x));
    return x;
}

struct Dropout {
    int64_t threshold = 0, seed = 0;

    Dropout(double p, StableValue seed_value) {
        auto* optional = reinterpret_cast<StableValue*>(seed_value);
        if (!optional) return;
        const Tensor tensor(*optional);
        delete optional;
        threshold = (int64_t)nearbyint(p * 65536.0);  // to even on ties, like Python's round
        seed = *static_cast<const int64_t*>(tensor.data());
    }
};

std::vector<Tensor> tensors(StableValue value) {
    auto* list = reinterpret_cast<TorchList*>(value);
    std::vector<Tensor> out;
    size_t count;
    check(shim.torch_list_size(list, &count), "a list of tensors");
    out.reserve(count);
    for (size_t i = 0; i < count; i++) {
        StableValue item;
        check(shim.torch_list_get_item(list, i, &item), "a list of tensors");
        out.emplace_back(item);
    }
    shim.torch_delete_list(list);
    return out;
}

StableValue list_of(std::vector<Tensor>& items) {
    TorchList* list;
    check(shim.torch_new_list_reserve_size(items.size(), &list), "a list of results");
    for (Tensor& t : items)
        check(shim.torch_list_push_back(list, t.release()), "a list of results");
    return reinterpret_cast<StableValue>(list);
}

}  // namespace
}  // namespace jca
