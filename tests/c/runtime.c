/* Version, errors, devices, and the life of a runtime. */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <sys/wait.h>
#include <unistd.h>

static void version_and_status_names(void) {
    CHECK(scalert_version() == SCALERT_VERSION);
    CHECK(strcmp(scalert_status_name(SCALERT_OK), "OK") == 0);
    CHECK(strcmp(scalert_status_name(SCALERT_INVALID_ARGUMENT), "INVALID_ARGUMENT") == 0);
    CHECK(strcmp(scalert_status_name(SCALERT_INTERNAL), "INTERNAL") == 0);
    CHECK(strcmp(scalert_status_name(12345), "UNKNOWN") == 0);
}

static void last_error_outlives_success(void) {
    scalert_error_t error = SCALERT_ERROR_INIT;
    scalert_runtime_t *runtime;
    OK(scalert_last_error(&error));
    CHECK(error.status == SCALERT_OK && strcmp(error.message, "") == 0);
    FAILS(scalert_runtime_create(NULL, &runtime), SCALERT_INVALID_ARGUMENT, "desc");
    runtime = cpu_runtime();
    OK(scalert_last_error(&error));
    CHECK(error.status == SCALERT_INVALID_ARGUMENT);
    CHECK(error.native_domain == SCALERT_NATIVE_NONE && error.native_code == 0);
    scalert_runtime_destroy(runtime);
}

static void devices(void) {
    scalert_device_info_t info = SCALERT_DEVICE_INFO_INIT;
    uint32_t count = 0;
    OK(scalert_device_count(SCALERT_DEVICE_CPU, &count));
    CHECK(count == 1);
    OK(scalert_device_describe(SCALERT_DEVICE_CPU, 0, &info));
    CHECK(info.kind == SCALERT_DEVICE_CPU && info.threads >= 1 && info.memory_bytes > 0);
    CHECK(strncmp(info.name, "CPU", 3) == 0);
    FAILS(scalert_device_describe(SCALERT_DEVICE_CPU, 1, &info), SCALERT_INVALID_ARGUMENT, "ordinal");
    FAILS(scalert_device_count(7, &count), SCALERT_INVALID_ARGUMENT, "kind");
}

static void descriptors(void) {
    struct {
        scalert_runtime_desc_t desc;
        char tail[16];
    } longer;
    scalert_runtime_desc_t desc = SCALERT_RUNTIME_DESC_INIT;
    scalert_runtime_t *runtime = NULL;

    memset(&longer, 0, sizeof longer);
    longer.desc = desc;
    longer.desc.struct_size = sizeof longer;
    OK(scalert_runtime_create(&longer.desc, &runtime)); /* an unknown tail of zeros */
    scalert_runtime_destroy(runtime);
    longer.tail[3] = 1;
    FAILS(scalert_runtime_create(&longer.desc, &runtime), SCALERT_INVALID_ARGUMENT, "desc");

    desc.struct_size = offsetof(scalert_runtime_desc_t, pinned_bytes); /* an older struct; the rest counts as zero */
    desc.threads = 99999;
    OK(scalert_runtime_create(&desc, &runtime));
    scalert_runtime_destroy(runtime);
    desc.struct_size = sizeof desc;
    FAILS(scalert_runtime_create(&desc, &runtime), SCALERT_INVALID_ARGUMENT, "threads");
    desc.struct_size = 0;
    FAILS(scalert_runtime_create(&desc, &runtime), SCALERT_INVALID_ARGUMENT, "struct_size");
    scalert_runtime_destroy(NULL);
}

static void product(scalert_stream_t *stream, float *out) {
    static float ones[64 * 64];
    scalert_tensor_t a, c;
    for (int i = 0; i < 64 * 64; i++)
        ones[i] = 1.0f;
    a = matrix(ones, 64, 64);
    c = matrix(out, 64, 64);
    OK(scalert_gemm(stream, 0, 0, &a, &a, &c, NULL));
}

static void children_may_outlive_parents(void) {
    static float out[64 * 64];
    scalert_runtime_t *runtime = cpu_runtime();
    scalert_stream_t *stream = stream_of(runtime);
    scalert_runtime_destroy(runtime);
    product(stream, out);
    NEAR(out[63 * 64 + 63], 64, 0);
    scalert_stream_destroy(stream);
}

static void forked_child_computes(void) {
    static float out[64 * 64];
    scalert_runtime_t *runtime = cpu_runtime();
    scalert_stream_t *stream = stream_of(runtime);
    int status = 0;
    pid_t child;
    product(stream, out);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        out[5] = 0;
        product(stream, out);
        scalert_stream_destroy(stream);
        scalert_runtime_destroy(runtime);
        _exit(out[5] == 64.0f ? 0 : 1);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    scalert_stream_destroy(stream);
    scalert_runtime_destroy(runtime);
}

int main(void) {
    last_error_outlives_success();
    version_and_status_names();
    devices();
    descriptors();
    children_may_outlive_parents();
    forked_child_computes();
    return passed();
}
