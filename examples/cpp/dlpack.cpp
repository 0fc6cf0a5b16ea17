/* dlpack.cpp - tensors in from a framework and out to another through DLPack, without a copy.
 *
 * A framework hands over a managed tensor of four rows; the library normalises them; the result leaves as a managed
 * tensor of its own, which keeps its memory alive until the consumer calls the deleter. */
#include "dlpack_min.h"

#include <scaleRT.hpp>

#include <cstdio>
#include <memory>
#include <vector>

namespace {

constexpr int64_t rows = 4, width = 8;

/* A framework's tensor: memory and shape live until the deleter is called. */
struct FrameworkTensor {
    std::vector<float> values = std::vector<float>(rows * width);
    int64_t shape[2] = {rows, width};
    DLManagedTensorVersioned managed{};
};

DLManagedTensorVersioned *export_from_framework() {
    auto owner = std::make_unique<FrameworkTensor>();
    for (std::size_t i = 0; i < owner->values.size(); i++)
        owner->values[i] = static_cast<float>(i * i % 17);
    DLManagedTensorVersioned &managed = owner->managed;
    managed.version = {1, 0};
    managed.deleter = [](DLManagedTensorVersioned *self) {
        delete static_cast<FrameworkTensor *>(self->manager_ctx);
        std::puts("input released");
    };
    managed.flags = DLPACK_FLAG_BITMASK_READ_ONLY;
    managed.dl_tensor = {owner->values.data(), {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, owner->shape, nullptr, 0};
    managed.manager_ctx = owner.get();
    return &owner.release()->managed;
}

/* Calls the deleter of a managed tensor at the end of a scope. */
struct CallDeleter {
    void operator()(DLManagedTensorVersioned *managed) const {
        if (managed->deleter)
            managed->deleter(managed);
    }
};
using Managed = std::unique_ptr<DLManagedTensorVersioned, CallDeleter>;

Managed normalise(const scalert::Runtime &runtime, scalert::Stream &stream, Managed input) {
    const scalert::Tensor x = scalert::from_dlpack(runtime, input.get(), false);
    auto memory = std::make_shared<std::vector<float>>(x.elements());
    const scalert::Tensor y(memory->data(), {x.shape[0], x.shape[1]});
    scalert::layer_norm_forward(stream, x, nullptr, nullptr, 1e-5f, y, nullptr, nullptr);
    stream.wait();
    /* The output shares ownership of its memory with nobody: it is freed when the consumer is done. */
    return Managed(scalert::to_dlpack(runtime, y, false, [memory]() mutable {
        memory.reset();
        std::puts("output released");
    }));
}

} // namespace

int main() {
    try {
        const scalert::Runtime runtime;
        scalert::Stream stream(runtime);
        const Managed output = normalise(runtime, stream, Managed(export_from_framework()));
        const DLTensor &tensor = output->dl_tensor;
        const auto *values =
            reinterpret_cast<const float *>(static_cast<const char *>(tensor.data) + tensor.byte_offset);
        for (int64_t row = 0; row < tensor.shape[0]; row++) {
            double sum = 0, squares = 0;
            for (int64_t i = 0; i < tensor.shape[1]; i++) {
                const double value = values[row * tensor.shape[1] + i];
                sum += value;
                squares += value * value;
            }
            const double n = static_cast<double>(tensor.shape[1]);
            std::printf("row %d: mean %+.4f variance %.4f\n", static_cast<int>(row), sum / n, squares / n);
        }
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
