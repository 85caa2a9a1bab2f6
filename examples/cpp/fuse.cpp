// Runs a model that PyTorch's ahead-of-time compiler has packaged, without Python:
//   fuse model.pt2 inputs.pt outputs.pt
// inputs.pt is a list of tensors, as torch.save writes it, and so is outputs.pt.
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/script.h>
#include <torch/torch.h>

#include <fstream>
#include <iostream>

// The ops and kernels of jca_fast, from libjca_cpu. Null, or what failed.
extern "C" const char* jca_load(void);

namespace {

std::vector<at::Tensor> read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), {});
    std::vector<at::Tensor> tensors;
    const c10::IValue list = torch::pickle_load(bytes);
    for (const c10::IValue& value : list.toListRef()) tensors.push_back(value.toTensor());
    return tensors;
}

void write(const std::string& path, const std::vector<at::Tensor>& tensors) {
    c10::impl::GenericList list(c10::AnyType::get());
    for (const at::Tensor& tensor : tensors) list.push_back(tensor);
    const std::vector<char> bytes = torch::pickle_save(list);
    std::ofstream(path, std::ios::binary).write(bytes.data(), (std::streamsize)bytes.size());
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 4) {
        std::cerr << "usage: fuse model.pt2 inputs.pt outputs.pt\n";
        return 2;
    }
    if (const char* problem = jca_load()) {
        std::cerr << "libjca_cpu cannot be used: " << problem << "\n";
        return 1;
    }
    try {
        torch::inductor::AOTIModelPackageLoader model(arguments[1]);
        write(arguments[3], model.run(read(arguments[2])));
    } catch (const std::exception& error) {
        std::cerr << error.what() << "\n";
        return 1;
    }
}
