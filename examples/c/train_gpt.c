/* train_gpt.c - trains a small GPT over bytes with libscaleRT, by hand, in one file.
 *
 *   train_gpt [options] FILE...
 *
 * Reads the files as one stream of bytes, holds out the last tenth, trains a decoder-only transformer (--arch gpt2 or
 * llama) in bf16, f16 or f32 with f32 master weights, and ends with a sample of what it learned. It shows a framework's
 * side of the library: the program owns the model, the order of operations and the data; the library computes, keeps
 * the training state (weights, master weights, moments, gradient sums) and accounts for every byte. With --ranks
 * several threads train one model, each on its own data, and divide that state among them; compiled by mpicc with
 * -DRANKS_OVER_MPI, ranks are processes, as many as mpirun starts.
 *
 * Top to bottom: options, parameters, memory plan, forward, backward, data, training, sampling, ranks, main. */
#define _POSIX_C_SOURCE 200809L
#include <scaleRT.h>
#ifdef RANKS_OVER_MPI
#include <scaleRT_mpi.h>
#endif

#include <errno.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Every call into the library goes through CHECK. A framework would hand the status on; a program may exit. */
#define CHECK(call) check((call), __FILE__, __LINE__)

static void check(scalert_status_t status, const char *file, int line) {
    scalert_error_t error = SCALERT_ERROR_INIT;
    if (status == SCALERT_OK)
        return;
    scalert_last_error(&error);
    fprintf(stderr, "\n%s:%d: %s: %s\n", file, line, scalert_status_name(status), error.message);
    exit(1);
}

static void usage_error(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("train_gpt: ", stderr);
    vfprintf(stderr, format, arguments);
    fputs(" (--help lists the options)\n", stderr);
    va_end(arguments);
    exit(2);
}

static void *allocate(size_t count, size_t size) {
    void *memory = calloc(count, size);
    if (!memory) {
        fprintf(stderr, "train_gpt: out of memory\n");
        exit(1);
    }
    return memory;
}

/* ---- options ---------------------------------------------------------------------------------------------------- */

static struct {
    int64_t dtype, arch, vocabulary, layers, width, heads, kv_heads, context, micro_batch, accumulation, steps,
        schedule, warmup, optimizer, seed, threads, device_memory, force_overflow, eval_every, sample, quiet, ranks,
        stage, overlap, gradients;
    scalert_master_format_t master;
    scalert_moment_format_t moments;
    double lr, weight_decay, clip, dropout, loss_scale;
    const char *device, *trace, *format;
} opt;

/* Names of choices, and what they are to the library. */
static const char *const dtypes[] = {"bf16", "f16", "f32", NULL}, *const archs[] = {"gpt2", "llama", NULL};
static const char *const optimizers[] = {"adamw", "lion", "sgd", NULL};
static const char *const schedules[] = {"constant", "cosine", "linear", "rsqrt", "wsd", NULL};
static const char *const gradient_dtypes[] = {"f32", "bf16", NULL};
static const scalert_dtype_t gradient_codes[] = {SCALERT_F32, SCALERT_BF16};
static const char *const stages[] = {"0", "1", "2", "3", NULL};
static const scalert_dtype_t dtype_codes[] = {SCALERT_BF16, SCALERT_F16, SCALERT_F32};
static const scalert_optimizer_t optimizer_codes[] = {SCALERT_OPTIMIZER_ADAMW, SCALERT_OPTIMIZER_LION,
                                                      SCALERT_OPTIMIZER_SGD};
static const double default_rates[] = {0.002, 0.0003, 0.05}; /* of these optimizers */
static const scalert_schedule_kind_t schedule_codes[] = {SCALERT_SCHEDULE_CONSTANT, SCALERT_SCHEDULE_COSINE,
                                                         SCALERT_SCHEDULE_LINEAR, SCALERT_SCHEDULE_INVERSE_SQUARE_ROOT,
                                                         SCALERT_SCHEDULE_WARMUP_STABLE_DECAY};

typedef enum { COUNT, BYTES, REAL, CHOICE, TEXT, FLAG } kind_t;

static const struct option {
    const char *name, *initial;
    kind_t kind;
    void *value;
    double low, high;
    const char *const *choices;
    const char *help;
} options[] = {
    {"dtype", "bf16", CHOICE, &opt.dtype, 0, 0, dtypes, "of weights and activations"},
    {"arch", "gpt2", CHOICE, &opt.arch, 0, 0, archs, "layer norm, GELU, positions; or RMS norm, SwiGLU, rotary"},
    {"vocabulary", "256", COUNT, &opt.vocabulary, 2, 1 << 24, NULL,
     "rows of the token table; below 256: bytes that occur"},
    {"layers", "4", COUNT, &opt.layers, 1, 1000, NULL, "transformer blocks"},
    {"width", "192", COUNT, &opt.width, 16, 65536, NULL, "of the residual stream"},
    {"heads", "6", COUNT, &opt.heads, 1, 4096, NULL, "of queries; width / heads is a multiple of 8 from 16 to 256"},
    {"kv-heads", "0", COUNT, &opt.kv_heads, 0, 4096, NULL, "of keys and values; 0 = as many as heads"},
    {"context", "128", COUNT, &opt.context, 1, 1 << 20, NULL, "bytes that the model sees"},
    {"micro-batch", "16", COUNT, &opt.micro_batch, 1, 1 << 20, NULL, "sequences computed at a time"},
    {"accumulation", "1", COUNT, &opt.accumulation, 1, 1 << 20, NULL, "micro-batches per step"},
    {"steps", "600", COUNT, &opt.steps, 0, 1e9, NULL, "of the optimizer"},
    {"optimizer", "adamw", CHOICE, &opt.optimizer, 0, 0, optimizers, ""},
    {"lr", "0", REAL, &opt.lr, 0, 1e3, NULL, "peak learning rate; 0 = 0.002 for adamw, 0.0003 for lion, 0.05 for sgd"},
    {"schedule", "cosine", CHOICE, &opt.schedule, 0, 0, schedules, "from the peak to a tenth of it"},
    {"warmup", "-1", COUNT, &opt.warmup, -1, 1e9, NULL, "steps of linear warm-up, at most all; -1 = a twentieth"},
    {"weight-decay", "0.1", REAL, &opt.weight_decay, 0, 1e3, NULL, "of matrices; vectors have none"},
    {"clip", "1", REAL, &opt.clip, 0, 1e9, NULL, "largest global gradient norm; 0 = no clipping"},
    {"dropout", "0", REAL, &opt.dropout, 0, 0.99, NULL, "probability, after the embedding and each branch"},
    {"loss-scale", "0", REAL, &opt.loss_scale, 0, 1 << 24, NULL, "initial scale; 0 = 65536 with f16, none otherwise"},
    {"force-overflow", "0", COUNT, &opt.force_overflow, 0, 1e9, NULL, "makes this step's gradients overflow; 0 = none"},
    {"seed", "1", COUNT, &opt.seed, 0, 9e15, NULL, "of weights, batches, dropout and the sample"},
    {"eval-every", "50", COUNT, &opt.eval_every, 1, 1e9, NULL, "steps between validations"},
    {"sample", "256", COUNT, &opt.sample, 0, 1e6, NULL, "bytes of text to generate at the end"},
    {"device", "auto", TEXT, &opt.device, 0, 0, NULL, "auto, cpu or cuda:N"},
    {"device-memory", "0", BYTES, &opt.device_memory, 0, 9e15, NULL, "budget, suffix K, M or G; 0 = no limit"},
    {"threads", "0", COUNT, &opt.threads, 0, 1024, NULL, "of the CPU; 0 = all"},
    {"format", "f32,f32", TEXT, &opt.format, 0, 0, NULL,
     "of master weights, f32, split16 or none, and moments, f32, bf16 or int8"},
    {"gradients", "f32", CHOICE, &opt.gradients, 0, 0, gradient_dtypes, "that accumulate"},
    {"ranks", "1", COUNT, &opt.ranks, 1, 64, NULL, "threads that train together, each with micro-batches of its own"},
    {"stage", "0", CHOICE, &opt.stage, 0, 0, stages, "of ZeRO: ranks divide optimizer state, gradients, weights"},
    {"overlap", NULL, FLAG, &opt.overlap, 0, 0, NULL, "what goes between ranks goes while they compute"},
    {"trace", "", TEXT, &opt.trace, 0, 0, NULL, "file for a timeline of the last steps, as ui.perfetto.dev shows it"},
    {"quiet", NULL, FLAG, &opt.quiet, 0, 0, NULL, "only skipped steps and the final line"},
};
enum { OPTIONS = sizeof options / sizeof options[0] };

static void print_help(void) {
    printf("train_gpt [options] FILE...\nTrains a GPT over the bytes of the files with libscaleRT.\n\n");
    for (const struct option *o = options; o < options + OPTIONS; o++) {
        printf("  --%-15s %-7s ", o->name, o->initial ? o->initial : "");
        for (int i = 0; o->choices && o->choices[i]; i++)
            printf("%s%s", o->choices[i], o->choices[i + 1] ? "|" : *o->help ? ": " : "");
        printf("%s\n", o->help);
    }
    printf("  --%-15s %-7s this text; the second column holds the defaults\n", "help", "");
}

