/* Each operation on values that can be worked out by hand. */
#include "check.h"

static scalert_runtime_t *runtime;
static scalert_stream_t *stream;

static scalert_tensor_t ids(int32_t *data, int64_t n) {
    return tensor(data, SCALERT_I32, 1, n, 0, 0, 0);
}
static scalert_tensor_t halves(uint16_t *data, scalert_dtype_t dtype, int64_t n) {
    return tensor(data, dtype, 1, n, 0, 0, 0);
}

static void cast(void) {
    float x[6] = {1.0f, 1.5f, 1.00390625f, 2049.0f, 65520.0f, 1e-40f}, back[6];
    uint16_t y[6];
    scalert_tensor_t tx = vector(x, 6), ty = halves(y, SCALERT_BF16, 6), tback = vector(back, 6);
    x[5] = NAN;
    OK(scalert_cast(stream, &tx, &ty, NULL));
    CHECK(y[0] == 0x3F80 && y[1] == 0x3FC0 && y[2] == 0x3F80 && (y[5] & 0x7FFF) > 0x7F80);
    ty = halves(y, SCALERT_F16, 6);
    OK(scalert_cast(stream, &tx, &ty, NULL));
    CHECK(y[0] == 0x3C00 && y[1] == 0x3E00 && y[3] == 0x6800 && y[4] == 0x7C00 && (y[5] & 0x7FFF) > 0x7C00);
    OK(scalert_cast(stream, &ty, &tback, NULL));
    CHECK(back[1] == 1.5f && back[3] == 2048.0f && isinf(back[4]) && isnan(back[5]));
    ty = halves(y, SCALERT_F16, 5);
    FAILS(scalert_cast(stream, &tx, &ty, NULL), SCALERT_INVALID_ARGUMENT, "y");
}

static void cast_stochastic(void) {
    static float x[4096], back[4096];
    static uint16_t y[4096];
    scalert_cast_options_t options = SCALERT_CAST_OPTIONS_INIT;
    scalert_tensor_t tx = vector(x, 4096), ty = halves(y, SCALERT_BF16, 4096), tback = vector(back, 4096);
    double mean = 0;
    options.rounding = SCALERT_ROUND_STOCHASTIC;
    options.key.seed = 7;
    for (int i = 0; i < 4096; i++)
        x[i] = 1.0f + 1.0f / 512.0f; /* a quarter of the way from 1 to the next bf16 */
    OK(scalert_cast(stream, &tx, &ty, &options));
    OK(scalert_cast(stream, &ty, &tback, NULL));
    for (int i = 0; i < 4096; i++) {
        CHECK(back[i] == 1.0f || back[i] == 1.0078125f);
        mean += back[i] / 4096.0;
    }
    NEAR(mean, 1.0 + 1.0 / 512.0, 3e-4);
}

static void elementwise(void) {
    float a[5], b[5] = {1, 2, 3, 4, 5}, y[5];
    scalert_tensor_t ta = vector(a, 5), tb = vector(b, 5), ty = vector(y, 5);
    OK(scalert_fill(stream, 0.5f, &ta));
    OK(scalert_add(stream, &ta, &tb, &ty));
    CHECK(y[0] == 1.5f && y[4] == 5.5f);
    OK(scalert_scale(stream, -2.0f, &ty, &ty));
    CHECK(y[0] == -3.0f && y[4] == -11.0f);
    OK(scalert_axpy(stream, 3.0f, &tb, &ty));
    CHECK(y[0] == 0.0f && y[4] == 4.0f);
    FAILS(scalert_add(stream, NULL, &tb, &ty), SCALERT_INVALID_ARGUMENT, "a");
    FAILS(scalert_add(NULL, &ta, &tb, &ty), SCALERT_INVALID_ARGUMENT, "stream");
    tb = vector(a + 1, 4);
    ta = vector(a, 4);
    FAILS(scalert_scale(stream, 1.0f, &ta, &tb), SCALERT_INVALID_ARGUMENT, "y"); /* overlapping by halves */
    ta = vector(NULL, 0);
    OK(scalert_scale(stream, 1.0f, &ta, &ta));
}

