/* Memory that runs out: the allocator hook fails at every allocation in turn, budgets are too small, and nothing leaks
 * or breaks. */
#include "world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- an allocator that fails at the k-th call, and checks what it gets back -------------------------------------- */

struct block {
    void *memory;
    size_t bytes, alignment;
    scalert_tier_t tier;
};

struct allocator {
    struct block blocks[64];
    int held, calls, fail_at;
};

static void *allocate(void *user, size_t bytes, size_t alignment, scalert_tier_t tier, int32_t ordinal, void *stream) {
    struct allocator *a = user;
    struct block *block = &a->blocks[a->held];
    (void)ordinal, (void)stream;
    if (++a->calls == a->fail_at) {
        return NULL;
    }
    block->bytes = bytes;
    block->alignment = alignment;
    block->tier = tier;
    if (a->held == 64 || posix_memalign(&block->memory, alignment, bytes) != 0) {
        exit(3);
    }
    a->held++;
    return block->memory;
}

static void release(void *user, void *memory, size_t bytes, size_t alignment, scalert_tier_t tier, int32_t ordinal,
                    void *stream) {
    struct allocator *a = user;
    (void)ordinal, (void)stream;
    for (int i = 0; i < a->held; i++) {
        if (a->blocks[i].memory == memory) {
            expect(a->blocks[i].bytes == bytes && a->blocks[i].alignment == alignment && a->blocks[i].tier == tier);
            a->blocks[i] = a->blocks[--a->held];
            free(memory);
            return;
        }
    }
    fail("free of %p, which alloc never gave", memory);
}

/* ---- a host that uses everything that takes memory --------------------------------------------------------------- */

static uint64_t used(scalert_runtime_t *runtime) {
    scalert_memory_report_t report = SCALERT_MEMORY_REPORT_INIT;
    uint64_t sum = 0;
    must(scalert_runtime_memory(runtime, &report));
    for (int t = 0; t < SCALERT_TIERS; t++) {
        const scalert_tier_report_t *r = &report.tier[t];
        sum += r->used;
        expect(r->used == r->weights + r->master + r->moments + r->gradients + r->workspace + r->arena + r->other);
        expect(r->used <= r->peak && r->used <= r->limit);
    }
    return sum;
}

/* Makes a call. When it runs out of memory, nothing may be entered in the ledger, and, with memory again, it must work.
 */
#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        uint64_t before = used(runtime);                                                                               \
        scalert_status_t status = (call);                                                                              \
        if (status == SCALERT_OUT_OF_MEMORY) {                                                                         \
            scalert_error_t error = last_error();                                                                      \
            failed++;                                                                                                  \
            expect(error.native_domain == SCALERT_NATIVE_HOST_CALLBACK);                                               \
            expect(strstr(error.message, "bytes") != NULL);                                                            \
            expect(used(runtime) == before);                                                                           \
            status = (call);                                                                                           \
        }                                                                                                              \
        must(status);                                                                                                  \
    } while (0)

/* The number of calls that ran out of memory: 1, or 0 when there are less than fail_at allocations. */
static int host(struct allocator *a) {
    enum { ROWS = 64, WIDTH = 96 };
    scalert_allocator_t hook = SCALERT_ALLOCATOR_INIT;
    scalert_runtime_desc_t desc = SCALERT_RUNTIME_DESC_INIT;
    scalert_state_desc_t state_desc = SCALERT_STATE_DESC_INIT;
    scalert_group_desc_t group_desc = SCALERT_GROUP_DESC_INIT;
    scalert_scaler_desc_t scaler_desc = SCALERT_SCALER_DESC_INIT;
    scalert_step_desc_t step_desc = SCALERT_STEP_DESC_INIT;
    scalert_trace_desc_t trace_desc = SCALERT_TRACE_DESC_INIT;
    scalert_runtime_t *runtime;
    scalert_stream_t *stream;
    scalert_arena_t *arena;
    scalert_scaler_t *scaler;
    scalert_trace_t *trace;
    scalert_state_t *state;
    scalert_tensor_t x, y, weight;
    const int64_t shape[2] = {ROWS, WIDTH};
    uint32_t group, parameter;
    void *memory;
    int failed = 0;
    hook.user = a;
    hook.alloc = allocate;
    hook.free = release;
    desc.threads = 2;
    desc.allocator = &hook;
    must(scalert_runtime_create(&desc, &runtime));
    TRY(scalert_stream_create(runtime, &stream));
    TRY(scalert_trace_create(runtime, &trace_desc, &trace));
    must(scalert_trace_start(trace));
    TRY(scalert_stream_reserve(stream, 5000));
    TRY(scalert_arena_create(runtime, SCALERT_TIER_DEVICE, 1 << 20, &arena));
    TRY(scalert_scaler_create(runtime, &scaler_desc, &scaler));
    TRY(scalert_state_create(runtime, &state_desc, &state));
    TRY(scalert_state_add_group(state, &group_desc, &group));
    TRY(scalert_state_add_parameter(state, group, "weight", 2, shape, &parameter));
    TRY(scalert_state_seal(state));
    TRY(scalert_arena_alloc(arena, ROWS * WIDTH * sizeof(float), &memory));
    must(scalert_tensor_contiguous(memory, SCALERT_F32, 2, shape, &x));
    must(scalert_fill(stream, 0.5f, &x));
    TRY(scalert_arena_alloc(arena, WIDTH * sizeof(float), &memory));
    must(scalert_tensor_contiguous(memory, SCALERT_F32, 1, shape + 1, &y));
    TRY(scalert_bias_gradient(stream, &x, 0, &y));
    expect(((float *)y.data)[WIDTH - 1] == 0.5f * ROWS);
    TRY(scalert_state_write(state, stream, parameter, SCALERT_PART_MASTER, &x));
    TRY(scalert_state_begin_step(state));
    TRY(scalert_state_begin_micro(state));
    TRY(scalert_state_gradient_ready(state, stream, parameter, &x, NULL));
    TRY(scalert_state_end_micro(state));
    step_desc.learning_rate = 0.1f;
    step_desc.max_norm = 1.0f;
    step_desc.scaler = scaler;
    TRY(scalert_state_step(state, stream, &step_desc));
    TRY(scalert_state_acquire(state, parameter, stream, &weight));
    TRY(scalert_state_release(state, parameter, stream));
    expect(a->held > 0 && used(runtime) > 0);
    scalert_trace_destroy(trace);
    scalert_arena_destroy(arena);
    scalert_stream_destroy(stream);
    scalert_scaler_destroy(scaler);
    scalert_state_destroy(state);
    expect(used(runtime) == 0);
    scalert_runtime_destroy(runtime);
    return failed;
}

