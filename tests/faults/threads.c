/* Threads: the same bits with any number of them and with the host's; runtimes and errors that are kept apart; two
 * threads on one stream are noticed. */
#include "world.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the work: operations that divide themselves among threads --------------------------------------------------- */

enum { ROWS = 300, INNER = 72, WIDTH = 200, RESULTS = 7 };

struct work {
    struct world world; /* memory only */
    scalert_tensor_t *results[RESULTS];
};

static void must_free(struct work *work) {
    for (size_t i = 0; i < work->world.memory_count; i++) {
        free(work->world.memories[i].bytes);
        free(work->world.memories[i].copy);
        free(work->world.memories[i].first);
    }
}

/* Computes on a runtime with a stream of its own. */
static void compute(scalert_runtime_t *runtime, struct work *work) {
    struct world *w = &work->world;
    const scalert_random_key_t key = {1, 2, 3};
    scalert_gemm_options_t options = SCALERT_GEMM_OPTIONS_INIT;
    scalert_tensor_t *a, *b, *c, *dy, *dbias, *mean, *rstd, *dx, *dweight, *weight, *targets, *losses, *sum;
    scalert_stream_t *stream;
    memset(work, 0, sizeof *work);
    must(scalert_stream_create(runtime, &stream));
    a = floats(w, 2, ROWS, INNER);
    b = floats(w, 2, WIDTH, INNER);
    c = singles(w, 2, ROWS, WIDTH);
    dy = floats(w, 2, ROWS, WIDTH);
    dbias = singles(w, 1, WIDTH);
    mean = singles(w, 1, ROWS);
    rstd = singles(w, 1, ROWS);
    dx = floats(w, 2, ROWS, WIDTH);
    dweight = singles(w, 1, WIDTH);
    weight = singles(w, 2, WIDTH, INNER);
    targets = tensor(w, SCALERT_I32, 1, ROWS);
    losses = singles(w, 1, ROWS);
    sum = tensor(w, SCALERT_I64, 1, SCALERT_EXACT_SUM_LIMBS);
    must(scalert_random_normal(stream, key, 0, 1, a));
    must(scalert_random_uniform(stream, key, -1, 1, b));
    must(scalert_random_normal(stream, key, 0, 1, dy));
    options.activation = SCALERT_ACTIVATION_GELU_TANH;
    must(scalert_gemm(stream, 0, 1, a, b, c, &options));
    must(scalert_bias_gradient(stream, dy, 0, dbias));
    must(scalert_layer_norm_forward(stream, dy, NULL, NULL, 1e-5f, dx, mean, rstd));
    must(scalert_layer_norm_backward(stream, dy, dx, NULL, mean, rstd, 0, dx, dweight, NULL));
    must(scalert_linear_cross_entropy(stream, a, b, targets, 0, losses, NULL, NULL, NULL));
    must(scalert_exact_sum(stream, dy, SCALERT_SUM_OF_SQUARES, sum));
    must(scalert_random_normal(stream, key, 0, 1, weight));
    work->results[0] = c;
    work->results[1] = dbias;
    work->results[2] = dx;
    work->results[3] = dweight;
    work->results[4] = losses;
    work->results[5] = sum;
    work->results[6] = weight;
    scalert_stream_destroy(stream);
}

static void expect_same(const struct work *a, const struct work *b, const char *why) {
    for (int i = 0; i < RESULTS; i++) {
        const scalert_tensor_t *x = a->results[i], *y = b->results[i];
        cases++;
        if (memcmp(x->data, y->data, elements(x) * dtype_size(x->dtype)) != 0) {
            fail("result %d has other bits %s", i, why);
        }
    }
}

/* ---- the host's threads: bodies run backwards, on a thread of their own ------------------------------------------ */

struct share {
    void (*body)(void *context, uint32_t index);
    void *context;
    uint32_t n;
};

static void *run_share(void *p) {
    const struct share *share = p;
    for (uint32_t i = share->n; i-- > 0;) {
        share->body(share->context, i);
    }
    return NULL;
}

static scalert_stream_t *busy; /* used again while an operation runs on it */
static int pool_calls;

static void host_parallel_for(void *user, uint32_t n, void (*body)(void *context, uint32_t index), void *context) {
    struct share share;
    pthread_t thread;
    pool_calls++;
    expect(user == &pool_calls && n <= 3);
    if (busy != NULL) {
        scalert_stream_t *stream = busy;
        busy = NULL;
        expect(scalert_stream_wait(stream) == SCALERT_FAILED_PRECONDITION);
        expect(strncmp(last_error().message, "stream_wait: stream: ", 21) == 0);
    }
    share.body = body;
    share.context = context;
    share.n = n;
    if (pthread_create(&thread, NULL, run_share, &share) != 0 || pthread_join(thread, NULL) != 0) {
        exit(3);
    }
}

static scalert_runtime_t *runtime_with(uint32_t threads, const scalert_thread_pool_t *pool) {
    scalert_runtime_desc_t desc = SCALERT_RUNTIME_DESC_INIT;
    scalert_runtime_t *runtime;
    desc.threads = threads;
    desc.thread_pool = pool;
    must(scalert_runtime_create(&desc, &runtime));
    return runtime;
}

