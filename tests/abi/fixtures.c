/* One right call of every function that is not an operation or about communicators or the training state: those are in
 * fixtures_operations.c, fixtures_comm.c and fixtures_state.c. */
#include "functions.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- version, status, devices ------------------------------------------------------------------------------------ */

void fixture_scalert_version(struct world *w, struct args_scalert_version *a) {
    (void)w;
    (void)a;
}

void fixture_scalert_last_error(struct world *w, struct args_scalert_last_error *a) {
    a->out = STRUCT(w, scalert_error_t);
}

void fixture_scalert_status_name(struct world *w, struct args_scalert_status_name *a) {
    (void)w;
    a->status = SCALERT_TIMEOUT;
}

void fixture_scalert_device_count(struct world *w, struct args_scalert_device_count *a) {
    a->kind = SCALERT_DEVICE_CPU;
    a->count = world_memory(w, sizeof *a->count);
}

void fixture_scalert_device_describe(struct world *w, struct args_scalert_device_describe *a) {
    a->kind = SCALERT_DEVICE_CPU;
    a->out = STRUCT(w, scalert_device_info_t);
}

/* ---- runtime ----------------------------------------------------------------------------------------------------- */

static void *allocate(void *user, size_t bytes, size_t alignment, scalert_tier_t tier, int32_t ordinal, void *stream) {
    void *memory;
    (void)user, (void)tier, (void)ordinal, (void)stream;
    return posix_memalign(&memory, alignment, bytes) == 0 ? memory : NULL;
}

static void release(void *user, void *memory, size_t bytes, size_t alignment, scalert_tier_t tier, int32_t ordinal,
                    void *stream) {
    (void)user, (void)bytes, (void)alignment, (void)tier, (void)ordinal, (void)stream;
    free(memory);
}

static void one_after_another(void *user, uint32_t n, void (*body)(void *context, uint32_t index), void *context) {
    (void)user;
    for (uint32_t i = 0; i < n; i++) {
        body(context, i);
    }
}

static void ignore(void *user, int32_t level, const char *message) {
    (void)user, (void)level, (void)message;
}

void fixture_scalert_runtime_create(struct world *w, struct args_scalert_runtime_create *a) {
    scalert_runtime_desc_t *desc = STRUCT(w, scalert_runtime_desc_t);
    scalert_allocator_t *allocator = STRUCT(w, scalert_allocator_t);
    scalert_thread_pool_t *pool = STRUCT(w, scalert_thread_pool_t);
    scalert_log_sink_t *log = STRUCT(w, scalert_log_sink_t);
    allocator->user = pool->user = log->user = w;
    allocator->alloc = allocate;
    allocator->free = release;
    pool->threads = 2;
    pool->parallel_for = one_after_another;
    log->level = SCALERT_LOG_DEBUG;
    log->write = ignore;
    desc->device_bytes = 1 << 20;
    desc->allocator = allocator;
    desc->thread_pool = pool;
    desc->log = log;
    a->desc = desc;
    a->out = world_memory(w, sizeof *a->out);
    optional(w, "allocator");
    optional(w, "thread_pool");
    optional(w, "log");
    optional(w, "user");
}

void fixture_scalert_runtime_destroy(struct world *w, struct args_scalert_runtime_destroy *a) {
    scalert_runtime_desc_t desc = SCALERT_RUNTIME_DESC_INIT;
    (void)w;
    must(scalert_runtime_create(&desc, &a->runtime));
}

void fixture_scalert_runtime_memory(struct world *w, struct args_scalert_runtime_memory *a) {
    a->runtime = w->runtime;
    a->out = STRUCT(w, scalert_memory_report_t);
}

/* ---- streams, events, arenas ------------------------------------------------------------------------------------- */

static scalert_event_t *event(struct world *w) {
    scalert_event_t *event;
    must(scalert_event_create(w->runtime, &event));
    world_owns(w, "scalert_event_t", event);
    return event;
}

