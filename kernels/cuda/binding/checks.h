// The checks of a call before any memory is touched. Each error names the op, the argument, the
// given value and the needed one.
#pragma once

#include <math.h>

#include <type_traits>

#include "tensor.h"

namespace jca_cuda {
namespace {

constexpr int64_t kAny = -1;

template <class Call, class = void>
constexpr bool kHasWorkspace = false;
template <class Call>
constexpr bool kHasWorkspace<Call, std::void_t<decltype(Call::workspace)>> = true;

// Whether PyTorch multiplies float32 in TF32 now. Its C shim does not say; Python answers.
int (*is_tf32)();

// The name of an argument, or of an item of a list. Only an error makes a text of it.
struct Name {
    Name(const char* argument) : argument(argument) {}
    Name(const char* list, size_t item) : argument(list), item(int64_t(item)) {}

    std::string text() const {
        return item < 0 ? argument : std::string(argument) + "[" + std::to_string(item) + "]";
    }

    const char* argument;
    int64_t item = -1;
};

class Checks {
  public:
    // The first tensor gives the device and the dtype of all others.
    Checks(const char* op, const char* name, const Tensor& first)
        : op_(op), name_(name), first_(first) {}

    [[noreturn]] void fail(const std::string& text) const {
        throw std::runtime_error(std::string("jca_fast::") + op_ + ".cuda: " + text);
    }

    void tensor(Name name, const Tensor& t, std::initializer_list<int64_t> shape) const {
        device(name, t);
        if (t.dtype() != first_.dtype()) fail(name.text() + " must have the dtype of " + name_);
        bool same = t.dims() == int64_t(shape.size());
        for (size_t i = 0; same && i < shape.size(); ++i)
            same = shape.begin()[i] == kAny || shape.begin()[i] == t.sizes()[i];
        if (!same)
            fail(name.text() + " must have shape (" + text(shape.begin(), shape.size()) +
                 "), got (" + text(t.sizes(), size_t(t.dims())) + ")");
    }

    int tier() const {
        const int32_t dtype = first_.dtype();
        if (dtype == shim.aoti_torch_dtype_float32())
            return is_tf32() ? JCA_CUDA_TF32 : JCA_CUDA_EXACT;
        if (dtype == shim.aoti_torch_dtype_bfloat16()) return JCA_CUDA_BFLOAT16;
        if (dtype == shim.aoti_torch_dtype_float16()) return JCA_CUDA_FLOAT16;
        fail(std::string(name_) + " must be float32, bfloat16 or float16, got another dtype");
    }

    // Threshold in 1/65536, to even on ties like Python's round.
    int64_t threshold(double p) const {
        if (!(p >= 0 && p <= 1))
            fail("dropout_p must be a probability between 0 and 1, got " + std::to_string(p));
        return int64_t(nearbyint(p * 65536.0));
    }

    // The address of the seed; 0 where none is given.
    uint64_t seed(const Tensor& t) const {
        if (!t.given()) return 0;
        device("seed", t);
        if (t.dtype() != shim.aoti_torch_dtype_int64() || t.elements() != 1)
            fail("seed must be one int64 number");
        return t.address();
    }

    // Plan a call and launch it on the current stream of the first tensor's device.
    template <class Call>
    void run(int (*plan_of)(const Call*, jca_cuda_plan*), Call& call) const {
        jca_cuda_plan plan;
        int status = plan_of(&call, &plan);
        // Memory is freed in the order of the stream, so that the workspace may end with this call.
        Tensor workspace(StableValue(0));
        if constexpr (kHasWorkspace<Call>)
            if (status == JCA_CUDA_NO_WORKSPACE) {
                workspace = first_.make({plan.workspace_size}, shim.aoti_torch_dtype_uint8());
                call.workspace = workspace.address();
                call.workspace_size = plan.workspace_size;
                status = plan_of(&call, &plan);
            }
        require(status);
        launch(plan);
    }

  private:
    void require(int status) const {
        if (!status) return;
        const char* why = status == JCA_CUDA_FAILED      ? jca_cuda_error()
                          : status == JCA_CUDA_NO_DRIVER ? jca_cuda_problem()
                                                         : jca_cuda_status_string(status);
        fail(why);
    }

    void launch(const jca_cuda_plan& plan) const {
        const int32_t device = first_.device();
        void* stream;
        check(shim.aoti_torch_get_current_cuda_stream(device, &stream), "its stream");
        require(jca_cuda_launch(&plan, device, stream));
    }

    void device(Name name, const Tensor& t) const {
        if (!t.is_on_gpu()) fail(name.text() + " must be a dense CUDA tensor");
        if (t.device() != first_.device())
            fail(name.text() + " must be on cuda:" + std::to_string(first_.device()) + " like " +
                 name_ + ", got cuda:" + std::to_string(t.device()));
    }

    static std::string text(const int64_t* sizes, size_t dims) {
        std::string out;
        for (size_t i = 0; i < dims; ++i)
            out += (i ? ", " : "") + (sizes[i] == kAny ? "*" : std::to_string(sizes[i]));
        return out;
    }

    const char *op_, *name_;
    const Tensor& first_;
};

}  // namespace
}  // namespace jca_cuda
