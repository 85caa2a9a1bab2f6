// The arguments and results of a boxed kernel, on the shim. Each owns its handle from construction,
// which cannot fail, so that an error leaks nothing.
#pragma once

#include <string.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "../abi.h"
#include "shim.h"

namespace jca {
namespace {

Shim shim;

void check(int32_t error, const char* what) {
    if (error) throw std::runtime_error(std::string("jca_fast: PyTorch refused ") + what);
}

class Tensor {
  public:
    explicit Tensor(TorchTensor* handle) : handle_(handle) {}
    explicit Tensor(StableValue value) : handle_(reinterpret_cast<TorchTensor*>(value)) {}
    Tensor(Tensor&& other) noexcept : handle_(other.handle_) { other.handle_ = nullptr; }
    Tensor& operator=(Tensor&&) = delete;
    ~Tensor() {
        if (handle_) shim.aoti_torch_delete_tensor_object(handle_);
    }

    bool given() const { return handle_; }
    int64_t dims() const { return get(shim.aoti_torch_get_dim, "the rank of a tensor"); }
    const int64_t* sizes() const { return get(shim.aoti_torch_get_sizes, "the sizes of a tensor"); }
    const int64_t* strides() const {
        return get(shim.aoti_torch_get_strides, "the strides of a tensor");
    }
    void* data() const { return get(shim.aoti_torch_get_data_ptr, "the data of a tensor"); }
    int32_t type() const { return get(shim.aoti_torch_get_dtype, "the dtype of a tensor"); }
    int32_t device() const {
        return get(shim.aoti_torch_get_device_type, "the device of a tensor");
    }
    bool is_dense() const {
        return get(shim.aoti_torch_get_layout, "the layout of a tensor") ==
               shim.aoti_torch_layout_strided();
    }
    int64_t storage_size() const {
        return get(shim.aoti_torch_get_storage_size, "the storage of a tensor");
    }
    int64_t storage_offset() const {
        return get(shim.aoti_torch_get_storage_offset, "the storage of a tensor");
    }

    // The code of abi.h, or -1.
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
    jca_weight weight() const {
        const int64_t* s = strides();
        return {data(), {s[0], s[1]}};
    }
    StableValue release() {
        const StableValue value = reinterpret_cast<StableValue>(handle_);
        handle_ = nullptr;
        return value;
    }

    // Contiguous, uninitialised, of the dtype of this one; at most 3 dimensions.
    Tensor make(int64_t dims, const int64_t* sizes) const {
        int64_t strides[3] = {1, 1, 1}, elements = 16;  // bytes of an element, and room to spare
        for (int64_t i = 0; i < dims; i++)
            if (sizes[i] && __builtin_mul_overflow(elements, sizes[i], &elements))
                throw std::runtime_error("jca_fast: a result would need more than 2^63 bytes");
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
    template <class T>
    T get(int32_t (*function)(TorchTensor*, T*), const char* what) const {
        T value;
        check(function(handle_, &value), what);
        return value;
    }

    TorchTensor* handle_;
};

double number(StableValue value) {
    double x;
    memcpy(&x, &value, sizeof(x));
    return x;
}

bool flag(StableValue value) {
    return value & 1;
}

// A list of tensors or numbers; a null handle is an empty one.
class List {
  public:
    explicit List(StableValue value) : handle_(reinterpret_cast<TorchList*>(value)) {}
    List(const List&) = delete;
    List& operator=(const List&) = delete;
    ~List() {
        if (handle_) shim.torch_delete_list(handle_);
    }

    std::vector<Tensor> tensors() const {
        return items<Tensor>([](StableValue v) { return Tensor(v); });
    }
    std::vector<double> numbers() const { return items<double>(number); }

  private:
    template <class T, class F>
    std::vector<T> items(F convert) const {
        std::vector<T> out;
        size_t count = 0;
        if (handle_) check(shim.torch_list_size(handle_, &count), "a list");
        out.reserve(count);
        for (size_t i = 0; i < count; i++) {
            StableValue item;
            check(shim.torch_list_get_item(handle_, i, &item), "a list");
            out.push_back(convert(item));
        }
        return out;
    }

    TorchList* handle_;
};

StableValue list_of(std::vector<Tensor>& items) {
    TorchList* list;
    check(shim.torch_new_list_reserve_size(items.size(), &list), "a list of results");
    for (Tensor& t : items)
        check(shim.torch_list_push_back(list, t.release()), "a list of results");
    return reinterpret_cast<StableValue>(list);
}

// The value of an optional argument, which is freed; 0 where none is given.
StableValue take(StableValue optional) {
    auto* value = reinterpret_cast<StableValue*>(optional);
    const StableValue taken = value ? *value : 0;
    delete value;
    return taken;
}

// The optional seed of a call.
class Seed {
  public:
    explicit Seed(StableValue optional) : tensor_(take(optional)) {}
    const Tensor* tensor() const { return tensor_.given() ? &tensor_ : nullptr; }

  private:
    Tensor tensor_;
};

}  // namespace
}  // namespace jca
