/* train_gpt.c - trains a small GPT over bytes with libscaleRT, by hand, in one file.
 *
 *   train_gpt [options] FILE...
 *
 * Reads the files as one stream of bytes, holds out the last tenth, trains a decoder-only transformer (--arch gpt2 or
 * llama) in bf16, f16 or f32 with f32 master weights, and ends with a sample of what it learned. It shows a framework's
 * side of the library: the program owns the model, the order of operations and the data; the library computes, keeps
 * the training state (weights, master weights, moments, gradient sums) and accounts for every byte.
 *
 * Top to bottom: options, model and parameters, memory plan, forward, backward, data, training, sampling, report. */
#define _POSIX_C_SOURCE 200809L
#include <scaleRT.h>

#include <errno.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { VOCABULARY = 256 };

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
    void *memory = calloc(count ? count : 1, size);
    if (!memory) {
        fprintf(stderr, "train_gpt: out of memory\n");
        exit(1);
    }
    return memory;
}

/* ---- options ---------------------------------------------------------------------------------------------------- */

enum { GPT2, LLAMA };
static const scalert_dtype_t dtype_codes[] = {SCALERT_BF16, SCALERT_F16, SCALERT_F32};
static const scalert_optimizer_t optimizer_codes[] = {SCALERT_OPTIMIZER_ADAMW, SCALERT_OPTIMIZER_LION,
                                                      SCALERT_OPTIMIZER_SGD};
static const scalert_schedule_kind_t schedule_codes[] = {SCALERT_SCHEDULE_CONSTANT, SCALERT_SCHEDULE_COSINE,
                                                         SCALERT_SCHEDULE_LINEAR, SCALERT_SCHEDULE_INVERSE_SQUARE_ROOT,
                                                         SCALERT_SCHEDULE_WARMUP_STABLE_DECAY};
static const double default_rates[] = {0.002, 0.0003, 0.05}; /* of the optimizers above */

static struct {
    int64_t dtype, arch, layers, width, heads, kv_heads, context, micro_batch, accumulation, steps, schedule, warmup,
        optimizer, seed, threads, device_memory, force_overflow, eval_every, eval_windows, sample, quiet;
    double lr, weight_decay, clip, dropout, loss_scale, temperature;
    const char *device;
} opt = {.layers = 4,
         .width = 192,
         .heads = 6,
         .context = 128,
         .micro_batch = 16,
         .accumulation = 1,
         .steps = 600,
         .schedule = 1,
         .warmup = -1,
         .seed = 1,
         .eval_every = 50,
         .eval_windows = 64,
         .sample = 256,
         .weight_decay = 0.1,
         .clip = 1.0,
         .temperature = 0.8,
         .device = "auto"};

typedef enum { COUNT, REAL, BYTES, CHOICE, TEXT, FLAG } kind_t;

static const struct option {
    const char *name;
    kind_t kind;
    void *value;
    double low, high;
    const char *choices, *help;
} options[] = {
    {"dtype", CHOICE, &opt.dtype, 0, 0, "bf16|f16|f32", "weights and activations; master weights are f32"},
    {"arch", CHOICE, &opt.arch, 0, 0, "gpt2|llama", "layer norm, GELU, positions; or RMS norm, SwiGLU, rotary"},
    {"layers", COUNT, &opt.layers, 1, 1000, NULL, "transformer blocks"},
    {"width", COUNT, &opt.width, 16, 65536, NULL, "of the residual stream"},
    {"heads", COUNT, &opt.heads, 1, 4096, NULL, "query heads; width / heads is a multiple of 8 from 16 to 256"},
    {"kv-heads", COUNT, &opt.kv_heads, 0, 4096, NULL, "key and value heads; 0 = as many as heads"},
    {"context", COUNT, &opt.context, 1, 1 << 20, NULL, "bytes that the model sees"},
    {"micro-batch", COUNT, &opt.micro_batch, 1, 1 << 20, NULL, "sequences computed at a time"},
    {"accumulation", COUNT, &opt.accumulation, 1, 1 << 20, NULL, "micro-batches per step"},
    {"steps", COUNT, &opt.steps, 0, 1e9, NULL, "optimizer steps"},
    {"optimizer", CHOICE, &opt.optimizer, 0, 0, "adamw|lion|sgd", NULL},
    {"lr", REAL, &opt.lr, 0, 1e3, NULL, "peak learning rate; 0 = 0.002 for adamw, 0.0003 for lion, 0.05 for sgd"},
    {"schedule", CHOICE, &opt.schedule, 0, 0, "constant|cosine|linear|rsqrt|wsd", "falls to a tenth of the peak"},
    {"warmup", COUNT, &opt.warmup, -1, 1e9, NULL, "steps of linear warm-up; -1 = a twentieth of all"},
    {"weight-decay", REAL, &opt.weight_decay, 0, 1e3, NULL, "of matrices; vectors have none"},
    {"clip", REAL, &opt.clip, 0, 1e9, NULL, "largest global gradient norm; 0 = no clipping"},
    {"dropout", REAL, &opt.dropout, 0, 0.99, NULL, "probability, after the embedding and each branch"},
    {"loss-scale", REAL, &opt.loss_scale, 0, 1 << 24, NULL, "initial scale; 0 = 65536 with f16, none otherwise"},
    {"force-overflow", COUNT, &opt.force_overflow, 0, 1e9, NULL, "makes the gradients of this step overflow; 0 = none"},
    {"seed", COUNT, &opt.seed, 0, 9e15, NULL, "of weights, batches, dropout and the sample"},
    {"eval-every", COUNT, &opt.eval_every, 1, 1e9, NULL, "steps between validations"},
    {"eval-windows", COUNT, &opt.eval_windows, 1, 1e9, NULL, "most validation sequences, evenly spaced"},
    {"sample", COUNT, &opt.sample, 0, 1e6, NULL, "bytes of text to generate at the end"},
    {"temperature", REAL, &opt.temperature, 1e-3, 1e3, NULL, "of sampling"},
    {"device", TEXT, &opt.device, 0, 0, "auto|cpu|cuda:N", "where to compute"},
    {"device-memory", BYTES, &opt.device_memory, 0, 9e15, NULL, "budget, suffix K, M or G; 0 = no limit"},
    {"threads", COUNT, &opt.threads, 0, 1024, NULL, "CPU threads; 0 = all"},
    {"quiet", FLAG, &opt.quiet, 0, 0, NULL, "only the final line and skipped steps"},
};
enum { OPTIONS = sizeof options / sizeof options[0] };

