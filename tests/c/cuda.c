/* CUDA devices: contexts, streams, events, arenas, copies, capture, and what goes wrong. Runs on the machine's device
 * or on the emulated one; without any it checks what is said of that. */
#define _POSIX_C_SOURCE 200809L
#include "check.h"
#include "driver.h"

#include <sys/wait.h>
#include <unistd.h>

/* ---- what the tests share ------------------------------------------------------------------------------------------
 */

enum { N = 1000 };

static int is_emulated;

static scalert_runtime_t *cuda_runtime(void) {
    scalert_runtime_desc_t desc = SCALERT_RUNTIME_DESC_INIT;
    scalert_runtime_t *runtime = NULL;
    desc.device = SCALERT_DEVICE_CUDA;
    OK(scalert_runtime_create(&desc, &runtime));
    return runtime;
}

static scalert_arena_t *arena_of(scalert_runtime_t *runtime, scalert_tier_t tier, uint64_t bytes) {
    scalert_arena_t *arena = NULL;
    OK(scalert_arena_create(runtime, tier, bytes, &arena));
    return arena;
}

static float *floats_of(scalert_arena_t *arena, uint64_t n) {
    void *memory = NULL;
    OK(scalert_arena_alloc(arena, n * sizeof(float), &memory));
    return (float *)memory;
}

static void last(scalert_status_t status, int32_t domain, int64_t code) {
    scalert_error_t error = SCALERT_ERROR_INIT;
    OK(scalert_last_error(&error));
    CHECK(error.status == status && error.native_domain == domain && error.native_code == code);
}

static void a_cpu_runtime_computes(void) {
    scalert_runtime_t *runtime = cpu_runtime();
    scalert_stream_t *stream = stream_of(runtime);
    float values[4] = {0};
    scalert_tensor_t y = vector(values, 4);
    OK(scalert_fill(stream, 2.5f, &y));
    CHECK(values[0] == 2.5f && values[3] == 2.5f);
    scalert_stream_destroy(stream);
    scalert_runtime_destroy(runtime);
}

/* ---- devices -------------------------------------------------------------------------------------------------------
 */

static void without_a_device(void) {
    scalert_runtime_desc_t desc = SCALERT_RUNTIME_DESC_INIT;
    scalert_device_info_t info = SCALERT_DEVICE_INFO_INIT;
    scalert_runtime_t *runtime = NULL;
    uint32_t count = 0;
    FAILS(scalert_device_count(SCALERT_DEVICE_CUDA, &count), SCALERT_UNAVAILABLE, "");
    FAILS(scalert_device_describe(SCALERT_DEVICE_CUDA, 0, &info), SCALERT_UNAVAILABLE, "");
    desc.device = SCALERT_DEVICE_CUDA;
    FAILS(scalert_runtime_create(&desc, &runtime), SCALERT_UNAVAILABLE, "");
    CHECK(runtime == NULL);
    a_cpu_runtime_computes();
}

static void devices(void) {
    scalert_device_info_t info = SCALERT_DEVICE_INFO_INIT;
    scalert_runtime_desc_t desc = SCALERT_RUNTIME_DESC_INIT;
    scalert_runtime_t *runtime = NULL;
    uint32_t count = 0;
    OK(scalert_device_count(SCALERT_DEVICE_CUDA, &count));
    CHECK(count >= 1);
    OK(scalert_device_describe(SCALERT_DEVICE_CUDA, 0, &info));
    CHECK(info.kind == SCALERT_DEVICE_CUDA && info.ordinal == 0 && info.name[0] != 0);
    CHECK(info.memory_bytes > 1 << 20 && info.compute_capability >= 80 && info.multiprocessors >= 1);
    CHECK(info.threads >= 1);
    is_emulated = strstr(info.name, "emulated") != NULL;
    FAILS(scalert_device_describe(SCALERT_DEVICE_CUDA, (int32_t)count, &info), SCALERT_UNAVAILABLE, "ordinal");
    FAILS(scalert_device_describe(SCALERT_DEVICE_CUDA, -1, &info), SCALERT_INVALID_ARGUMENT, "ordinal");
    desc.device = SCALERT_DEVICE_CUDA;
    desc.ordinal = 1000;
    FAILS(scalert_runtime_create(&desc, &runtime), SCALERT_UNAVAILABLE, "1000");
    desc.ordinal = -1;
    FAILS(scalert_runtime_create(&desc, &runtime), SCALERT_INVALID_ARGUMENT, "-1");
    /* An older caller's struct ends before the newer fields. */
    info.struct_size = offsetof(scalert_device_info_t, compute_capability);
    info.compute_capability = 7;
    OK(scalert_device_describe(SCALERT_DEVICE_CUDA, 0, &info));
    CHECK(info.compute_capability == 7);
}

