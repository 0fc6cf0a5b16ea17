/* One right call of every operation, small and with every optional argument given. Some operations work in place where
 * the header does not promise it, or take strides that it need not; that is noted too. */
#include "functions.h"

#include <string.h>

/* ---- moving and filling ------------------------------------------------------------------------------------------ */

void fixture_scalert_cast(struct world *w, struct args_scalert_cast *a) {
    scalert_cast_options_t *options = STRUCT(w, scalert_cast_options_t);
    options->rounding = SCALERT_ROUND_STOCHASTIC;
    options->key.seed = 7;
    options->key.tensor = 1;
    a->stream = w->stream;
    a->x = singles(w, 2, 3, 5);
    a->y = floats(w, 2, 3, 5);
    a->options = options;
    optional(w, "options");
    output(w, "y");
}

void fixture_scalert_fill(struct world *w, struct args_scalert_fill *a) {
    a->stream = w->stream;
    a->value = 2;
    a->y = floats(w, 2, 3, 5);
    any_extent(w, "y", ANY_SHAPE);
}

void fixture_scalert_random_uniform(struct world *w, struct args_scalert_random_uniform *a) {
    a->stream = w->stream;
    a->key.seed = 3;
    a->low = -1;
    a->high = 1;
    a->y = floats(w, 2, 3, 5);
    any_extent(w, "y", ANY_SHAPE);
}

void fixture_scalert_random_normal(struct world *w, struct args_scalert_random_normal *a) {
    a->stream = w->stream;
    a->key.seed = 3;
    a->deviation = 1;
    a->y = floats(w, 2, 3, 5);
    any_extent(w, "y", ANY_SHAPE);
}

void fixture_scalert_scale(struct world *w, struct args_scalert_scale *a) {
    a->stream = w->stream;
    a->alpha = 3;
    a->x = floats(w, 2, 3, 5);
    a->y = floats(w, 2, 3, 5);
    output(w, "y");
    may_be(w, "y", "x");
}

void fixture_scalert_axpy(struct world *w, struct args_scalert_axpy *a) {
    a->stream = w->stream;
    a->alpha = 3;
    a->x = floats(w, 2, 3, 5);
    a->y = singles(w, 2, 3, 5);
    output(w, "y");
}

void fixture_scalert_add(struct world *w, struct args_scalert_add *a) {
    a->stream = w->stream;
    a->a = floats(w, 2, 3, 5);
    a->b = floats(w, 2, 3, 5);
    a->y = floats(w, 2, 3, 5);
    output(w, "y");
    may_be(w, "y", "a b");
}

void fixture_scalert_dropout(struct world *w, struct args_scalert_dropout *a) {
    a->stream = w->stream;
    a->x = floats(w, 2, 3, 5);
    a->probability = 0.5f;
    a->y = floats(w, 2, 3, 5);
    output(w, "y");
    may_be(w, "y", "x");
}

/* ---- exact sums -------------------------------------------------------------------------------------------------- */

void fixture_scalert_exact_sum(struct world *w, struct args_scalert_exact_sum *a) {
    a->stream = w->stream;
    a->x = floats(w, 2, 3, 300);
    a->kind = SCALERT_SUM_OF_SQUARES;
    a->accumulator = tensor(w, SCALERT_I64, 1, SCALERT_EXACT_SUM_LIMBS);
    output(w, "accumulator");
    any_extent(w, "x", ANY_SHAPE);
}

void fixture_scalert_exact_sum_read(struct world *w, struct args_scalert_exact_sum_read *a) {
    a->limbs = world_memory(w, SCALERT_EXACT_SUM_LIMBS * sizeof *a->limbs);
    a->sum = world_memory(w, sizeof *a->sum);
    a->nonfinite = world_memory(w, sizeof *a->nonfinite);
    optional(w, "nonfinite");
}

/* ---- matrix product ---------------------------------------------------------------------------------------------- */

void fixture_scalert_gemm(struct world *w, struct args_scalert_gemm *a) {
    scalert_gemm_options_t *options = STRUCT(w, scalert_gemm_options_t);
    options->alpha = 2;
    options->beta = 1;
    options->bias = floats(w, 1, 5);
    options->activation = SCALERT_ACTIVATION_GELU_TANH;
    options->pre_activation = floats(w, 3, 3, 2, 5);
    options->compute = SCALERT_COMPUTE_F32;
    a->stream = w->stream;
    a->transpose_b = 1;
    a->a = floats(w, 3, 3, 2, 4);
    a->b = floats(w, 3, 3, 5, 4);
    a->c = floats(w, 3, 3, 2, 5);
    a->options = options;
    optional(w, "options");
    optional(w, "bias");
    optional(w, "pre_activation");
    output(w, "c pre_activation");
    any_extent(w, "a", FEWER_DIMENSIONS); /* one matrix for the whole batch */
    any_extent(w, "b", FEWER_DIMENSIONS);
}