static void set_option(const struct option *o, const char *text) {
    char *end;
    double number = strtod(text, &end);
    if (o->kind == TEXT) {
        *(const char **)o->value = text;
        return;
    }
    if (o->kind == CHOICE) {
        for (int i = 0; o->choices[i]; i++)
            if (strcmp(o->choices[i], text) == 0) {
                *(int64_t *)o->value = i;
                return;
            }
        usage_error("--%s has no choice '%s'", o->name, text);
    }
    if (o->kind == BYTES && end != text && *end && strchr("KMG", *end))
        number *= *end == 'K' ? 1024.0 : *end == 'M' ? 1048576.0 : 1073741824.0, end++;
    if (end == text || *end || (o->kind != REAL && number != floor(number)))
        usage_error("--%s is '%s', must be a %snumber", o->name, text, o->kind == REAL ? "" : "whole ");
    if (!(number >= o->low && number <= o->high))
        usage_error("--%s is %s, must be from %g to %g", o->name, text, o->low, o->high);
    if (o->kind == REAL)
        *(double *)o->value = number;
    else
        *(int64_t *)o->value = (int64_t)number;
}

/* --format MASTER[,MOMENTS] */
static void parse_format(void) {
    static const char *const masters[] = {"f32", "split16", "none", NULL}, *const moments[] = {"f32", "bf16", "int8",
                                                                                               NULL};
    const size_t length = strcspn(opt.format, ",");
    const char *second = opt.format[length] ? opt.format + length + 1 : "f32";
    opt.master = opt.moments = -1;
    for (int i = 0; i < 3; i++) {
        if (strlen(masters[i]) == length && strncmp(opt.format, masters[i], length) == 0)
            opt.master = i; /* SCALERT_MASTER_F32, _SPLIT16, _NONE */
        if (strcmp(second, moments[i]) == 0)
            opt.moments = i; /* SCALERT_MOMENTS_F32, _BF16, _INT8 */
    }
    if (opt.master < 0 || opt.moments < 0)
        usage_error("--format is '%s', must be f32, split16 or none, and after a comma f32, bf16 or int8", opt.format);
}

static const struct option *find_option(const char *word, size_t length) {
    for (const struct option *o = options; o < options + OPTIONS; o++)
        if (strncmp(word, "--", 2) == 0 && length == strlen(o->name) + 2 && !strncmp(word + 2, o->name, length - 2))
            return o;
    usage_error("unknown option %s", word);
    return NULL;
}

/* Moves the data files to the front of argv and returns their number. */
static int parse_options(int argc, char **argv) {
    int files = 0;
    for (const struct option *o = options; o < options + OPTIONS; o++)
        if (o->initial)
            set_option(o, o->initial);
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i], *equals = strchr(word, '=');
        const struct option *found;
        if (word[0] != '-') {
            argv[files++] = argv[i];
            continue;
        }
        if (strcmp(word, "--help") == 0) {
            print_help();
            exit(0);
        }
        found = find_option(word, equals ? (size_t)(equals - word) : strlen(word));
        if (found->kind == FLAG)
            *(int64_t *)found->value = 1;
        else if (equals || i + 1 < argc)
            set_option(found, equals ? equals + 1 : argv[++i]);
        else
            usage_error("%s needs a value", word);
    }
    parse_format();
    opt.kv_heads = opt.kv_heads ? opt.kv_heads : opt.heads;
    opt.lr = opt.lr > 0 ? opt.lr : default_rates[opt.optimizer];
    opt.warmup = opt.warmup < 0 ? opt.steps / 20 : opt.warmup < opt.steps ? opt.warmup : opt.steps;
    if (!files)
        usage_error("no data file");
    if (opt.width % opt.heads)
        usage_error("--width %" PRId64 " is not a multiple of --heads %" PRId64, opt.width, opt.heads);
    if (opt.width / opt.heads % 8 || opt.width / opt.heads < 16 || opt.width / opt.heads > 256)
        usage_error("--width / --heads is %" PRId64 ", must be a multiple of 8 from 16 to 256", opt.width / opt.heads);
    if (opt.heads % opt.kv_heads)
        usage_error("--heads %" PRId64 " is not a multiple of --kv-heads %" PRId64, opt.heads, opt.kv_heads);
    return files;
}

/* ---- model and parameters --------------------------------------------------------------------------------------- */

typedef struct parameter {
    int64_t rows, columns; /* columns = 0: a vector */
    uint64_t elements;
    float deviation;         /* of its initial values; 0 = zeros, ONES = ones */
    scalert_tensor_t weight; /* valid while acquired */
} parameter_t;
#define ONES -1.0f

/* The weight and the bias of a norm or of a linear map, as numbers of parameters. A llama has no biases. */
typedef struct affine {
    uint32_t weight, bias; /* bias may be SCALERT_NONE */
} affine_t;

/* A norm with what its backward pass needs: input, output and statistics. */
typedef struct norm {
    affine_t affine;
    void *input, *output, *mean, *rstd;
} norm_t;

typedef struct block {
    uint32_t first, count; /* its parameters lie next to each other */
    norm_t norm1, norm2;
    affine_t qkv, projection, up, down;
    /* Kept for backward. up_out is the GELU's input, or gate and up side by side. */
    void *qkv_out, *log_sum_exp, *attended, *up_out, *activated;
} block_t;

typedef struct model {
    uint32_t rank;
    scalert_comm_t *comm; /* NULL when there is one rank */
    scalert_runtime_t *runtime;
    scalert_stream_t *stream;
    scalert_state_t *state;
    scalert_scaler_t *scaler;  /* NULL without loss scaling */
    scalert_trace_t *trace;    /* NULL without --trace */
    scalert_arena_t *arena;    /* activations and gradients, on the device */
    scalert_arena_t *exchange; /* what both the host and the device touch: tokens, losses, logits */
    scalert_dtype_t dtype;
    int64_t head_width, qkv_width;
    int64_t hidden, up_width; /* inside the MLP; up_width is that, or twice that for gate and up */

    parameter_t *parameters;
    uint32_t count;
    uint64_t gradient_room;     /* for the largest gradient of a weight with that of its bias */
    uint32_t matrices, vectors; /* groups: with and without weight decay */
    uint32_t token_table, position_table, head;
    block_t *blocks;
    norm_t final_norm;

    int64_t batch, time;                       /* of the activations now in memory */
    scalert_random_key_t dropout;              /* of the current micro-batch */
    void *branch, *gradient, *dnormed, *dwide; /* scratch; gradient is that of the residual stream */
    int32_t *tokens, *targets;
    float *losses, *logits;
    int64_t *loss_sum; /* an exact sum */
    void *staging;     /* room for one weight on the host's side */
} model_t;

/* Whether this rank prints what all have in common. */
static int talks(const model_t *m) {
    return m->rank == 0 && !opt.quiet;
}

static int llama(void) {
    return opt.arch == 1;
}

/* An arena deals in lines of 64 bytes. */
static uint64_t round64(uint64_t bytes) {
    return (bytes + 63) / 64 * 64;
}

/* Gradients are f32. */
static uint64_t gradient_bytes(const model_t *m, uint32_t parameter) {
    return parameter == SCALERT_NONE ? 0 : round64(4 * m->parameters[parameter].elements);
}

static void make_gradient_room(model_t *m, affine_t affine) {
    const uint64_t bytes = gradient_bytes(m, affine.weight) + gradient_bytes(m, affine.bias);
    m->gradient_room = bytes > m->gradient_room ? bytes : m->gradient_room;
}

static uint32_t add_parameter(model_t *m, const char *name, int64_t rows, int64_t columns, float deviation) {
    const int64_t shape[2] = {rows, columns};
    const uint32_t group = columns ? m->matrices : m->vectors;
    parameter_t *p = &m->parameters[m->count];
    uint32_t number;
    CHECK(scalert_state_add_parameter(m->state, group, name, columns ? 2 : 1, shape, &number));
    p->rows = rows;
    p->columns = columns;
    p->elements = (uint64_t)(rows * (columns ? columns : 1));
    p->deviation = deviation;
    m->count = number + 1;
    make_gradient_room(m, (affine_t){number, SCALERT_NONE});
    return number;
}

static affine_t add_affine(model_t *m, int64_t layer, const char *part, int64_t rows, int64_t columns,
                           float deviation) {
    affine_t affine = {0, SCALERT_NONE};
    char prefix[32] = "", name[64];
    if (layer >= 0)
        snprintf(prefix, sizeof prefix, "block%" PRId64 ".", layer);
    snprintf(name, sizeof name, "%s%s.weight", prefix, part);
    affine.weight = add_parameter(m, name, rows, columns, deviation);
    snprintf(name, sizeof name, "%s%s.bias", prefix, part);
    if (!llama())
        affine.bias = add_parameter(m, name, rows, 0, 0.0f);
    make_gradient_room(m, affine);
    return affine;
}