void fixture_scalert_memory_copy(struct world *w, struct args_scalert_memory_copy *a) {
    a->stream = w->stream;
    a->to = world_memory(w, 100);
    a->from = world_memory(w, 100);
    a->bytes = 100;
}

static scalert_arena_t *arena(struct world *w) {
    scalert_arena_t *arena;
    void *memory;
    must(scalert_arena_create(w->runtime, SCALERT_TIER_HOST, 4096, &arena));
    must(scalert_arena_alloc(arena, 100, &memory));
    world_owns(w, "scalert_arena_t", arena);
    return arena;
}

void fixture_scalert_stream_create(struct world *w, struct args_scalert_stream_create *a) {
    a->runtime = w->runtime;
    a->out = world_memory(w, sizeof *a->out);
}

void fixture_scalert_stream_wrap(struct world *w, struct args_scalert_stream_wrap *a) {
    a->runtime = w->runtime;
    a->native = NULL; /* the CPU device has no other */
    a->out = world_memory(w, sizeof *a->out);
}

void fixture_scalert_stream_destroy(struct world *w, struct args_scalert_stream_destroy *a) {
    must(scalert_stream_create(w->runtime, &a->stream));
}

void fixture_scalert_stream_reserve(struct world *w, struct args_scalert_stream_reserve *a) {
    a->stream = w->stream;
    a->bytes = 1000;
}

void fixture_scalert_stream_wait(struct world *w, struct args_scalert_stream_wait *a) {
    a->stream = w->stream;
}

void fixture_scalert_stream_follow(struct world *w, struct args_scalert_stream_follow *a) {
    a->stream = w->stream;
    a->event = event(w);
}

void fixture_scalert_event_create(struct world *w, struct args_scalert_event_create *a) {
    a->runtime = w->runtime;
    a->out = world_memory(w, sizeof *a->out);
}

void fixture_scalert_event_destroy(struct world *w, struct args_scalert_event_destroy *a) {
    must(scalert_event_create(w->runtime, &a->event));
}

void fixture_scalert_event_record(struct world *w, struct args_scalert_event_record *a) {
    a->event = event(w);
    a->stream = w->stream;
}

void fixture_scalert_event_query(struct world *w, struct args_scalert_event_query *a) {
    a->event = event(w);
    a->complete = world_memory(w, sizeof *a->complete);
}

void fixture_scalert_event_wait(struct world *w, struct args_scalert_event_wait *a) {
    a->event = event(w);
}

void fixture_scalert_arena_create(struct world *w, struct args_scalert_arena_create *a) {
    a->runtime = w->runtime;
    a->tier = SCALERT_TIER_DEVICE;
    a->bytes = 4096;
    a->out = world_memory(w, sizeof *a->out);
}

void fixture_scalert_arena_destroy(struct world *w, struct args_scalert_arena_destroy *a) {
    must(scalert_arena_create(w->runtime, SCALERT_TIER_HOST, 64, &a->arena));
}

void fixture_scalert_arena_alloc(struct world *w, struct args_scalert_arena_alloc *a) {
    a->arena = arena(w);
    a->bytes = 100;
    a->out = world_memory(w, sizeof *a->out);
}

void fixture_scalert_arena_mark(struct world *w, struct args_scalert_arena_mark *a) {
    a->arena = arena(w);
    a->mark = world_memory(w, sizeof *a->mark);
}