/* The index of word in choices such as "a|b|c", or -1; or the word at an index. */
static int64_t choice_index(const char *choices, const char *word) {
    int64_t index = 0;
    for (const char *at = choices;; index++) {
        size_t length = strcspn(at, "|");
        if (strlen(word) == length && strncmp(at, word, length) == 0)
            return index;
        if (!at[length])
            return -1;
        at += length + 1;
    }
}

static const char *choice_name(const char *choices, int64_t index, int *length) {
    for (; index > 0; index--)
        choices += strcspn(choices, "|") + 1;
    *length = (int)strcspn(choices, "|");
    return choices;
}

static void print_help(void) {
    printf("train_gpt [options] FILE...\nTrains a GPT over the bytes of the files with libscaleRT.\n\n");
    for (int i = 0; i < OPTIONS; i++) {
        const struct option *o = &options[i];
        char value[64] = "";
        int length;
        const char *name;
        if (o->kind == COUNT || o->kind == BYTES)
            snprintf(value, sizeof value, "%" PRId64, *(int64_t *)o->value);
        else if (o->kind == REAL)
            snprintf(value, sizeof value, "%g", *(double *)o->value);
        else if (o->kind == TEXT)
            snprintf(value, sizeof value, "%s", *(const char **)o->value);
        else if (o->kind == CHOICE) {
            name = choice_name(o->choices, *(int64_t *)o->value, &length);
            snprintf(value, sizeof value, "%.*s", length, name);
        }
        printf("  --%-15s %-8s %s%s%s\n", o->name, value, o->choices ? o->choices : "",
               o->choices && o->help ? ": " : "", o->help ? o->help : "");
    }
    printf("  --%-15s %-8s %s\n", "help", "", "this text; the second column holds the defaults");
}

static void set_option(const struct option *o, const char *text) {
    char *end;
    double number;
    if (o->kind == TEXT) {
        *(const char **)o->value = text;
        return;
    }
    if (o->kind == CHOICE) {
        int64_t index = choice_index(o->choices, text);
        if (index < 0)
            usage_error("--%s is '%s', must be one of %s", o->name, text, o->choices);
        *(int64_t *)o->value = index;
        return;
    }
    number = strtod(text, &end);
    if (o->kind == BYTES && end != text && *end && strchr("KMG", *end)) {
        number *= *end == 'K' ? 1024.0 : *end == 'M' ? 1048576.0 : 1073741824.0;
        end++;
    }
    if (end == text || *end || (o->kind != REAL && number != floor(number)))
        usage_error("--%s is '%s', must be a %snumber", o->name, text, o->kind == REAL ? "" : "whole ");
    if (!(number >= o->low && number <= o->high))
        usage_error("--%s is %s, must be from %g to %g", o->name, text, o->low, o->high);
    if (o->kind == REAL)
        *(double *)o->value = number;
    else
        *(int64_t *)o->value = (int64_t)number;
}

/* Moves the data files to the front of argv and returns their number. */
static int parse_options(int argc, char **argv) {
    int files = 0, only_files = 0;
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i], *equals;
        const struct option *found = NULL;
        size_t length;
        if (only_files || word[0] != '-' || !word[1]) {
            argv[files++] = argv[i];
            continue;
        }
        if (strcmp(word, "--") == 0) {
            only_files = 1;
            continue;
        }
        if (strcmp(word, "--help") == 0) {
            print_help();
            exit(0);
        }
        equals = strchr(word, '=');
        length = equals ? (size_t)(equals - word) : strlen(word);
        for (int k = 0; k < OPTIONS; k++)
            if (length == strlen(options[k].name) + 2 && strncmp(word, "--", 2) == 0 &&
                strncmp(word + 2, options[k].name, length - 2) == 0)
                found = &options[k];
        if (!found)
            usage_error("unknown option %s", word);
        if (found->kind == FLAG) {
            *(int64_t *)found->value = 1;
            continue;
        }
        if (!equals && i + 1 == argc)
            usage_error("%s needs a value", word);
        set_option(found, equals ? equals + 1 : argv[++i]);
    }
    if (!files)
        usage_error("no data file");
    if (!opt.kv_heads)
        opt.kv_heads = opt.heads;
    if (opt.width % opt.heads)
        usage_error("--width %" PRId64 " is not a multiple of --heads %" PRId64, opt.width, opt.heads);
    if (opt.width / opt.heads % 8 || opt.width / opt.heads < 16 || opt.width / opt.heads > 256)
        usage_error("--width / --heads is %" PRId64 ", must be a multiple of 8 from 16 to 256", opt.width / opt.heads);
    if (opt.heads % opt.kv_heads)
        usage_error("--heads %" PRId64 " is not a multiple of --kv-heads %" PRId64, opt.heads, opt.kv_heads);
    if (opt.lr == 0)
        opt.lr = default_rates[opt.optimizer];
    if (opt.warmup < 0)
        opt.warmup = opt.steps / 20;
    return files;
}

/* ---- model and parameters --------------------------------------------------------------------------------------- */

/* A weight and its bias, as numbers of parameters; bias is SCALERT_NONE in a llama. Norms and linear maps are both. */
typedef struct affine {
    uint32_t weight, bias;
} affine_t;

/* A norm with what its backward pass needs: input, output and statistics. */
typedef struct norm {
    affine_t parameters;
    void *input, *output, *mean, *rstd;
} norm_t;