static void random_numbers(void) {
    static float x[10000], again[10000], other[10000];
    scalert_tensor_t tx = vector(x, 10000), tagain = vector(again, 10000), tother = vector(other, 10000);
    scalert_random_key_t key = {42, 3, 1}, another = {42, 3, 2};
    double mean = 0, square = 0;
    OK(scalert_random_uniform(stream, key, -1.0f, 3.0f, &tx));
    OK(scalert_random_uniform(stream, key, -1.0f, 3.0f, &tagain));
    OK(scalert_random_uniform(stream, another, -1.0f, 3.0f, &tother));
    CHECK(memcmp(x, again, sizeof x) == 0 && memcmp(x, other, sizeof x) != 0);
    for (int i = 0; i < 10000; i++) {
        CHECK(x[i] >= -1.0f && x[i] < 3.0f);
        mean += x[i] / 1e4;
    }
    NEAR(mean, 1, 0.06);
    OK(scalert_random_normal(stream, key, 2.0f, 0.5f, &tx));
    mean = 0;
    for (int i = 0; i < 10000; i++)
        mean += x[i] / 1e4;
    for (int i = 0; i < 10000; i++)
        square += (x[i] - mean) * (x[i] - mean) / 1e4;
    NEAR(mean, 2, 0.025);
    NEAR(sqrt(square), 0.5, 0.02);
    key.step = (uint64_t)1 << 40;
    FAILS(scalert_random_normal(stream, key, 0, 1, &tx), SCALERT_INVALID_ARGUMENT, "step");
}

static void dropout(void) {
    static float x[8000], y[8000], again[8000];
    scalert_tensor_t tx = vector(x, 8000), ty = vector(y, 8000), tagain = vector(again, 8000);
    scalert_random_key_t key = {1, 2, 3};
    int kept = 0;
    OK(scalert_fill(stream, 3.0f, &tx));
    OK(scalert_dropout(stream, &tx, 0.25f, key, &ty));
    OK(scalert_dropout(stream, &tx, 0.25f, key, &tagain));
    CHECK(memcmp(y, again, sizeof y) == 0);
    for (int i = 0; i < 8000; i++) {
        CHECK(y[i] == 0.0f || y[i] == 4.0f);
        kept += y[i] != 0.0f;
    }
    NEAR(kept, 6000, 200);
    FAILS(scalert_dropout(stream, &tx, 1.0f, key, &ty), SCALERT_INVALID_ARGUMENT, "probability");
}

static void exact_sum(void) {
    static float x[768];
    int64_t limbs[SCALERT_EXACT_SUM_LIMBS] = {0};
    scalert_tensor_t tx = vector(x, 768), sum = tensor(limbs, SCALERT_I64, 1, SCALERT_EXACT_SUM_LIMBS, 0, 0, 0);
    double value = 0;
    uint64_t nonfinite = 99;
    x[0] = 1e30f;
    x[256] = 1.0f;
    x[512] = -1e30f;
    OK(scalert_exact_sum(stream, &tx, SCALERT_SUM_OF_VALUES, &sum));
    OK(scalert_exact_sum_read(limbs, &value, &nonfinite));
    CHECK(value == 1.0 && nonfinite == 0);
    x[700] = INFINITY;
    OK(scalert_exact_sum(stream, &tx, SCALERT_SUM_OF_VALUES, &sum));
    OK(scalert_exact_sum_read(limbs, &value, &nonfinite));
    CHECK(value == 2.0 && nonfinite == 1);
    memset(limbs, 0, sizeof limbs);
    x[0] = 3.0f;
    x[256] = 4.0f;
    x[512] = x[700] = 0.0f;
    OK(scalert_exact_sum(stream, &tx, SCALERT_SUM_OF_SQUARES, &sum));
    OK(scalert_exact_sum_read(limbs, &value, NULL));
    CHECK(value == 25.0);
}