void fixture_scalert_arena_rewind(struct world *w, struct args_scalert_arena_rewind *a) {
    a->arena = arena(w);
    a->mark = 50;
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

void fixture_scalert_tensor_contiguous(struct world *w, struct args_scalert_tensor_contiguous *a) {
    int64_t *shape = world_memory(w, 2 * sizeof *shape);
    shape[0] = 2;
    shape[1] = 3;
    a->data = world_memory(w, 6 * sizeof(float));
    a->dtype = SCALERT_F32;
    a->ndim = 2;
    a->shape = shape;
    a->out = world_memory(w, sizeof *a->out);
}

void fixture_scalert_tensor_from_dlpack(struct world *w, struct args_scalert_tensor_from_dlpack *a) {
    struct DLManagedTensorVersioned *managed = world_memory(w, sizeof *managed);
    int64_t *shape = world_memory(w, 2 * sizeof *shape);
    shape[0] = 2;
    shape[1] = 3;
    managed->version.major = 1;
    managed->dl_tensor.data = world_memory(w, 8 + 6 * sizeof(float));
    managed->dl_tensor.byte_offset = 8;
    managed->dl_tensor.device.device_type = 1;
    managed->dl_tensor.ndim = 2;
    managed->dl_tensor.dtype.code = 2;
    managed->dl_tensor.dtype.bits = 32;
    managed->dl_tensor.dtype.lanes = 1;
    managed->dl_tensor.shape = shape;
    a->runtime = w->runtime;
    a->managed = managed;
    a->writable = 1;
    a->out = world_memory(w, sizeof *a->out);
}

static void nothing(void *owner) {
    (void)owner;
}

void fixture_scalert_tensor_to_dlpack(struct world *w, struct args_scalert_tensor_to_dlpack *a) {
    a->runtime = w->runtime;
    a->tensor = floats(w, 2, 3, 4);
    a->read_only = 1;
    a->owner = w;
    a->release = nothing;
    a->out = world_memory(w, sizeof *a->out);
    optional(w, "owner");
    optional(w, "release");
    any_extent(w, "tensor", ANY_SHAPE);
}

/* ---- schedules, scalers ------------------------------------------------------------------------------------------ */

void fixture_scalert_schedule_learning_rate(struct world *w, struct args_scalert_schedule_learning_rate *a) {
    scalert_schedule_t *schedule = STRUCT(w, scalert_schedule_t);
    schedule->kind = SCALERT_SCHEDULE_COSINE;
    schedule->peak = 1e-3f;
    schedule->warmup_steps = 10;
    schedule->total_steps = 100;
    a->schedule = schedule;
    a->step = 7;
    a->learning_rate = world_memory(w, sizeof *a->learning_rate);
}

static scalert_scaler_t *scaler(struct world *w) {
    scalert_scaler_desc_t desc = SCALERT_SCALER_DESC_INIT;
    scalert_scaler_t *scaler;
    must(scalert_scaler_create(w->runtime, &desc, &scaler));
    world_owns(w, "scalert_scaler_t", scaler);
    return scaler;
}

void fixture_scalert_scaler_create(struct world *w, struct args_scalert_scaler_create *a) {
    scalert_scaler_desc_t *desc = STRUCT(w, scalert_scaler_desc_t);
    desc->initial_scale = 1024;
    desc->growth_factor = 4;
    desc->backoff_factor = 0.25f;
    desc->minimum = 2;
    desc->maximum = 1 << 20;
    desc->growth_interval = 10;
    desc->hysteresis = 2;
    a->runtime = w->runtime;
    a->desc = desc;
    a->out = world_memory(w, sizeof *a->out);
}

void fixture_scalert_scaler_destroy(struct world *w, struct args_scalert_scaler_destroy *a) {
    scalert_scaler_desc_t desc = SCALERT_SCALER_DESC_INIT;
    must(scalert_scaler_create(w->runtime, &desc, &a->scaler));
}

void fixture_scalert_scaler_scale(struct world *w, struct args_scalert_scaler_scale *a) {
    a->scaler = scaler(w);
    a->scale = world_memory(w, sizeof *a->scale);
}

void fixture_scalert_scaler_update(struct world *w, struct args_scalert_scaler_update *a) {
    a->scaler = scaler(w);
    a->stream = w->stream;
    a->nonfinite = tensor(w, SCALERT_I64, 1, 1);
    any_extent(w, "nonfinite", ANY_NDIM);
}

void fixture_scalert_scaler_read_wait(struct world *w, struct args_scalert_scaler_read_wait *a) {
    a->scaler = scaler(w);
    a->out = STRUCT(w, scalert_scaler_report_t);
}

/* ---- traces ------------------------------------------------------------------------------------------------------ */

static scalert_trace_t *trace(struct world *w) {
    scalert_trace_desc_t desc = SCALERT_TRACE_DESC_INIT;
    scalert_trace_t *trace;
    desc.spans = 100;
    must(scalert_trace_create(w->runtime, &desc, &trace));
    world_owns(w, "scalert_trace_t", trace);
    return trace;
}

static const char *text(struct world *w, const char *from) {
    return strcpy(world_memory(w, strlen(from) + 1), from);
}

void fixture_scalert_trace_create(struct world *w, struct args_scalert_trace_create *a) {
    scalert_trace_desc_t *desc = STRUCT(w, scalert_trace_desc_t);
    desc->spans = 10;
    desc->rank = 1;
    a->runtime = w->runtime;
    a->desc = desc;
    a->out = world_memory(w, sizeof *a->out);
}

void fixture_scalert_trace_destroy(struct world *w, struct args_scalert_trace_destroy *a) {
    scalert_trace_desc_t desc = SCALERT_TRACE_DESC_INIT;
    desc.spans = 10;
    must(scalert_trace_create(w->runtime, &desc, &a->trace));
}

void fixture_scalert_trace_start(struct world *w, struct args_scalert_trace_start *a) {
    a->trace = trace(w);
}

void fixture_scalert_trace_stop(struct world *w, struct args_scalert_trace_stop *a) {
    a->trace = trace(w);
    must(scalert_trace_start(a->trace));
}

void fixture_scalert_trace_describe(struct world *w, struct args_scalert_trace_describe *a) {
    a->trace = trace(w);
    a->out = STRUCT(w, scalert_trace_info_t);
}

void fixture_scalert_trace_range_begin(struct world *w, struct args_scalert_trace_range_begin *a) {
    a->trace = trace(w);
    a->stream = w->stream;
    a->name = text(w, "forward");
    must(scalert_trace_start(a->trace));
    optional(w, "stream");
}

void fixture_scalert_trace_range_end(struct world *w, struct args_scalert_trace_range_end *a) {
    a->trace = trace(w);
    a->stream = w->stream;
    must(scalert_trace_range_begin(a->trace, a->stream, "forward"));
    optional(w, "stream");
}

void fixture_scalert_trace_write_wait(struct world *w, struct args_scalert_trace_write_wait *a) {
    a->trace = trace(w);
    a->path = text(w, "/tmp/scalert-fixture-trace.json");
}

/* ---- what calls create ------------------------------------------------------------------------------------------- */

void *pointer_at(const unsigned char *at) {
    void *pointer;
    memcpy(&pointer, at, sizeof pointer);
    return pointer;
}

void discard_results(const struct function *function, unsigned char *arguments) {
    for (size_t i = 0; i < function->count; i++) {
        const struct item *item = &function->items[i];
        void **out = item->kind == KIND_OUT_HANDLE ? pointer_at(arguments + item->offset) : NULL;
        if (out != NULL && *out != NULL) {
            destroy_handle(item->handle, *out);
            *out = NULL;
        }
    }
    if (strcmp(function->name, "scalert_comm_create_local") == 0) {
        struct args_scalert_comm_create_local *a = (void *)arguments;
        if (a->comms != NULL && a->world == 2) {
            scalert_comm_destroy(a->comms[1]);
            a->comms[1] = NULL;
        }
    }
    if (strcmp(function->name, "scalert_trace_write_wait") == 0) {
        const struct args_scalert_trace_write_wait *a = (void *)arguments;
        if (a->path != NULL) {
            remove(a->path);
        }
    }
    if (strcmp(function->name, "scalert_tensor_to_dlpack") == 0) {
        struct args_scalert_tensor_to_dlpack *a = (void *)arguments;
        if (a->out != NULL && *a->out != NULL) {
            (*a->out)->deleter(*a->out);
            *a->out = NULL;
        }
    }
}