/* Describes the model to the state. Matrices are [out, in]: y = x weight^T + bias. */
static void add_parameters(model_t *m) {
    /* Radford et al. 2019: the last layers of the residual branches start smaller, by the number of branches. */
    const float deviation = 0.02f, residual = 0.02f / sqrtf(2.0f * (float)opt.layers);
    scalert_group_desc_t group = SCALERT_GROUP_DESC_INIT;

    m->head_width = opt.width / opt.heads;
    m->qkv_width = (opt.heads + 2 * opt.kv_heads) * m->head_width;
    m->hidden = llama() ? (opt.width * 8 / 3 + 31) / 32 * 32 : 4 * opt.width;
    m->up_width = llama() ? 2 * m->hidden : m->hidden;
    m->parameters = allocate(5 + 12 * (size_t)opt.layers, sizeof *m->parameters);
    m->blocks = allocate((size_t)opt.layers, sizeof *m->blocks);

    group.optimizer = optimizer_codes[opt.optimizer];
    group.weight_dtype = m->dtype;
    group.master = opt.master;
    group.moments = opt.moments;
    group.seed = (uint64_t)opt.seed;
    group.momentum = group.optimizer == SCALERT_OPTIMIZER_SGD ? 0.9f : 0.0f;
    group.beta2 = group.optimizer == SCALERT_OPTIMIZER_ADAMW ? 0.95f : 0.0f;
    group.weight_decay = (float)opt.weight_decay;
    CHECK(scalert_state_add_group(m->state, &group, &m->matrices));
    group.weight_decay = 0.0f;
    CHECK(scalert_state_add_group(m->state, &group, &m->vectors));

    m->token_table = add_parameter(m, "token_table", opt.vocabulary, opt.width, deviation);
    m->position_table = SCALERT_NONE;
    if (!llama())
        m->position_table = add_parameter(m, "position_table", opt.context, opt.width, deviation);
    for (int64_t l = 0; l < opt.layers; l++) {
        block_t *b = &m->blocks[l];
        b->first = m->count;
        b->norm1.affine = add_affine(m, l, "norm1", opt.width, 0, ONES);
        b->qkv = add_affine(m, l, "qkv", m->qkv_width, opt.width, deviation);
        b->projection = add_affine(m, l, "projection", opt.width, opt.width, residual);
        b->norm2.affine = add_affine(m, l, "norm2", opt.width, 0, ONES);
        b->up = add_affine(m, l, llama() ? "gate_up" : "up", m->up_width, opt.width, deviation);
        b->down = add_affine(m, l, "down", opt.width, m->hidden, residual);
        b->count = m->count - b->first;
    }
    m->final_norm.affine = add_affine(m, -1, "final_norm", opt.width, 0, ONES);
    /* GPT-2 reads its logits off the token table; a llama has a matrix of its own for them. */
    m->head = llama() ? add_parameter(m, "head", opt.vocabulary, opt.width, deviation) : m->token_table;
}

/* The weights of count parameters are current and on the device from acquire to release. */
static void acquire(model_t *m, uint32_t first, uint32_t count) {
    for (uint32_t p = first; p < first + count; p++)
        CHECK(scalert_state_acquire(m->state, p, m->stream, &m->parameters[p].weight));
}

static void release(model_t *m, uint32_t first, uint32_t count) {
    for (uint32_t p = first; p < first + count; p++)
        CHECK(scalert_state_release(m->state, p, m->stream));
}

static const scalert_tensor_t *weight(const model_t *m, uint32_t parameter) {
    return parameter == SCALERT_NONE ? NULL : &m->parameters[parameter].weight;
}

/* Names what the program does until leave, on the timeline of the thread and of the stream. */
static void enter(model_t *m, const char *range) {
    if (m->trace)
        CHECK(scalert_trace_range_begin(m->trace, m->stream, range));
}

static void leave(model_t *m) {
    if (m->trace)
        CHECK(scalert_trace_range_end(m->trace, m->stream));
}

/* ---- memory plan ------------------------------------------------------------------------------------------------ */

enum { RESIDUAL, NORMALISED, ATTENTION, MLP, BACKWARD, GRADIENTS, EXCHANGE, PURPOSES };

/* Bytes of each purpose. The same walk over all buffers first adds them up, then, with arenas, takes them. */
typedef struct plan {
    uint64_t bytes[PURPOSES];
} plan_t;

static uint64_t dtype_bytes(scalert_dtype_t dtype) {
    return dtype == SCALERT_BF16 || dtype == SCALERT_F16 ? 2 : dtype == SCALERT_I64 ? 8 : 4;
}

static void take(model_t *m, plan_t *plan, int purpose, void *where, int64_t elements, scalert_dtype_t dtype) {
    const uint64_t bytes = round64((uint64_t)elements * dtype_bytes(dtype));
    scalert_arena_t *arena = purpose == EXCHANGE ? m->exchange : m->arena;
    void *memory = NULL;
    plan->bytes[purpose] += bytes;
    if (arena) {
        CHECK(scalert_arena_alloc(arena, bytes, &memory));
        memcpy(where, &memory, sizeof memory); /* into a pointer of any type */
    }
}

static void take_norm(model_t *m, plan_t *plan, norm_t *norm, int64_t rows) {
    take(m, plan, RESIDUAL, &norm->input, rows * opt.width, m->dtype);
    take(m, plan, NORMALISED, &norm->output, rows * opt.width, m->dtype);
    take(m, plan, NORMALISED, &norm->mean, rows, SCALERT_F32);
    take(m, plan, NORMALISED, &norm->rstd, rows, SCALERT_F32);
}

static plan_t take_everything(model_t *m) {
    const int64_t rows = opt.micro_batch * opt.context;
    uint64_t largest = 0;
    plan_t plan = {{0}};
    for (int64_t l = 0; l < opt.layers; l++) {
        block_t *b = &m->blocks[l];
        take_norm(m, &plan, &b->norm1, rows);
        take_norm(m, &plan, &b->norm2, rows);
        take(m, &plan, ATTENTION, &b->qkv_out, rows * m->qkv_width, m->dtype);
        take(m, &plan, ATTENTION, &b->attended, rows * opt.width, m->dtype);
        take(m, &plan, ATTENTION, &b->log_sum_exp, rows * opt.heads, SCALERT_F32);
        take(m, &plan, MLP, &b->up_out, rows * m->up_width, m->dtype);
        take(m, &plan, MLP, &b->activated, rows * m->hidden, m->dtype);
    }
    take_norm(m, &plan, &m->final_norm, rows);
    take(m, &plan, RESIDUAL, &m->branch, rows * opt.width, m->dtype);
    take(m, &plan, BACKWARD, &m->gradient, rows * opt.width, m->dtype);
    take(m, &plan, BACKWARD, &m->dnormed, rows * opt.width, m->dtype);
    take(m, &plan, BACKWARD, &m->dwide, rows * (m->hidden > m->qkv_width ? m->hidden : m->qkv_width), m->dtype);
    /* Gradients of parameters are made one weight and bias at a time and handed over at once; only that of a tied table
     * lives through the whole backward pass. Training takes this room and gives it back. */
    plan.bytes[GRADIENTS] = m->gradient_room + (m->head == m->token_table ? gradient_bytes(m, m->head) : 0);
    for (uint32_t p = 0; p < m->count; p++)
        largest = m->parameters[p].elements > largest ? m->parameters[p].elements : largest;
    take(m, &plan, EXCHANGE, &m->tokens, rows, SCALERT_I32);
    take(m, &plan, EXCHANGE, &m->targets, rows, SCALERT_I32);
    take(m, &plan, EXCHANGE, &m->losses, rows, SCALERT_F32);
    take(m, &plan, EXCHANGE, &m->logits, opt.vocabulary, SCALERT_F32);
    take(m, &plan, EXCHANGE, &m->loss_sum, SCALERT_EXACT_SUM_LIMBS, SCALERT_I64);
    take(m, &plan, EXCHANGE, &m->staging, (int64_t)largest, m->dtype);
    return plan;
}

static void print_bytes(const char *purpose, uint64_t bytes) {
    printf("  %-22s %14" PRIu64 "  %9.2f MiB\n", purpose, bytes, (double)bytes / 1048576.0);
}

/* What training takes is known to the byte before any of it is allocated: the state says what it will hold, the
 * activations are arithmetic. Only the operations' workspace comes on top, as they need it. */
static void plan_and_allocate(model_t *m, scalert_tier_t exchange_tier) {
    static const char *const purposes[PURPOSES] = {
        "residual stream",  "normalised",          "attention",          "MLP",
        "backward scratch", "parameter gradients", "exchanged with host"};
    scalert_memory_report_t state = SCALERT_MEMORY_REPORT_INIT;
    const scalert_tier_report_t *held = &state.tier[SCALERT_TIER_DEVICE];
    const plan_t plan = take_everything(m);
    uint64_t activations = 0;
    CHECK(scalert_state_memory(m->state, &state));
    for (int i = 0; i < EXCHANGE; i++)
        activations += plan.bytes[i];
    if (talks(m)) {
        printf("plan%s, bytes (the operations' workspace comes on top):\n", m->comm ? " of each rank" : "");
        print_bytes("weights", held->weights);
        print_bytes("master weights", held->master);
        print_bytes("moments", held->moments);
        print_bytes("gradient sums", held->gradients);
        if (m->comm)
            print_bytes("between ranks", held->workspace);
        for (int i = 0; i < PURPOSES; i++)
            print_bytes(purposes[i], plan.bytes[i]);
        print_bytes("on the device, in all", held->used + activations);
        if (opt.device_memory)
            print_bytes("budget", (uint64_t)opt.device_memory);
        fflush(stdout);
    }
    CHECK(scalert_state_seal(m->state));
    CHECK(scalert_arena_create(m->runtime, SCALERT_TIER_DEVICE, activations, &m->arena));
    CHECK(scalert_arena_create(m->runtime, exchange_tier, plan.bytes[EXCHANGE], &m->exchange));
    take_everything(m);
    memset(m->loss_sum, 0, SCALERT_EXACT_SUM_LIMBS * sizeof *m->loss_sum);
}

