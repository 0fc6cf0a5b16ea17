/* A whole training step as a CUDA graph: forward, loss, backward, gradient_ready and step of the example's model, all
 * on one stream of the host's that is being captured. Replays leave the bits that a twin leaves that is run call by
 * call. Runs on the machine's device or on the emulated one. */
#define main train_gpt
#include "../../examples/c/train_gpt.c"
#undef main

#include "driver.h"

enum { REPLAYS = 10, VOCABULARY = 65, SEQUENCE = 16, SHARED_BYTES = 1 << 16 };
enum { WEIGHT = -1 }; /* beside the SCALERT_PART_* */

#define EXPECT(condition) expect((condition) != 0, #condition, __LINE__)

static void expect(int holds, const char *what, int line) {
    if (!holds) {
        fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, line, what);
        exit(1);
    }
}

/* A model on a stream of the host's, with memory for looking into it. */
typedef struct twin {
    model_t model;
    scalert_arena_t *arena;
    void *copy;
} twin_t;

static void create(twin_t *t, handle native) {
    model_t *m = &t->model;
    scalert_runtime_desc_t desc = SCALERT_RUNTIME_DESC_INIT;
    scalert_state_desc_t state = SCALERT_STATE_DESC_INIT;
    memset(t, 0, sizeof *t);
    desc.device = SCALERT_DEVICE_CUDA;
    CHECK(scalert_runtime_create(&desc, &m->runtime));
    CHECK(scalert_stream_wrap(m->runtime, native, &m->stream));
    CHECK(scalert_state_create(m->runtime, &state, &m->state));
    m->dtype = dtype_codes[opt.dtype];
    if (opt.loss_scale > 0) {
        scalert_scaler_desc_t scaler = SCALERT_SCALER_DESC_INIT;
        scaler.initial_scale = (float)opt.loss_scale;
        scaler.growth_interval = 3;
        CHECK(scalert_scaler_create(m->runtime, &scaler, &m->scaler));
    }
    add_parameters(m);
    plan_and_allocate(m, SCALERT_TIER_PINNED);
    initialise(m);
    m->dropout.seed = (uint64_t)opt.seed;
    CHECK(scalert_arena_create(m->runtime, SCALERT_TIER_PINNED, SHARED_BYTES, &t->arena));
    CHECK(scalert_arena_alloc(t->arena, SHARED_BYTES, &t->copy));
}

static void destroy(twin_t *t) {
    model_t *m = &t->model;
    scalert_arena_destroy(t->arena);
    scalert_arena_destroy(m->exchange);
    scalert_arena_destroy(m->arena);
    scalert_scaler_destroy(m->scaler);
    scalert_state_destroy(m->state);
    scalert_stream_destroy(m->stream);
    scalert_runtime_destroy(m->runtime);
    free(m->blocks);
    free(m->parameters);
}

/* Into pinned memory, which the graph reads where it lies. All work is done. */
static void write_tokens(twin_t *t, uint64_t step) {
    unsigned char sequence[SEQUENCE + 1];
    for (int64_t row = 0; row < opt.micro_batch; row++) {
        for (uint64_t i = 0; i <= (uint64_t)opt.context; i++)
            sequence[i] = (unsigned char)(draw(BATCHES, step << 32 | (uint64_t)row << 16 | i) % VOCABULARY);
        fill_sequence(&t->model, row, sequence);
    }
}

static double mean_loss(twin_t *t) {
    return take_mean_loss(&t->model, (uint64_t)(opt.micro_batch * opt.context));
}

static void enqueue_step(twin_t *t) {
    model_t *m = &t->model;
    scalert_step_desc_t update = SCALERT_STEP_DESC_INIT;
    scalert_tensor_t normed;
    CHECK(scalert_state_begin_step(m->state));
    CHECK(scalert_state_begin_micro(m->state));
    normed = forward(m, opt.micro_batch, opt.context, 1);
    backward(m, &normed, 1.0f / (float)(opt.micro_batch * opt.context));
    CHECK(scalert_state_end_micro(m->state));
    update.learning_rate = (float)opt.lr;
    update.max_norm = (float)opt.clip;
    update.scaler = m->scaler;
    CHECK(scalert_state_step(m->state, m->stream, &update));
}

/* The bytes of a part of a parameter, in the twin's own memory. */
static uint64_t look(twin_t *t, uint32_t parameter, int32_t part) {
    model_t *m = &t->model;
    const scalert_dtype_t dtype = part == WEIGHT ? m->dtype : SCALERT_F32;
    const uint64_t bytes = m->parameters[parameter].elements * dtype_bytes(dtype);
    scalert_tensor_t copy = parameter_view(m, parameter, t->copy, dtype);
    EXPECT(bytes <= SHARED_BYTES);
    if (part == WEIGHT) {
        acquire(m, parameter, 1);
        CHECK(scalert_memory_copy(m->stream, t->copy, weight(m, parameter)->data, bytes));
        release(m, parameter, 1);
    } else {
        CHECK(scalert_state_read(m->state, m->stream, parameter, part, &copy));
    }
    CHECK(scalert_stream_wait(m->stream));
    return bytes;
}