void fixture_scalert_bias_gradient(struct world *w, struct args_scalert_bias_gradient *a) {
    a->stream = w->stream;
    a->dy = floats(w, 2, 3, 5);
    a->accumulate = 1;
    a->dbias = singles(w, 1, 5);
    output(w, "dbias");
    any_extent(w, "dy", 0);
    any_extent(w, "dy", ANY_NDIM);
}

/* ---- embedding --------------------------------------------------------------------------------------------------- */

void fixture_scalert_embedding_forward(struct world *w, struct args_scalert_embedding_forward *a) {
    a->stream = w->stream;
    a->tokens = tensor(w, SCALERT_I32, 2, 2, 3);
    a->token_table = floats(w, 2, 5, 4);
    a->position_table = floats(w, 2, 4, 4);
    a->y = floats(w, 3, 2, 3, 4);
    optional(w, "position_table");
    output(w, "y");
    any_extent(w, "token_table", 0);
    any_extent(w, "position_table", 0);
}

void fixture_scalert_embedding_backward(struct world *w, struct args_scalert_embedding_backward *a) {
    a->stream = w->stream;
    a->tokens = tensor(w, SCALERT_I32, 2, 2, 3);
    a->dy = floats(w, 3, 2, 3, 4);
    a->accumulate = 1;
    a->dtoken_table = singles(w, 2, 5, 4);
    a->dposition_table = singles(w, 2, 4, 4);
    optional(w, "dposition_table");
    output(w, "dtoken_table dposition_table");
    any_extent(w, "dtoken_table", 0);
    any_extent(w, "dposition_table", 0);
}

/* ---- normalisation ----------------------------------------------------------------------------------------------- */

void fixture_scalert_layer_norm_forward(struct world *w, struct args_scalert_layer_norm_forward *a) {
    a->stream = w->stream;
    a->x = floats(w, 3, 2, 3, 8);
    a->weight = floats(w, 1, 8);
    a->bias = singles(w, 1, 8);
    a->epsilon = 1e-5f;
    a->y = floats(w, 3, 2, 3, 8);
    a->mean = singles(w, 2, 2, 3);
    a->rstd = singles(w, 2, 2, 3);
    optional(w, "weight");
    optional(w, "bias");
    optional(w, "mean");
    optional(w, "rstd");
    output(w, "y mean rstd");
    may_be(w, "y", "x");
}

void fixture_scalert_layer_norm_backward(struct world *w, struct args_scalert_layer_norm_backward *a) {
    a->stream = w->stream;
    a->dy = floats(w, 3, 2, 3, 8);
    a->x = floats(w, 3, 2, 3, 8);
    a->weight = floats(w, 1, 8);
    a->mean = singles(w, 2, 2, 3);
    a->rstd = singles(w, 2, 2, 3);
    a->accumulate = 1;
    a->dx = floats(w, 3, 2, 3, 8);
    a->dweight = singles(w, 1, 8);
    a->dbias = singles(w, 1, 8);
    optional(w, "weight");
    optional(w, "dweight");
    optional(w, "dbias");
    output(w, "dx dweight dbias");
    may_be(w, "dx", "dy x");
}

void fixture_scalert_rms_norm_forward(struct world *w, struct args_scalert_rms_norm_forward *a) {
    a->stream = w->stream;
    a->x = floats(w, 3, 2, 3, 8);
    a->weight = floats(w, 1, 8);
    a->epsilon = 1e-5f;
    a->y = floats(w, 3, 2, 3, 8);
    a->rstd = singles(w, 2, 2, 3);
    optional(w, "weight");
    optional(w, "rstd");
    output(w, "y rstd");
    may_be(w, "y", "x");
}