/* ---- work ----------------------------------------------------------------------------------------------------------
 */

static void work_runs_in_order(void) {
    scalert_runtime_t *runtime = cuda_runtime();
    scalert_stream_t *first = stream_of(runtime), *second = stream_of(runtime), *standard = NULL;
    scalert_arena_t *device = arena_of(runtime, SCALERT_TIER_DEVICE, 1 << 16);
    scalert_arena_t *pinned = arena_of(runtime, SCALERT_TIER_PINNED, 12345);
    scalert_event_t *event = NULL;
    static float host[N];
    float *x = floats_of(device, N), *staging = floats_of(pinned, N);
    scalert_tensor_t tx = vector(x, N), ts = vector(staging, N);
    uint8_t complete = 0;
    CHECK((uintptr_t)x % 256 == 0);
    CHECK(memory_of(runtime).tier[SCALERT_TIER_PINNED].arena == 12345);
    OK(scalert_event_create(runtime, &event));
    OK(scalert_event_query(event, &complete));
    CHECK(complete == 1);
    OK(scalert_event_wait(event));
    OK(scalert_stream_follow(second, event)); /* never recorded */

    for (int i = 0; i < N; i++)
        host[i] = (float)i;
    OK(scalert_memory_copy(first, x, host, sizeof host));
    memset(host, 0, sizeof host);
    OK(scalert_scale(first, 2.0f, &tx, &tx));
    OK(scalert_event_record(event, first));
    OK(scalert_stream_follow(second, event));
    OK(scalert_memory_copy(second, staging, x, sizeof host));
    OK(scalert_stream_wait(second));
    OK(scalert_event_query(event, &complete));
    CHECK(complete == 1);
    CHECK(staging[1] == 2.0f && staging[N - 1] == 2.0f * (N - 1));
    OK(scalert_fill(first, 7.0f, &ts)); /* kernels reach pinned memory */
    OK(scalert_memory_copy(first, host, staging, sizeof host));
    OK(scalert_stream_wait(first));
    CHECK(host[0] == 7.0f && host[N - 1] == 7.0f);

    OK(scalert_stream_wrap(runtime, NULL, &standard)); /* the default stream */
    OK(scalert_fill(standard, 3.0f, &tx));
    OK(scalert_memory_copy(standard, host, x, sizeof host));
    OK(scalert_stream_wait(standard));
    CHECK(host[5] == 3.0f);
    FAILS(scalert_memory_copy(first, x, x + 1, 8), SCALERT_INVALID_ARGUMENT, "overlap");
    FAILS(scalert_memory_copy(first, NULL, x, 8), SCALERT_INVALID_ARGUMENT, "to");
    FAILS(scalert_memory_copy(first, x, NULL, 8), SCALERT_INVALID_ARGUMENT, "from");
    OK(scalert_memory_copy(first, NULL, NULL, 0));

    /* Parents first. */
    scalert_runtime_destroy(runtime);
    scalert_event_destroy(event);
    scalert_stream_destroy(standard);
    scalert_stream_destroy(second);
    scalert_stream_destroy(first);
    scalert_arena_destroy(pinned);
    scalert_arena_destroy(device);
}

