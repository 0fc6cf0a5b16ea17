/* The training state: its order of calls, its arithmetic, and a regression that must converge. */
#include "check.h"

static scalert_runtime_t *runtime;
static scalert_stream_t *stream;

static uint32_t add_group(scalert_state_t *state, scalert_optimizer_t optimizer, scalert_dtype_t weight_dtype,
                          float momentum) {
    scalert_group_desc_t desc = SCALERT_GROUP_DESC_INIT;
    uint32_t group = 99;
    desc.optimizer = optimizer;
    desc.weight_dtype = weight_dtype;
    desc.momentum = momentum;
    OK(scalert_state_add_group(state, &desc, &group));
    return group;
}

static uint32_t add_vector(scalert_state_t *state, uint32_t group, const char *name, int64_t n) {
    uint32_t parameter = 99;
    OK(scalert_state_add_parameter(state, group, name, 1, &n, &parameter));
    return parameter;
}

static void gradient(scalert_state_t *state, uint32_t parameter, float *values, int64_t n) {
    scalert_tensor_t view = vector(values, n);
    OK(scalert_state_gradient_ready(state, stream, parameter, &view, NULL));
}

static scalert_step_result_t step(scalert_state_t *state, const scalert_step_desc_t *desc) {
    scalert_step_result_t result = SCALERT_STEP_RESULT_INIT;
    OK(scalert_state_step(state, stream, desc));
    OK(scalert_state_step_result_wait(state, &result));
    return result;
}

static void read_part(scalert_state_t *state, uint32_t parameter, scalert_part_t part, float *values, int64_t n) {
    scalert_tensor_t view = vector(values, n);
    OK(scalert_state_read(state, stream, parameter, part, &view));
    OK(scalert_stream_wait(stream));
}

static void building(void) {
    scalert_state_t *state = new_state(runtime);
    scalert_parameter_info_t info = SCALERT_PARAMETER_INFO_INIT;
    const int64_t shape[2] = {3, 5};
    uint32_t group = add_group(state, SCALERT_OPTIMIZER_ADAMW, 0, 0), number, count = 0;
    CHECK(group == 0);
    CHECK(add_group(state, SCALERT_OPTIMIZER_SGD, SCALERT_F16, 0) == 1);
    CHECK(add_vector(state, 1, "bias", 7) == 0);
    OK(scalert_state_add_parameter(state, 0, "weight", 2, shape, &number));
    CHECK(number == 1);
    FAILS(scalert_state_add_parameter(state, 0, "bias", 2, shape, &number), SCALERT_INVALID_ARGUMENT, "bias");
    FAILS(scalert_state_add_parameter(state, 0, "", 2, shape, &number), SCALERT_INVALID_ARGUMENT, "name");
    FAILS(scalert_state_add_parameter(state, 2, "other", 2, shape, &number), SCALERT_INVALID_ARGUMENT, "group");
    OK(scalert_state_parameter_count(state, &count));
    CHECK(count == 2);
    OK(scalert_state_parameter_info(state, 1, &info));
    CHECK(strcmp(info.name, "weight") == 0 && info.group == 0 && info.dtype == SCALERT_BF16 && info.ndim == 2);
    CHECK(info.shape[0] == 3 && info.shape[1] == 5);
    OK(scalert_state_parameter_info(state, 0, &info));
    CHECK(info.dtype == SCALERT_F16);
    FAILS(scalert_state_parameter_info(state, 2, &info), SCALERT_INVALID_ARGUMENT, "parameter");
    FAILS(scalert_state_begin_step(state), SCALERT_FAILED_PRECONDITION, "seal");
    OK(scalert_state_seal(state));
    FAILS(scalert_state_seal(state), SCALERT_FAILED_PRECONDITION, "seal");
    FAILS(scalert_state_add_parameter(state, 0, "late", 2, shape, &number), SCALERT_FAILED_PRECONDITION, "seal");
    scalert_state_destroy(state);
    scalert_state_destroy(NULL);
}