void fixture_scalert_rms_norm_backward(struct world *w, struct args_scalert_rms_norm_backward *a) {
    a->stream = w->stream;
    a->dy = floats(w, 3, 2, 3, 8);
    a->x = floats(w, 3, 2, 3, 8);
    a->weight = floats(w, 1, 8);
    a->rstd = singles(w, 2, 2, 3);
    a->accumulate = 1;
    a->dx = floats(w, 3, 2, 3, 8);
    a->dweight = singles(w, 1, 8);
    optional(w, "weight");
    optional(w, "dweight");
    output(w, "dx dweight");
    may_be(w, "dx", "dy x");
}

/* ---- activations ------------------------------------------------------------------------------------------------- */

void fixture_scalert_gelu_forward(struct world *w, struct args_scalert_gelu_forward *a) {
    a->stream = w->stream;
    a->x = floats(w, 2, 3, 5);
    a->kind = SCALERT_GELU_EXACT;
    a->y = floats(w, 2, 3, 5);
    output(w, "y");
    may_be(w, "y", "x");
}

void fixture_scalert_gelu_backward(struct world *w, struct args_scalert_gelu_backward *a) {
    a->stream = w->stream;
    a->x = floats(w, 2, 3, 5);
    a->dy = floats(w, 2, 3, 5);
    a->dx = floats(w, 2, 3, 5);
    output(w, "dx");
    may_be(w, "dx", "dy x");
}

void fixture_scalert_swiglu_forward(struct world *w, struct args_scalert_swiglu_forward *a) {
    a->stream = w->stream;
    a->gate = floats(w, 2, 3, 5);
    a->up = floats(w, 2, 3, 5);
    a->y = floats(w, 2, 3, 5);
    output(w, "y");
    may_be(w, "y", "gate up");
}

void fixture_scalert_swiglu_backward(struct world *w, struct args_scalert_swiglu_backward *a) {
    a->stream = w->stream;
    a->gate = floats(w, 2, 3, 5);
    a->up = floats(w, 2, 3, 5);
    a->dy = floats(w, 2, 3, 5);
    a->dgate = floats(w, 2, 3, 5);
    a->dup = floats(w, 2, 3, 5);
    output(w, "dgate dup");
    may_be(w, "dgate", "gate up dy");
    may_be(w, "dup", "gate up dy");
}

/* ---- attention --------------------------------------------------------------------------------------------------- */

void fixture_scalert_rotary(struct world *w, struct args_scalert_rotary *a) {
    scalert_rotary_options_t *options = STRUCT(w, scalert_rotary_options_t);
    options->positions = tensor(w, SCALERT_I32, 1, 3);
    options->base = 100;
    options->layout = SCALERT_ROTARY_INTERLEAVED;
    options->inverse = 1;
    a->stream = w->stream;
    a->x = floats(w, 4, 2, 3, 2, 4);
    a->y = floats(w, 4, 2, 3, 2, 4);
    a->options = options;
    optional(w, "options");
    optional(w, "positions");
    output(w, "y");
    may_be(w, "y", "x");
}

void fixture_scalert_attention_forward(struct world *w, struct args_scalert_attention_forward *a) {
    scalert_attention_options_t *options = STRUCT(w, scalert_attention_options_t);
    options->causal = 1;
    options->scale = 0.5f;
    a->stream = w->stream;
    a->q = floats(w, 4, 2, 3, 4, 16);
    a->k = floats(w, 4, 2, 5, 2, 16);
    a->v = floats(w, 4, 2, 5, 2, 16);
    a->out = floats(w, 4, 2, 3, 4, 16);
    a->log_sum_exp = singles(w, 3, 2, 4, 3);
    a->options = options;
    optional(w, "options");
    optional(w, "log_sum_exp");
    output(w, "out log_sum_exp");
}

void fixture_scalert_attention_backward(struct world *w, struct args_scalert_attention_backward *a) {
    scalert_attention_options_t *options = STRUCT(w, scalert_attention_options_t);
    options->scale = 0.5f;
    a->stream = w->stream;
    a->q = floats(w, 4, 2, 3, 4, 16);
    a->k = floats(w, 4, 2, 5, 2, 16);
    a->v = floats(w, 4, 2, 5, 2, 16);
    a->out = floats(w, 4, 2, 3, 4, 16);
    a->log_sum_exp = singles(w, 3, 2, 4, 3);
    a->dout = floats(w, 4, 2, 3, 4, 16);
    a->dq = floats(w, 4, 2, 3, 4, 16);
    a->dk = floats(w, 4, 2, 5, 2, 16);
    a->dv = floats(w, 4, 2, 5, 2, 16);
    a->options = options;
    optional(w, "options");
    output(w, "dq dk dv");
}

