#include "world.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- failures ---------------------------------------------------------------------------------------------------- */

int failures, cases;
static char current[512] = "setting up";

void place(const char *function, const char *format, ...) {
    int n = snprintf(current, sizeof current, "%s: ", function);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(current + n, sizeof current - (size_t)n, format, arguments);
    va_end(arguments);
    if (getenv("SCALERT_TEST_VERBOSE")) {
        fprintf(stderr, "%s\n", current);
    }
}

scalert_error_t last_error(void) {
    scalert_error_t error = SCALERT_ERROR_INIT;
    if (scalert_last_error(&error) != SCALERT_OK) {
        fprintf(stderr, "scalert_last_error failed\n");
        exit(3);
    }
    return error;
}

void fail(const char *format, ...) {
    scalert_error_t error = last_error();
    va_list arguments;
    failures++;
    printf("FAILED %s: ", current);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n    last error: %s \"%s\"\n", scalert_status_name(error.status), error.message);
}

void must_be_ok(scalert_status_t status, const char *call, const char *file, int line) {
    if (status != SCALERT_OK) {
        fail("%s:%d: %s gave %s", file, line, call, scalert_status_name(status));
        exit(2);
    }
}

int summary(const char *program) {
    printf("%s: %d cases, %d failed\n", program, cases, failures);
    return failures > 0 || cases == 0;
}

void begin_call(void) {
    /* A failure that end_call knows again. */
    scalert_last_error(NULL);
}

int32_t end_call(void) {
    scalert_error_t error = last_error();
    return strncmp(error.message, "last_error: ", 12) == 0 ? SCALERT_OK : error.status;
}

/* ---- worlds ------------------------------------------------------------------------------------------------------ */

void world_open(struct world *world) {
    scalert_runtime_desc_t desc = SCALERT_RUNTIME_DESC_INIT;
    memset(world, 0, sizeof *world);
    desc.threads = 1;
    must(scalert_runtime_create(&desc, &world->runtime));
    must(scalert_stream_create(world->runtime, &world->stream));
}

void world_close(struct world *world) {
    /* Parents first: children keep them alive. */
    scalert_runtime_destroy(world->runtime);
    scalert_stream_destroy(world->stream);
    for (size_t i = 0; i < world->owned_count; i++) {
        destroy_handle(world->owned[i].type, world->owned[i].handle);
    }
    for (size_t i = 0; i < world->memory_count; i++) {
        free(world->memories[i].bytes);
        free(world->memories[i].copy);
        free(world->memories[i].first);
    }
}

void *world_memory(struct world *world, size_t size) {
    struct memory *memory = &world->memories[world->memory_count++];
    if (world->memory_count > WORLD_MEMORIES) {
        fprintf(stderr, "%s: WORLD_MEMORIES is too small\n", current);
        exit(3);
    }
    memory->bytes = calloc(1, size);
    memory->copy = malloc(size);
    memory->first = malloc(size);
    memory->size = size;
    if (!memory->bytes || !memory->copy || !memory->first) {
        exit(3);
    }
    memcpy(memory->first, memory->bytes, size);
    memcpy(memory->copy, memory->bytes, size);
    return memory->bytes;
}

void *world_struct(struct world *world, size_t size) {
    return memcpy(world_memory(world, size), &size, sizeof size);
}

void world_owns(struct world *world, const char *type, void *handle) {
    world->owned[world->owned_count].type = type;
    world->owned[world->owned_count++].handle = handle;
}

void world_remember(struct world *world) {
    for (size_t i = 0; i < world->memory_count; i++) {
        memcpy(world->memories[i].copy, world->memories[i].bytes, world->memories[i].size);
    }
}

int world_is_unchanged(const struct world *world) {
    for (size_t i = 0; i < world->memory_count; i++) {
        if (memcmp(world->memories[i].copy, world->memories[i].bytes, world->memories[i].size) != 0) {
            return 0;
        }
    }
    return 1;
}

void world_remember_first(struct world *world) {
    for (size_t i = 0; i < world->memory_count; i++) {
        memcpy(world->memories[i].first, world->memories[i].bytes, world->memories[i].size);
    }
}