typedef struct block {
    uint32_t first, count; /* its parameters lie next to each other */
    norm_t norm1, norm2;
    affine_t qkv, projection, up, down;
    /* activations kept for backward; up is the GELU's input, or gate and up packed side by side */
    void *qkv_out, *log_sum_exp, *attended, *up_out, *activated;
} block_t;

typedef struct model {
    scalert_runtime_t *runtime;
    scalert_stream_t *stream;
    scalert_state_t *state;
    scalert_scaler_t *scaler;  /* NULL without loss scaling */
    scalert_arena_t *arena;    /* activations and gradients, on the device */
    scalert_arena_t *exchange; /* what both the host and the device touch: tokens, losses, logits */
    scalert_dtype_t dtype;
    int64_t head_width, qkv_width, hidden; /* hidden: width inside the MLP */
    int64_t up_width;                      /* hidden, or twice that for gate and up */

    uint32_t parameters;
    float *deviations;         /* per parameter: of its initial values; 0 = zeros, ONES = ones */
    scalert_tensor_t *weights; /* per parameter: valid while acquired */
    uint32_t groups[2];        /* of matrices (decayed) and of vectors */
    uint32_t token_table, position_table, head;
    block_t *blocks;
    norm_t final_norm;

    int64_t batch, time;                       /* of the activations now in memory */
    scalert_random_key_t dropout;              /* of the current micro-batch */
    void *branch, *gradient, *dnormed, *dwide; /* scratch; gradient is that of the residual stream */
    int32_t *tokens, *targets;
    float *losses, *logits;
    void *staging;     /* room for one parameter on the host's side */
    int64_t *loss_sum; /* exact sum of losses */
} model_t;

#define ONES -1.0f

static int llama(void) {
    return opt.arch == LLAMA;
}

static size_t dtype_bytes(scalert_dtype_t dtype) {
    return dtype == SCALERT_BF16 || dtype == SCALERT_F16 ? 2 : dtype == SCALERT_I64 ? 8 : 4;
}

static uint32_t add_parameter(model_t *m, const char *name, int64_t rows, int64_t columns, float deviation) {
    const int64_t shape[2] = {rows, columns};
    uint32_t parameter;
    CHECK(scalert_state_add_parameter(m->state, m->groups[columns ? 0 : 1], name, columns ? 2 : 1, shape, &parameter));
    m->deviations[parameter] = deviation;
    m->parameters = parameter + 1;
    return parameter;
}

static affine_t add_affine(model_t *m, int64_t layer, const char *part, int64_t rows, int64_t columns,
                           float deviation) {
    affine_t affine = {0, SCALERT_NONE};
    char prefix[64], name[96];
    if (layer < 0)
        snprintf(prefix, sizeof prefix, "%s", part);
    else
        snprintf(prefix, sizeof prefix, "block%" PRId64 ".%s", layer, part);
    snprintf(name, sizeof name, "%s.weight", prefix);
    affine.weight = add_parameter(m, name, rows, columns, deviation);
    snprintf(name, sizeof name, "%s.bias", prefix);
    if (!llama())
        affine.bias = add_parameter(m, name, rows, 0, 0.0f);
    return affine;
}

/* Describes the model to the state. Matrices are [out, in], so that y = x weight^T. */
static void add_parameters(model_t *m) {
    /* Radford et al. 2019: the residual branches' last layers start smaller, by the number of branches. */
    const float deviation = 0.02f, residual = 0.02f / sqrtf(2.0f * (float)opt.layers);
    scalert_group_desc_t group = SCALERT_GROUP_DESC_INIT;
    size_t most = 4 + 12 * (size_t)opt.layers + 2;

    m->head_width = opt.width / opt.heads;
    m->qkv_width = (opt.heads + 2 * opt.kv_heads) * m->head_width;
    m->hidden = llama() ? (opt.width * 8 / 3 + 31) / 32 * 32 : 4 * opt.width;
    m->up_width = llama() ? 2 * m->hidden : m->hidden;
    m->deviations = allocate(most, sizeof *m->deviations);
    m->weights = allocate(most, sizeof *m->weights);
    m->blocks = allocate((size_t)opt.layers, sizeof *m->blocks);

    group.optimizer = optimizer_codes[opt.optimizer];
    group.weight_dtype = m->dtype;
    group.momentum = group.optimizer == SCALERT_OPTIMIZER_SGD ? 0.9f : 0.0f;
    group.beta2 = group.optimizer == SCALERT_OPTIMIZER_ADAMW ? 0.95f : 0.0f;
    group.weight_decay = (float)opt.weight_decay;
    CHECK(scalert_state_add_group(m->state, &group, &m->groups[0]));
    group.weight_decay = 0.0f;
    CHECK(scalert_state_add_group(m->state, &group, &m->groups[1]));

    m->token_table = add_parameter(m, "token_table", VOCABULARY, opt.width, deviation);
    m->position_table = SCALERT_NONE;
    if (!llama())
        m->position_table = add_parameter(m, "position_table", opt.context, opt.width, deviation);
    for (int64_t l = 0; l < opt.layers; l++) {
        block_t *b = &m->blocks[l];
        b->first = m->parameters;
        b->norm1.parameters = add_affine(m, l, "norm1", opt.width, 0, ONES);
        b->qkv = add_affine(m, l, "qkv", m->qkv_width, opt.width, deviation);
        b->projection = add_affine(m, l, "projection", opt.width, opt.width, residual);
        b->norm2.parameters = add_affine(m, l, "norm2", opt.width, 0, ONES);
        b->up = add_affine(m, l, llama() ? "gate_up" : "up", m->up_width, opt.width, deviation);
        b->down = add_affine(m, l, "down", opt.width, m->hidden, residual);
        b->count = m->parameters - b->first;
    }
    m->final_norm.parameters = add_affine(m, -1, "final_norm", opt.width, 0, ONES);
    /* GPT-2 reads its logits off the token table; a llama has a matrix of its own for them. */
    m->head = llama() ? add_parameter(m, "head", VOCABULARY, opt.width, deviation) : m->token_table;
}

