// A stand-in for libcuda, and for the functions of libtorch_cuda that the binding needs: it records
// every launch, and tensors on the CPU pass for those of a GPU.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    char kernel[64];
    uint32_t grid[3], threads, shared_bytes, argument_bytes;
    void *stream, *context;
    unsigned char arguments[4096];
} Launch;

enum { MOST = 64, DRIVER_VERSION = 13000 };
Launch stub_launches[MOST];
int stub_count, stub_failing_call, stub_modules, stub_triton_launches;
static char names[MOST][64];
static int functions, primary;
static _Thread_local void* current;

static int answer(void) {
    return stub_failing_call;
}

int cuInit(unsigned flags) {
    return flags != 0;
}
int cuDriverGetVersion(int* version) {
    return *version = DRIVER_VERSION, 0;
}
int cuDeviceGet(int* device, int index) {
    return *device = index, 0;
}
int cuDevicePrimaryCtxRetain(void** context, int device) {
    return *context = (char*)&primary + device, 0;
}
int cuCtxGetCurrent(void** context) {
    return *context = current, 0;
}
int cuCtxPushCurrent_v2(void* context) {
    return current = context, 0;
}
int cuCtxPopCurrent_v2(void** context) {
    return *context = current, current = 0, 0;
}
int cuModuleLoadData(void** module, const void* image) {
    stub_modules++;
    const uint32_t magic = *(const uint32_t*)image;  // of a fat binary, or of a cubin, which is ELF
    return *module = (void*)image, magic != 0xBA55ED50 && magic != 0x464C457F;
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
    strncpy(names[functions], name, 63);
    return *function = names[functions++], module == 0;
}
int cuFuncSetAttribute(void* function, int attribute, int value) {
    return !function || attribute != 8 || value > 99 * 1024;
}
int cuGetErrorString(int code, const char** text) {
    return *text = code == 700 ? "an illegal memory access was encountered" : "invalid value", 0;
}
int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads,
                   unsigned threads_y, unsigned threads_z, unsigned shared, void* stream,
                   void** parameters, void** extra) {
    if (answer()) return answer();
    if (parameters || threads_y != 1 || threads_z != 1) return 1;
    if (extra[0] != (void*)1 || extra[2] != (void*)2 || extra[4]) return 1;
    Launch* l = &stub_launches[stub_count++ % MOST];
    memcpy(l->kernel, function, 64);
    l->grid[0] = x, l->grid[1] = y, l->grid[2] = z;
    l->threads = threads, l->shared_bytes = shared, l->stream = stream, l->context = current;
    l->argument_bytes = (uint32_t)*(size_t*)extra[3];
    memcpy(l->arguments, extra[1], l->argument_bytes);
    return 0;
}

int32_t aoti_torch_device_type_cuda(void) {
    return 0;
}  // that of the CPU
int32_t aoti_torch_get_device_index(void* tensor, int32_t* index) {
    return *index = 0, tensor == 0;
}
int32_t aoti_torch_get_current_cuda_stream(int32_t device, void** stream) {
    return *stream = (void*)(uintptr_t)(0x5000 + device), 0;
}

// What Triton's launcher needs besides.
int cuCtxSetCurrent(void* context) {
    return current = context, 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
    return *value = 99 * 1024, attribute < 0 || device;
}
int cuFuncGetAttribute(int* value, int attribute, void* function) {
    enum { MAX_THREADS_PER_BLOCK };
    return *value = attribute == MAX_THREADS_PER_BLOCK ? 1024 : 0, !function;
}
int cuPointerGetAttribute(void** data, int attribute, void* pointer) {
    return *data = pointer, attribute < 0;
}
int cuLaunchKernelEx(const void* config, void* function, void** parameters, void** extra) {
    return stub_triton_launches++, !config || !function || !parameters || extra;
}

// Kernels that do nothing but free their tensors. The results of one are its last tensors; behind
// these come `plain` numbers and options that are not given. A layer has lists instead, and its
// results are the tensors of some of them.
struct {
    int32_t (*aoti_torch_delete_tensor_object)(void* tensor);
    int32_t (*torch_list_size)(void* list, size_t* size);
    int32_t (*torch_list_get_item)(void* list, size_t i, uint64_t* item);
    int32_t (*torch_list_push_back)(void* list, uint64_t item);
    int32_t (*torch_delete_list)(void* list);
    int32_t (*aoti_torch_empty_strided)(int64_t dims, const int64_t* sizes, const int64_t* strides,
                                        int32_t dtype, int32_t device_type, int32_t device,
                                        void** tensor);
} stub_shim;

// `count` times the memory of a result.
void stub_allocate(int32_t dtype, int count) {
    const int64_t sizes[] = {2, 10, 16}, strides[] = {160, 16, 1};
    for (int i = 0; i < count; ++i) {
        void* tensor;
        stub_shim.aoti_torch_empty_strided(3, sizes, strides, dtype, 0, 0, &tensor);
        stub_shim.aoti_torch_delete_tensor_object(tensor);
    }
}

static void nothing(uint64_t* stack, uint64_t arguments, uint64_t results, uint64_t plain) {
    const uint64_t first = arguments - plain - results;
    for (uint64_t i = 0; i < first; ++i) stub_shim.aoti_torch_delete_tensor_object((void*)stack[i]);
    memmove(stack, stack + first, results * sizeof(*stack));
}

#define NOTHING(plain)                                                                   \
    static void nothing_##plain(uint64_t* stack, uint64_t arguments, uint64_t results) { \
        nothing(stack, arguments, results, plain);                                       \
    }
NOTHING(1)
NOTHING(2)
NOTHING(3)

// The tensors of a list go to another, or end.
static void empty(uint64_t list, uint64_t to) {
    size_t size = 0;
    stub_shim.torch_list_size((void*)list, &size);
    for (size_t i = 0; i < size; ++i) {
        uint64_t item;
        stub_shim.torch_list_get_item((void*)list, i, &item);
        if (to)
            stub_shim.torch_list_push_back((void*)to, item);
        else
            stub_shim.aoti_torch_delete_tensor_object((void*)item);
    }
    stub_shim.torch_delete_list((void*)list);
}

static void nothing_of_a_layer(uint64_t* stack, uint64_t arguments, uint64_t results) {
    enum { FORWARD = 11, INPUTS = 0, JOINTS, W_J, W_X, W_C, W_H, SCALES };
    const int is_forward = arguments == FORWARD;
    uint64_t* lists = is_forward ? stack : stack + 2;
    const uint64_t out = lists[INPUTS];
    uint64_t* joints = (uint64_t*)lists[JOINTS];
    empty(*joints, out);
    free(joints);
    empty(lists[W_J], out);
    for (int i = W_X; i <= W_H; ++i) empty(lists[i], is_forward ? 0 : out);
    stub_shim.torch_delete_list((void*)lists[SCALES]);
    for (int i = 0; !is_forward && i < 2; ++i) empty(stack[i], 0);
    stack[0] = out;
    (void)results;
}
void* const stub_nothing[] = {nothing_of_a_layer, nothing_1, nothing_2, nothing_3};