static void pointers_of_the_wrong_device(void) {
    static float host[N];
    scalert_runtime_t *runtime = cuda_runtime();
    scalert_stream_t *stream = stream_of(runtime);
    scalert_arena_t *device = arena_of(runtime, SCALERT_TIER_DEVICE, 1 << 16);
    float *memory = floats_of(device, N);
    scalert_tensor_t on_host = vector(host, N), on_device = vector(memory, N), empty = vector(host, 0);
    scalert_tensor_t square = matrix(memory, 4, 4), other = matrix(memory + 16, 4, 4), bias = vector(host, 4);
    scalert_tensor_t product = matrix(memory + 32, 4, 4);
    scalert_gemm_options_t options = SCALERT_GEMM_OPTIONS_INIT;
    FAILS(scalert_fill(stream, 1.0f, &on_host), SCALERT_INVALID_ARGUMENT, "y: data");
    FAILS(scalert_scale(stream, 1.0f, &on_host, &on_device), SCALERT_INVALID_ARGUMENT, "x: data");
    FAILS(scalert_layer_norm_forward(stream, &on_device, &on_host, NULL, 1e-5f, &on_device, NULL, NULL),
          SCALERT_INVALID_ARGUMENT, "weight: data");
    options.bias = &bias;
    FAILS(scalert_gemm(stream, 0, 0, &square, &other, &product, &options), SCALERT_INVALID_ARGUMENT, "bias: data");
    options.bias = NULL;
    options.implementation = 9;
    FAILS(scalert_gemm(stream, 0, 0, &square, &other, &product, &options), SCALERT_INVALID_ARGUMENT, "implementation");
    OK(scalert_fill(stream, 1.0f, &empty));
    OK(scalert_fill(stream, 1.0f, &on_device));
    OK(scalert_stream_wait(stream));
    CHECK(host[0] == 0.0f);
    scalert_arena_destroy(device);
    scalert_stream_destroy(stream);
    scalert_runtime_destroy(runtime);
}

static void choices_of_attention(void) {
    enum { T = 4, D = 16, HEAD = T * D };
    scalert_runtime_t *runtime = cuda_runtime();
    scalert_stream_t *stream = stream_of(runtime);
    scalert_arena_t *device = arena_of(runtime, SCALERT_TIER_DEVICE, 1 << 16);
    float *memory = floats_of(device, 9 * HEAD);
    scalert_tensor_t all = vector(memory, 9 * HEAD), heads[8];
    scalert_tensor_t sums = tensor(memory + 8 * HEAD, SCALERT_F32, 3, 1, 1, T, 0);
    const scalert_tensor_t *q = heads, *k = heads + 1, *v = heads + 2, *out = heads + 3, *dout = heads + 4;
    const scalert_tensor_t *dq = heads + 5, *dk = heads + 6, *dv = heads + 7;
    scalert_attention_options_t options = SCALERT_ATTENTION_OPTIONS_INIT;
    for (int i = 0; i < 8; i++) {
        heads[i] = tensor(memory + i * HEAD, SCALERT_F32, 4, 1, T, 1, D);
    }
    OK(scalert_fill(stream, 1.0f, &all));
    OK(scalert_attention_forward(stream, q, k, v, out, &sums, &options));
    OK(scalert_attention_backward(stream, q, k, v, out, &sums, dout, dq, dk, dv, &options));
    options.implementation = SCALERT_IMPLEMENTATION_VENDOR;
    FAILS(scalert_attention_forward(stream, q, k, v, out, &sums, &options), SCALERT_UNAVAILABLE, "f32");
    FAILS(scalert_attention_backward(stream, q, k, v, out, &sums, dout, dq, dk, dv, &options),
          SCALERT_UNAVAILABLE, "order");
    options.implementation = 3;
    FAILS(scalert_attention_forward(stream, q, k, v, out, &sums, &options), SCALERT_INVALID_ARGUMENT,
          "implementation");
    OK(scalert_stream_wait(stream));
    scalert_arena_destroy(device);
    scalert_stream_destroy(stream);
    scalert_runtime_destroy(runtime);
}

static void handles_of_different_devices(void) {
    scalert_runtime_t *runtime = cuda_runtime(), *cpu = cpu_runtime();
    scalert_stream_t *stream = stream_of(runtime), *on_cpu = stream_of(cpu);
    scalert_event_t *event = NULL, *of_cpu = NULL;
    OK(scalert_event_create(runtime, &event));
    OK(scalert_event_create(cpu, &of_cpu));
    FAILS(scalert_event_record(event, on_cpu), SCALERT_INVALID_ARGUMENT, "event");
    FAILS(scalert_event_record(of_cpu, stream), SCALERT_INVALID_ARGUMENT, "event");
    OK(scalert_event_record(event, stream));
    OK(scalert_stream_follow(on_cpu, event));
    OK(scalert_stream_follow(stream, of_cpu));
    scalert_event_destroy(event);
    scalert_event_destroy(of_cpu);
    scalert_stream_destroy(on_cpu);
    scalert_stream_destroy(stream);
    scalert_runtime_destroy(cpu);
    scalert_runtime_destroy(runtime);
}