/* ---- views ------------------------------------------------------------------------------------------------------ */

static scalert_tensor_t tensor(void *data, scalert_dtype_t dtype, int32_t ndim, const int64_t *shape) {
    scalert_tensor_t view;
    CHECK(scalert_tensor_contiguous(data, dtype, ndim, shape, &view));
    return view;
}

/* Activations of all positions, [batch * time, width]. */
static scalert_tensor_t rows(const model_t *m, void *data, int64_t width) {
    return tensor(data, m->dtype, 2, (int64_t[]){m->batch * m->time, width});
}

/* One f32 figure per position, [batch * time]. */
static scalert_tensor_t figures(const model_t *m, void *data) {
    return tensor(data, SCALERT_F32, 1, (int64_t[]){m->batch * m->time});
}

static scalert_tensor_t batch_of_ids(const model_t *m, int32_t *ids) {
    return tensor(ids, SCALERT_I32, 2, (int64_t[]){m->batch, m->time});
}

static scalert_tensor_t loss_accumulator(const model_t *m) {
    return tensor(m->loss_sum, SCALERT_I64, 1, (int64_t[]){SCALERT_EXACT_SUM_LIMBS});
}

static scalert_tensor_t parameter_view(const model_t *m, uint32_t parameter, void *data, scalert_dtype_t dtype) {
    const parameter_t *p = &m->parameters[parameter];
    return tensor(data, dtype, p->columns ? 2 : 1, (int64_t[]){p->rows, p->columns});
}

/* Columns of a packed [batch * time, row] buffer, from a column on. */
static scalert_tensor_t columns(const model_t *m, void *data, int64_t row, int64_t from, int64_t width) {
    scalert_tensor_t view = rows(m, (char *)data + (size_t)from * dtype_bytes(m->dtype), width);
    view.stride[0] = row;
    return view;
}

/* Queries, keys and values inside packed rows: [batch, time, heads, head_width]. */
typedef struct heads {
    scalert_tensor_t q, k, v;
} heads_t;

static scalert_tensor_t head_view(const model_t *m, void *data, int64_t first, int64_t count) {
    scalert_tensor_t view = tensor((char *)data + (size_t)(first * m->head_width) * dtype_bytes(m->dtype), m->dtype, 4,
                                   (int64_t[]){m->batch, m->time, count, m->head_width});
    view.stride[0] = m->time * m->qkv_width;
    view.stride[1] = m->qkv_width;
    return view;
}

static heads_t split_heads(const model_t *m, void *qkv) {
    heads_t heads;
    heads.q = head_view(m, qkv, 0, opt.heads);
    heads.k = head_view(m, qkv, opt.heads, opt.kv_heads);
    heads.v = head_view(m, qkv, opt.heads + opt.kv_heads, opt.kv_heads);
    return heads;
}

static scalert_tensor_t unpacked_heads(const model_t *m, void *data) {
    return tensor(data, m->dtype, 4, (int64_t[]){m->batch, m->time, opt.heads, m->head_width});
}

/* What a block keeps for its backward pass. up is also seen as gate and value side by side. */
typedef struct kept {
    scalert_tensor_t x, normed1, qkv, attended, attended_heads, log_sum_exp, middle, normed2, up, gate, value,
        activated;
    heads_t heads;
} kept_t;

static kept_t kept_by(const model_t *m, const block_t *b) {
    kept_t k;
    k.x = rows(m, b->norm1.input, opt.width);
    k.normed1 = rows(m, b->norm1.output, opt.width);
    k.qkv = rows(m, b->qkv_out, m->qkv_width);
    k.heads = split_heads(m, b->qkv_out);
    k.attended = rows(m, b->attended, opt.width);
    k.attended_heads = unpacked_heads(m, b->attended);
    k.log_sum_exp = tensor(b->log_sum_exp, SCALERT_F32, 3, (int64_t[]){m->batch, opt.heads, m->time});
    k.middle = rows(m, b->norm2.input, opt.width);
    k.normed2 = rows(m, b->norm2.output, opt.width);
    k.up = rows(m, b->up_out, m->up_width);
    k.gate = columns(m, b->up_out, m->up_width, 0, m->hidden);
    k.value = columns(m, b->up_out, m->up_width, m->up_width - m->hidden, m->hidden);
    k.activated = rows(m, b->activated, m->hidden);
    return k;
}

/* ---- forward ---------------------------------------------------------------------------------------------------- */

static const float norm_epsilon = 1e-5f;

static scalert_tensor_t norm_forward(model_t *m, const norm_t *n) {
    scalert_tensor_t x = rows(m, n->input, opt.width), y = rows(m, n->output, opt.width);
    scalert_tensor_t mean = figures(m, n->mean), rstd = figures(m, n->rstd);
    const scalert_tensor_t *scale = weight(m, n->affine.weight), *bias = weight(m, n->affine.bias);
    if (llama())
        CHECK(scalert_rms_norm_forward(m->stream, &x, scale, norm_epsilon, &y, &rstd));
    else
        CHECK(scalert_layer_norm_forward(m->stream, &x, scale, bias, norm_epsilon, &y, &mean, &rstd));
    return y;
}

/* y = x weight^T + bias; with pre_activation, that is written there and y is its GELU. */
static void linear_forward(model_t *m, affine_t affine, const scalert_tensor_t *x, const scalert_tensor_t *y,
                           const scalert_tensor_t *pre_activation) {
    scalert_gemm_options_t options = SCALERT_GEMM_OPTIONS_INIT;
    options.bias = weight(m, affine.bias);
    options.pre_activation = pre_activation;
    options.activation = pre_activation ? SCALERT_ACTIVATION_GELU_TANH : SCALERT_ACTIVATION_NONE;
    CHECK(scalert_gemm(m->stream, 0, 1, x, weight(m, affine.weight), y, &options));
}

/* Forward and backward alike: the mask depends on seed, micro-batch and place only. */
static void dropout(model_t *m, uint32_t place, const scalert_tensor_t *x, const scalert_tensor_t *y) {
    scalert_random_key_t key = m->dropout;
    key.tensor = place;
    CHECK(scalert_dropout(m->stream, x, (float)opt.dropout, key, y));
}
enum { AFTER_EMBEDDING, AFTER_ATTENTION, AFTER_MLP }; /* the latter two count on by 2 for each layer */

static void rotate(model_t *m, const heads_t *heads, uint8_t inverse) {
    scalert_rotary_options_t options = SCALERT_ROTARY_OPTIONS_INIT;
    options.inverse = inverse;
    CHECK(scalert_rotary(m->stream, &heads->q, &heads->q, &options));
    CHECK(scalert_rotary(m->stream, &heads->k, &heads->k, &options));
}

/* The block's output is the next norm's input. */
static void block_forward(model_t *m, int64_t layer, void *output, int training) {
    const block_t *b = &m->blocks[layer];
    const int drop = training && opt.dropout > 0;
    const kept_t k = kept_by(m, b);
    scalert_attention_options_t causal = SCALERT_ATTENTION_OPTIONS_INIT;
    scalert_tensor_t branch = rows(m, m->branch, opt.width), out = rows(m, output, opt.width);
    causal.causal = 1;

    acquire(m, b->first, b->count);
    norm_forward(m, &b->norm1);
    linear_forward(m, b->qkv, &k.normed1, &k.qkv, NULL);
    if (llama())
        rotate(m, &k.heads, 0);
    CHECK(scalert_attention_forward(m->stream, &k.heads.q, &k.heads.k, &k.heads.v, &k.attended_heads, &k.log_sum_exp,
                                    &causal));
    linear_forward(m, b->projection, &k.attended, &branch, NULL);
    if (drop)
        dropout(m, AFTER_ATTENTION + 2 * (uint32_t)layer, &branch, &branch);
    CHECK(scalert_add(m->stream, &k.x, &branch, &k.middle));

    norm_forward(m, &b->norm2);
    if (llama()) {
        linear_forward(m, b->up, &k.normed2, &k.up, NULL);
        CHECK(scalert_swiglu_forward(m->stream, &k.gate, &k.value, &k.activated));
    } else {
        linear_forward(m, b->up, &k.normed2, &k.activated, &k.up);
    }
    linear_forward(m, b->down, &k.activated, &branch, NULL);
    if (drop)
        dropout(m, AFTER_MLP + 2 * (uint32_t)layer, &branch, &branch);
    CHECK(scalert_add(m->stream, &k.middle, &branch, &out));
    release(m, b->first, b->count);
}

