/* dlpack_min.h - the part of DLPack 1.x that exchanging a tensor needs, with the layout that dlpack.h defines
 * (https://dmlc.github.io/dlpack/latest/c_api.html). A program that has dlpack.h includes that instead. */
#ifndef DLPACK_MIN_H
#define DLPACK_MIN_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct DLPackVersion {
    uint32_t major, minor;
} DLPackVersion;

typedef enum DLDeviceType { kDLCPU = 1, kDLCUDA = 2 } DLDeviceType;

typedef struct DLDevice {
    DLDeviceType device_type;
    int32_t device_id;
} DLDevice;

typedef enum DLDataTypeCode { kDLInt = 0, kDLUInt = 1, kDLFloat = 2, kDLBfloat = 4 } DLDataTypeCode;

typedef struct DLDataType {
    uint8_t code; /* DLDataTypeCode */
    uint8_t bits;
    uint16_t lanes;
} DLDataType;

typedef struct DLTensor {
    void *data;
    DLDevice device;
    int32_t ndim;
    DLDataType dtype;
    int64_t *shape;
    int64_t *strides;     /* in elements; NULL = contiguous */
    uint64_t byte_offset; /* from data to the first element */
} DLTensor;

#define DLPACK_FLAG_BITMASK_READ_ONLY ((uint64_t)1)

typedef struct DLManagedTensorVersioned {
    DLPackVersion version;
    void *manager_ctx;
    void (*deleter)(struct DLManagedTensorVersioned *self);
    uint64_t flags;
    DLTensor dl_tensor;
} DLManagedTensorVersioned;

#ifdef __cplusplus
}
#endif
#endif /* DLPACK_MIN_H */