static void gemm(void) {
    float a[4] = {1, 2, 3, 4}, b[4] = {5, 6, 7, 8}, c[4] = {0}, bias[2] = {100, 200}, pre[4] = {0};
    uint16_t half[4] = {0x3F80, 0x4000, 0x4040, 0x4080}; /* 1 2 3 4 in bf16 */
    scalert_gemm_options_t options = SCALERT_GEMM_OPTIONS_INIT;
    scalert_tensor_t ta = matrix(a, 2, 2), tb = matrix(b, 2, 2), tc = matrix(c, 2, 2), tbias = vector(bias, 2);
    scalert_tensor_t tpre = matrix(pre, 2, 2), thalf = tensor(half, SCALERT_BF16, 2, 2, 2, 0, 0), wrong;
    OK(scalert_gemm(stream, 0, 0, &ta, &tb, &tc, NULL));
    CHECK(c[0] == 19 && c[1] == 22 && c[2] == 43 && c[3] == 50);
    OK(scalert_gemm(stream, 1, 0, &ta, &tb, &tc, NULL));
    CHECK(c[0] == 26 && c[1] == 30 && c[2] == 38 && c[3] == 44);
    OK(scalert_gemm(stream, 0, 1, &ta, &tb, &tc, NULL));
    CHECK(c[0] == 17 && c[1] == 23 && c[2] == 39 && c[3] == 53);
    options.alpha = 2.0f;
    options.beta = 1.0f;
    options.bias = &tbias;
    OK(scalert_gemm(stream, 0, 1, &ta, &tb, &tc, &options));
    CHECK(c[0] == 151 && c[1] == 269 && c[2] == 217 && c[3] == 359);
    OK(scalert_gemm(stream, 0, 0, &thalf, &thalf, &tc, NULL));
    CHECK(c[0] == 7 && c[1] == 10 && c[2] == 15 && c[3] == 22);

    options.alpha = 0.1f;
    options.beta = 0.0f;
    options.bias = NULL;
    options.activation = SCALERT_ACTIVATION_GELU_EXACT;
    options.pre_activation = &tpre;
    OK(scalert_gemm(stream, 0, 0, &ta, &tb, &tc, &options));
    NEAR(pre[0], 1.9, 1e-6);
    NEAR(c[0], 1.9 * 0.5 * (1 + erf(1.9 / sqrt(2.0))), 1e-5);
    wrong = matrix(b, 1, 4);
    FAILS(scalert_gemm(stream, 0, 0, &ta, &wrong, &tc, NULL), SCALERT_INVALID_ARGUMENT, "b");
    FAILS(scalert_gemm(stream, 0, 0, &ta, &thalf, &tc, NULL), SCALERT_INVALID_ARGUMENT, "dtype");
    FAILS(scalert_gemm(stream, 0, 0, &ta, &tb, &ta, NULL), SCALERT_INVALID_ARGUMENT, "c");
}

static void bias_gradient(void) {
    float dy[6] = {1, 2, 3, 10, 20, 30}, dbias[3] = {1, 1, 1};
    scalert_tensor_t tdy = matrix(dy, 2, 3), tdbias = vector(dbias, 3);
    OK(scalert_bias_gradient(stream, &tdy, 1, &tdbias));
    CHECK(dbias[0] == 12 && dbias[2] == 34);
    OK(scalert_bias_gradient(stream, &tdy, 0, &tdbias));
    CHECK(dbias[0] == 11 && dbias[2] == 33);
}