static void same_bits(void) {
    static struct work first, other;
    scalert_thread_pool_t pool = SCALERT_THREAD_POOL_INIT;
    scalert_runtime_t *runtime = runtime_with(1, NULL);
    place("threads", "1, 2, 4 and the host's");
    compute(runtime, &first);
    scalert_runtime_destroy(runtime);
    for (uint32_t threads = 2; threads <= 4; threads += 2) {
        runtime = runtime_with(threads, NULL);
        compute(runtime, &other);
        expect_same(&first, &other, threads == 2 ? "with 2 threads" : "with 4 threads");
        must_free(&other);
        scalert_runtime_destroy(runtime);
    }
    pool.user = &pool_calls;
    pool.threads = 3;
    pool.parallel_for = host_parallel_for;
    runtime = runtime_with(0, &pool);
    compute(runtime, &other);
    expect_same(&first, &other, "with the host's threads");
    expect(pool_calls > 0);
    must_free(&other);
    must_free(&first);
    scalert_runtime_destroy(runtime);
}

/* ---- misuse ------------------------------------------------------------------------------------------------------ */

static void two_threads_on_a_stream_are_noticed(void) {
    static struct world w; /* memory only */
    scalert_thread_pool_t pool = SCALERT_THREAD_POOL_INIT;
    scalert_runtime_t *runtime;
    scalert_tensor_t *x, *y;
    place("a stream", "used while an operation runs on it");
    pool.user = &pool_calls;
    pool.threads = 3;
    pool.parallel_for = host_parallel_for;
    runtime = runtime_with(0, &pool);
    world_open(&w);
    scalert_stream_destroy(w.stream);
    must(scalert_stream_create(runtime, &w.stream));
    x = floats(&w, 2, ROWS, 4000);
    y = floats(&w, 2, ROWS, 4000);
    busy = w.stream;
    expect(scalert_gelu_forward(w.stream, x, SCALERT_GELU_TANH, y) == SCALERT_OK);
    expect(busy == NULL);
    expect(scalert_stream_wait(w.stream) == SCALERT_OK);
    world_close(&w);
    scalert_runtime_destroy(runtime);
}

/* ---- two runtimes in two threads --------------------------------------------------------------------------------- */

static void *use_a_runtime(void *p) {
    scalert_runtime_t *runtime = runtime_with(2, NULL);
    scalert_stream_t *stream;
    must(scalert_stream_create(runtime, &stream));
    /* The other thread's errors are not this one's. */
    must(last_error().status);
    for (int i = 0; i < 20; i++) {
        if (scalert_stream_wrap(runtime, &i, &stream) != SCALERT_INVALID_ARGUMENT ||
            strncmp(last_error().message, "stream_wrap: native: ", 21) != 0) {
            exit(4);
        }
    }
    compute(runtime, p);
    scalert_stream_destroy(stream);
    scalert_runtime_destroy(runtime);
    return NULL;
}

static void runtimes_are_apart(void) {
    static struct work works[2];
    pthread_t threads[2];
    place("two runtimes", "in two threads");
    for (int i = 0; i < 2; i++) {
        if (pthread_create(&threads[i], NULL, use_a_runtime, &works[i]) != 0) {
            exit(3);
        }
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    expect_same(&works[0], &works[1], "in another runtime");
    must_free(&works[0]);
    must_free(&works[1]);
}

/* ---- one runtime in many threads --------------------------------------------------------------------------------- */

static void *create_and_destroy(void *p) {
    for (int i = 0; i < 200; i++) {
        scalert_stream_t *stream;
        scalert_event_t *event;
        scalert_arena_t *arena;
        scalert_memory_report_t report = SCALERT_MEMORY_REPORT_INIT;
        uint8_t complete = 0;
        must(scalert_stream_create(p, &stream));
        must(scalert_event_create(p, &event));
        must(scalert_arena_create(p, SCALERT_TIER_HOST, 1000, &arena));
        must(scalert_event_query(event, &complete));
        must(scalert_runtime_memory(p, &report));
        if (!complete || report.tier[SCALERT_TIER_HOST].used > 4000) {
            exit(5);
        }
        scalert_arena_destroy(arena);
        scalert_event_destroy(event);
        scalert_stream_destroy(stream);
    }
    return NULL;
}

static void a_runtime_is_shared(void) {
    pthread_t threads[4];
    scalert_memory_report_t report = SCALERT_MEMORY_REPORT_INIT;
    scalert_runtime_t *runtime = runtime_with(1, NULL);
    place("one runtime", "in four threads");
    for (int i = 0; i < 4; i++) {
        if (pthread_create(&threads[i], NULL, create_and_destroy, runtime) != 0) {
            exit(3);
        }
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    must(scalert_runtime_memory(runtime, &report));
    expect(report.tier[SCALERT_TIER_HOST].used == 0 && report.tier[SCALERT_TIER_HOST].peak <= 4000);
    scalert_runtime_destroy(runtime);
}

int main(void) {
    same_bits();
    two_threads_on_a_stream_are_noticed();
    runtimes_are_apart();
    a_runtime_is_shared();
    return summary("threads");
}
