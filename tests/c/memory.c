/* Budgets, the ledger and arenas. */
#include "check.h"

static scalert_runtime_t *runtime_with_budget(uint64_t device_bytes, uint64_t host_bytes) {
    scalert_runtime_desc_t desc = SCALERT_RUNTIME_DESC_INIT;
    scalert_runtime_t *runtime = NULL;
    desc.device_bytes = device_bytes;
    desc.host_bytes = host_bytes;
    OK(scalert_runtime_create(&desc, &runtime));
    return runtime;
}

static void arena_hands_out_in_order(void) {
    scalert_runtime_t *runtime = cpu_runtime();
    scalert_arena_t *arena = NULL;
    void *a = NULL, *b = NULL, *c = NULL, *empty = NULL;
    uint64_t start = 1, mark = 0;
    OK(scalert_arena_create(runtime, SCALERT_TIER_DEVICE, 1024, &arena));
    OK(scalert_arena_mark(arena, &start));
    CHECK(start == 0);
    OK(scalert_arena_alloc(arena, 100, &a));
    OK(scalert_arena_mark(arena, &mark));
    OK(scalert_arena_alloc(arena, 64, &b));
    OK(scalert_arena_alloc(arena, 0, &empty));
    CHECK(empty != NULL);
    CHECK((uintptr_t)a % 64 == 0 && (uintptr_t)b % 64 == 0);
    CHECK((char *)b - (char *)a == 128);
    memset(a, 1, 100);
    memset(b, 2, 64);
    CHECK(((char *)a)[99] == 1);
    OK(scalert_arena_rewind(arena, mark));
    OK(scalert_arena_alloc(arena, 64, &c));
    CHECK(c == b);
    FAILS(scalert_arena_alloc(arena, 1024, &c), SCALERT_OUT_OF_BUDGET, "1024");
    CHECK(scalert_arena_rewind(arena, 4096) == SCALERT_INVALID_ARGUMENT);
    OK(scalert_arena_rewind(arena, 0));
    OK(scalert_arena_alloc(arena, 1024, &c));
    CHECK(c == a);
    scalert_arena_destroy(arena);
    scalert_arena_destroy(NULL);
    scalert_runtime_destroy(runtime);
}

static void ledger_follows(void) {
    scalert_runtime_t *runtime = runtime_with_budget(10000, 5000);
    scalert_arena_t *device = NULL, *host = NULL, *refused = NULL;
    scalert_memory_report_t report = memory_of(runtime);
    CHECK(report.tier[SCALERT_TIER_DEVICE].limit == 10000 && report.tier[SCALERT_TIER_HOST].limit == 5000);
    CHECK(report.tier[SCALERT_TIER_DISK].limit == UINT64_MAX);
    CHECK(report.tier[SCALERT_TIER_DEVICE].used == 0);
    OK(scalert_arena_create(runtime, SCALERT_TIER_DEVICE, 8192, &device));
    OK(scalert_arena_create(runtime, SCALERT_TIER_HOST, 4096, &host));
    report = memory_of(runtime);
    CHECK(report.tier[SCALERT_TIER_DEVICE].arena == 8192 && report.tier[SCALERT_TIER_DEVICE].used == 8192);
    CHECK(report.tier[SCALERT_TIER_HOST].arena == 4096);
    FAILS(scalert_arena_create(runtime, SCALERT_TIER_DEVICE, 4096, &refused), SCALERT_OUT_OF_BUDGET, "4096");
    FAILS(scalert_arena_create(runtime, SCALERT_TIER_HOST, 1000, &refused), SCALERT_OUT_OF_BUDGET, "1000");
    CHECK(memory_of(runtime).tier[SCALERT_TIER_DEVICE].used == 8192);
    scalert_arena_destroy(device);
    report = memory_of(runtime);
    CHECK(report.tier[SCALERT_TIER_DEVICE].used == 0 && report.tier[SCALERT_TIER_DEVICE].peak == 8192);
    OK(scalert_arena_create(runtime, SCALERT_TIER_DEVICE, 10000, &device)); /* up to the last byte */
    scalert_arena_destroy(device);
    scalert_arena_destroy(host);
    scalert_runtime_destroy(runtime);
}

static scalert_state_t *one_matrix(scalert_runtime_t *runtime) {
    scalert_state_t *state = new_state(runtime);
    scalert_group_desc_t group = SCALERT_GROUP_DESC_INIT;
    const int64_t shape[2] = {30, 40};
    uint32_t number;
    OK(scalert_state_add_group(state, &group, &number));
    OK(scalert_state_add_parameter(state, number, "weight", 2, shape, &number));
    return state;
}

static uint64_t device_bytes_of(const scalert_state_t *state) {
    scalert_memory_report_t report = SCALERT_MEMORY_REPORT_INIT;
    OK(scalert_state_memory(state, &report));
    CHECK(report.tier[SCALERT_TIER_DEVICE].limit == UINT64_MAX);
    return report.tier[SCALERT_TIER_DEVICE].used;
}

/* What seal takes is known before it; a budget of one byte less leaves the state as it was. */
static void state_keeps_its_word(void) {
    scalert_runtime_t *unlimited = cpu_runtime(), *tight, *enough;
    scalert_state_t *state = one_matrix(unlimited);
    const uint64_t need = device_bytes_of(state);
    CHECK(need >= 1200 * (2 + 4 + 8 + 4)); /* bf16 weight, master, two moments, gradient sum */
    CHECK(memory_of(unlimited).tier[SCALERT_TIER_DEVICE].used == 0);
    OK(scalert_state_seal(state));
    CHECK(device_bytes_of(state) == need && memory_of(unlimited).tier[SCALERT_TIER_DEVICE].used == need);
    scalert_state_destroy(state);
    CHECK(memory_of(unlimited).tier[SCALERT_TIER_DEVICE].used == 0);
    scalert_runtime_destroy(unlimited);

    tight = runtime_with_budget(need - 1, 0);
    state = one_matrix(tight);
    FAILS(scalert_state_seal(state), SCALERT_OUT_OF_BUDGET, "");
    CHECK(memory_of(tight).tier[SCALERT_TIER_DEVICE].used == 0);
    FAILS(scalert_state_begin_step(state), SCALERT_FAILED_PRECONDITION, "seal");
    scalert_state_destroy(state);
    scalert_runtime_destroy(tight);

    enough = runtime_with_budget(need, 0);
    state = one_matrix(enough);
    OK(scalert_state_seal(state));
    scalert_state_destroy(state);
    scalert_runtime_destroy(enough);
}

static void workspace_is_reserved_inside_the_budget(void) {
    scalert_runtime_t *runtime = runtime_with_budget(1 << 20, 0);
    scalert_stream_t *stream = stream_of(runtime);
    OK(scalert_stream_reserve(stream, 1 << 16));
    CHECK(memory_of(runtime).tier[SCALERT_TIER_DEVICE].workspace >= 1 << 16);
    FAILS(scalert_stream_reserve(stream, 1 << 21), SCALERT_OUT_OF_BUDGET, "");
    scalert_stream_destroy(stream);
    CHECK(memory_of(runtime).tier[SCALERT_TIER_DEVICE].used == 0);
    scalert_runtime_destroy(runtime);
}

int main(void) {
    arena_hands_out_in_order();
    ledger_follows();
    state_keeps_its_word();
    workspace_is_reserved_inside_the_budget();
    return passed();
}