static void order_of_calls(void) {
    scalert_state_t *state = new_state(runtime);
    scalert_step_desc_t desc = SCALERT_STEP_DESC_INIT;
    float ones[4] = {1, 1, 1, 1}, out[4];
    scalert_tensor_t view = vector(ones, 4), wrong = vector(ones, 3);
    uint32_t group = add_group(state, SCALERT_OPTIMIZER_SGD, SCALERT_F32, 0);
    add_vector(state, group, "first", 4);
    add_vector(state, group, "second", 4);
    OK(scalert_state_seal(state));
    desc.learning_rate = 1.0f;
    CHECK(scalert_state_begin_micro(state) == SCALERT_FAILED_PRECONDITION);
    CHECK(scalert_state_step(state, stream, &desc) == SCALERT_FAILED_PRECONDITION);
    CHECK(scalert_state_abandon_step(state) == SCALERT_FAILED_PRECONDITION);
    OK(scalert_state_begin_step(state));
    CHECK(scalert_state_begin_step(state) == SCALERT_FAILED_PRECONDITION);
    CHECK(scalert_state_gradient_ready(state, stream, 0, &view, NULL) == SCALERT_FAILED_PRECONDITION);
    CHECK(scalert_state_write(state, stream, 0, SCALERT_PART_MASTER, &view) == SCALERT_FAILED_PRECONDITION);
    CHECK(scalert_state_set_step(state, 3) == SCALERT_FAILED_PRECONDITION);
    OK(scalert_state_begin_micro(state));
    CHECK(scalert_state_step(state, stream, &desc) == SCALERT_FAILED_PRECONDITION);
    FAILS(scalert_state_gradient_ready(state, stream, 0, &wrong, NULL), SCALERT_INVALID_ARGUMENT, "gradient");
    gradient(state, 0, ones, 4);
    FAILS(scalert_state_gradient_ready(state, stream, 0, &view, NULL), SCALERT_FAILED_PRECONDITION, "first");
    FAILS(scalert_state_end_micro(state), SCALERT_FAILED_PRECONDITION, "second");
    gradient(state, 1, ones, 4);
    OK(scalert_state_end_micro(state));
    OK(scalert_state_abandon_step(state));
    read_part(state, 0, SCALERT_PART_MASTER, out, 4);
    CHECK(out[0] == 0);
    OK(scalert_state_begin_step(state)); /* the abandoned gradients are gone */
    OK(scalert_state_begin_micro(state));
    gradient(state, 1, ones, 4);
    gradient(state, 0, ones, 4);
    OK(scalert_state_end_micro(state));
    step(state, &desc);
    read_part(state, 0, SCALERT_PART_MASTER, out, 4);
    CHECK(out[0] == -1 && out[3] == -1);
    scalert_state_destroy(state);
}

static void accumulation_and_clipping(void) {
    scalert_state_t *state = new_state(runtime);
    scalert_step_desc_t desc = SCALERT_STEP_DESC_INIT;
    scalert_step_result_t result;
    float first[2] = {1, 3}, second[2] = {5, 5}, out[2];
    scalert_event_t *consumed = NULL;
    scalert_tensor_t view = vector(second, 2);
    uint8_t complete = 0;
    uint32_t group = add_group(state, SCALERT_OPTIMIZER_SGD, SCALERT_F32, 0);
    add_vector(state, group, "w", 2);
    OK(scalert_event_create(runtime, &consumed));
    OK(scalert_state_seal(state));
    OK(scalert_state_begin_step(state));
    OK(scalert_state_begin_micro(state));
    gradient(state, 0, first, 2);
    OK(scalert_state_end_micro(state));
    OK(scalert_state_begin_micro(state));
    OK(scalert_state_gradient_ready(state, stream, 0, &view, consumed));
    OK(scalert_event_wait(consumed));
    OK(scalert_event_query(consumed, &complete));
    CHECK(complete == 1);
    second[0] = second[1] = 1e9f; /* reused by the host */
    OK(scalert_state_end_micro(state));
    read_part(state, 0, SCALERT_PART_GRADIENT, out, 2);
    CHECK(out[0] == 6 && out[1] == 8);
    desc.learning_rate = 0.5f;
    desc.gradient_scale = 0.5f;
    desc.max_norm = 1.0f;
    result = step(state, &desc);
    NEAR(result.gradient_norm, 5, 1e-12);
    NEAR(result.clip_factor, 1 / (5 + 1e-6), 1e-12);
    CHECK(result.step == 1 && !result.skipped && result.loss_scale == 1.0f);
    CHECK(result.overflow_parameter == SCALERT_NONE && result.overflow_micro == SCALERT_NONE);
    read_part(state, 0, SCALERT_PART_MASTER, out, 2);
    NEAR(out[0], -0.5 * 0.6, 1e-6);
    NEAR(out[1], -0.5 * 0.8, 1e-6);
    scalert_event_destroy(consumed);
    scalert_state_destroy(state);
}