static void two_devices(void) {
    scalert_runtime_desc_t desc = SCALERT_RUNTIME_DESC_INIT;
    scalert_runtime_t *first = cuda_runtime(), *second = NULL;
    scalert_stream_t *stream = stream_of(first), *other;
    scalert_event_t *event = NULL;
    scalert_arena_t *device, *pinned = arena_of(first, SCALERT_TIER_PINNED, sizeof(float));
    float *shared = floats_of(pinned, 1);
    scalert_tensor_t there, everywhere = vector(shared, 1);
    uint32_t count = 0;
    OK(scalert_device_count(SCALERT_DEVICE_CUDA, &count));
    if (count > 1) {
        desc.device = SCALERT_DEVICE_CUDA;
        desc.ordinal = 1;
        OK(scalert_runtime_create(&desc, &second));
        device = arena_of(second, SCALERT_TIER_DEVICE, sizeof(float));
        there = vector(floats_of(device, 1), 1);
        other = stream_of(second);
        OK(scalert_event_create(second, &event));
        FAILS(scalert_fill(stream, 1.0f, &there), SCALERT_INVALID_ARGUMENT, "y: data");
        FAILS(scalert_fill(stream, 1.0f, &there), SCALERT_INVALID_ARGUMENT, "device 1");
        OK(scalert_fill(other, 1.0f, &there));
        OK(scalert_fill(other, 6.0f, &everywhere)); /* pinned memory is every device's */
        OK(scalert_event_record(event, other));
        OK(scalert_stream_follow(stream, event));
        FAILS(scalert_event_record(event, stream), SCALERT_INVALID_ARGUMENT, "event");
        OK(scalert_scale(stream, 2.0f, &everywhere, &everywhere));
        OK(scalert_stream_wait(stream));
        CHECK(shared[0] == 12.0f);
        scalert_event_destroy(event);
        scalert_stream_destroy(other);
        scalert_arena_destroy(device);
        scalert_runtime_destroy(second);
    }
    scalert_arena_destroy(pinned);
    scalert_stream_destroy(stream);
    scalert_runtime_destroy(first);
}

static void memory_runs_out(void) {
    scalert_runtime_desc_t desc = SCALERT_RUNTIME_DESC_INIT;
    scalert_runtime_t *runtime = cuda_runtime(), *small = NULL;
    scalert_stream_t *stream = NULL;
    scalert_arena_t *arena = NULL;
    FAILS(scalert_arena_create(runtime, SCALERT_TIER_DEVICE, (uint64_t)1 << 45, &arena), SCALERT_OUT_OF_MEMORY,
          "bytes");
    last(SCALERT_OUT_OF_MEMORY, SCALERT_NATIVE_CUDA, 2);
    CHECK(memory_of(runtime).tier[SCALERT_TIER_DEVICE].used == 0);
    scalert_runtime_destroy(runtime);

    desc.device = SCALERT_DEVICE_CUDA;
    desc.device_bytes = 10000;
    desc.pinned_bytes = 5000;
    OK(scalert_runtime_create(&desc, &small));
    FAILS(scalert_arena_create(small, SCALERT_TIER_DEVICE, 10001, &arena), SCALERT_OUT_OF_BUDGET, "10001");
    FAILS(scalert_arena_create(small, SCALERT_TIER_PINNED, 5001, &arena), SCALERT_OUT_OF_BUDGET, "5001");
    FAILS(scalert_arena_create(small, SCALERT_TIER_DISK, 1, &arena), SCALERT_INVALID_ARGUMENT, "tier");
    stream = stream_of(small);
    OK(scalert_stream_reserve(stream, 4000));
    OK(scalert_stream_reserve(stream, 9000)); /* the budget counts the larger one alone */
    CHECK(memory_of(small).tier[SCALERT_TIER_DEVICE].peak == 9000);
    FAILS(scalert_stream_reserve(stream, 10001), SCALERT_OUT_OF_BUDGET, "10001");
    CHECK(memory_of(small).tier[SCALERT_TIER_DEVICE].workspace == 9000);
    scalert_stream_destroy(stream);
    CHECK(memory_of(small).tier[SCALERT_TIER_DEVICE].used == 0);
    scalert_runtime_destroy(small);
}

