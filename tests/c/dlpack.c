/* Tensors in from DLPack and out to it. */
#include "../../examples/cpp/dlpack_min.h"
#include "check.h"

static void count_release(void *owner) {
    ++*(int *)owner;
}

static DLManagedTensorVersioned managed_over(float *data, int32_t ndim, int64_t *shape, int64_t *strides) {
    DLManagedTensorVersioned managed;
    memset(&managed, 0, sizeof managed);
    managed.version.major = 1;
    managed.dl_tensor.data = data;
    managed.dl_tensor.device.device_type = kDLCPU;
    managed.dl_tensor.ndim = ndim;
    managed.dl_tensor.dtype.code = kDLFloat;
    managed.dl_tensor.dtype.bits = 32;
    managed.dl_tensor.dtype.lanes = 1;
    managed.dl_tensor.shape = shape;
    managed.dl_tensor.strides = strides;
    return managed;
}

static void imports(scalert_runtime_t *runtime) {
    float data[12];
    int64_t shape[2] = {2, 3}, strides[2] = {4, 1}, wide[6] = {1, 1, 1, 1, 1, 1};
    DLManagedTensorVersioned managed = managed_over(data, 2, shape, NULL), bad;
    scalert_tensor_t view;
    OK(scalert_tensor_from_dlpack(runtime, &managed, 1, &view));
    CHECK(view.data == data && view.dtype == SCALERT_F32 && view.ndim == 2);
    CHECK(view.shape[0] == 2 && view.shape[1] == 3 && view.stride[0] == 3 && view.stride[1] == 1);

    managed.dl_tensor.strides = strides;
    managed.dl_tensor.byte_offset = 8;
    OK(scalert_tensor_from_dlpack(runtime, &managed, 1, &view));
    CHECK(view.data == data + 2 && view.stride[0] == 4);

    managed.flags = DLPACK_FLAG_BITMASK_READ_ONLY;
    OK(scalert_tensor_from_dlpack(runtime, &managed, 0, &view));
    FAILS(scalert_tensor_from_dlpack(runtime, &managed, 1, &view), SCALERT_INVALID_ARGUMENT, "read-only");

    bad = managed_over(data, 2, shape, NULL);
    bad.version.major = 2;
    FAILS(scalert_tensor_from_dlpack(runtime, &bad, 0, &view), SCALERT_INVALID_ARGUMENT, "version");
    bad = managed_over(data, 2, shape, NULL);
    bad.dl_tensor.dtype.bits = 64;
    FAILS(scalert_tensor_from_dlpack(runtime, &bad, 0, &view), SCALERT_INVALID_ARGUMENT, "dtype");
    bad = managed_over(data, 2, shape, NULL);
    bad.dl_tensor.device.device_type = kDLCUDA;
    FAILS(scalert_tensor_from_dlpack(runtime, &bad, 0, &view), SCALERT_INVALID_ARGUMENT, "device");
    bad = managed_over(data, 6, wide, NULL);
    FAILS(scalert_tensor_from_dlpack(runtime, &bad, 0, &view), SCALERT_INVALID_ARGUMENT, "dim");
    bad = managed_over(data, 2, shape, strides);
    strides[1] = -1;
    FAILS(scalert_tensor_from_dlpack(runtime, &bad, 0, &view), SCALERT_INVALID_ARGUMENT, "stride");
}

static void round_trip(scalert_runtime_t *runtime, scalert_dtype_t dtype, int code, int bits) {
    float data[6] = {0};
    int releases = 0;
    scalert_tensor_t view = tensor(data, dtype, 2, 1, 2, 0, 0), back;
    DLManagedTensorVersioned *managed = NULL;
    view.stride[0] = 7;
    OK(scalert_tensor_to_dlpack(runtime, &view, 1, &releases, count_release, &managed));
    CHECK(managed->version.major == 1 && (managed->flags & DLPACK_FLAG_BITMASK_READ_ONLY));
    CHECK(managed->dl_tensor.dtype.code == code && managed->dl_tensor.dtype.bits == bits);
    CHECK(managed->dl_tensor.dtype.lanes == 1 && managed->dl_tensor.device.device_type == kDLCPU);
    CHECK((char *)managed->dl_tensor.data + managed->dl_tensor.byte_offset == (char *)data);
    CHECK(managed->dl_tensor.shape[1] == 2 && managed->dl_tensor.strides[0] == 7);
    OK(scalert_tensor_from_dlpack(runtime, managed, 0, &back));
    CHECK(back.data == view.data && back.dtype == dtype && back.stride[0] == 7 && back.shape[1] == 2);
    CHECK(releases == 0);
    managed->deleter(managed);
    CHECK(releases == 1);
    OK(scalert_tensor_to_dlpack(runtime, &view, 0, NULL, NULL, &managed));
    CHECK(!(managed->flags & DLPACK_FLAG_BITMASK_READ_ONLY));
    managed->deleter(managed);
}

int main(void) {
    scalert_runtime_t *runtime = cpu_runtime();
    imports(runtime);
    round_trip(runtime, SCALERT_F32, kDLFloat, 32);
    round_trip(runtime, SCALERT_F16, kDLFloat, 16);
    round_trip(runtime, SCALERT_BF16, kDLBfloat, 16);
    round_trip(runtime, SCALERT_I32, kDLInt, 32);
    round_trip(runtime, SCALERT_I64, kDLInt, 64);
    scalert_runtime_destroy(runtime);
    return passed();
}