/* From m->tokens, [batch, time], to the output of the final norm, which is returned: [batch * time, width]. */
static scalert_tensor_t forward(model_t *m, int64_t batch, int64_t time, int training) {
    const uint32_t tables = llama() ? 1 : 2, final = m->final_norm.affine.weight, finals = llama() ? 1 : 2;
    scalert_tensor_t tokens, embedded, x, normed;
    m->batch = batch;
    m->time = time;
    tokens = batch_of_ids(m, m->tokens);
    embedded = tensor(m->blocks[0].norm1.input, m->dtype, 3, (int64_t[]){batch, time, opt.width});
    x = rows(m, m->blocks[0].norm1.input, opt.width);

    acquire(m, m->token_table, tables);
    CHECK(scalert_embedding_forward(m->stream, &tokens, weight(m, m->token_table), weight(m, m->position_table),
                                    &embedded));
    release(m, m->token_table, tables);
    if (training && opt.dropout > 0)
        dropout(m, AFTER_EMBEDDING, &x, &x);
    for (int64_t l = 0; l < opt.layers; l++)
        block_forward(m, l, l + 1 < opt.layers ? m->blocks[l + 1].norm1.input : m->final_norm.input, training);
    acquire(m, final, finals);
    normed = norm_forward(m, &m->final_norm);
    release(m, final, finals);
    return normed;
}

/* ---- backward --------------------------------------------------------------------------------------------------- */

/* Room for the gradient of a parameter, f32, from the arena's free end. */
static scalert_tensor_t gradient_buffer(model_t *m, uint32_t parameter) {
    void *memory;
    CHECK(scalert_arena_alloc(m->arena, gradient_bytes(m, parameter), &memory));
    return parameter_view(m, parameter, memory, SCALERT_F32);
}

/* The state adds a complete gradient to its sum. No event is asked for: the buffer is only ever reused by work enqueued
 * later on the same stream. */
static void hand_over(model_t *m, uint32_t parameter, const scalert_tensor_t *gradient) {
    CHECK(scalert_state_gradient_ready(m->state, m->stream, parameter, gradient, NULL));
}

/* dx = dy weight (times gelu'(pre_activation)); the gradients of weight and bias go to the state. dx is not dy. */
static void linear_backward(model_t *m, affine_t affine, const scalert_tensor_t *dy, const scalert_tensor_t *x,
                            const scalert_tensor_t *dx, const scalert_tensor_t *pre_activation) {
    scalert_gemm_options_t options = SCALERT_GEMM_OPTIONS_INIT;
    scalert_tensor_t dweight, dbias;
    uint64_t mark;
    CHECK(scalert_arena_mark(m->arena, &mark));
    dweight = gradient_buffer(m, affine.weight);
    CHECK(scalert_gemm(m->stream, 1, 0, dy, x, &dweight, NULL));
    hand_over(m, affine.weight, &dweight);
    if (affine.bias != SCALERT_NONE) {
        dbias = gradient_buffer(m, affine.bias);
        CHECK(scalert_bias_gradient(m->stream, dy, 0, &dbias));
        hand_over(m, affine.bias, &dbias);
    }
    options.pre_activation = pre_activation;
    options.activation = pre_activation ? SCALERT_ACTIVATION_GELU_TANH_BACKWARD : SCALERT_ACTIVATION_NONE;
    CHECK(scalert_gemm(m->stream, 0, 0, dy, weight(m, affine.weight), dx, &options));
    CHECK(scalert_arena_rewind(m->arena, mark));
}

/* dx may be dy. */
static void norm_backward(model_t *m, const norm_t *n, const scalert_tensor_t *dy, const scalert_tensor_t *dx) {
    const uint32_t scale = n->affine.weight, bias = n->affine.bias;
    scalert_tensor_t x = rows(m, n->input, opt.width), mean = figures(m, n->mean), rstd = figures(m, n->rstd);
    scalert_tensor_t dscale, dbias;
    uint64_t mark;
    CHECK(scalert_arena_mark(m->arena, &mark));
    dscale = gradient_buffer(m, scale);
    if (llama()) {
        CHECK(scalert_rms_norm_backward(m->stream, dy, &x, weight(m, scale), &rstd, 0, dx, &dscale));
    } else {
        dbias = gradient_buffer(m, bias);
        CHECK(scalert_layer_norm_backward(m->stream, dy, &x, weight(m, scale), &mean, &rstd, 0, dx, &dscale, &dbias));
        hand_over(m, bias, &dbias);
    }
    hand_over(m, scale, &dscale);
    CHECK(scalert_arena_rewind(m->arena, mark));
}

/* The gradient of a branch's output, given that of the residual stream. */
static scalert_tensor_t branch_gradient(model_t *m, uint32_t place, const scalert_tensor_t *dresidual) {
    scalert_tensor_t dbranch = rows(m, m->branch, opt.width);
    if (opt.dropout <= 0)
        return *dresidual;
    dropout(m, place, dresidual, &dbranch);
    return dbranch;
}

/* Turns the gradient of the block's output, in m->gradient, into that of its input. */
static void block_backward(model_t *m, int64_t layer) {
    const block_t *b = &m->blocks[layer];
    const kept_t k = kept_by(m, b);
    const heads_t dheads = split_heads(m, m->dwide);
    scalert_attention_options_t causal = SCALERT_ATTENTION_OPTIONS_INIT;
    scalert_tensor_t dresidual = rows(m, m->gradient, opt.width), dnormed = rows(m, m->dnormed, opt.width), dbranch;
    scalert_tensor_t dhidden = rows(m, m->dwide, m->hidden), dqkv = rows(m, m->dwide, m->qkv_width);
    scalert_tensor_t dattended = unpacked_heads(m, m->dnormed);
    causal.causal = 1;

    acquire(m, b->first, b->count);
    dbranch = branch_gradient(m, AFTER_MLP + 2 * (uint32_t)layer, &dresidual);
    if (llama()) {
        linear_backward(m, b->down, &dbranch, &k.activated, &dhidden, NULL);
        CHECK(scalert_swiglu_backward(m->stream, &k.gate, &k.value, &dhidden, &k.gate, &k.value));
        linear_backward(m, b->up, &k.up, &k.normed2, &dnormed, NULL); /* up has just become its own gradient */
    } else {
        linear_backward(m, b->down, &dbranch, &k.activated, &dhidden, &k.up);
        linear_backward(m, b->up, &dhidden, &k.normed2, &dnormed, NULL);
    }
    norm_backward(m, &b->norm2, &dnormed, &dnormed);
    CHECK(scalert_add(m->stream, &dresidual, &dnormed, &dresidual));

    dbranch = branch_gradient(m, AFTER_ATTENTION + 2 * (uint32_t)layer, &dresidual);
    linear_backward(m, b->projection, &dbranch, &k.attended, &dnormed, NULL);
    CHECK(scalert_attention_backward(m->stream, &k.heads.q, &k.heads.k, &k.heads.v, &k.attended_heads, &k.log_sum_exp,
                                     &dattended, &dheads.q, &dheads.k, &dheads.v, &causal));
    if (llama())
        rotate(m, &dheads, 1);
    linear_backward(m, b->qkv, &dqkv, &k.normed1, &dnormed, NULL);
    norm_backward(m, &b->norm1, &dnormed, &dnormed);
    CHECK(scalert_add(m->stream, &dresidual, &dnormed, &dresidual));
    release(m, b->first, b->count);
}

/* Loss and gradients of the micro-batch that forward left in memory. gradient_scale: 1 / positions, for a mean. */
static void backward(model_t *m, const scalert_tensor_t *normed, float gradient_scale) {
    const uint32_t final = m->final_norm.affine.weight, finals = llama() ? 1 : 2;
    const int tied = m->head == m->token_table;
    scalert_cross_entropy_options_t options = SCALERT_CROSS_ENTROPY_OPTIONS_INIT;
    scalert_tensor_t tokens = batch_of_ids(m, m->tokens), targets, losses = figures(m, m->losses), scale, sum;
    scalert_tensor_t dnormed = rows(m, m->dnormed, opt.width), dx = rows(m, m->gradient, opt.width);
    scalert_tensor_t dembedded = tensor(m->gradient, m->dtype, 3, (int64_t[]){m->batch, m->time, opt.width});
    scalert_tensor_t dhead, dposition;
    uint64_t mark;
    targets = tensor(m->targets, SCALERT_I32, 1, (int64_t[]){m->batch * m->time});
    sum = loss_accumulator(m);
    options.gradient_scale = gradient_scale;
    if (m->scaler) {
        CHECK(scalert_scaler_scale(m->scaler, &scale));
        options.loss_scale = &scale; /* read on the device: the host need not know it */
    }
    CHECK(scalert_arena_mark(m->arena, &mark));

    acquire(m, m->head, 1);
    dhead = gradient_buffer(m, m->head);
    CHECK(scalert_linear_cross_entropy(m->stream, normed, weight(m, m->head), &targets, 0, &losses, &dnormed, &dhead,
                                       &options));
    release(m, m->head, 1);
    CHECK(scalert_exact_sum(m->stream, &losses, SCALERT_SUM_OF_VALUES, &sum));
    if (!tied) {
        hand_over(m, m->head, &dhead);
        CHECK(scalert_arena_rewind(m->arena, mark));
    }
    acquire(m, final, finals);
    norm_backward(m, &m->final_norm, &dnormed, &dx);
    release(m, final, finals);
    for (int64_t l = opt.layers - 1; l >= 0; l--)
        block_backward(m, l);
    if (opt.dropout > 0)
        dropout(m, AFTER_EMBEDDING, &dx, &dx);
    if (tied) { /* the table's gradient is the sum over both of its uses */
        dposition = gradient_buffer(m, m->position_table);
        CHECK(scalert_fill(m->stream, 0.0f, &dposition));
        CHECK(scalert_embedding_backward(m->stream, &tokens, &dembedded, 1, &dhead, &dposition));
        hand_over(m, m->position_table, &dposition);
    } else {
        dhead = gradient_buffer(m, m->token_table);
        CHECK(scalert_embedding_backward(m->stream, &tokens, &dembedded, 0, &dhead, NULL));
    }
    hand_over(m, m->token_table, &dhead);
    CHECK(scalert_arena_rewind(m->arena, mark));
}

