// The arguments and results of a boxed kernel, on the shim. Each owns its handle from construction,
// which cannot fail, so that an error leaks nothing.
#pragma once

#include <string.h>

#include <initializer_list>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "../launch.h"
#include "shim.h"

namespace jca_cuda {
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
    Tensor& operator=(Tensor&& other) noexcept {
        std::swap(handle_, other.handle_);
        return *this;
    }
    ~Tensor() {
        if (handle_) shim.aoti_torch_delete_tensor_object(handle_);
    }

    bool given() const { return handle_; }
    int64_t dims() const { return get<int64_t>(shim.aoti_torch_get_dim); }
    int64_t elements() const { return get<int64_t>(shim.aoti_torch_get_numel); }
    const int64_t* sizes() const { return get<int64_t*>(shim.aoti_torch_get_sizes); }
    int32_t dtype() const { return get<int32_t>(shim.aoti_torch_get_dtype); }
    int32_t device() const { return get<int32_t>(shim.aoti_torch_get_device_index); }
    uint64_t address() const {
        return reinterpret_cast<uint64_t>(get<void*>(shim.aoti_torch_get_data_ptr));
    }
    bool is_on_gpu() const {
        return get<int32_t>(shim.aoti_torch_get_device_type) ==
                   shim.aoti_torch_device_type_cuda() &&
               get<int32_t>(shim.aoti_torch_get_layout) == shim.aoti_torch_layout_strided();
    }
    // Of three dimensions, or of two without a batch.
    jca_cuda_matrix matrix() const {
        const int64_t* s = get<int64_t*>(shim.aoti_torch_get_strides);
        if (dims() == 2) return {address(), {0, s[0], s[1]}};
        return {address(), {s[0], s[1], s[2]}};
    }
    // A vector of each sample, as a matrix of one row.
    jca_cuda_matrix vectors() const {
        const int64_t* s = get<int64_t*>(shim.aoti_torch_get_strides);
        return {address(), {s[0], 0, s[1]}};
    }
    StableValue release() {
        const StableValue value = reinterpret_cast<StableValue>(handle_);
        handle_ = nullptr;
        return value;
    }

    // Contiguous and uninitialised, on the device of this one.
    Tensor make(std::initializer_list<int64_t> sizes, int32_t dtype) const {
        int64_t strides[3], stride = 1;
        for (size_t i = sizes.size(); i-- > 0; stride *= sizes.begin()[i] ? sizes.begin()[i] : 1)
            strides[i] = stride;
        TorchTensor* made;
        check(shim.aoti_torch_empty_strided(int64_t(sizes.size()), sizes.begin(), strides, dtype,
                                            shim.aoti_torch_device_type_cuda(), device(), &made),
              "memory for a result");
        return Tensor(made);
    }
    Tensor like() const {
        const int64_t* s = sizes();
        return dims() == 2 ? make({s[0], s[1]}, dtype()) : make({s[0], s[1], s[2]}, dtype());
    }

  private:
    template <class T>
    T get(int32_t (*function)(TorchTensor*, T*)) const {
        T value;
        check(function(handle_, &value), "a question about a tensor");
        return value;
    }

    TorchTensor* handle_;
};

// The items of a list argument, which is freed; none where no list is given.
std::vector<StableValue> items(StableValue value) {
    auto* list = reinterpret_cast<TorchList*>(value);
    std::vector<StableValue> found;
    if (!list) return found;
    size_t size;
    check(shim.torch_list_size(list, &size), "the size of a list");
    found.resize(size);
    for (size_t i = 0; i < size; ++i)
        check(shim.torch_list_get_item(list, i, &found[i]), "an item of a list");
    check(shim.torch_delete_list(list), "to free a list");
    return found;
}

std::vector<Tensor> tensors(StableValue list) {
    const std::vector<StableValue> handles = items(list);
    return {handles.begin(), handles.end()};
}

// A list as the result of a kernel; the tensors belong to it.
StableValue release(std::vector<Tensor>& tensors) {
    TorchList* list;
    check(shim.torch_new_list_reserve_size(tensors.size(), &list), "a list of results");
    for (Tensor& t : tensors)
        check(shim.torch_list_push_back(list, t.release()), "a result in a list");
    return reinterpret_cast<StableValue>(list);
}

double number(StableValue value) {
    double x;
    memcpy(&x, &value, sizeof(x));
    return x;
}

// The value of an optional argument, which is freed; 0 where none is given.
StableValue take(StableValue optional) {
    auto* value = reinterpret_cast<StableValue*>(optional);
    const StableValue taken = value ? *value : 0;
    delete value;
    return taken;
}

}  // namespace
}  // namespace jca_cuda