/* All that a step leaves: weights, master weights, moments, losses and figures. */
static void expect_same(twin_t *a, twin_t *b) {
    static const int32_t parts[] = {WEIGHT, SCALERT_PART_MASTER, SCALERT_PART_MOMENT1, SCALERT_PART_MOMENT2};
    scalert_step_result_t x = SCALERT_STEP_RESULT_INIT, y = SCALERT_STEP_RESULT_INIT;
    const size_t losses = (size_t)(opt.micro_batch * opt.context) * sizeof(float);
    for (uint32_t p = 0; p < a->model.count; p++)
        for (int i = 0; i < 4; i++) {
            const uint64_t bytes = look(a, p, parts[i]);
            look(b, p, parts[i]);
            EXPECT(memcmp(a->copy, b->copy, bytes) == 0);
        }
    EXPECT(memcmp(a->model.losses, b->model.losses, losses) == 0);
    CHECK(scalert_state_step_result_wait(a->model.state, &x));
    CHECK(scalert_state_step_result_wait(b->model.state, &y));
    EXPECT(x.step == y.step && x.skipped == y.skipped && x.loss_scale == y.loss_scale);
    EXPECT(memcmp(&x.gradient_norm, &y.gradient_norm, sizeof x.gradient_norm) == 0);
    EXPECT(x.clip_factor == y.clip_factor);
    EXPECT(x.overflow_parameter == y.overflow_parameter && x.overflow_micro == y.overflow_micro);
    if (a->model.scaler) {
        scalert_scaler_report_t s = SCALERT_SCALER_REPORT_INIT, r = SCALERT_SCALER_REPORT_INIT;
        CHECK(scalert_scaler_read_wait(a->model.scaler, &s));
        CHECK(scalert_scaler_read_wait(b->model.scaler, &r));
        EXPECT(s.scale == r.scale && s.overflows == r.overflows && s.finite_steps == r.finite_steps);
    }
}

static uint64_t steps_taken(twin_t *t) {
    scalert_step_result_t result = SCALERT_STEP_RESULT_INIT;
    CHECK(scalert_state_step_result_wait(t->model.state, &result));
    return result.step;
}

/* The graph's first step is the captured one: the kernels of its runtime are loaded meanwhile. */
static void replays_are_calls(int mode, char **options) {
    handle native[2], graph, executable;
    twin_t eager, replayed;
    scalert_memory_report_t memory = SCALERT_MEMORY_REPORT_INIT;
    double first, last;
    uint64_t skipped;
    int count = 0;
    while (options[count])
        count++;
    parse_options(count, options);
    opt.vocabulary = VOCABULARY;
    EXPECT(opt.context == SEQUENCE);
    for (int i = 0; i < 2; i++)
        CU(cu.stream_create(&native[i], 1));
    create(&eager, native[0]);
    create(&replayed, native[1]);

    write_tokens(&eager, 0);
    enqueue_step(&eager);
    first = mean_loss(&eager);
    CHECK(scalert_runtime_memory(eager.model.runtime, &memory));
    CHECK(scalert_stream_reserve(replayed.model.stream, memory.tier[SCALERT_TIER_DEVICE].workspace));
    CU(cu.begin_capture(native[1], mode));
    enqueue_step(&replayed);
    CU(cu.end_capture(native[1], &graph));
    CU(cu.graph_instantiate(&executable, graph, 0));
    CU(cu.graph_destroy(graph));

    last = first;
    for (uint64_t step = 0; step <= REPLAYS; step++) {
        if (step > 0) {
            write_tokens(&eager, step);
            enqueue_step(&eager);
            last = mean_loss(&eager);
        }
        write_tokens(&replayed, step);
        if (step < REPLAYS)
            CU(cu.graph_launch(executable, native[1]));
        else
            enqueue_step(&replayed); /* calls go on where replays have stopped */
        EXPECT(mean_loss(&replayed) == last);
        expect_same(&eager, &replayed);
    }
    skipped = REPLAYS + 1 - steps_taken(&replayed);
    EXPECT(opt.loss_scale > 0 ? skipped > 0 && skipped < REPLAYS : skipped == 0);
    printf("%s %s: %d replays, loss %.6f to %.6f, %" PRIu64 " skipped\n", archs[opt.arch], dtypes[opt.dtype], REPLAYS,
           first, last, skipped);
    CU(cu.graph_executable_destroy(executable));
    destroy(&replayed);
    destroy(&eager);
    for (int i = 0; i < 2; i++)
        CU(cu.stream_destroy(native[i]));
}

#define TINY                                                                                                           \
    "train_gpt", "none", "--layers=2", "--width=32", "--heads=2", "--context=16", "--micro-batch=2", "--lr=0.01",      \
        "--quiet"

int main(void) {
    char *gpt2[] = {TINY, NULL};
    char *llama[] = {TINY, "--arch=llama", "--dtype=f16", "--loss-scale=524288", "--kv-heads=1", "--dropout=0.1", NULL};
    handle context;
    uint32_t count = 0;
    if (scalert_device_count(SCALERT_DEVICE_CUDA, &count) != SCALERT_OK) {
        scalert_error_t error = SCALERT_ERROR_INIT;
        CHECK(scalert_last_error(&error));
        EXPECT(error.status == SCALERT_UNAVAILABLE);
        printf("no CUDA device: %s\n", error.message);
        return 0;
    }
    open_driver();
    CU(cu.context_create(&context, 0, 0));
    replays_are_calls(0, gpt2);
    replays_are_calls(2, llama);
    CU(cu.context_destroy(context));
    return 0;
}