/* ---- data ------------------------------------------------------------------------------------------------------- */

typedef struct corpus {
    unsigned char *training, *validation;
    uint64_t training_bytes, validation_bytes;
} corpus_t;

/* Tokens are bytes; with a smaller vocabulary, the bytes that occur are numbered in their order. */
static struct {
    int32_t count, token_of[256];
    unsigned char byte_of[256];
} alphabet;

static void make_alphabet(const unsigned char *bytes, uint64_t count) {
    unsigned char occurs[256] = {0};
    for (uint64_t i = 0; i < count; i++)
        occurs[bytes[i]] = 1;
    for (int byte = 0; byte < 256; byte++)
        if (occurs[byte] || opt.vocabulary >= 256) {
            alphabet.token_of[byte] = alphabet.count;
            alphabet.byte_of[alphabet.count++] = (unsigned char)byte;
        }
    if (alphabet.count > opt.vocabulary)
        usage_error("--vocabulary %" PRId64 " is smaller than the number of different bytes in the data, %" PRId32,
                    opt.vocabulary, alphabet.count);
}

static corpus_t read_corpus(int files, char **paths) {
    corpus_t corpus = {NULL, NULL, 0, 0};
    uint64_t used = 0, capacity = 1 << 20;
    unsigned char *bytes = allocate(capacity, 1);
    for (int i = 0; i < files; i++) {
        FILE *file = fopen(paths[i], "rb");
        size_t got;
        if (!file)
            usage_error("cannot read %s: %s", paths[i], strerror(errno));
        while (errno = 0, (got = fread(bytes + used, 1, capacity - used, file)) > 0) {
            used += got;
            if (used == capacity) {
                unsigned char *grown = realloc(bytes, capacity *= 2);
                if (!grown)
                    usage_error("%s does not fit into memory", paths[i]);
                bytes = grown;
            }
        }
        if (ferror(file))
            usage_error("cannot read %s: %s", paths[i], strerror(errno));
        fclose(file);
    }
    make_alphabet(bytes, used);
    corpus.validation_bytes = used / 10;
    corpus.training_bytes = used - corpus.validation_bytes;
    corpus.training = bytes;
    corpus.validation = bytes + corpus.training_bytes;
    if (corpus.validation_bytes < (uint64_t)opt.context + 1)
        usage_error("%" PRIu64 " bytes of data are too few: a tenth of them must hold --context + 1 = %" PRId64, used,
                    opt.context + 1);
    return corpus;
}

/* Randomness of the host: a pure function of seed, purpose and counter (SplitMix64, Steele et al. 2014). */
enum { BATCHES, SAMPLING };

