/* The host's allocator, threads and log instead of the library's. */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <pthread.h>

/* ---- allocator ----------------------------------------------------------------------------------------------------
 */

typedef struct counter {
    pthread_mutex_t lock;
    int64_t blocks;
    uint64_t bytes, most;
    int allocations, refuse, wrong;
} counter_t;

static void *counting_alloc(void *user, size_t bytes, size_t alignment, scalert_tier_t tier, int32_t ordinal,
                            void *native_stream) {
    counter_t *counter = (counter_t *)user;
    void *memory = NULL;
    pthread_mutex_lock(&counter->lock);
    counter->wrong += tier < 0 || tier >= SCALERT_TIERS || ordinal != 0 || native_stream != NULL;
    if (!counter->refuse &&
        posix_memalign(&memory, alignment < sizeof(void *) ? sizeof(void *) : alignment, bytes ? bytes : 1) == 0) {
        counter->blocks++;
        counter->allocations++;
        counter->bytes += bytes;
        counter->most = counter->bytes > counter->most ? counter->bytes : counter->most;
        memset(memory, 0xA5, bytes); /* nobody may count on zeros */
    }
    pthread_mutex_unlock(&counter->lock);
    return memory;
}

static void counting_free(void *user, void *memory, size_t bytes, size_t alignment, scalert_tier_t tier,
                          int32_t ordinal, void *native_stream) {
    counter_t *counter = (counter_t *)user;
    (void)alignment;
    (void)native_stream;
    pthread_mutex_lock(&counter->lock);
    counter->wrong += tier < 0 || tier >= SCALERT_TIERS || ordinal != 0;
    counter->blocks--;
    counter->bytes -= bytes;
    pthread_mutex_unlock(&counter->lock);
    free(memory);
}

static void allocator(void) {
    counter_t counter;
    scalert_allocator_t hook = SCALERT_ALLOCATOR_INIT;
    scalert_runtime_desc_t desc = SCALERT_RUNTIME_DESC_INIT;
    scalert_group_desc_t group = SCALERT_GROUP_DESC_INIT;
    scalert_runtime_t *runtime = NULL;
    scalert_arena_t *arena = NULL, *refused = NULL;
    scalert_state_t *state = NULL;
    scalert_tensor_t weight;
    scalert_stream_t *stream;
    const int64_t n = 1000;
    uint64_t used;
    uint32_t number;
    void *memory = NULL;
    memset(&counter, 0, sizeof counter);
    pthread_mutex_init(&counter.lock, NULL);
    hook.user = &counter;
    hook.alloc = counting_alloc;
    FAILS((desc.allocator = &hook, scalert_runtime_create(&desc, &runtime)), SCALERT_INVALID_ARGUMENT, "free");
    hook.free = counting_free;
    OK(scalert_runtime_create(&desc, &runtime));
    stream = stream_of(runtime);
    OK(scalert_arena_create(runtime, SCALERT_TIER_DEVICE, 5000, &arena));
    CHECK(counter.allocations >= 1 && counter.bytes >= 5000);
    OK(scalert_arena_alloc(arena, 5000 - 5000 % 64, &memory));
    CHECK(*(unsigned char *)memory == 0xA5);

    state = new_state(runtime);
    OK(scalert_state_add_group(state, &group, &number));
    OK(scalert_state_add_parameter(state, 0, "w", 1, &n, &number));
    OK(scalert_stream_reserve(stream, 3000));
    counter.refuse = 1;
    FAILS(scalert_stream_reserve(stream, 6000), SCALERT_OUT_OF_MEMORY, "6000");
    CHECK(memory_of(runtime).tier[SCALERT_TIER_DEVICE].workspace == 3000); /* the old one is still there */
    OK(scalert_stream_reserve(stream, 3000));
    FAILS(scalert_state_seal(state), SCALERT_OUT_OF_MEMORY, "");
    FAILS(scalert_arena_create(runtime, SCALERT_TIER_HOST, 100, &refused), SCALERT_OUT_OF_MEMORY, "");
    CHECK(memory_of(runtime).tier[SCALERT_TIER_HOST].used == 0); /* the ledger takes back what was not allocated */
    counter.refuse = 0;
    OK(scalert_state_seal(state));
    OK(scalert_state_acquire(state, 0, stream, &weight));
    CHECK(((uint16_t *)weight.data)[999] == 0); /* although the memory came dirty */
    OK(scalert_state_release(state, 0, stream));
    used = memory_of(runtime).tier[SCALERT_TIER_DEVICE].used + memory_of(runtime).tier[SCALERT_TIER_HOST].used;
    CHECK(counter.bytes == used); /* every byte is in the ledger */

    scalert_runtime_destroy(runtime); /* its children still free through the hook */
    scalert_state_destroy(state);
    scalert_arena_destroy(arena);
    scalert_stream_destroy(stream);
    CHECK(counter.blocks == 0 && counter.bytes == 0 && counter.wrong == 0);
    pthread_mutex_destroy(&counter.lock);
}