/* Writing a checkpoint's parts into a fresh state and stepping gives the bits that the first state gives. */
static void checkpoint(void) {
    scalert_state_t *states[2];
    scalert_step_desc_t desc = SCALERT_STEP_DESC_INIT;
    float g[3] = {0.1f, -0.7f, 2.0f}, parts[3][3], final[2][3];
    desc.learning_rate = 0.01f;
    for (int which = 0; which < 2; which++) {
        scalert_state_t *state = states[which] = new_state(runtime);
        add_vector(state, add_group(state, SCALERT_OPTIMIZER_ADAMW, SCALERT_BF16, 0), "w", 3);
        OK(scalert_state_seal(state));
        if (which == 1) {
            for (int part = 0; part < 3; part++) {
                scalert_tensor_t view = vector(parts[part], 3);
                OK(scalert_state_write(state, stream, 0, (scalert_part_t)part, &view));
            }
            OK(scalert_state_set_step(state, 2));
        }
        for (int i = which ? 2 : 0; i < 3; i++) {
            if (which == 0 && i == 2)
                for (int part = 0; part < 3; part++)
                    read_part(state, 0, (scalert_part_t)part, parts[part], 3);
            OK(scalert_state_begin_step(state));
            OK(scalert_state_begin_micro(state));
            gradient(state, 0, g, 3);
            OK(scalert_state_end_micro(state));
            CHECK(step(state, &desc).step == (uint64_t)i + 1);
        }
        read_part(state, 0, SCALERT_PART_MASTER, final[which], 3);
    }
    CHECK(memcmp(final[0], final[1], sizeof final[0]) == 0);
    CHECK(final[0][0] != 0);
    scalert_state_destroy(states[0]);
    scalert_state_destroy(states[1]);
}

static void acquired_weights(void) {
    scalert_state_t *state = new_state(runtime);
    float values[2] = {1.0f, 1.00390625f}, master[2];
    scalert_tensor_t source = vector(values, 2), weight, again;
    add_vector(state, add_group(state, SCALERT_OPTIMIZER_ADAMW, 0, 0), "w", 2);
    OK(scalert_state_seal(state));
    OK(scalert_state_write(state, stream, 0, SCALERT_PART_MASTER, &source));
    OK(scalert_state_acquire(state, 0, stream, &weight));
    OK(scalert_state_acquire(state, 0, stream, &again));
    CHECK(weight.dtype == SCALERT_BF16 && weight.ndim == 1 && weight.shape[0] == 2 && weight.data == again.data);
    CHECK(((uint16_t *)weight.data)[0] == 0x3F80);
    CHECK(((uint16_t *)weight.data)[1] == 0x3F81); /* write-back rounds ties away from zero */
    CHECK(scalert_state_write(state, stream, 0, SCALERT_PART_MASTER, &source) == SCALERT_FAILED_PRECONDITION);
    OK(scalert_state_release(state, 0, stream));
    OK(scalert_state_release(state, 0, stream));
    CHECK(scalert_state_release(state, 0, stream) == SCALERT_FAILED_PRECONDITION);
    FAILS(scalert_state_write(state, stream, 0, SCALERT_PART_GRADIENT, &source), SCALERT_INVALID_ARGUMENT, "part");
    read_part(state, 0, SCALERT_PART_MASTER, master, 2);
    CHECK(master[1] == 1.00390625f); /* the master keeps what bf16 cannot */
    scalert_state_destroy(state);
}