static uint64_t mix(uint64_t z) {
    z += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static uint64_t draw(uint64_t purpose, uint64_t counter) {
    return mix(mix(mix((uint64_t)opt.seed) ^ purpose) ^ counter);
}

/* Inputs are bytes, targets the bytes after them. */
static void fill_sequence(model_t *m, int64_t row, const unsigned char *bytes) {
    for (int64_t i = 0; i < opt.context; i++) {
        m->tokens[row * opt.context + i] = alphabet.token_of[bytes[i]];
        m->targets[row * opt.context + i] = alphabet.token_of[bytes[i + 1]];
    }
}

static void fill_micro_batch(model_t *m, const corpus_t *corpus, uint64_t micro) {
    const uint64_t starts = corpus->training_bytes - (uint64_t)opt.context;
    CHECK(scalert_stream_wait(m->stream)); /* the device may still read the last one */
    for (int64_t row = 0; row < opt.micro_batch; row++)
        fill_sequence(m, row,
                      corpus->training + draw(BATCHES, micro * (uint64_t)opt.micro_batch + (uint64_t)row) % starts);
}

/* ---- training --------------------------------------------------------------------------------------------------- */

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void initialise(model_t *m) {
    for (uint32_t p = 0; p < m->count; p++) {
        scalert_tensor_t values;
        uint64_t mark;
        if (m->parameters[p].deviation == 0.0f)
            continue; /* seal has made it zero */
        CHECK(scalert_arena_mark(m->arena, &mark));
        values = gradient_buffer(m, p);
        if (m->parameters[p].deviation == ONES) {
            CHECK(scalert_fill(m->stream, 1.0f, &values));
        } else {
            const scalert_random_key_t key = {(uint64_t)opt.seed, 0, p};
            CHECK(scalert_random_normal(m->stream, key, 0.0f, m->parameters[p].deviation, &values));
        }
        CHECK(scalert_state_write(m->state, m->stream, p, SCALERT_PART_MASTER, &values));
        CHECK(scalert_arena_rewind(m->arena, mark));
    }
}

/* The losses summed since the last call, over count positions of all ranks: their mean, exact but for the last
 * rounding. */
static double take_mean_loss(model_t *m, uint64_t count) {
    double sum;
    if (m->comm) { /* integers, whose sum is exact too */
        const scalert_tensor_t loss_sum = loss_accumulator(m);
        CHECK(scalert_comm_all_reduce(m->comm, m->stream, &loss_sum, SCALERT_REDUCE_SUM));
    }
    CHECK(scalert_stream_wait(m->stream));
    CHECK(scalert_exact_sum_read(m->loss_sum, &sum, NULL));
    memset(m->loss_sum, 0, SCALERT_EXACT_SUM_LIMBS * sizeof *m->loss_sum);
    return sum / (double)count;
}

static scalert_step_result_t train_step(model_t *m, const corpus_t *corpus, uint64_t step, float *learning_rate) {
    const float mean = 1.0f / (float)(opt.micro_batch * opt.context);
    scalert_schedule_t schedule = SCALERT_SCHEDULE_INIT;
    scalert_step_desc_t update = SCALERT_STEP_DESC_INIT;
    scalert_step_result_t result = SCALERT_STEP_RESULT_INIT;

    enter(m, "step");
    CHECK(scalert_state_begin_step(m->state));
    for (int64_t micro = 0; micro < opt.accumulation; micro++) {
        const uint64_t before = (step - 1) * (uint64_t)opt.accumulation + (uint64_t)micro;
        const uint64_t number = before * (uint64_t)opt.ranks + m->rank;
        const int overflow =
            step == (uint64_t)opt.force_overflow && micro == opt.accumulation - 1 && m->rank == opt.ranks - 1;
        scalert_tensor_t normed;
        m->dropout.seed = (uint64_t)opt.seed;
        m->dropout.step = number;
        fill_micro_batch(m, corpus, number);
        CHECK(scalert_state_begin_micro(m->state));
        enter(m, "forward");
        normed = forward(m, opt.micro_batch, opt.context, 1);
        leave(m);
        enter(m, "backward");
        backward(m, &normed, overflow ? FLT_MAX : mean);
        leave(m);
        CHECK(scalert_state_end_micro(m->state));
    }
    schedule.kind = schedule_codes[opt.schedule];
    schedule.peak = (float)opt.lr;
    schedule.floor = (float)opt.lr / 10.0f;
    schedule.warmup_steps = (uint64_t)opt.warmup;
    schedule.total_steps = (uint64_t)opt.steps;
    schedule.decay_steps = (uint64_t)(opt.steps / 5 < opt.steps - opt.warmup ? opt.steps / 5 : opt.steps - opt.warmup);
    CHECK(scalert_schedule_learning_rate(&schedule, step, learning_rate));

    update.learning_rate = *learning_rate;
    update.max_norm = (float)opt.clip;
    update.gradient_scale = 1.0f / (float)opt.accumulation;
    update.scaler = m->scaler;
    enter(m, "optimizer");
    CHECK(scalert_state_step(m->state, m->stream, &update));
    leave(m);
    leave(m);
    CHECK(scalert_state_step_result_wait(m->state, &result)); /* LOSS_SCALE_COLLAPSED ends the program here */
    return result;
}

static void report_skipped(const model_t *m, uint64_t step, const scalert_step_result_t *result) {
    scalert_parameter_info_t info = SCALERT_PARAMETER_INFO_INIT;
    CHECK(scalert_state_parameter_info(m->state, result->overflow_parameter, &info));
    printf("step %" PRIu64 " skipped: the gradient of %s overflowed in micro-batch %" PRIu32, step, info.name,
           result->overflow_micro);
    if (m->comm)
        printf(" of rank %" PRIu32, result->overflow_rank);
    if (m->scaler) {
        scalert_scaler_report_t scaler = SCALERT_SCALER_REPORT_INIT;
        CHECK(scalert_scaler_read_wait(m->scaler, &scaler));
        printf("; loss scale %g -> %g", (double)result->loss_scale, (double)scaler.scale);
    }
    printf("\n");
}

enum { EVAL_WINDOWS = 64 };

/* The mean loss over fixed, evenly spaced windows of the validation data, which the ranks share out. */
static double validate(model_t *m, const corpus_t *corpus) {
    const int64_t fitting = (int64_t)((corpus->validation_bytes - 1) / (uint64_t)opt.context);
    const int64_t windows = fitting < EVAL_WINDOWS ? fitting : EVAL_WINDOWS;
    const uint64_t last = corpus->validation_bytes - 1 - (uint64_t)opt.context;
    for (int64_t all = 0; all < windows; all += opt.micro_batch * opt.ranks) {
        const int64_t first = all + opt.micro_batch * m->rank;
        scalert_tensor_t normed, targets, losses, sum = loss_accumulator(m);
        CHECK(scalert_stream_wait(m->stream));
        for (int64_t row = 0; row < opt.micro_batch; row++) {
            const uint64_t window = (uint64_t)(first + row < windows ? first + row : 0);
            fill_sequence(m, row, corpus->validation + (windows > 1 ? last * window / (uint64_t)(windows - 1) : 0));
            if (first + row >= windows) /* fills up the last batches; negative targets count nothing */
                for (int64_t i = 0; i < opt.context; i++)
                    m->targets[row * opt.context + i] = -1;
        }
        normed = forward(m, opt.micro_batch, opt.context, 0);
        targets = tensor(m->targets, SCALERT_I32, 1, (int64_t[]){m->batch * m->time});
        losses = figures(m, m->losses);
        acquire(m, m->head, 1);
        CHECK(scalert_linear_cross_entropy(m->stream, &normed, weight(m, m->head), &targets, 0, &losses, NULL, NULL,
                                           NULL));
        release(m, m->head, 1);
        CHECK(scalert_exact_sum(m->stream, &losses, SCALERT_SUM_OF_VALUES, &sum));
    }
    return take_mean_loss(m, (uint64_t)(windows * opt.context));
}

static void show_progress(const model_t *m, uint64_t step, double loss, double tokens_per_s, double remaining,
                          double *last_line) {
    const double now = seconds_now();
    const int terminal = isatty(STDERR_FILENO), done = step == (uint64_t)opt.steps;
    char bar[21];
    if (!talks(m) || (!terminal && now - *last_line < 10.0) || (terminal && now - *last_line < 0.1 && !done))
        return;
    *last_line = now;
    for (int i = 0; i < 20; i++)
        bar[i] = (uint64_t)i * (uint64_t)opt.steps < 20 * step ? '#' : '.';
    bar[20] = 0;
    fprintf(stderr, "%s[%s] %" PRIu64 "/%" PRId64, terminal ? "\r" : "", bar, step, opt.steps);
    if (!isnan(loss))
        fprintf(stderr, "  loss %.3f", loss);
    fprintf(stderr, "  %.0f tokens/s  %02d:%02d left %s", tokens_per_s, (int)remaining / 60, (int)remaining % 60,
            terminal ? " " : "\n");
}

static void erase_progress(const model_t *m) {
    if (talks(m) && isatty(STDERR_FILENO))
        fprintf(stderr, "\r\033[K");
}

/* "peak device 97327144 host 321088": the most bytes that each used tier has held. */
static void print_peaks(const model_t *m) {
    static const char *const names[SCALERT_TIERS] = {"device", "pinned", "host", "disk"};
    scalert_memory_report_t memory = SCALERT_MEMORY_REPORT_INIT;
    CHECK(scalert_runtime_memory(m->runtime, &memory));
    printf("peak");
    for (int tier = 0; tier < SCALERT_TIERS; tier++)
        if (memory.tier[tier].peak)
            printf(" %s %" PRIu64, names[tier], memory.tier[tier].peak);
    printf("\n");
}

typedef struct outcome {
    double validation_loss, tokens_per_s, seconds;
} outcome_t;

enum { TRACED_STEPS = 3 }; /* the last ones: by then everything is warm */

static outcome_t train(model_t *m, const corpus_t *corpus) {
    const uint64_t step_tokens = (uint64_t)(opt.micro_batch * opt.context * opt.accumulation * opt.ranks);
    const uint64_t first_traced = opt.steps > TRACED_STEPS ? (uint64_t)(opt.steps - TRACED_STEPS + 1) : 1;
    const double start = seconds_now();
    double computing = 0.0, loss = NAN, last_line = start;
    uint64_t since_report = 0;
    outcome_t outcome = {NAN, 0.0, 0.0};
    for (uint64_t step = 1; step <= (uint64_t)opt.steps; step++) {
        const double before = seconds_now();
        float learning_rate;
        scalert_step_result_t result;
        if (m->trace && step == first_traced)
            CHECK(scalert_trace_start(m->trace));
        result = train_step(m, corpus, step, &learning_rate);
        if (m->trace && step == (uint64_t)opt.steps)
            CHECK(scalert_trace_stop(m->trace));
        /* The first step is slower: it is the first to use most of the memory. */
        computing = (step > 2 ? computing : 0.0) + seconds_now() - before;
        outcome.tokens_per_s = (double)((step > 1 ? step - 1 : 1) * step_tokens) / computing;
        since_report++;
        if (result.skipped && m->rank == 0) {
            erase_progress(m);
            report_skipped(m, step, &result);
        }
        if (step % (uint64_t)opt.eval_every == 0 || step == (uint64_t)opt.steps) {
            loss = take_mean_loss(m, since_report * step_tokens);
            since_report = 0;
            outcome.validation_loss = validate(m, corpus);
            erase_progress(m);
            if (talks(m)) {
                printf("step %" PRIu64 "/%" PRId64 "  train_loss %.4f  val_loss %.4f  tokens/s %.0f  grad_norm %.3f  "
                       "loss_scale %g  lr %.3g  ",
                       step, opt.steps, loss, outcome.validation_loss, outcome.tokens_per_s, result.gradient_norm,
                       (double)result.loss_scale, (double)learning_rate);
                print_peaks(m);
                fflush(stdout);
            }
        }
        show_progress(m, step, loss, outcome.tokens_per_s,
                      (seconds_now() - start) / (double)step * (double)((uint64_t)opt.steps - step), &last_line);
    }
    erase_progress(m);
    if (opt.steps == 0)
        outcome.validation_loss = validate(m, corpus);
    outcome.seconds = seconds_now() - start;
    return outcome;
}

static void write_trace(const model_t *m) {
    scalert_trace_info_t info = SCALERT_TRACE_INFO_INIT;
    CHECK(scalert_trace_write_wait(m->trace, opt.trace));
    CHECK(scalert_trace_describe(m->trace, &info));
    if (talks(m))
        printf("trace: %" PRIu64 " spans of the last steps in %s\n", info.spans, opt.trace);
}

/* ---- sampling and report ---------------------------------------------------------------------------------------- */

static const double temperature = 0.8;

/* Draws a token of the text from softmax(logits / temperature). */
static int32_t sample_token(const float *logits, uint64_t counter) {
    double weights[256], total = 0.0, point;
    float most = logits[0];
    for (int i = 1; i < alphabet.count; i++)
        most = logits[i] > most ? logits[i] : most;
    for (int i = 0; i < alphabet.count; i++)
        total += weights[i] = exp((double)(logits[i] - most) / temperature);
    point = total * (double)(draw(SAMPLING, counter) >> 11) / 9007199254740992.0;
    for (int i = 0; i < alphabet.count; i++)
        if ((point -= weights[i]) < 0.0)
            return i;
    return alphabet.count - 1;
}

static void print_escaped(int32_t byte) {
    if (byte == '\n')
        printf("\n  | ");
    else if (byte >= ' ' && byte <= '~')
        putchar(byte);
    else if (byte == '\t')
        printf("\\t");
    else
        printf("\\x%02x", (unsigned)byte);
}

/* Continues a line break token by token, always from the last context tokens. All ranks do: they may have the weights
 * only together. */
static void sample(model_t *m) {
    int64_t length = 1;
    m->tokens[0] = alphabet.token_of['\n'];
    if (m->rank == 0)
        printf("sample:\n  | ");
    for (int64_t i = 0; i < opt.sample; i++) {
        scalert_tensor_t normed = forward(m, 1, length, 0), last = normed, logits;
        int32_t token;
        last.data = (char *)normed.data + (size_t)((length - 1) * opt.width) * dtype_bytes(m->dtype);
        last.shape[0] = 1;
        logits = tensor(m->logits, SCALERT_F32, 2, (int64_t[]){1, opt.vocabulary});
        acquire(m, m->head, 1);
        CHECK(scalert_gemm(m->stream, 0, 1, &last, weight(m, m->head), &logits, NULL));
        release(m, m->head, 1);
        CHECK(scalert_stream_wait(m->stream));
        token = sample_token(m->logits, (uint64_t)i);
        if (m->rank == 0) {
            print_escaped(alphabet.byte_of[token]);
            fflush(stdout);
        }
        if (length == opt.context)
            memmove(m->tokens, m->tokens + 1, (size_t)--length * sizeof *m->tokens);
        m->tokens[length++] = token;
    }
    if (m->rank == 0)
        printf("\n");
}

/* FNV-1a over the bytes of all weights, as the model reads them, in registration order. */
static uint64_t hash_weights(model_t *m) {
    uint64_t hash = 14695981039346656037u;
    for (uint32_t p = 0; p < m->count; p++) {
        scalert_tensor_t copy = parameter_view(m, p, m->staging, m->dtype);
        const uint64_t bytes = m->parameters[p].elements * dtype_bytes(m->dtype);
        acquire(m, p, 1);
        CHECK(scalert_cast(m->stream, weight(m, p), &copy, NULL));
        release(m, p, 1);
        CHECK(scalert_stream_wait(m->stream));
        for (uint64_t i = 0; i < bytes; i++)
            hash = (hash ^ ((const unsigned char *)m->staging)[i]) * 1099511628211u;
    }
    return hash;
}

/* ---- main ------------------------------------------------------------------------------------------------------- */

static void choose_device(scalert_runtime_desc_t *desc) {
    uint32_t gpus = 0;
    char *end;
    if (strcmp(opt.device, "auto") == 0) {
        if (opt.ranks == 1 && scalert_device_count(SCALERT_DEVICE_CUDA, &gpus) == SCALERT_OK && gpus > 0)
            desc->device = SCALERT_DEVICE_CUDA;
    } else if (strncmp(opt.device, "cuda:", 5) == 0) {
        desc->device = SCALERT_DEVICE_CUDA;
        desc->ordinal = (int32_t)strtol(opt.device + 5, &end, 10);
        if (end == opt.device + 5 || *end || desc->ordinal < 0)
            usage_error("--device is '%s', must be auto, cpu or cuda:N", opt.device);
    } else if (strcmp(opt.device, "cpu") != 0)
        usage_error("--device is '%s', must be auto, cpu or cuda:N", opt.device);
}

static void print_model(const model_t *m, const scalert_device_info_t *device) {
    uint64_t elements = 0;
    for (uint32_t p = 0; p < m->count; p++)
        elements += m->parameters[p].elements;
    printf("%s: %" PRId64 " layers, width %" PRId64 ", %" PRId64 " heads over %" PRId64 " of keys, context %" PRId64
           ", %" PRIu64 " parameters in %s\non %s, %" PRIu32 " threads",
           archs[opt.arch], opt.layers, opt.width, opt.heads, opt.kv_heads, opt.context, elements, dtypes[opt.dtype],
           device->name, opt.threads ? (uint32_t)opt.threads : device->threads);
    if (m->comm)
        printf(" for %" PRId64 " ranks, ZeRO stage %s", opt.ranks, stages[opt.stage]);
    printf("\n");
}

/* A rank: its runtime and communicator are made, the rest is done here. */
typedef struct rank {
    uint32_t number;
    scalert_runtime_t *runtime;
    scalert_comm_t *comm; /* NULL when there is one rank */
    const scalert_device_info_t *device;
    int on_cpu;
    const corpus_t *corpus;
} rank_t;

static void *run_rank(void *argument) {
    const rank_t *rank = argument;
    scalert_state_desc_t state = SCALERT_STATE_DESC_INIT;
    model_t model, *m = &model;
    outcome_t outcome;
    uint64_t weights;

    memset(m, 0, sizeof *m);
    m->rank = rank->number;
    m->comm = rank->comm;
    m->runtime = rank->runtime;
    CHECK(scalert_stream_create(m->runtime, &m->stream));
    state.gradient_dtype = gradient_codes[opt.gradients];
    state.comm = m->comm;
    state.stage = (scalert_stage_t)opt.stage;
    state.overlap = (uint8_t)opt.overlap;
    CHECK(scalert_state_create(m->runtime, &state, &m->state));
    m->dtype = dtype_codes[opt.dtype];
    if (m->dtype == SCALERT_F16 || opt.loss_scale > 0) {
        scalert_scaler_desc_t scaler = SCALERT_SCALER_DESC_INIT;
        scaler.initial_scale = (float)opt.loss_scale;
        CHECK(scalert_scaler_create(m->runtime, &scaler, &m->scaler));
    }
    add_parameters(m);
    if (talks(m))
        print_model(m, rank->device);
    plan_and_allocate(m, rank->on_cpu ? SCALERT_TIER_HOST : SCALERT_TIER_PINNED);
    initialise(m);
    if (*opt.trace && m->rank == 0) {
        scalert_trace_desc_t trace = SCALERT_TRACE_DESC_INIT;
        CHECK(scalert_trace_create(m->runtime, &trace, &m->trace));
    }

    outcome = train(m, rank->corpus);
    if (m->trace)
        write_trace(m);
    if (opt.sample > 0 && !opt.quiet)
        sample(m);
    weights = hash_weights(m);
    if (m->rank == 0)
        printf("final: val_loss=%#.9g tokens_per_s=%.0f seconds=%.1f weights=%016" PRIx64 "\n", outcome.validation_loss,
               outcome.tokens_per_s, outcome.seconds, weights);

    scalert_trace_destroy(m->trace); /* in any order: children keep their parents alive */
    scalert_arena_destroy(m->exchange);
    scalert_arena_destroy(m->arena);
    scalert_scaler_destroy(m->scaler);
    scalert_state_destroy(m->state);
    scalert_comm_destroy(m->comm);
    scalert_stream_destroy(m->stream);
    scalert_runtime_destroy(m->runtime);
    free(m->blocks);
    free(m->parameters);
    return NULL;
}

/* ---- ranks and main --------------------------------------------------------------------------------------------- */

#ifdef RANKS_OVER_MPI
/* This process is one rank. */
static void run_ranks(const scalert_runtime_desc_t *desc, const scalert_device_info_t *device, const corpus_t *corpus) {
    scalert_comm_desc_t comm = SCALERT_COMM_DESC_INIT;
    rank_t rank = {0, NULL, NULL, device, 1, corpus};
    comm.checking = 1;
    CHECK(scalert_runtime_create(desc, &rank.runtime));
    CHECK(scalert_comm_create_mpi(rank.runtime, MPI_COMM_WORLD, &comm, &rank.comm));
    CHECK(scalert_comm_rank(rank.comm, &rank.number));
    run_rank(&rank);
}

/* Collectives come from one thread at a time, with --overlap not always the main one. */
static void begin_mpi(int *argc, char ***argv) {
    int threads, ranks;
    if (MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &threads) != MPI_SUCCESS || threads < MPI_THREAD_SERIALIZED)
        usage_error("MPI does not start");
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    opt.ranks = ranks;
}
#else
enum { MOST_RANKS = 64 };

