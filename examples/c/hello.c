/* hello.c - the library's version, its devices, and one AdamW step. */
#include <scaleRT.h>
#include <stdio.h>

int main(void) {
    float gradient[4] = {0.5f, -1.0f, 0.0f, 2.0f}, master[4] = {1.0f, 1.0f, 1.0f, 1.0f}, m[4] = {0}, v[4] = {0};
    const int64_t shape[1] = {4};
    scalert_device_info_t device = SCALERT_DEVICE_INFO_INIT;
    scalert_adamw_options_t options = SCALERT_ADAMW_OPTIONS_INIT;
    scalert_runtime_desc_t desc = SCALERT_RUNTIME_DESC_INIT;
    scalert_error_t error = SCALERT_ERROR_INIT;
    scalert_tensor_t tensors[4];
    scalert_runtime_t *runtime = NULL;
    scalert_stream_t *stream = NULL;
    float *const data[4] = {gradient, master, m, v};
    scalert_status_t status = scalert_device_describe(SCALERT_DEVICE_CPU, 0, &device);

    printf("libscaleRT %u.%u.%u on %s, %u threads\n", (unsigned)scalert_version() / 10000,
           (unsigned)scalert_version() / 100 % 100, (unsigned)scalert_version() % 100, device.name,
           (unsigned)device.threads);
    for (int i = 0; i < 4 && status == SCALERT_OK; i++)
        status = scalert_tensor_contiguous(data[i], SCALERT_F32, 1, shape, &tensors[i]);
    options.learning_rate = 0.1f;
    if (status == SCALERT_OK)
        status = scalert_runtime_create(&desc, &runtime);
    if (status == SCALERT_OK)
        status = scalert_stream_create(runtime, &stream);
    if (status == SCALERT_OK)
        status = scalert_adamw(stream, &tensors[0], &tensors[1], &tensors[2], &tensors[3], NULL, &options);
    if (status == SCALERT_OK)
        printf("weights after a step: %g %g %g %g\n", master[0], master[1], master[2], master[3]);
    else if (scalert_last_error(&error) == SCALERT_OK)
        fprintf(stderr, "%s: %s\n", scalert_status_name(status), error.message);
    scalert_stream_destroy(stream);
    scalert_runtime_destroy(runtime);
    return status == SCALERT_OK ? 0 : 1;
}