/* y = A x + b is learned from 32 points, by gradients that the host computes with the library's products. */
static void regression(scalert_optimizer_t optimizer, float momentum, float peak, int steps) {
    enum { POINTS = 32, IN = 3, OUT = 2 };
    static const float truth[OUT * IN] = {0.5f, -1.0f, 2.0f, 1.5f, 0.25f, -0.75f}, offset[OUT] = {0.3f, -0.6f};
    float x[POINTS * IN], y[POINTS * OUT], error[POINTS * OUT], dw[OUT * IN], db[OUT], out[OUT * IN], out_bias[OUT];
    const int64_t shape[2] = {OUT, IN};
    scalert_state_t *state = new_state(runtime);
    scalert_tensor_t tx = matrix(x, POINTS, IN), terror = matrix(error, POINTS, OUT), tdw = matrix(dw, OUT, IN);
    scalert_tensor_t tdb = vector(db, OUT), tw, tb, tout = matrix(out, OUT, IN);
    scalert_gemm_options_t options = SCALERT_GEMM_OPTIONS_INIT;
    scalert_schedule_t schedule = SCALERT_SCHEDULE_INIT;
    scalert_random_key_t key = {11, 0, 0};
    uint32_t group = add_group(state, optimizer, SCALERT_F32, momentum), weight = 0, bias;
    OK(scalert_state_add_parameter(state, group, "weight", 2, shape, &weight));
    bias = add_vector(state, group, "bias", OUT);
    OK(scalert_state_seal(state));
    OK(scalert_random_normal(stream, key, 0, 1, &tx));
    for (int i = 0; i < POINTS; i++)
        for (int o = 0; o < OUT; o++) {
            y[i * OUT + o] = offset[o];
            for (int k = 0; k < IN; k++)
                y[i * OUT + o] += truth[o * IN + k] * x[i * IN + k];
        }
    schedule.kind = SCALERT_SCHEDULE_LINEAR;
    schedule.peak = peak;
    schedule.total_steps = (uint64_t)steps;
    for (int i = 1; i <= steps; i++) {
        scalert_step_desc_t desc = SCALERT_STEP_DESC_INIT;
        OK(scalert_state_begin_step(state));
        OK(scalert_state_begin_micro(state));
        OK(scalert_state_acquire(state, weight, stream, &tw));
        OK(scalert_state_acquire(state, bias, stream, &tb));
        options.alpha = 1.0f;
        options.bias = &tb;
        OK(scalert_gemm(stream, 0, 1, &tx, &tw, &terror, &options));
        OK(scalert_state_release(state, weight, stream));
        OK(scalert_state_release(state, bias, stream));
        for (int k = 0; k < POINTS * OUT; k++)
            error[k] = 2.0f * (error[k] - y[k]);
        options.bias = NULL;
        OK(scalert_gemm(stream, 1, 0, &terror, &tx, &tdw, &options));
        OK(scalert_bias_gradient(stream, &terror, 0, &tdb));
        OK(scalert_state_gradient_ready(state, stream, bias, &tdb, NULL));
        OK(scalert_state_gradient_ready(state, stream, weight, &tdw, NULL));
        OK(scalert_state_end_micro(state));
        desc.gradient_scale = 1.0f / (POINTS * OUT);
        OK(scalert_schedule_learning_rate(&schedule, (uint64_t)i, &desc.learning_rate));
        OK(scalert_state_step(state, stream, &desc));
    }
    OK(scalert_state_read(state, stream, weight, SCALERT_PART_MASTER, &tout));
    read_part(state, bias, SCALERT_PART_MASTER, out_bias, OUT);
    for (int k = 0; k < OUT * IN; k++)
        NEAR(out[k], truth[k], 0.01);
    for (int k = 0; k < OUT; k++)
        NEAR(out_bias[k], offset[k], 0.01);
    scalert_state_destroy(state);
}

int main(void) {
    runtime = cpu_runtime();
    stream = stream_of(runtime);
    building();
    order_of_calls();
    accumulation_and_clipping();
    checkpoint();
    acquired_weights();
    regression(SCALERT_OPTIMIZER_ADAMW, 0, 0.1f, 300);
    regression(SCALERT_OPTIMIZER_SGD, 0, 0.3f, 300);
    regression(SCALERT_OPTIMIZER_SGD, 0.9f, 0.1f, 300);
    regression(SCALERT_OPTIMIZER_LION, 0, 0.05f, 300);
    scalert_stream_destroy(stream);
    scalert_runtime_destroy(runtime);
    return passed();
}