static void embedding(void) {
    float table[6] = {1, 2, 10, 20, 100, 200}, positions[4] = {0.5f, 0, 0, 0.25f}, y[4], dtable[6], dpositions[4];
    int32_t tokens[2] = {2, 2};
    scalert_tensor_t ttokens = ids(tokens, 2), ttable = matrix(table, 3, 2), tpositions = matrix(positions, 2, 2);
    scalert_tensor_t ty = matrix(y, 2, 2), tdtable = matrix(dtable, 3, 2), tdpositions = matrix(dpositions, 2, 2);
    OK(scalert_embedding_forward(stream, &ttokens, &ttable, &tpositions, &ty));
    CHECK(y[0] == 100.5f && y[1] == 200 && y[2] == 100 && y[3] == 200.25f);
    OK(scalert_embedding_backward(stream, &ttokens, &ty, 0, &tdtable, &tdpositions));
    CHECK(dtable[4] == 200.5f && dtable[5] == 400.25f && dtable[0] == 0 && dpositions[3] == 200.25f);
    tokens[1] = 3;
    y[0] = -1;
    FAILS(scalert_embedding_forward(stream, &ttokens, &ttable, &tpositions, &ty), SCALERT_INVALID_ARGUMENT, "tokens");
    CHECK(y[0] == -1);
}

static void layer_norm(void) {
    float x[4] = {1, 2, 3, 4}, y[4], weight[4] = {1, 1, 1, 2}, bias[4] = {0, 0, 0, 1}, mean[1], rstd[1];
    float dy[4] = {1, 0, 0, 0}, dx[4], dweight[4], dbias[4];
    scalert_tensor_t tx = matrix(x, 1, 4), ty = matrix(y, 1, 4), tweight = vector(weight, 4), tbias = vector(bias, 4);
    scalert_tensor_t tmean = vector(mean, 1), trstd = vector(rstd, 1), tdy = matrix(dy, 1, 4), tdx = matrix(dx, 1, 4);
    scalert_tensor_t tdweight = vector(dweight, 4), tdbias = vector(dbias, 4);
    const double r = 1 / sqrt(1.25 + 1e-5);
    OK(scalert_layer_norm_forward(stream, &tx, &tweight, &tbias, 1e-5f, &ty, &tmean, &trstd));
    NEAR(mean[0], 2.5, 1e-6);
    NEAR(rstd[0], r, 1e-6);
    NEAR(y[0], -1.5 * r, 1e-6);
    NEAR(y[3], 2 * 1.5 * r + 1, 1e-6);
    OK(scalert_layer_norm_backward(stream, &tdy, &tx, &tweight, &tmean, &trstd, 0, &tdx, &tdweight, &tdbias));
    /* dx = r (g - mean(g) - xhat mean(g xhat)), g = (1, 0, 0, 0) */
    NEAR(dx[0], r * (1 - 0.25 - 1.5 * r * 1.5 * r / 4), 1e-6);
    NEAR(dx[3], r * (-0.25 + 1.5 * r * 1.5 * r / 4), 1e-6);
    NEAR(dweight[0], -1.5 * r, 1e-6);
    CHECK(dweight[1] == 0 && dbias[0] == 1 && dbias[3] == 0);
    FAILS(scalert_layer_norm_forward(stream, &tx, NULL, NULL, 0.0f, &ty, NULL, NULL), SCALERT_INVALID_ARGUMENT,
          "epsilon");
}

static void rms_norm(void) {
    float x[4] = {1, 2, 3, 4}, y[4], rstd[1], dy[4] = {1, 0, 0, 0}, dx[4], dweight[4];
    scalert_tensor_t tx = matrix(x, 1, 4), ty = matrix(y, 1, 4), trstd = vector(rstd, 1), tdy = matrix(dy, 1, 4);
    scalert_tensor_t tdx = matrix(dx, 1, 4), tdweight = vector(dweight, 4);
    const double r = 1 / sqrt(7.5 + 1e-5);
    OK(scalert_rms_norm_forward(stream, &tx, NULL, 1e-5f, &ty, &trstd));
    NEAR(y[0], r, 1e-6);
    NEAR(y[3], 4 * r, 1e-6);
    OK(scalert_rms_norm_backward(stream, &tdy, &tx, NULL, &trstd, 0, &tdx, &tdweight));
    NEAR(dx[0], r * (1 - r * r / 4), 1e-6);
    NEAR(dx[1], -r * 2 * r * r / 4, 1e-6);
    NEAR(dweight[0], r, 1e-6);
}