/* ---- loss -------------------------------------------------------------------------------------------------------- */

static scalert_cross_entropy_options_t *cross_entropy_options(struct world *w) {
    scalert_cross_entropy_options_t *options = STRUCT(w, scalert_cross_entropy_options_t);
    options->ignore_index = -100;
    options->gradient_scale = 0.25f;
    options->loss_scale = singles(w, 1, 1);
    optional(w, "options");
    optional(w, "loss_scale");
    any_extent(w, "loss_scale", ANY_NDIM);
    any_extent(w, "targets", ANY_STRIDE);
    any_extent(w, "losses", ANY_STRIDE);
    return options;
}

void fixture_scalert_cross_entropy(struct world *w, struct args_scalert_cross_entropy *a) {
    a->stream = w->stream;
    a->logits = floats(w, 3, 2, 3, 7);
    a->targets = tensor(w, SCALERT_I32, 2, 2, 3);
    a->losses = singles(w, 2, 2, 3);
    a->dlogits = floats(w, 3, 2, 3, 7);
    a->options = cross_entropy_options(w);
    optional(w, "dlogits");
    output(w, "losses dlogits");
    may_be(w, "dlogits", "logits");
}

void fixture_scalert_linear_cross_entropy(struct world *w, struct args_scalert_linear_cross_entropy *a) {
    a->stream = w->stream;
    a->x = floats(w, 3, 2, 3, 8);
    a->weight = floats(w, 2, 7, 8);
    a->targets = tensor(w, SCALERT_I32, 2, 2, 3);
    a->accumulate = 1;
    a->losses = singles(w, 2, 2, 3);
    a->dx = floats(w, 3, 2, 3, 8);
    a->dweight = singles(w, 2, 7, 8);
    a->options = cross_entropy_options(w);
    optional(w, "dx dweight");
    output(w, "losses dx dweight");
}

/* ---- optimizers -------------------------------------------------------------------------------------------------- */

void fixture_scalert_adamw(struct world *w, struct args_scalert_adamw *a) {
    scalert_adamw_options_t *options = STRUCT(w, scalert_adamw_options_t);
    options->learning_rate = 0.01f;
    options->beta1 = 0.8f;
    options->beta2 = 0.95f;
    options->epsilon = 1e-6f;
    options->weight_decay = 0.1f;
    options->gradient_scale = 0.5f;
    options->step = 3;
    a->stream = w->stream;
    a->gradient = floats(w, 2, 3, 5);
    a->master = singles(w, 2, 3, 5);
    a->moment1 = singles(w, 2, 3, 5);
    a->moment2 = singles(w, 2, 3, 5);
    a->weight = floats(w, 2, 3, 5);
    a->options = options;
    optional(w, "options");
    optional(w, "weight");
    output(w, "master moment1 moment2 weight");
}

void fixture_scalert_sgd(struct world *w, struct args_scalert_sgd *a) {
    scalert_sgd_options_t *options = STRUCT(w, scalert_sgd_options_t);
    options->learning_rate = 0.01f;
    options->momentum = 0.9f;
    options->weight_decay = 0.1f;
    options->gradient_scale = 0.5f;
    options->step = 3;
    options->nesterov = 1;
    a->stream = w->stream;
    a->gradient = floats(w, 2, 3, 5);
    a->master = singles(w, 2, 3, 5);
    a->momentum_buffer = singles(w, 2, 3, 5);
    a->weight = floats(w, 2, 3, 5);
    a->options = options;
    optional(w, "momentum_buffer options"); /* by default there is no momentum */
    optional(w, "weight");
    output(w, "master momentum_buffer weight");
}

void fixture_scalert_lion(struct world *w, struct args_scalert_lion *a) {
    scalert_lion_options_t *options = STRUCT(w, scalert_lion_options_t);
    options->learning_rate = 0.01f;
    options->beta1 = 0.8f;
    options->beta2 = 0.95f;
    options->weight_decay = 0.1f;
    options->gradient_scale = 0.5f;
    a->stream = w->stream;
    a->gradient = floats(w, 2, 3, 5);
    a->master = singles(w, 2, 3, 5);
    a->moment = singles(w, 2, 3, 5);
    a->weight = floats(w, 2, 3, 5);
    a->options = options;
    optional(w, "options");
    optional(w, "weight");
    output(w, "master moment weight");
}