/* ---- threads ------------------------------------------------------------------------------------------------------
 */

typedef struct task {
    void (*body)(void *context, uint32_t index);
    void *context;
    uint32_t index;
} task_t;

static void *run_task(void *argument) {
    task_t *task = (task_t *)argument;
    task->body(task->context, task->index);
    return NULL;
}

static void parallel_for(void *user, uint32_t n, void (*body)(void *context, uint32_t index), void *context) {
    pthread_t threads[4];
    task_t tasks[4];
    uint32_t *calls = (uint32_t *)user;
    ++*calls;
    if (n > 4)
        abort(); /* more than threads: a broken promise */
    for (uint32_t i = 0; i < n; i++) {
        tasks[i].body = body;
        tasks[i].context = context;
        tasks[i].index = i;
        if (pthread_create(&threads[i], NULL, run_task, &tasks[i]) != 0)
            abort();
    }
    for (uint32_t i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
}

/* A legal pool that has no threads at all. */
static void one_after_another(void *user, uint32_t n, void (*body)(void *context, uint32_t index), void *context) {
    ++*(uint32_t *)user;
    for (uint32_t i = n; i-- > 0;)
        body(context, i);
}

enum { N = 256 };

static void product(scalert_runtime_t *runtime, float *out) {
    static float a[N * N], b[N * N];
    scalert_stream_t *stream = stream_of(runtime);
    scalert_tensor_t ta = matrix(a, N, N), tb = matrix(b, N, N), tc = matrix(out, N, N);
    scalert_random_key_t key = {5, 0, 0}, other = {5, 0, 1};
    OK(scalert_random_normal(stream, key, 0, 1, &ta));
    OK(scalert_random_normal(stream, other, 0, 1, &tb));
    OK(scalert_gemm(stream, 0, 0, &ta, &tb, &tc, NULL));
    scalert_stream_destroy(stream);
}

static void thread_pool(void) {
    static float own[N * N], hosted[N * N];
    scalert_thread_pool_t pool = SCALERT_THREAD_POOL_INIT;
    scalert_runtime_desc_t desc = SCALERT_RUNTIME_DESC_INIT;
    scalert_runtime_t *runtime = cpu_runtime();
    uint32_t calls = 0;
    product(runtime, own);
    scalert_runtime_destroy(runtime);
    pool.user = &calls;
    pool.threads = 4;
    pool.parallel_for = parallel_for;
    desc.thread_pool = &pool;
    OK(scalert_runtime_create(&desc, &runtime));
    product(runtime, hosted);
    scalert_runtime_destroy(runtime);
    CHECK(calls > 0);
    CHECK(memcmp(own, hosted, sizeof own) == 0);

    calls = 0;
    memset(hosted, 0, sizeof hosted);
    pool.parallel_for = one_after_another;
    OK(scalert_runtime_create(&desc, &runtime));
    product(runtime, hosted);
    scalert_runtime_destroy(runtime);
    CHECK(calls > 0 && memcmp(own, hosted, sizeof own) == 0);

    desc.threads = 2;
    FAILS(scalert_runtime_create(&desc, &runtime), SCALERT_INVALID_ARGUMENT, "threads");
    desc.threads = 0;
    pool.threads = 0;
    FAILS(scalert_runtime_create(&desc, &runtime), SCALERT_INVALID_ARGUMENT, "threads");
}

/* ---- log ----------------------------------------------------------------------------------------------------------
 */

typedef struct journal {
    int messages, wrong;
} journal_t;

static void write_log(void *user, int32_t level, const char *message) {
    journal_t *journal = (journal_t *)user;
    journal->messages++;
    journal->wrong += level < SCALERT_LOG_ERROR || level > SCALERT_LOG_DEBUG || !message || !*message;
}

static void log_sink(void) {
    journal_t everything = {0, 0}, errors = {0, 0};
    for (int quiet = 0; quiet < 2; quiet++) {
        scalert_log_sink_t sink = SCALERT_LOG_SINK_INIT;
        scalert_runtime_desc_t desc = SCALERT_RUNTIME_DESC_INIT;
        scalert_runtime_t *runtime = NULL;
        scalert_arena_t *arena = NULL;
        sink.user = quiet ? &errors : &everything;
        sink.level = quiet ? SCALERT_LOG_ERROR : SCALERT_LOG_DEBUG;
        sink.write = write_log;
        desc.log = &sink;
        desc.device_bytes = 1000;
        OK(scalert_runtime_create(&desc, &runtime));
        FAILS(scalert_arena_create(runtime, SCALERT_TIER_DEVICE, 2000, &arena), SCALERT_OUT_OF_BUDGET, "2000");
        scalert_runtime_destroy(runtime);
    }
    CHECK(everything.wrong == 0 && errors.wrong == 0);
    CHECK(everything.messages > 0 && errors.messages == 0);
}

int main(void) {
    allocator();
    thread_pool();
    log_sink();
    return passed();
}