static void activations(void) {
    float x[2] = {1, 0}, y[2], up[2] = {2, 3}, dgate[2], dup[2], one[2] = {1, 1};
    scalert_tensor_t tx = vector(x, 2), ty = vector(y, 2), tup = vector(up, 2), tone = vector(one, 2);
    scalert_tensor_t tdgate = vector(dgate, 2), tdup = vector(dup, 2);
    OK(scalert_gelu_forward(stream, &tx, SCALERT_GELU_EXACT, &ty));
    NEAR(y[0], 0.841344746, 1e-6);
    OK(scalert_gelu_forward(stream, &tx, SCALERT_GELU_TANH, &ty));
    NEAR(y[0], 0.841191991, 1e-6);
    OK(scalert_gelu_backward(stream, &tx, &tone, SCALERT_GELU_TANH, &ty));
    NEAR(y[1], 0.5, 1e-6);
    OK(scalert_swiglu_forward(stream, &tx, &tup, &ty));
    NEAR(y[0], 1.462117157, 1e-6);
    CHECK(y[1] == 0);
    OK(scalert_swiglu_backward(stream, &tx, &tup, &tone, &tdgate, &tdup));
    NEAR(dgate[1], 1.5, 1e-6); /* up * silu'(0) */
    NEAR(dup[0], 0.731058579, 1e-6);
}

static void rotary(void) {
    float x[8] = {1, 0, 1, 0, 1, 0, 1, 0}, y[8]; /* two positions, one head of width 4 */
    scalert_rotary_options_t options = SCALERT_ROTARY_OPTIONS_INIT;
    scalert_tensor_t tx = tensor(x, SCALERT_F32, 4, 1, 2, 1, 4), ty = tensor(y, SCALERT_F32, 4, 1, 2, 1, 4);
    OK(scalert_rotary(stream, &tx, &ty, NULL));
    CHECK(y[0] == 1 && y[1] == 0 && y[2] == 1 && y[3] == 0);
    NEAR(y[4], cos(1.0) - sin(1.0), 1e-6); /* the pair (0, 2) turned by 1 */
    NEAR(y[6], sin(1.0) + cos(1.0), 1e-6);
    options.inverse = 1;
    OK(scalert_rotary(stream, &ty, &ty, &options));
    for (int i = 0; i < 8; i++)
        NEAR(y[i], x[i], 1e-6);
    options.inverse = 0;
    options.layout = SCALERT_ROTARY_INTERLEAVED;
    OK(scalert_rotary(stream, &tx, &ty, &options));
    NEAR(y[5], sin(1.0), 1e-6);
    NEAR(y[6], cos(0.01), 1e-6); /* the second pair turns by 10000^(-1/2) */
}

