/* f16 with a dynamic loss scale: an overflow is skipped, named and recovered from; one at the smallest scale is an
 * error. */
#include "check.h"

static scalert_runtime_t *runtime;
static scalert_stream_t *stream;

/* One step of two micro-batches over two f16 parameters; the gradient of a micro-batch and parameter may be replaced.
 */
static scalert_status_t step(scalert_state_t *state, scalert_scaler_t *scaler, uint32_t bad_micro,
                             uint32_t bad_parameter, uint16_t bad_value, scalert_step_result_t *result) {
    scalert_step_desc_t desc = SCALERT_STEP_DESC_INIT;
    uint16_t gradient[4];
    scalert_tensor_t view = tensor(gradient, SCALERT_F16, 1, 4, 0, 0, 0);
    OK(scalert_state_begin_step(state));
    for (uint32_t micro = 0; micro < 2; micro++) {
        OK(scalert_state_begin_micro(state));
        for (uint32_t p = 0; p < 2; p++) {
            for (int i = 0; i < 4; i++)
                gradient[i] = 0x3C00; /* 1 */
            if (micro == bad_micro && p == bad_parameter)
                gradient[2] = bad_value;
            OK(scalert_state_gradient_ready(state, stream, p, &view, NULL));
        }
        OK(scalert_state_end_micro(state));
    }
    desc.learning_rate = 1.0f;
    desc.scaler = scaler;
    OK(scalert_state_step(state, stream, &desc));
    return scalert_state_step_result_wait(state, result);
}

static scalert_state_t *two_parameters(void) {
    scalert_state_t *state = new_state(runtime);
    scalert_group_desc_t desc = SCALERT_GROUP_DESC_INIT;
    const int64_t n = 4;
    uint32_t number;
    desc.optimizer = SCALERT_OPTIMIZER_SGD;
    desc.weight_dtype = SCALERT_F16;
    OK(scalert_state_add_group(state, &desc, &number));
    OK(scalert_state_add_parameter(state, 0, "layer0.weight", 1, &n, &number));
    OK(scalert_state_add_parameter(state, 0, "layer1.weight", 1, &n, &number));
    OK(scalert_state_seal(state));
    return state;
}

static float master_of(scalert_state_t *state, uint32_t parameter) {
    float values[4];
    scalert_tensor_t view = vector(values, 4);
    OK(scalert_state_read(state, stream, parameter, SCALERT_PART_MASTER, &view));
    OK(scalert_stream_wait(stream));
    return values[2];
}

static void overflow_is_skipped_named_and_recovered_from(void) {
    scalert_state_t *state = two_parameters();
    scalert_scaler_desc_t desc = SCALERT_SCALER_DESC_INIT;
    scalert_scaler_t *scaler = NULL;
    scalert_scaler_report_t report = SCALERT_SCALER_REPORT_INIT;
    scalert_step_result_t result = SCALERT_STEP_RESULT_INIT;
    scalert_tensor_t scale;
    desc.initial_scale = 8.0f;
    desc.growth_interval = 2;
    OK(scalert_scaler_create(runtime, &desc, &scaler));
    OK(scalert_scaler_scale(scaler, &scale));
    CHECK(scale.dtype == SCALERT_F32 && *(float *)scale.data == 8.0f);

    OK(step(state, scaler, 9, 9, 0, &result));
    CHECK(!result.skipped && result.step == 1 && result.loss_scale == 8.0f);
    NEAR(result.gradient_norm, sqrt(8 * 0.25 * 0.25), 1e-12); /* eight elements of 2 / 8 */
    NEAR(master_of(state, 0), -0.25, 0);

    OK(step(state, scaler, 1, 1, 0x7C00, &result)); /* infinity */
    CHECK(result.skipped && result.step == 1 && result.loss_scale == 8.0f && isnan(result.gradient_norm));
    CHECK(result.overflow_parameter == 1 && result.overflow_micro == 1 && result.overflow_rank == 0);
    NEAR(master_of(state, 0), -0.25, 0);
    NEAR(master_of(state, 1), -0.25, 0);
    OK(scalert_scaler_read_wait(scaler, &report));
    CHECK(report.scale == 4.0f && report.overflows == 1 && report.finite_steps == 0 && !report.collapsed);

    OK(step(state, scaler, 0, 0, 0x7E00, &result)); /* not a number */
    CHECK(result.skipped && result.overflow_parameter == 0 && result.overflow_micro == 0);

    OK(step(state, scaler, 9, 9, 0, &result));
    CHECK(!result.skipped && result.step == 2 && result.loss_scale == 2.0f);
    CHECK(result.overflow_parameter == SCALERT_NONE);
    NEAR(master_of(state, 1), -1.25, 0);
    OK(step(state, scaler, 9, 9, 0, &result));
    OK(scalert_scaler_read_wait(scaler, &report));
    CHECK(report.scale == 4.0f && report.overflows == 2); /* grown after two finite steps */
    scalert_scaler_destroy(scaler);
    scalert_scaler_destroy(NULL);
    scalert_state_destroy(state);
}