void world_restore_first(struct world *world) {
    for (size_t i = 0; i < world->memory_count; i++) {
        memcpy(world->memories[i].bytes, world->memories[i].first, world->memories[i].size);
    }
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

size_t dtype_size(scalert_dtype_t dtype) {
    return dtype == SCALERT_I64 ? 8 : dtype == SCALERT_U8 ? 1 : dtype == SCALERT_F32 || dtype == SCALERT_I32 ? 4 : 2;
}

size_t elements(const scalert_tensor_t *tensor) {
    size_t n = 1;
    for (int d = 0; d < tensor->ndim; d++) {
        n *= (size_t)tensor->shape[d];
    }
    return n;
}

/* 0.5, 0.625, ..., 1.375, 0.5, ... in any dtype, and 0, 1, 0, 1 for integers. */
static void fill(scalert_tensor_t *tensor) {
    static const float values[8] = {0.5f, 0.625f, 0.75f, 0.875f, 1.0f, 1.125f, 1.25f, 1.375f};
    static const uint16_t halves[8] = {0x3800, 0x3900, 0x3a00, 0x3b00, 0x3c00, 0x3c80, 0x3d00, 0x3d80};
    size_t n = elements(tensor);
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i % 8], 4);
        switch (tensor->dtype) {
        case SCALERT_F32:
            ((float *)tensor->data)[i] = values[i % 8];
            break;
        case SCALERT_BF16:
            ((uint16_t *)tensor->data)[i] = (uint16_t)(bits >> 16);
            break;
        case SCALERT_F16:
            ((uint16_t *)tensor->data)[i] = halves[i % 8];
            break;
        case SCALERT_I32:
            ((int32_t *)tensor->data)[i] = (int32_t)(i % 2);
            break;
        default:
            ((int64_t *)tensor->data)[i] = 0;
            break;
        }
    }
}

static scalert_tensor_t *make(struct world *world, scalert_dtype_t dtype, int ndim, va_list extents) {
    scalert_tensor_t *tensor = world_memory(world, sizeof *tensor);
    int64_t stride = 1;
    tensor->dtype = dtype;
    tensor->ndim = ndim;
    for (int d = 0; d < ndim; d++) {
        tensor->shape[d] = va_arg(extents, int);
    }
    for (int d = ndim - 1; d >= 0; d--) {
        tensor->stride[d] = stride;
        stride *= tensor->shape[d];
    }
    tensor->data = world_memory(world, elements(tensor) * dtype_size(dtype));
    world->memories[world->memory_count - 1].is_data = 1;
    fill(tensor);
    return tensor;
}

#define MAKE(dtype)                                                                                                    \
    scalert_tensor_t *made;                                                                                            \
    va_list extents;                                                                                                   \
    va_start(extents, ndim);                                                                                           \
    made = make(world, dtype, ndim, extents);                                                                          \
    va_end(extents);                                                                                                   \
    return made

scalert_tensor_t *tensor(struct world *world, scalert_dtype_t dtype, int ndim, ...) {
    MAKE(dtype);
}
scalert_tensor_t *floats(struct world *world, int ndim, ...) {
    MAKE(SCALERT_BF16);
}
scalert_tensor_t *singles(struct world *world, int ndim, ...) {
    MAKE(SCALERT_F32);
}

/* ---- annotations ------------------------------------------------------------------------------------------------- */

static void note(struct world *world, int what, const char *a, const char *b, int dimension) {
    if (world->note_count == WORLD_NOTES) {
        fprintf(stderr, "%s: WORLD_NOTES is too small\n", current);
        exit(3);
    }
    world->notes[world->note_count].what = what;
    world->notes[world->note_count].a = a;
    world->notes[world->note_count].b = b;
    world->notes[world->note_count++].dimension = dimension;
}

void optional(struct world *world, const char *names) {
    note(world, NOTE_OPTIONAL, names, "", 0);
}
void output(struct world *world, const char *names) {
    note(world, NOTE_OUTPUT, names, "", 0);
}
void may_be(struct world *world, const char *out, const char *in) {
    note(world, NOTE_MAY_BE, out, in, 0);
}
void may_be_unavailable(struct world *world) {
    note(world, NOTE_UNAVAILABLE, "", "", 0);
}
int is_right(const struct world *world, int32_t status) {
    for (size_t i = 0; i < world->note_count && status == SCALERT_UNAVAILABLE; i++) {
        if (world->notes[i].what == NOTE_UNAVAILABLE) {
            return 1;
        }
    }
    return status == SCALERT_OK;
}
void any_extent(struct world *world, const char *name, int dimension) {
    note(world, NOTE_FREE, name, "", dimension);
}