/* With zero queries the scores are equal: each position averages the values it sees. */
static void attention(void) {
    enum { D = 16 };
    static float q[2 * 2 * D], k[2 * D], v[2 * D], out[2 * 2 * D], lse[2 * 2], dout[2 * 2 * D], dq[2 * 2 * D],
        dk[2 * D], dv[2 * D];
    scalert_attention_options_t options = SCALERT_ATTENTION_OPTIONS_INIT;
    scalert_tensor_t tq = tensor(q, SCALERT_F32, 4, 1, 2, 2, D), tk = tensor(k, SCALERT_F32, 4, 1, 2, 1, D);
    scalert_tensor_t tv = tensor(v, SCALERT_F32, 4, 1, 2, 1, D), tout = tensor(out, SCALERT_F32, 4, 1, 2, 2, D);
    scalert_tensor_t tlse = tensor(lse, SCALERT_F32, 3, 1, 2, 2, 0), tdout = tensor(dout, SCALERT_F32, 4, 1, 2, 2, D);
    scalert_tensor_t tdq = tensor(dq, SCALERT_F32, 4, 1, 2, 2, D), tdk = tensor(dk, SCALERT_F32, 4, 1, 2, 1, D);
    scalert_tensor_t tdv = tensor(dv, SCALERT_F32, 4, 1, 2, 1, D), wrong;
    options.causal = 1;
    for (int i = 0; i < D; i++) {
        k[i] = 1.0f;
        k[D + i] = -1.0f;
        v[i] = 4.0f;
        v[D + i] = 8.0f;
    }
    OK(scalert_attention_forward(stream, &tq, &tk, &tv, &tout, &tlse, &options));
    NEAR(out[0], 4, 1e-6);         /* first position */
    NEAR(out[2 * D], 6, 1e-6);     /* second position, first head */
    NEAR(out[3 * D + 5], 6, 1e-6); /* second position, second head: the same key head */
    NEAR(lse[0], 0, 1e-6);
    NEAR(lse[1], log(2.0), 1e-6);
    OK(scalert_fill(stream, 1.0f, &tdout));
    OK(scalert_attention_backward(stream, &tq, &tk, &tv, &tout, &tlse, &tdout, &tdq, &tdk, &tdv, &options));
    NEAR(dv[0], 2 * 1.5, 1e-6); /* both heads: once from the first position, half from the second */
    NEAR(dv[D], 2 * 0.5, 1e-6);
    NEAR(dk[0], 0, 1e-6);
    NEAR(dq[0], 0, 1e-6);
    /* p (dp - mean dp) k / sqrt(d): dp = 16 * (4, 8), p = 1/2 */
    NEAR(dq[2 * D], 0.25 * (0.5 * -32.0 * 1.0 + 0.5 * 32.0 * -1.0), 1e-4);
    wrong = tensor(q, SCALERT_F32, 4, 1, 1, 2, D);
    options.causal = 0;
    FAILS(scalert_attention_forward(stream, &tq, &tk, &tv, &wrong, NULL, &options), SCALERT_INVALID_ARGUMENT, "out");
}

static void losses(void) {
    float logits[8] = {0, 0, 0, 0, 5, 5, 5, 5}, loss[2], dlogits[8], scale[1] = {8};
    float x[4] = {1, 0, 0, 1}, weight[8] = {0}, dx[4], dweight[8];
    int32_t targets[2] = {1, -1};
    scalert_cross_entropy_options_t options = SCALERT_CROSS_ENTROPY_OPTIONS_INIT;
    scalert_tensor_t tlogits = matrix(logits, 2, 4), ttargets = ids(targets, 2), tloss = vector(loss, 2);
    scalert_tensor_t tdlogits = matrix(dlogits, 2, 4), tscale = vector(scale, 1), tx = matrix(x, 2, 2);
    scalert_tensor_t tweight = matrix(weight, 4, 2), tdx = matrix(dx, 2, 2), tdweight = matrix(dweight, 4, 2);
    options.gradient_scale = 0.5f;
    options.loss_scale = &tscale;
    OK(scalert_cross_entropy(stream, &tlogits, &ttargets, &tloss, &tdlogits, &options));
    NEAR(loss[0], log(4.0), 1e-6);
    NEAR(dlogits[0], 1, 1e-6);
    NEAR(dlogits[1], -3, 1e-6);
    CHECK(loss[1] == 0 && dlogits[4] == 0 && dlogits[7] == 0);
    OK(scalert_linear_cross_entropy(stream, &tx, &tweight, &ttargets, 0, &tloss, &tdx, &tdweight, &options));
    NEAR(loss[0], log(4.0), 1e-6);
    NEAR(dweight[0], 1, 1e-6);  /* first row of x times the gradients above */
    NEAR(dweight[2], -3, 1e-6); /* the target's row */
    CHECK(loss[1] == 0 && dx[0] == 0 && dweight[1] == 0);
    FAILS(scalert_linear_cross_entropy(stream, &tx, &tweight, &ttargets, 0, &tloss, &tdx, NULL, NULL),
          SCALERT_INVALID_ARGUMENT, "dweight");
    targets[0] = 4;
    FAILS(scalert_cross_entropy(stream, &tlogits, &ttargets, &tloss, NULL, NULL), SCALERT_INVALID_ARGUMENT, "targets");
}