/* ---- the host's contexts and streams -------------------------------------------------------------------------------
 */

static void the_host_s_context_is_used_and_left_alone(void) {
    handle before = NULL, mine = NULL, now = NULL, native = NULL, foreign = NULL;
    scalert_runtime_t *runtime, *primary;
    scalert_stream_t *stream = NULL, *refused = NULL;
    scalert_arena_t *arena;
    static float host[N];
    scalert_tensor_t x;
    CU(cu.context_current(&before));
    CHECK(before == NULL);
    primary = cuda_runtime(); /* none is current: the primary one */
    CU(cu.context_create(&mine, 0, 0));
    CU(cu.stream_create(&native, 1));
    runtime = cuda_runtime();
    CU(cu.context_set(NULL)); /* calls bring their context along */
    OK(scalert_stream_wrap(runtime, native, &stream));
    FAILS(scalert_stream_wrap(primary, native, &refused), SCALERT_INVALID_ARGUMENT, "another context");
    FAILS(scalert_stream_wrap(runtime, (handle)2, &refused), SCALERT_INVALID_ARGUMENT, "per-thread");
    if (is_emulated) { /* a real driver may take its caller at its word */
        FAILS(scalert_stream_wrap(runtime, &foreign, &refused), SCALERT_INVALID_ARGUMENT, "native");
    }
    CHECK(refused == NULL);
    arena = arena_of(runtime, SCALERT_TIER_DEVICE, sizeof host);
    x = vector(floats_of(arena, N), N);
    OK(scalert_fill(stream, 4.0f, &x));
    OK(scalert_memory_copy(stream, host, x.data, sizeof host));
    OK(scalert_stream_wait(stream));
    CHECK(host[N - 1] == 4.0f);
    CU(cu.context_current(&now));
    CHECK(now == NULL);
    scalert_arena_destroy(arena);
    scalert_stream_destroy(stream);
    scalert_runtime_destroy(runtime);
    CU(cu.context_set(mine));
    CU(cu.stream_synchronize(native)); /* still the host's */
    CU(cu.stream_destroy(native));
    CU(cu.context_destroy(mine));
    scalert_runtime_destroy(primary);
    CU(cu.context_current(&now));
    CHECK(now == NULL);
}

static void a_destroyed_context(void) {
    handle mine = NULL, now = NULL;
    scalert_runtime_t *runtime, *other;
    scalert_stream_t *stream, *more = NULL;
    scalert_event_t *event = NULL;
    scalert_arena_t *arena, *pinned, *refused = NULL;
    scalert_tensor_t x;
    uint8_t complete = 0;
    CU(cu.context_create(&mine, 0, 0));
    runtime = cuda_runtime();
    stream = stream_of(runtime);
    OK(scalert_stream_reserve(stream, 1000));
    OK(scalert_event_create(runtime, &event));
    arena = arena_of(runtime, SCALERT_TIER_DEVICE, 4 * N);
    pinned = arena_of(runtime, SCALERT_TIER_PINNED, 4 * N);
    x = vector(floats_of(arena, N), N);
    OK(scalert_fill(stream, 1.0f, &x));
    CU(cu.context_destroy(mine));
    CHECK(scalert_fill(stream, 1.0f, &x) != SCALERT_OK);
    FAILS(scalert_stream_wait(stream), SCALERT_DEVICE_ERROR, "destroyed");
    FAILS(scalert_stream_create(runtime, &more), SCALERT_DEVICE_ERROR, "destroyed");
    FAILS(scalert_event_record(event, stream), SCALERT_DEVICE_ERROR, "destroyed");
    FAILS(scalert_event_query(event, &complete), SCALERT_DEVICE_ERROR, "destroyed");
    FAILS(scalert_arena_create(runtime, SCALERT_TIER_DEVICE, 100, &refused), SCALERT_DEVICE_ERROR, "destroyed");
    last(SCALERT_DEVICE_ERROR, SCALERT_NATIVE_CUDA, 709);
    scalert_event_destroy(event);
    scalert_stream_destroy(stream);
    scalert_arena_destroy(pinned);
    scalert_arena_destroy(arena);
    scalert_runtime_destroy(runtime);
    CU(cu.context_current(&now));
    CHECK(now == NULL);
    other = cuda_runtime(); /* the primary one is another context */
    stream = stream_of(other);
    OK(scalert_stream_wait(stream));
    scalert_stream_destroy(stream);
    scalert_runtime_destroy(other);
}

