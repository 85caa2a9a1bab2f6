// Calls registered kernels without PyTorch: driver CASES RESULTS. tests/test_aarch64.py writes the
// cases and judges the results. The functions of shim.h are defined below, for tensors in memory.
// A call is the length and letters of its name, the count and values of its arguments, and the
// count of its results, -1 for a list. Every number takes 8 bytes. A value is
//   0, dtype, rank, sizes, contiguous data           a tensor
//   1, whether it holds tensors, count, values       a list
//   2, number                                        a double or a bool
//   3, 0 or 1 and a value                            an optional value
#include <stdio.h>
#include <stdlib.h>

#include <exception>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "abi.h"
#include "binding/shim.h"

namespace jca {

constexpr int32_t kInt64 = 4;  // after the dtypes of abi.h

struct TorchTensor {
    int32_t type;
    std::vector<int64_t> sizes, strides;
    std::shared_ptr<std::vector<char>> data;
};

struct TorchList {
    std::vector<StableValue> items;
    bool of_tensors = true;
};

}  // namespace jca

namespace {

using jca::StableValue;
using jca::TorchLibrary;
using jca::TorchList;
using jca::TorchTensor;

FILE *cases, *results;
std::map<std::string, jca::BoxedKernel> kernels;

void expect(bool ok, const char* what) {
    if (ok) return;
    fprintf(stderr, "driver: %s\n", what);
    exit(1);
}

StableValue as_value(void* pointer) {
    return reinterpret_cast<StableValue>(pointer);
}
TorchTensor* as_tensor(StableValue value) {
    return reinterpret_cast<TorchTensor*>(value);
}

int64_t bytes_of(int32_t type) {
    const bool wide = type == JCA_FLOAT64 || type == jca::kInt64;
    return wide ? 8 : type == JCA_FLOAT32 ? 4 : 2;
}

TorchTensor* make(int32_t type, std::vector<int64_t> sizes) {
    std::vector<int64_t> strides(sizes.size());
    int64_t count = 1;
    for (size_t i = sizes.size(); i-- > 0; count *= sizes[i]) strides[i] = count;
    auto data = std::make_shared<std::vector<char>>(count * bytes_of(type));
    return new TorchTensor{type, std::move(sizes), std::move(strides), std::move(data)};
}

bool at_end() {
    const int next = fgetc(cases);
    ungetc(next, cases);
    return next == EOF;
}

void read_bytes(void* data, size_t bytes) {
    expect(fread(data, 1, bytes, cases) == bytes, "a case ends early");
}

StableValue read_number() {
    StableValue x;
    read_bytes(&x, sizeof(x));
    return x;
}

TorchTensor* read_tensor() {
    const int32_t type = (int32_t)read_number();
    std::vector<int64_t> sizes(read_number());
    for (int64_t& n : sizes) n = (int64_t)read_number();
    TorchTensor* t = make(type, std::move(sizes));
    read_bytes(t->data->data(), t->data->size());
    return t;
}

StableValue read_value() {
    enum { kTensor, kList, kNumber, kOptional };
    switch (read_number()) {
        case kTensor: return as_value(read_tensor());
        case kNumber: return read_number();
        case kOptional: return read_number() ? as_value(new StableValue(read_value())) : 0;
        default: break;
    }
    auto* list = new TorchList;
    list->of_tensors = read_number();
    list->items.resize(read_number());
    for (StableValue& item : list->items) item = read_value();
    return as_value(list);
}

void write_tensor(const TorchTensor& t) {
    expect(fwrite(t.data->data(), 1, t.data->size(), results) == t.data->size(),
           "the results cannot be written");
}

// A count of -1: one result, a list of tensors.
void write_results(const StableValue* stack, int64_t count) {
    if (count >= 0) {
        for (int64_t i = 0; i < count; i++) write_tensor(*as_tensor(stack[i]));
        return;
    }
    for (const StableValue item : reinterpret_cast<TorchList*>(stack[0])->items)
        write_tensor(*as_tensor(item));
}

void run_case() {
    std::string name(read_number(), ' ');
    read_bytes(&name[0], name.size());
    std::vector<StableValue> stack(read_number());
    for (StableValue& value : stack) value = read_value();
    const int64_t count = (int64_t)read_number();
    expect(kernels.count(name), "no such kernel");
    kernels[name](stack.data(), stack.size(), count < 0 ? 1 : count);
    write_results(stack.data(), count);
}

}  // namespace