static void optimizers(void) {
    float gradient[3] = {0.5f, -2.0f, 0.0f}, master[3] = {1, 1, 1}, m[3] = {0}, v[3] = {0};
    uint16_t weight[3];
    scalert_tensor_t tg = vector(gradient, 3), tmaster = vector(master, 3), tm = vector(m, 3), tv = vector(v, 3);
    scalert_tensor_t tweight = halves(weight, SCALERT_F16, 3);
    scalert_adamw_options_t adamw = SCALERT_ADAMW_OPTIONS_INIT;
    scalert_sgd_options_t sgd = SCALERT_SGD_OPTIONS_INIT;
    scalert_lion_options_t lion = SCALERT_LION_OPTIONS_INIT;
    adamw.learning_rate = 0.5f;
    adamw.weight_decay = 0.5f;
    OK(scalert_adamw(stream, &tg, &tmaster, &tm, &tv, &tweight, &adamw)); /* p (1 - lr wd) - lr sign(g) */
    NEAR(master[0], 0.25, 1e-6);
    NEAR(master[1], 1.25, 1e-6);
    NEAR(master[2], 0.75, 1e-6);
    NEAR(m[0], 0.05, 1e-7);
    NEAR(v[1], 0.004, 1e-6);
    CHECK(weight[2] == 0x3A00);

    memset(m, 0, sizeof m);
    OK(scalert_fill(stream, 1.0f, &tmaster));
    sgd.learning_rate = 0.5f;
    sgd.momentum = 0.5f;
    OK(scalert_sgd(stream, &tg, &tmaster, &tm, NULL, &sgd));
    CHECK(master[0] == 0.75f && master[1] == 2.0f && m[1] == -2.0f);
    sgd.step = 2;
    OK(scalert_sgd(stream, &tg, &tmaster, &tm, NULL, &sgd));
    CHECK(m[1] == -3.0f && master[1] == 3.5f);

    memset(m, 0, sizeof m);
    OK(scalert_fill(stream, 1.0f, &tmaster));
    lion.learning_rate = 0.5f;
    OK(scalert_lion(stream, &tg, &tmaster, &tm, NULL, &lion));
    CHECK(master[0] == 0.5f && master[1] == 1.5f && master[2] == 1.0f);
    NEAR(m[1], -0.02, 1e-7);
    lion.learning_rate = NAN;
    FAILS(scalert_lion(stream, &tg, &tmaster, &tm, NULL, &lion), SCALERT_INVALID_ARGUMENT, "learning_rate");
}

static void tensors(void) {
    const int64_t shape[3] = {2, 3, 4}, negative[1] = {-1};
    float data[24];
    scalert_tensor_t view;
    OK(scalert_tensor_contiguous(data, SCALERT_F32, 3, shape, &view));
    CHECK(view.stride[0] == 12 && view.stride[1] == 4 && view.stride[2] == 1);
    OK(scalert_tensor_contiguous(data, SCALERT_F32, 0, NULL, &view));
    CHECK(view.ndim == 0);
    FAILS(scalert_tensor_contiguous(data, SCALERT_F32, 6, shape, &view), SCALERT_INVALID_ARGUMENT, "ndim");
    FAILS(scalert_tensor_contiguous(data, 77, 3, shape, &view), SCALERT_INVALID_ARGUMENT, "dtype");
    FAILS(scalert_tensor_contiguous(data, SCALERT_F32, 1, negative, &view), SCALERT_INVALID_ARGUMENT, "shape");
}

int main(void) {
    runtime = cpu_runtime();
    stream = stream_of(runtime);
    tensors();
    cast();
    cast_stochastic();
    elementwise();
    random_numbers();
    dropout();
    exact_sum();
    gemm();
    bias_gradient();
    embedding();
    layer_norm();
    rms_norm();
    activations();
    rotary();
    attention();
    losses();
    optimizers();
    scalert_stream_destroy(stream);
    scalert_runtime_destroy(runtime);
    return passed();
}