static void allocations_fail(void) {
    struct allocator a;
    int failed = 1;
    for (int k = 1; failed; k++) {
        place("allocator hook", "failing at allocation %d", k);
        memset(&a, 0, sizeof a);
        a.fail_at = k;
        failed = host(&a);
        expect(failed <= 1);
        if (a.held != 0) {
            fail("%d blocks were never freed", a.held);
        }
        if (!failed) {
            printf("the host makes %d allocations; each failed once\n", k - 1);
            expect(k > 5);
        }
    }
}

/* ---- budgets ----------------------------------------------------------------------------------------------------- */

static void expect_budget(scalert_status_t status, const char *needed, const char *available) {
    cases++;
    if (status != SCALERT_OUT_OF_BUDGET) {
        fail("gave %s, must be OUT_OF_BUDGET", scalert_status_name(status));
        return;
    }
    if (strstr(last_error().message, needed) == NULL || strstr(last_error().message, available) == NULL) {
        fail("the message must tell what was needed, %s, and available, %s", needed, available);
    }
}

static void budgets_are_kept(void) {
    scalert_runtime_desc_t desc = SCALERT_RUNTIME_DESC_INIT;
    scalert_state_desc_t state_desc = SCALERT_STATE_DESC_INIT;
    scalert_group_desc_t group_desc = SCALERT_GROUP_DESC_INIT;
    scalert_memory_report_t plan = SCALERT_MEMORY_REPORT_INIT;
    scalert_runtime_t *runtime;
    scalert_stream_t *stream;
    scalert_arena_t *arena, *other;
    scalert_state_t *state;
    const int64_t shape[1] = {1024};
    uint64_t needed, mark;
    uint32_t number;
    char text[32];
    void *memory;
    place("budgets", "device 100000 bytes");
    desc.threads = 1;
    desc.device_bytes = 100000;
    desc.host_bytes = 5000;
    must(scalert_runtime_create(&desc, &runtime));
    must(scalert_stream_create(runtime, &stream));
    must(scalert_arena_create(runtime, SCALERT_TIER_DEVICE, 90000, &arena));
    expect_budget(scalert_arena_create(runtime, SCALERT_TIER_DEVICE, 10001, &other), "10001", "10000");
    expect(strstr(last_error().message, "90000") != NULL); /* who holds the rest */
    expect_budget(scalert_arena_create(runtime, SCALERT_TIER_HOST, 5001, &other), "5001", "5000");
    expect_budget(scalert_arena_create(runtime, SCALERT_TIER_HOST, UINT64_MAX, &other), "18446744073709551615", "5000");
    expect_budget(scalert_stream_reserve(stream, 20000), "20000", "10000");
    expect(used(runtime) == 90000);

    expect(scalert_arena_alloc(arena, 80000, &memory) == SCALERT_OK);
    expect_budget(scalert_arena_alloc(arena, 20000, &memory), "20000", "10000");
    expect_budget(scalert_arena_alloc(arena, UINT64_MAX, &memory), "18446744073709551615", "10000");
    must(scalert_arena_mark(arena, &mark));
    expect(mark == 80000);
    scalert_arena_destroy(arena);

    /* A state that does not fit says so when it is sealed, and is as before. */
    must(scalert_state_create(runtime, &state_desc, &state));
    must(scalert_state_add_group(state, &group_desc, &number));
    must(scalert_state_add_parameter(state, number, "large", 1, shape, &number));
    must(scalert_state_memory(state, &plan));
    needed = plan.tier[SCALERT_TIER_DEVICE].used;
    expect(needed >= 1024 * (2 + 4 + 8 + 4) && needed < 100000);
    must(scalert_arena_create(runtime, SCALERT_TIER_DEVICE, 100000 - needed + 1, &arena));
    snprintf(text, sizeof text, "%llu", (unsigned long long)needed);
    expect(scalert_state_seal(state) == SCALERT_OUT_OF_BUDGET);
    expect(scalert_state_begin_step(state) == SCALERT_FAILED_PRECONDITION);
    expect(used(runtime) == 100000 - needed + 1);
    scalert_arena_destroy(arena);
    must(scalert_arena_create(runtime, SCALERT_TIER_DEVICE, 100000 - needed, &arena));
    expect(scalert_state_seal(state) == SCALERT_OK);
    expect(used(runtime) == 100000 + plan.tier[SCALERT_TIER_HOST].used);
    must(scalert_state_memory(state, &plan));
    expect(plan.tier[SCALERT_TIER_DEVICE].used == needed);
    scalert_arena_destroy(arena);
    scalert_stream_destroy(stream);
    scalert_runtime_destroy(runtime);
    scalert_state_destroy(state);
}

int main(void) {
    allocations_fail();
    budgets_are_kept();
    return summary("memory");
}