static void collapse(void) {
    scalert_state_t *state = two_parameters();
    scalert_scaler_desc_t desc = SCALERT_SCALER_DESC_INIT;
    scalert_scaler_t *scaler = NULL;
    scalert_scaler_report_t report = SCALERT_SCALER_REPORT_INIT;
    scalert_step_result_t result = SCALERT_STEP_RESULT_INIT;
    desc.initial_scale = 2.0f;
    OK(scalert_scaler_create(runtime, &desc, &scaler));
    OK(step(state, scaler, 0, 1, 0x7C00, &result));
    FAILS(step(state, scaler, 0, 1, 0x7C00, &result), SCALERT_LOSS_SCALE_COLLAPSED, "layer1.weight");
    CHECK(result.skipped && result.overflow_parameter == 1 && result.loss_scale == 1.0f);
    OK(scalert_scaler_read_wait(scaler, &report));
    CHECK(report.collapsed && report.scale == 1.0f && report.overflows == 2);
    OK(step(state, scaler, 9, 9, 0, &result)); /* not the end, if the host goes on */
    CHECK(!result.skipped && result.step == 1);
    scalert_scaler_destroy(scaler);
    scalert_state_destroy(state);
}

static void by_hand(void) {
    scalert_scaler_desc_t desc = SCALERT_SCALER_DESC_INIT;
    scalert_scaler_t *scaler = NULL;
    scalert_scaler_report_t report = SCALERT_SCALER_REPORT_INIT;
    int64_t nonfinite[1] = {3};
    scalert_tensor_t view = tensor(nonfinite, SCALERT_I64, 1, 1, 0, 0, 0);
    desc.hysteresis = 2;
    OK(scalert_scaler_create(runtime, &desc, &scaler));
    OK(scalert_scaler_update(scaler, stream, &view));
    OK(scalert_scaler_read_wait(scaler, &report));
    CHECK(report.scale == 65536.0f && report.overflows == 1);
    OK(scalert_scaler_update(scaler, stream, &view));
    OK(scalert_scaler_read_wait(scaler, &report));
    CHECK(report.scale == 32768.0f);
    nonfinite[0] = 0;
    OK(scalert_scaler_update(scaler, stream, &view));
    OK(scalert_scaler_read_wait(scaler, &report));
    CHECK(report.finite_steps == 1 && report.overflows == 2);
    scalert_scaler_destroy(scaler);
    desc.backoff_factor = 2.0f;
    FAILS(scalert_scaler_create(runtime, &desc, &scaler), SCALERT_INVALID_ARGUMENT, "backoff_factor");
}

int main(void) {
    runtime = cpu_runtime();
    stream = stream_of(runtime);
    overflow_is_skipped_named_and_recovered_from();
    collapse();
    by_hand();
    scalert_stream_destroy(stream);
    scalert_runtime_destroy(runtime);
    return passed();
}