/* ---- capture -------------------------------------------------------------------------------------------------------
 */

static void capture(int mode) {
    handle mine = NULL, native = NULL, graph = NULL, executable = NULL;
    scalert_runtime_t *runtime;
    scalert_stream_t *stream = NULL, *side;
    scalert_event_t *fork_event = NULL, *join_event = NULL, *outside = NULL;
    scalert_arena_t *arena, *pinned, *extra = NULL;
    static float host[N];
    float *staging;
    scalert_tensor_t x, sums;
    uint8_t complete = 0;
    int64_t limbs[SCALERT_EXACT_SUM_LIMBS] = {0};
    const int64_t length = SCALERT_EXACT_SUM_LIMBS;
    void *memory = NULL;
    double sum = 0;
    CU(cu.context_create(&mine, 0, 0));
    CU(cu.stream_create(&native, 1));
    runtime = cuda_runtime();
    OK(scalert_stream_wrap(runtime, native, &stream));
    side = stream_of(runtime);
    OK(scalert_event_create(runtime, &fork_event));
    OK(scalert_event_create(runtime, &join_event));
    OK(scalert_event_create(runtime, &outside));
    OK(scalert_event_record(outside, side));
    arena = arena_of(runtime, SCALERT_TIER_DEVICE, 1 << 16);
    pinned = arena_of(runtime, SCALERT_TIER_PINNED, sizeof host);
    x = vector(floats_of(arena, N), N);
    staging = floats_of(pinned, N);
    OK(scalert_arena_alloc(arena, sizeof limbs, &memory));
    OK(scalert_tensor_contiguous(memory, SCALERT_I64, 1, &length, &sums));
    OK(scalert_memory_copy(stream, memory, limbs, sizeof limbs));
    OK(scalert_fill(stream, 1.0f, &x));
    OK(scalert_stream_wait(stream));

    CU(cu.begin_capture(native, mode));
    OK(scalert_scale(stream, 2.0f, &x, &x));
    /* What is refused leaves the capture valid. */
    FAILS(scalert_stream_wait(stream), SCALERT_FAILED_PRECONDITION, "captured");
    FAILS(scalert_stream_reserve(stream, 100000), SCALERT_FAILED_PRECONDITION, "scalert_stream_reserve");
    FAILS(scalert_stream_follow(stream, outside), SCALERT_FAILED_PRECONDITION, "outside");
    FAILS(scalert_memory_copy(stream, host, x.data, sizeof host), SCALERT_FAILED_PRECONDITION, "pinned");
    OK(scalert_event_query(outside, &complete));
    OK(scalert_event_wait(outside));
    OK(scalert_stream_wait(side));
    OK(scalert_arena_create(runtime, SCALERT_TIER_DEVICE, 4096, &extra)); /* memory is taken beside a capture */
    scalert_arena_destroy(extra);
    /* A second stream takes part. */
    OK(scalert_event_record(fork_event, stream));
    FAILS(scalert_event_query(fork_event, &complete), SCALERT_FAILED_PRECONDITION, "graph");
    FAILS(scalert_event_wait(fork_event), SCALERT_FAILED_PRECONDITION, "graph");
    OK(scalert_stream_follow(side, fork_event));
    OK(scalert_memory_copy(side, staging, x.data, sizeof host));
    OK(scalert_event_record(join_event, side));
    OK(scalert_stream_follow(stream, join_event));
    CU(cu.end_capture(native, &graph));
    CU(cu.graph_instantiate(&executable, graph, 0));
    CHECK(staging[0] == 0.0f); /* recorded, not run */
    CU(cu.graph_launch(executable, native));
    CU(cu.graph_launch(executable, native));
    OK(scalert_stream_wait(stream));
    CHECK(staging[0] == 4.0f && staging[N - 1] == 4.0f);
    OK(scalert_event_record(fork_event, stream));
    OK(scalert_event_wait(fork_event)); /* recorded outside again */
    CU(cu.graph_executable_destroy(executable));
    CU(cu.graph_destroy(graph));

    /* A workspace that a graph uses stays when the stream's grows. */
    OK(scalert_stream_reserve(stream, 1 << 20));
    CU(cu.begin_capture(native, mode));
    OK(scalert_exact_sum(stream, &x, SCALERT_SUM_OF_VALUES, &sums));
    CU(cu.end_capture(native, &graph));
    CU(cu.graph_instantiate(&executable, graph, 0));
    OK(scalert_stream_reserve(stream, 2 << 20));
    CU(cu.graph_launch(executable, native));
    OK(scalert_memory_copy(stream, limbs, memory, sizeof limbs));
    OK(scalert_stream_wait(stream));
    OK(scalert_exact_sum_read(limbs, &sum, NULL));
    CHECK(sum == 4.0 * N);
    CU(cu.graph_executable_destroy(executable));
    CU(cu.graph_destroy(graph));

    scalert_event_destroy(fork_event);
    scalert_event_destroy(join_event);
    scalert_event_destroy(outside);
    scalert_arena_destroy(arena);
    scalert_arena_destroy(pinned);
    scalert_stream_destroy(side);
    scalert_stream_destroy(stream);
    scalert_runtime_destroy(runtime);
    CU(cu.stream_destroy(native));
    CU(cu.context_destroy(mine));
}