static scalert_parameter_info_t parameter_info(const model_t *m, uint32_t parameter) {
    scalert_parameter_info_t info = SCALERT_PARAMETER_INFO_INIT;
    CHECK(scalert_state_parameter_info(m->state, parameter, &info));
    return info;
}

static uint64_t parameter_elements(const model_t *m, uint32_t parameter) {
    scalert_parameter_info_t info = parameter_info(m, parameter);
    uint64_t elements = 1;
    for (int32_t i = 0; i < info.ndim; i++)
        elements *= (uint64_t)info.shape[i];
    return elements;
}

/* The weights of count parameters are on the device, current, from acquire to release; m->weights views them. */
static void acquire(model_t *m, uint32_t first, uint32_t count) {
    for (uint32_t p = first; p < first + count; p++)
        CHECK(scalert_state_acquire(m->state, p, m->stream, &m->weights[p]));
}

static void release(model_t *m, uint32_t first, uint32_t count) {
    for (uint32_t p = first; p < first + count; p++)
        CHECK(scalert_state_release(m->state, p, m->stream));
}

static const scalert_tensor_t *weight(const model_t *m, uint32_t parameter) {
    return parameter == SCALERT_NONE ? NULL : &m->weights[parameter];
}

/* ---- memory plan ------------------------------------------------------------------------------------------------ */

static uint64_t round64(uint64_t bytes) {
    return (bytes + 63) / 64 * 64;
}

/* Walks over all buffers twice with the same code: without an arena it adds up bytes, with one it takes them. */
typedef struct plan {
    scalert_arena_t *arena;
    uint64_t total;
} plan_t;

static void take(plan_t *plan, void *where, uint64_t elements, scalert_dtype_t dtype) {
    uint64_t bytes = round64(elements * dtype_bytes(dtype)); /* an arena hands out whole 64-byte lines */
    void *memory = NULL;
    plan->total += bytes;
    if (plan->arena) {
        CHECK(scalert_arena_alloc(plan->arena, bytes, &memory));
        memcpy(where, &memory, sizeof memory); /* into a pointer of any type */
    }
}

/* Writes the bytes that each purpose takes to bytes[], and returns their sum. */
enum { RESIDUAL, NORMALISED, ATTENTION, MLP, BACKWARD, GRADIENTS, PURPOSES };
static const char *const purposes[PURPOSES] = {"residual stream",  "normalised",         "attention", "MLP",
                                               "backward scratch", "parameter gradients"};

static void plan_norm(model_t *m, plan_t *plan, norm_t *norm, uint64_t rows) {
    take(plan, &norm->output, rows * (uint64_t)opt.width, m->dtype);
    if (!llama())
        take(plan, &norm->mean, rows, SCALERT_F32);
    take(plan, &norm->rstd, rows, SCALERT_F32);
}

/* Gradients are made one linear map or norm at a time in f32 and handed over at once, so that the largest weight with
 * its bias is all that is needed at a time; that of a tied table lives through the whole backward pass. */
static uint64_t gradient_area(const model_t *m) {
    uint64_t largest = 0, tied = m->head == m->token_table ? round64(4 * parameter_elements(m, m->head)) : 0;
    for (uint32_t p = 0; p < m->parameters; p++) {
        uint64_t bytes = round64(4 * parameter_elements(m, p));
        if (p + 1 < m->parameters && parameter_info(m, p + 1).ndim == 1)
            bytes += round64(4 * parameter_elements(m, p + 1));
        largest = bytes > largest ? bytes : largest;
    }
    return tied + largest;
}

static uint64_t plan_activations(model_t *m, scalert_arena_t *arena, uint64_t bytes[PURPOSES]) {
    const uint64_t rows = (uint64_t)(opt.micro_batch * opt.context), width = (uint64_t)opt.width;
    const int64_t wide = m->hidden > m->qkv_width ? m->hidden : m->qkv_width;
    plan_t plan = {arena, 0};
    uint64_t total = 0;
    for (int purpose = 0; purpose < PURPOSES; purpose++) {
        plan.total = 0;
        for (int64_t l = 0; l < opt.layers; l++) {
            block_t *b = &m->blocks[l];
            if (purpose == RESIDUAL) {
                take(&plan, &b->norm1.input, rows * width, m->dtype);
                take(&plan, &b->norm2.input, rows * width, m->dtype);
            } else if (purpose == NORMALISED) {
                plan_norm(m, &plan, &b->norm1, rows);
                plan_norm(m, &plan, &b->norm2, rows);
            } else if (purpose == ATTENTION) {
                take(&plan, &b->qkv_out, rows * (uint64_t)m->qkv_width, m->dtype);
                take(&plan, &b->attended, rows * width, m->dtype);
                take(&plan, &b->log_sum_exp, rows * (uint64_t)opt.heads, SCALERT_F32);
            } else if (purpose == MLP) {
                take(&plan, &b->up_out, rows * (uint64_t)m->up_width, m->dtype);
                take(&plan, &b->activated, rows * (uint64_t)m->hidden, m->dtype);
            }
        }
        if (purpose == RESIDUAL) {
            take(&plan, &m->final_norm.input, rows * width, m->dtype);
            take(&plan, &m->branch, rows * width, m->dtype);
        } else if (purpose == NORMALISED)
            plan_norm(m, &plan, &m->final_norm, rows);
        else if (purpose == BACKWARD) {
            take(&plan, &m->gradient, rows * width, m->dtype);
            take(&plan, &m->dnormed, rows * width, m->dtype);
            take(&plan, &m->dwide, rows * (uint64_t)wide, m->dtype);
        } else if (purpose == GRADIENTS)
            plan.total = gradient_area(m); /* stays free: taken and given back while training */
        bytes[purpose] = plan.total;
        total += plan.total;
    }
    return total;
}