/* Ranks are threads, the first of which is this one; they share the threads of the CPU out. */
static void run_ranks(const scalert_runtime_desc_t *given, const scalert_device_info_t *device,
                      const corpus_t *corpus) {
    scalert_comm_desc_t comm = SCALERT_COMM_DESC_INIT;
    scalert_runtime_desc_t desc = *given;
    scalert_runtime_t *runtimes[MOST_RANKS];
    scalert_comm_t *comms[MOST_RANKS] = {NULL};
    pthread_t threads[MOST_RANKS];
    rank_t ranks[MOST_RANKS];
    const uint32_t count = (uint32_t)opt.ranks, share = (opt.threads ? (uint32_t)opt.threads : device->threads) / count;
    if (count > 1)
        desc.threads = share ? share : 1;
    for (uint32_t r = 0; r < count; r++)
        CHECK(scalert_runtime_create(&desc, &runtimes[r]));
    if (count > 1)
        CHECK(scalert_comm_create_local(runtimes, count, &comm, comms));
    for (uint32_t r = count; r-- > 0;) {
        ranks[r] = (rank_t){r, runtimes[r], comms[r], device, desc.device == SCALERT_DEVICE_CPU, corpus};
        if (r > 0 && pthread_create(&threads[r], NULL, run_rank, &ranks[r]) != 0) {
            fprintf(stderr, "train_gpt: no thread for rank %" PRIu32 "\n", r);
            exit(1);
        }
    }
    run_rank(&ranks[0]);
    for (uint32_t r = 1; r < count; r++)
        pthread_join(threads[r], NULL);
}
#endif

int main(int argc, char **argv) {
    const int files = parse_options(argc, argv);
    const corpus_t corpus = read_corpus(files, argv);
    scalert_runtime_desc_t desc = SCALERT_RUNTIME_DESC_INIT;
    scalert_device_info_t device = SCALERT_DEVICE_INFO_INIT;

#ifdef RANKS_OVER_MPI
    begin_mpi(&argc, &argv);
#endif
    choose_device(&desc);
    desc.device_bytes = (uint64_t)opt.device_memory;
    desc.threads = desc.device == SCALERT_DEVICE_CPU ? (uint32_t)opt.threads : 0;
    CHECK(scalert_device_describe(desc.device, desc.ordinal, &device));
    run_ranks(&desc, &device, &corpus);
    free(corpus.training);
#ifdef RANKS_OVER_MPI
    MPI_Finalize();
#endif
    return 0;
}
