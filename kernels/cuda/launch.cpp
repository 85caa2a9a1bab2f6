#include "launch.h"

#include <dlfcn.h>

#include <atomic>
#include <mutex>
#include <string>

#include "driver.h"

namespace jca_cuda {
namespace {

constexpr int kDevices = 64;

Driver driver;
std::mutex loading;
std::atomic<void*> contexts[kDevices];
std::atomic<void*> modules[kDevices][JCA_CUDA_TIERS];
std::atomic<void*> functions[kDevices][JCA_CUDA_TIERS][JCA_CUDA_KERNELS];
thread_local std::string error;

// Open libcuda; "", or why no plan can be launched.
std::string open_driver() {
    void* library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) return "no CUDA driver is installed: libcuda.so.1 cannot be opened";
#define JCA_CUDA_LOOK_UP(name, arguments)                                    \
    driver.name = reinterpret_cast<int(*) arguments>(dlsym(library, #name)); \
    if (!driver.name) return "the CUDA driver has no function " #name;
    JCA_CUDA_DRIVER_FUNCTIONS(JCA_CUDA_LOOK_UP)
#undef JCA_CUDA_LOOK_UP
    int version = 0;
    if (driver.cuInit(0) || driver.cuDriverGetVersion(&version))
        return "the CUDA driver cannot be initialised";
    if (version / 1000 < JCA_CUDA_MAJOR)
        return "the driver is for CUDA " + std::to_string(version / 1000) + "." +
               std::to_string(version % 1000 / 10) + ", the kernels were built by " +
               jca_cuda_build();
    return "";
}

const std::string& problem() {
    static const std::string found = open_driver();
    return found;
}

// Remember the failed call of this thread.
int refused(const char* call, int code) {
    const char* text = nullptr;
    driver.cuGetErrorString(code, &text);
    error = std::string(call) + ": " + (text ? text : "error " + std::to_string(code));
    return JCA_CUDA_FAILED;
}

#define JCA_CUDA_TRY(name, ...) \
    if (const int code = driver.name(__VA_ARGS__)) return refused(#name, code)

int load_context(int device) {
    const std::lock_guard<std::mutex> lock(loading);
    int handle;
    void* context;
    if (contexts[device]) return JCA_CUDA_SUCCESS;
    JCA_CUDA_TRY(cuDeviceGet, &handle, device);
    JCA_CUDA_TRY(cuDevicePrimaryCtxRetain, &context, handle);
    contexts[device] = context;
    return JCA_CUDA_SUCCESS;
}

// In the current context, which is the device's.
int load_function(int device, int tier, const jca_cuda_launch_plan& launch) {
    const std::lock_guard<std::mutex> lock(loading);
    void *module = modules[device][tier], *function;
    if (functions[device][tier][launch.kernel]) return JCA_CUDA_SUCCESS;
    if (!module) {
        size_t bytes;
        JCA_CUDA_TRY(cuModuleLoadData, &module, jca_cuda_image(tier, &bytes));
        modules[device][tier] = module;
    }
    JCA_CUDA_TRY(cuModuleGetFunction, &function, module, jca_cuda_kernel_name(launch.kernel));
    JCA_CUDA_TRY(cuFuncSetAttribute, function, kMaxDynamicShared, int(launch.shared_bytes));
    functions[device][tier][launch.kernel] = function;
    return JCA_CUDA_SUCCESS;
}

int start(const jca_cuda_launch_plan& launch, int device, int tier, void* stream) {
    std::atomic<void*>& function = functions[device][tier][launch.kernel];
    if (!function)
        if (const int status = load_function(device, tier, launch)) return status;
    size_t bytes = launch.argument_bytes;
    void* arguments = const_cast<unsigned char*>(launch.arguments);
    void* extra[] = {kParamBuffer, arguments, kParamSize, &bytes, kParamEnd};
    const uint32_t* grid = launch.grid;
    JCA_CUDA_TRY(cuLaunchKernel, function, grid[0], grid[1], grid[2], launch.threads, 1, 1,
                 launch.shared_bytes, stream, nullptr, extra);
    return JCA_CUDA_SUCCESS;
}

int start_all(const jca_cuda_plan& plan, int device, void* stream) {
    int status = JCA_CUDA_SUCCESS;
    for (int i = 0; i < plan.count && !status; ++i)
        status = start(plan.launches[i], device, plan.tier, stream);
    return status;
}

// The device's primary context is current until all launches have started.
int start_on(const jca_cuda_plan& plan, int device, void* stream) {
    if (!contexts[device])
        if (const int status = load_context(device)) return status;
    void *current = nullptr, *own = contexts[device];
    JCA_CUDA_TRY(cuCtxGetCurrent, &current);
    if (current == own) return start_all(plan, device, stream);
    JCA_CUDA_TRY(cuCtxPushCurrent_v2, own);
    const int status = start_all(plan, device, stream);
    JCA_CUDA_TRY(cuCtxPopCurrent_v2, &current);
    return status;
}

}  // namespace
}  // namespace jca_cuda

int jca_cuda_launch(const jca_cuda_plan* plan, int device, void* stream) {
    if (device < 0 || device >= jca_cuda::kDevices) return JCA_CUDA_BAD_DEVICE;
    if (!jca_cuda::problem().empty()) return JCA_CUDA_NO_DRIVER;
    return plan->count ? jca_cuda::start_on(*plan, device, stream) : JCA_CUDA_SUCCESS;
}

const char* jca_cuda_problem(void) {
    return jca_cuda::problem().c_str();
}

const char* jca_cuda_error(void) {
    return jca_cuda::error.c_str();
}