static uint64_t plan_exchange(model_t *m, scalert_arena_t *arena) {
    const uint64_t rows = (uint64_t)(opt.micro_batch * opt.context);
    uint64_t largest = 0;
    plan_t plan = {arena, 0};
    for (uint32_t p = 0; p < m->parameters; p++)
        largest = parameter_elements(m, p) > largest ? parameter_elements(m, p) : largest;
    take(&plan, &m->tokens, rows, SCALERT_I32);
    take(&plan, &m->targets, rows, SCALERT_I32);
    take(&plan, &m->losses, rows, SCALERT_F32);
    take(&plan, &m->logits, VOCABULARY, SCALERT_F32);
    take(&plan, &m->loss_sum, SCALERT_EXACT_SUM_LIMBS, SCALERT_I64);
    take(&plan, &m->staging, largest, m->dtype);
    return plan.total;
}

static const char *human_bytes(uint64_t bytes, char text[32]) {
    const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    int unit = 0;
    while (value >= 1024.0 && unit < 4) {
        value /= 1024.0;
        unit++;
    }
    snprintf(text, 32, unit ? "%.2f %s" : "%.0f %s", value, units[unit]);
    return text;
}

static void print_bytes(const char *purpose, uint64_t bytes) {
    char text[32];
    printf("  %-20s %14" PRIu64 "  (%s)\n", purpose, bytes, human_bytes(bytes, text));
}

/* Everything that training takes is known before any of it is allocated: the state says what it will hold, the
 * activations are arithmetic. Only the operations' workspace comes on top, as they need it. */