extern "C" {

int32_t aoti_torch_dtype_float32() {
    return JCA_FLOAT32;
}
int32_t aoti_torch_dtype_float64() {
    return JCA_FLOAT64;
}
int32_t aoti_torch_dtype_bfloat16() {
    return JCA_BFLOAT16;
}
int32_t aoti_torch_dtype_float16() {
    return JCA_FLOAT16;
}
int32_t aoti_torch_dtype_int64() {
    return jca::kInt64;
}
int32_t aoti_torch_device_type_cpu() {
    return 0;
}
int32_t aoti_torch_layout_strided() {
    return 0;
}

int32_t aoti_torch_get_data_ptr(TorchTensor* t, void** out) {
    *out = t->data->data();
    return 0;
}
int32_t aoti_torch_get_dim(TorchTensor* t, int64_t* out) {
    *out = (int64_t)t->sizes.size();
    return 0;
}
int32_t aoti_torch_get_sizes(TorchTensor* t, int64_t** out) {
    *out = t->sizes.data();
    return 0;
}
int32_t aoti_torch_get_strides(TorchTensor* t, int64_t** out) {
    *out = t->strides.data();
    return 0;
}
int32_t aoti_torch_get_dtype(TorchTensor* t, int32_t* out) {
    *out = t->type;
    return 0;
}
int32_t aoti_torch_get_device_type(TorchTensor*, int32_t* out) {
    *out = aoti_torch_device_type_cpu();
    return 0;
}
int32_t aoti_torch_get_layout(TorchTensor*, int32_t* out) {
    *out = aoti_torch_layout_strided();
    return 0;
}
int32_t aoti_torch_get_storage_size(TorchTensor* t, int64_t* out) {
    *out = (int64_t)t->data->size();
    return 0;
}
int32_t aoti_torch_get_storage_offset(TorchTensor*, int64_t* out) {
    *out = 0;
    return 0;
}
int32_t aoti_torch_empty_strided(int64_t rank, const int64_t* sizes, const int64_t*, int32_t type,
                                 int32_t, int32_t, TorchTensor** out) {
    *out = make(type, {sizes, sizes + rank});
    return 0;
}
int32_t aoti_torch_delete_tensor_object(TorchTensor* t) {
    delete t;
    return 0;
}

int32_t torch_new_list_reserve_size(size_t, TorchList** out) {
    *out = new TorchList;
    return 0;
}
int32_t torch_list_size(TorchList* list, size_t* out) {
    *out = list->items.size();
    return 0;
}
int32_t torch_list_get_item(TorchList* list, size_t i, StableValue* out) {
    const StableValue item = list->items[i];
    *out = list->of_tensors ? as_value(new TorchTensor(*as_tensor(item))) : item;
    return 0;
}
int32_t torch_list_push_back(TorchList* list, StableValue item) {
    list->items.push_back(item);
    return 0;
}
int32_t torch_delete_list(TorchList* list) {
    for (const StableValue item : list->items)
        if (list->of_tensors) delete as_tensor(item);
    delete list;
    return 0;
}

int32_t aoti_torch_library_init_def(const char*, const char*, uint32_t, TorchLibrary**) {
    return 0;
}
int32_t aoti_torch_library_def(TorchLibrary*, const char*) {
    return 0;
}
int32_t aoti_torch_library_init_impl(const char*, const char*, const char*, uint32_t,
                                     TorchLibrary**) {
    return 0;
}
int32_t torch_library_impl(TorchLibrary*, const char* name, jca::BoxedKernel kernel, uint64_t) {
    kernels[name] = kernel;
    return 0;
}

}  // extern "C"

int main(int count, char** arguments) {
    expect(count == 3, "usage: driver CASES RESULTS");
    cases = fopen(arguments[1], "rb");
    results = fopen(arguments[2], "wb");
    expect(cases && results, "a file cannot be opened");
    expect(jca_isa_select("") == JCA_OK, "no instruction set");
    puts(jca_isa_name());
    const char* const missing = jca_register_ops(nullptr);  // the functions of this program
    expect(!missing, missing);
    try {
        while (!at_end()) run_case();
    } catch (const std::exception& error) {
        expect(false, error.what());
    }
    expect(fclose(results) == 0, "the results cannot be written");
    return 0;
}