/* ---- hooks, processes, faults --------------------------------------------------------------------------------------
 */

static struct {
    scalert_runtime_t *runtime;
    scalert_arena_t *arena;
    void *memory;
    int allocations, releases;
} lender;

/* A host's allocator: here it hands out one block of an arena. */
static void *lend(void *user, size_t bytes, size_t alignment, scalert_tier_t tier, int32_t ordinal, void *stream) {
    handle current = NULL;
    (void)stream;
    CHECK(user == &lender && ordinal == 0 && tier == SCALERT_TIER_DEVICE && alignment == 256 && bytes <= 1 << 16);
    CU(cu.context_current(&current));
    CHECK(current != NULL);
    lender.allocations++;
    return lender.memory;
}

static void take_back(void *user, void *memory, size_t bytes, size_t alignment, scalert_tier_t tier, int32_t ordinal,
                      void *stream) {
    (void)bytes, (void)tier, (void)ordinal, (void)stream;
    CHECK(user == &lender && memory == lender.memory && alignment == 256);
    lender.releases++;
}

static void device_memory_of_a_hook(void) {
    scalert_allocator_t hook = SCALERT_ALLOCATOR_INIT;
    scalert_runtime_desc_t desc = SCALERT_RUNTIME_DESC_INIT;
    scalert_runtime_t *runtime = NULL;
    scalert_stream_t *stream;
    static float host[N];
    scalert_tensor_t garbage;
    lender.runtime = cuda_runtime();
    lender.arena = arena_of(lender.runtime, SCALERT_TIER_DEVICE, 1 << 16);
    OK(scalert_arena_alloc(lender.arena, 1 << 16, &lender.memory));
    stream = stream_of(lender.runtime);
    garbage = vector((float *)lender.memory, N);
    OK(scalert_fill(stream, 5.0f, &garbage));
    OK(scalert_stream_wait(stream));
    hook.user = &lender;
    hook.alloc = lend;
    hook.free = take_back;
    desc.device = SCALERT_DEVICE_CUDA;
    desc.allocator = &hook;
    OK(scalert_runtime_create(&desc, &runtime));
    {
        scalert_stream_t *hooked = stream_of(runtime);
        OK(scalert_stream_reserve(hooked, sizeof host)); /* zeroed on the device */
        OK(scalert_memory_copy(stream, host, lender.memory, sizeof host));
        OK(scalert_stream_wait(stream));
        CHECK(host[0] == 0.0f && host[N - 1] == 0.0f && lender.allocations == 1);
        scalert_stream_destroy(hooked);
    }
    CHECK(lender.releases == 1);
    scalert_runtime_destroy(runtime);
    scalert_stream_destroy(stream);
    scalert_arena_destroy(lender.arena);
    scalert_runtime_destroy(lender.runtime);
}