static void plan_and_allocate(model_t *m, scalert_tier_t exchange_tier) {
    uint64_t bytes[PURPOSES], activations = plan_activations(m, NULL, bytes), exchange = plan_exchange(m, NULL);
    scalert_memory_report_t state = {.struct_size = sizeof state};
    CHECK(scalert_state_memory(m->state, &state));
    if (!opt.quiet) {
        const scalert_tier_report_t *device = &state.tier[SCALERT_TIER_DEVICE];
        printf("plan, bytes on the device:\n");
        print_bytes("weights", device->weights);
        print_bytes("master weights", device->master);
        print_bytes("moments", device->moments);
        print_bytes("gradient sums", device->gradients);
        for (int i = 0; i < PURPOSES; i++)
            print_bytes(purposes[i], bytes[i]);
        print_bytes("in all", device->used + activations);
        if (opt.device_memory)
            print_bytes("budget", (uint64_t)opt.device_memory);
        print_bytes("exchanged with host", exchange);
        fflush(stdout);
    }
    CHECK(scalert_state_seal(m->state));
    CHECK(scalert_arena_create(m->runtime, SCALERT_TIER_DEVICE, activations, &m->arena));
    CHECK(scalert_arena_create(m->runtime, exchange_tier, exchange, &m->exchange));
    plan_activations(m, m->arena, bytes);
    plan_exchange(m, m->exchange);
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

/* ---- forward ---------------------------------------------------------------------------------------------------- */

static const float norm_epsilon = 1e-5f;

static scalert_tensor_t norm_forward(model_t *m, const norm_t *n) {
    scalert_tensor_t x = rows(m, n->input, opt.width), y = rows(m, n->output, opt.width);
    scalert_tensor_t mean = figures(m, n->mean), rstd = figures(m, n->rstd);
    const scalert_tensor_t *scale = weight(m, n->parameters.weight), *bias = weight(m, n->parameters.bias);
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
enum { AFTER_EMBEDDING = 0 };
static uint32_t after_attention(int64_t layer) {
    return 1 + 2 * (uint32_t)layer;
}
static uint32_t after_mlp(int64_t layer) {
    return 2 + 2 * (uint32_t)layer;
}

static void rotate(model_t *m, const heads_t *heads, uint8_t inverse) {
    scalert_rotary_options_t options = SCALERT_ROTARY_OPTIONS_INIT;
    options.inverse = inverse;
    CHECK(scalert_rotary(m->stream, &heads->q, &heads->q, &options));
    CHECK(scalert_rotary(m->stream, &heads->k, &heads->k, &options));
}

static scalert_tensor_t attended_view(const model_t *m, void *data) {
    return tensor(data, m->dtype, 4, (int64_t[]){m->batch, m->time, opt.heads, m->head_width});
}

static scalert_tensor_t log_sum_exp_view(const model_t *m, void *data) {
    return tensor(data, SCALERT_F32, 3, (int64_t[]){m->batch, opt.heads, m->time});
}

/* The block's output is the next norm's input. */
static void block_forward(model_t *m, int64_t layer, void *output, int training) {
    block_t *b = &m->blocks[layer];
    const int drop = training && opt.dropout > 0;
    scalert_attention_options_t causal = SCALERT_ATTENTION_OPTIONS_INIT;
    scalert_tensor_t x = rows(m, b->norm1.input, opt.width), middle = rows(m, b->norm2.input, opt.width);
    scalert_tensor_t out = rows(m, output, opt.width), branch = rows(m, m->branch, opt.width);
    scalert_tensor_t qkv = rows(m, b->qkv_out, m->qkv_width), attended = rows(m, b->attended, opt.width);
    scalert_tensor_t up = rows(m, b->up_out, m->up_width), activated = rows(m, b->activated, m->hidden);
    scalert_tensor_t attended_heads = attended_view(m, b->attended), lse = log_sum_exp_view(m, b->log_sum_exp);
    scalert_tensor_t normed;
    heads_t heads = split_heads(m, b->qkv_out);
    causal.causal = 1;

    acquire(m, b->first, b->count);
    normed = norm_forward(m, &b->norm1);
    linear_forward(m, b->qkv, &normed, &qkv, NULL);
    if (llama())
        rotate(m, &heads, 0);
    CHECK(scalert_attention_forward(m->stream, &heads.q, &heads.k, &heads.v, &attended_heads, &lse, &causal));
    linear_forward(m, b->projection, &attended, &branch, NULL);
    if (drop)
        dropout(m, after_attention(layer), &branch, &branch);
    CHECK(scalert_add(m->stream, &x, &branch, &middle));

    normed = norm_forward(m, &b->norm2);
    if (llama()) {
        scalert_tensor_t gate = columns(m, b->up_out, m->up_width, 0, m->hidden);
        scalert_tensor_t value = columns(m, b->up_out, m->up_width, m->hidden, m->hidden);
        linear_forward(m, b->up, &normed, &up, NULL);
        CHECK(scalert_swiglu_forward(m->stream, &gate, &value, &activated));
    } else {
        linear_forward(m, b->up, &normed, &activated, &up);
    }
    linear_forward(m, b->down, &activated, &branch, NULL);
    if (drop)
        dropout(m, after_mlp(layer), &branch, &branch);
    CHECK(scalert_add(m->stream, &middle, &branch, &out));
    release(m, b->first, b->count);
}

/* From m->tokens, [batch, time], to the output of the final norm, which is returned: [batch * time, width]. */
static scalert_tensor_t forward(model_t *m, int64_t batch, int64_t time, int training) {
    const uint32_t tables = llama() ? 1 : 2, final = m->final_norm.parameters.weight, finals = llama() ? 1 : 2;
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
    scalert_parameter_info_t info = parameter_info(m, parameter);
    void *memory;
    CHECK(scalert_arena_alloc(m->arena, round64(4 * parameter_elements(m, parameter)), &memory));
    return tensor(memory, SCALERT_F32, info.ndim, info.shape);
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
    const uint32_t scale = n->parameters.weight, bias = n->parameters.bias;
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
    block_t *b = &m->blocks[layer];
    scalert_attention_options_t causal = SCALERT_ATTENTION_OPTIONS_INIT;
    scalert_tensor_t dresidual = rows(m, m->gradient, opt.width), dnormed = rows(m, m->dnormed, opt.width);
    scalert_tensor_t normed1 = rows(m, b->norm1.output, opt.width), normed2 = rows(m, b->norm2.output, opt.width);
    scalert_tensor_t up = rows(m, b->up_out, m->up_width), activated = rows(m, b->activated, m->hidden);
    scalert_tensor_t attended = rows(m, b->attended, opt.width), dhidden = rows(m, m->dwide, m->hidden);
    scalert_tensor_t attended_heads = attended_view(m, b->attended), lse = log_sum_exp_view(m, b->log_sum_exp);
    scalert_tensor_t dattended = attended_view(m, m->dnormed), dqkv = rows(m, m->dwide, m->qkv_width);
    scalert_tensor_t dbranch;
    heads_t heads = split_heads(m, b->qkv_out), dheads = split_heads(m, m->dwide);
    causal.causal = 1;

    acquire(m, b->first, b->count);
    dbranch = branch_gradient(m, after_mlp(layer), &dresidual);
    if (llama()) {
        scalert_tensor_t gate = columns(m, b->up_out, m->up_width, 0, m->hidden);
        scalert_tensor_t value = columns(m, b->up_out, m->up_width, m->hidden, m->hidden);
        linear_backward(m, b->down, &dbranch, &activated, &dhidden, NULL);
        CHECK(scalert_swiglu_backward(m->stream, &gate, &value, &dhidden, &gate, &value)); /* up is now its gradient */
        linear_backward(m, b->up, &up, &normed2, &dnormed, NULL);
    } else {
        linear_backward(m, b->down, &dbranch, &activated, &dhidden, &up);
        linear_backward(m, b->up, &dhidden, &normed2, &dnormed, NULL);
    }
    norm_backward(m, &b->norm2, &dnormed, &dnormed);
    CHECK(scalert_add(m->stream, &dresidual, &dnormed, &dresidual));

    dbranch = branch_gradient(m, after_attention(layer), &dresidual);
    linear_backward(m, b->projection, &dbranch, &attended, &dnormed, NULL);
    CHECK(scalert_attention_backward(m->stream, &heads.q, &heads.k, &heads.v, &attended_heads, &lse, &dattended,
                                     &dheads.q, &dheads.k, &dheads.v, &causal));
    if (llama())
        rotate(m, &dheads, 1);
    linear_backward(m, b->qkv, &dqkv, &normed1, &dnormed, NULL);
    norm_backward(m, &b->norm1, &dnormed, &dnormed);
    CHECK(scalert_add(m->stream, &dresidual, &dnormed, &dresidual));
    release(m, b->first, b->count);
}

/* Loss and gradients of the micro-batch that forward left in memory. gradient_scale: 1 / positions, for a mean. */
static void backward(model_t *m, const scalert_tensor_t *normed, float gradient_scale) {
    const uint32_t final = m->final_norm.parameters.weight, finals = llama() ? 1 : 2;
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
        m->tokens[row * opt.context + i] = bytes[i];
        m->targets[row * opt.context + i] = bytes[i + 1];
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
    for (uint32_t p = 0; p < m->parameters; p++) {
        scalert_tensor_t values;
        uint64_t mark;
        if (m->deviations[p] == 0.0f)
            continue; /* seal has made it zero */
        CHECK(scalert_arena_mark(m->arena, &mark));
        values = gradient_buffer(m, p);
        if (m->deviations[p] == ONES) {
            CHECK(scalert_fill(m->stream, 1.0f, &values));
        } else {
            const scalert_random_key_t key = {(uint64_t)opt.seed, 0, p};
            CHECK(scalert_random_normal(m->stream, key, 0.0f, m->deviations[p], &values));
        }
        CHECK(scalert_state_write(m->state, m->stream, p, SCALERT_PART_MASTER, &values));
        CHECK(scalert_arena_rewind(m->arena, mark));
    }
}

/* The losses summed since the last call, over count positions: their mean, exact but for the last rounding. */
static double take_mean_loss(model_t *m, uint64_t count) {
    double sum;
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

    CHECK(scalert_state_begin_step(m->state));
    for (int64_t micro = 0; micro < opt.accumulation; micro++) {
        const uint64_t number = (step - 1) * (uint64_t)opt.accumulation + (uint64_t)micro;
        const int overflow = step == (uint64_t)opt.force_overflow && micro == opt.accumulation - 1;
        scalert_tensor_t normed;
        m->dropout.seed = (uint64_t)opt.seed;
        m->dropout.step = number;
        fill_micro_batch(m, corpus, number);
        CHECK(scalert_state_begin_micro(m->state));
        normed = forward(m, opt.micro_batch, opt.context, 1);
        backward(m, &normed, overflow ? FLT_MAX : mean);
        CHECK(scalert_state_end_micro(m->state));
    }
    schedule.kind = schedule_codes[opt.schedule];
    schedule.peak = (float)opt.lr;
    schedule.floor = (float)opt.lr / 10.0f;
    schedule.warmup_steps = (uint64_t)opt.warmup;
    schedule.total_steps = (uint64_t)opt.steps;
    schedule.decay_steps = (uint64_t)opt.steps / 5;
    CHECK(scalert_schedule_learning_rate(&schedule, step, learning_rate));

    update.learning_rate = *learning_rate;
    update.max_norm = (float)opt.clip;
    update.gradient_scale = 1.0f / (float)opt.accumulation;
    update.scaler = m->scaler;
    CHECK(scalert_state_step(m->state, m->stream, &update));
    CHECK(scalert_state_step_result_wait(m->state, &result)); /* LOSS_SCALE_COLLAPSED ends the program here */
    return result;
}

static void report_skipped(const model_t *m, uint64_t step, const scalert_step_result_t *result) {
    printf("step %" PRIu64 " skipped: the gradient of %s overflowed in micro-batch %" PRIu32, step,
           parameter_info(m, result->overflow_parameter).name, result->overflow_micro);
    if (m->scaler) {
        scalert_scaler_report_t scaler = SCALERT_SCALER_REPORT_INIT;
        CHECK(scalert_scaler_read_wait(m->scaler, &scaler));
        printf("; loss scale %g -> %g", (double)result->loss_scale, (double)scaler.scale);
    }
    printf("\n");
}

/* The mean loss over fixed, evenly spaced windows of the validation data. */
static double validate(model_t *m, const corpus_t *corpus) {
    const int64_t fitting = (int64_t)((corpus->validation_bytes - 1) / (uint64_t)opt.context);
    const int64_t windows = fitting < opt.eval_windows ? fitting : opt.eval_windows;
    const uint64_t last = corpus->validation_bytes - 1 - (uint64_t)opt.context;
    for (int64_t first = 0; first < windows; first += opt.micro_batch) {
        scalert_tensor_t normed, targets, losses, sum = loss_accumulator(m);
        CHECK(scalert_stream_wait(m->stream));
        for (int64_t row = 0; row < opt.micro_batch; row++) {
            const uint64_t window = (uint64_t)(first + row < windows ? first + row : 0);
            fill_sequence(m, row, corpus->validation + (windows > 1 ? last * window / (uint64_t)(windows - 1) : 0));
            if (first + row >= windows) /* fills up the last batch; negative targets count nothing */
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

static void show_progress(uint64_t step, double loss, double tokens_per_s, double remaining, double *last_line) {
    const double now = seconds_now();
    const int terminal = isatty(STDERR_FILENO), done = step == (uint64_t)opt.steps;
    char bar[33];
    if (opt.quiet || (!terminal && now - *last_line < 10.0) || (terminal && now - *last_line < 0.1 && !done))
        return;
    *last_line = now;
    for (int i = 0; i < 32; i++)
        bar[i] = (uint64_t)i * (uint64_t)opt.steps < 32 * step ? '#' : '.';
    bar[32] = 0;
    fprintf(stderr, "%s[%s] %" PRIu64 "/%" PRId64 "  loss %.3f  %.0f tokens/s  %02d:%02d left %s", terminal ? "\r" : "",
            bar, step, opt.steps, loss, tokens_per_s, (int)remaining / 60, (int)remaining % 60, terminal ? " " : "\n");
}

static void erase_progress(void) {
    if (!opt.quiet && isatty(STDERR_FILENO))
        fprintf(stderr, "\r\033[K");
}

/* " device 12.3 MiB, host 1.2 MiB": the most that each used tier has held. */
static void print_peaks(const model_t *m) {
    static const char *const names[SCALERT_TIERS] = {"device", "pinned", "host", "disk"};
    scalert_memory_report_t memory = {.struct_size = sizeof memory};
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

static outcome_t train(model_t *m, const corpus_t *corpus) {
    const uint64_t step_tokens = (uint64_t)(opt.micro_batch * opt.context * opt.accumulation);
    const double start = seconds_now();
    double computing = 0.0, loss = NAN, last_line = start;
    uint64_t since_report = 0;
    outcome_t outcome = {NAN, 0.0, 0.0};
    for (uint64_t step = 1; step <= (uint64_t)opt.steps; step++) {
        const double before = seconds_now();
        float learning_rate;
        scalert_step_result_t result = train_step(m, corpus, step, &learning_rate);
        computing += seconds_now() - before;
        outcome.tokens_per_s = (double)(step * step_tokens) / computing;
        since_report++;
        if (result.skipped) {
            erase_progress();
            report_skipped(m, step, &result);
        }
        if (step % (uint64_t)opt.eval_every == 0 || step == (uint64_t)opt.steps) {
            loss = take_mean_loss(m, since_report * step_tokens);
            since_report = 0;
            outcome.validation_loss = validate(m, corpus);
            erase_progress();
            if (!opt.quiet) {
                printf("step %" PRIu64 "/%" PRId64 "  train_loss %.4f  val_loss %.4f  tokens/s %.0f  grad_norm %.3f  "
                       "loss_scale %g  lr %.3g  ",
                       step, opt.steps, loss, outcome.validation_loss, outcome.tokens_per_s, result.gradient_norm,
                       (double)result.loss_scale, (double)learning_rate);
                print_peaks(m);
                fflush(stdout);
            }
        }
        show_progress(step, loss, outcome.tokens_per_s,
                      (seconds_now() - start) / (double)step * (double)((uint64_t)opt.steps - step), &last_line);
    }
    erase_progress();
    if (opt.steps == 0)
        outcome.validation_loss = validate(m, corpus);
    outcome.seconds = seconds_now() - start;
    return outcome;
}

/* ---- sampling and report ---------------------------------------------------------------------------------------- */

/* Draws from softmax(logits / temperature). */
static int32_t sample_token(const float *logits, uint64_t counter) {
    double weights[VOCABULARY], total = 0.0, point;
    float most = logits[0];
    for (int i = 1; i < VOCABULARY; i++)
        most = logits[i] > most ? logits[i] : most;
    for (int i = 0; i < VOCABULARY; i++)
        total += weights[i] = exp((double)(logits[i] - most) / opt.temperature);
    point = total * (double)(draw(SAMPLING, counter) >> 11) / 9007199254740992.0;
    for (int i = 0; i < VOCABULARY; i++)
        if ((point -= weights[i]) < 0.0)
            return i;
    return VOCABULARY - 1;
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

/* Continues a line break byte by byte, always from the last context bytes. */
static void sample(model_t *m) {
    int64_t length = 1;
    m->tokens[0] = '\n';
    printf("sample:\n  | ");
    for (int64_t i = 0; i < opt.sample; i++) {
        scalert_tensor_t normed = forward(m, 1, length, 0), last = normed, logits;
        int32_t token;
        last.data = (char *)normed.data + (size_t)((length - 1) * opt.width) * dtype_bytes(m->dtype);
        last.shape[0] = 1;
        logits = tensor(m->logits, SCALERT_F32, 2, (int64_t[]){1, VOCABULARY});
        acquire(m, m->head, 1);
        CHECK(scalert_gemm(m->stream, 0, 1, &last, weight(m, m->head), &logits, NULL));
        release(m, m->head, 1);
        CHECK(scalert_stream_wait(m->stream));
        token = sample_token(m->logits, (uint64_t)i);
        print_escaped(token);
        fflush(stdout);
        if (length == opt.context)
            memmove(m->tokens, m->tokens + 1, (size_t)--length * sizeof *m->tokens);
        m->tokens[length++] = token;
    }
    printf("\n");
}

/* FNV-1a over the bytes of all weights, as the model reads them, in registration order. */
static uint64_t hash_weights(model_t *m) {
    uint64_t hash = 14695981039346656037u;
    for (uint32_t p = 0; p < m->parameters; p++) {
        scalert_parameter_info_t info = parameter_info(m, p);
        scalert_tensor_t copy = tensor(m->staging, info.dtype, info.ndim, info.shape);
        const uint64_t bytes = parameter_elements(m, p) * dtype_bytes(info.dtype);
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
        if (scalert_device_count(SCALERT_DEVICE_CUDA, &gpus) == SCALERT_OK && gpus > 0)
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
    for (uint32_t p = 0; p < m->parameters; p++)
        elements += parameter_elements(m, p);
    printf("%s: %" PRId64 " layers, width %" PRId64 ", %" PRId64 " heads over %" PRId64 " of keys, context %" PRId64
           ", %" PRIu64 " parameters in %s\non %s, %" PRIu32 " threads\n",
           llama() ? "llama" : "gpt2", opt.layers, opt.width, opt.heads, opt.kv_heads, opt.context, elements,
           m->dtype == SCALERT_BF16  ? "bf16"
           : m->dtype == SCALERT_F16 ? "f16"
                                     : "f32",
           device->name, opt.threads ? (uint32_t)opt.threads : device->threads);
}

int main(int argc, char **argv) {
    const int files = parse_options(argc, argv);
    const corpus_t corpus = read_corpus(files, argv);
    scalert_runtime_desc_t desc = SCALERT_RUNTIME_DESC_INIT;
    scalert_device_info_t device = SCALERT_DEVICE_INFO_INIT;
    scalert_state_desc_t state = SCALERT_STATE_DESC_INIT;
    model_t model, *m = &model;
    outcome_t outcome;

    memset(m, 0, sizeof *m);
    choose_device(&desc);
    desc.device_bytes = (uint64_t)opt.device_memory;
    desc.threads = desc.device == SCALERT_DEVICE_CPU ? (uint32_t)opt.threads : 0;
    CHECK(scalert_runtime_create(&desc, &m->runtime));
    CHECK(scalert_device_describe(desc.device, desc.ordinal, &device));
    CHECK(scalert_stream_create(m->runtime, &m->stream));
    CHECK(scalert_state_create(m->runtime, &state, &m->state));
    m->dtype = dtype_codes[opt.dtype];
    if (m->dtype == SCALERT_F16 || opt.loss_scale > 0) {
        scalert_scaler_desc_t scaler = SCALERT_SCALER_DESC_INIT;
        scaler.initial_scale = (float)opt.loss_scale;
        CHECK(scalert_scaler_create(m->runtime, &scaler, &m->scaler));
    }
    add_parameters(m);
    if (!opt.quiet)
        print_model(m, &device);
    plan_and_allocate(m, desc.device == SCALERT_DEVICE_CPU ? SCALERT_TIER_HOST : SCALERT_TIER_PINNED);
    memset(m->loss_sum, 0, SCALERT_EXACT_SUM_LIMBS * sizeof *m->loss_sum);
    initialise(m);

    outcome = train(m, &corpus);
    if (opt.sample > 0 && !opt.quiet)
        sample(m);
    printf("final: val_loss=%#.9g tokens_per_s=%.0f seconds=%.1f weights=%016" PRIx64 "\n", outcome.validation_loss,
           outcome.tokens_per_s, outcome.seconds, hash_weights(m));

    scalert_arena_destroy(m->exchange); /* in any order: children keep their parents alive */
    scalert_arena_destroy(m->arena);
    scalert_scaler_destroy(m->scaler);
    scalert_state_destroy(m->state);
    scalert_stream_destroy(m->stream);
    scalert_runtime_destroy(m->runtime);
    free(m->blocks);
    free(m->weights);
    free(m->deviations);
    free(corpus.training);
    return 0;
}