static void a_forked_child_is_refused(void) {
    scalert_runtime_t *runtime = cuda_runtime();
    scalert_stream_t *stream = stream_of(runtime);
    scalert_arena_t *arena = arena_of(runtime, SCALERT_TIER_DEVICE, 4 * N);
    scalert_tensor_t x = vector(floats_of(arena, N), N);
    int status = 0;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        scalert_runtime_desc_t desc = SCALERT_RUNTIME_DESC_INIT;
        scalert_runtime_t *more = NULL;
        uint32_t count = 0;
        FAILS(scalert_fill(stream, 1.0f, &x), SCALERT_FAILED_PRECONDITION, "fork");
        FAILS(scalert_stream_wait(stream), SCALERT_FAILED_PRECONDITION, "fork");
        FAILS(scalert_device_count(SCALERT_DEVICE_CUDA, &count), SCALERT_FAILED_PRECONDITION, "fork");
        desc.device = SCALERT_DEVICE_CUDA;
        FAILS(scalert_runtime_create(&desc, &more), SCALERT_FAILED_PRECONDITION, "fork");
        a_cpu_runtime_computes();
        scalert_arena_destroy(arena);
        scalert_stream_destroy(stream);
        scalert_runtime_destroy(runtime);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    OK(scalert_fill(stream, 1.0f, &x));
    OK(scalert_stream_wait(stream));
    scalert_arena_destroy(arena);
    scalert_stream_destroy(stream);
    scalert_runtime_destroy(runtime);
}

/* Comes last: on a real device nothing of CUDA works in this process afterwards. */
static void a_fault_stays(void) {
    scalert_runtime_t *runtime = cuda_runtime(), *more = NULL;
    scalert_stream_t *stream = stream_of(runtime), *other = stream_of(runtime), *third = NULL;
    scalert_event_t *event = NULL;
    scalert_arena_t *arena = arena_of(runtime, SCALERT_TIER_DEVICE, 4 * N), *another = NULL;
    scalert_tensor_t x = vector(floats_of(arena, N), N), beyond = x;
    scalert_runtime_desc_t desc = SCALERT_RUNTIME_DESC_INIT;
    scalert_status_t status;
    uint8_t complete = 0;
    OK(scalert_event_create(runtime, &event));
    OK(scalert_event_record(event, stream));
    beyond.shape[0] = (int64_t)1 << 36; /* a lie that the library cannot see */
    status = scalert_fill(stream, 1.0f, &beyond);
    CHECK(status == SCALERT_OK || status == SCALERT_DEVICE_ERROR);
    FAILS(scalert_stream_wait(stream), SCALERT_DEVICE_ERROR, "asynchronous");
    last(SCALERT_DEVICE_ERROR, SCALERT_NATIVE_CUDA, 700);
    FAILS(scalert_fill(stream, 1.0f, &x), SCALERT_DEVICE_ERROR, "");
    FAILS(scalert_fill(other, 1.0f, &x), SCALERT_DEVICE_ERROR, "");
    FAILS(scalert_stream_wait(other), SCALERT_DEVICE_ERROR, "");
    FAILS(scalert_stream_create(runtime, &third), SCALERT_DEVICE_ERROR, "");
    FAILS(scalert_event_query(event, &complete), SCALERT_DEVICE_ERROR, "");
    FAILS(scalert_event_wait(event), SCALERT_DEVICE_ERROR, "");
    FAILS(scalert_arena_create(runtime, SCALERT_TIER_DEVICE, 64, &another), SCALERT_DEVICE_ERROR, "");
    desc.device = SCALERT_DEVICE_CUDA;
    FAILS(scalert_runtime_create(&desc, &more), SCALERT_DEVICE_ERROR, "");
    a_cpu_runtime_computes();
    scalert_event_destroy(event);
    scalert_arena_destroy(arena);
    scalert_stream_destroy(other);
    scalert_stream_destroy(stream);
    scalert_runtime_destroy(runtime);
    a_cpu_runtime_computes();
}

int main(void) {
    scalert_error_t error = SCALERT_ERROR_INIT;
    uint32_t count = 0;
    setenv("SCALERT_EMULATED_DEVICES", "2", 0);
    if (scalert_device_count(SCALERT_DEVICE_CUDA, &count) != SCALERT_OK) {
        OK(scalert_last_error(&error));
        printf("no CUDA device: %s\n", error.message);
        without_a_device();
        return passed();
    }
    open_driver();
    devices();
    work_runs_in_order();
    pointers_of_the_wrong_device();
    choices_of_attention();
    handles_of_different_devices();
    memory_runs_out();
    the_host_s_context_is_used_and_left_alone();
    two_devices();
    capture(0);
    capture(2);
    device_memory_of_a_hook();
    a_forked_child_is_refused();
    a_destroyed_context();
    a_fault_stays();
    return passed();
}
