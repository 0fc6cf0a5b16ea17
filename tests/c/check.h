/* check.h - the few lines that every C test shares. A test is one program that returns 0 on success. */
#ifndef CHECK_H
#define CHECK_H

#include <scaleRT.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int checks_passed = 0;

/* Ends the program unless condition holds. */
#define CHECK(condition) check_that((condition) != 0, #condition, __FILE__, __LINE__)
/* The call succeeds. */
#define OK(call) check_status((call), SCALERT_OK, "", #call, __FILE__, __LINE__)
/* The call fails with this status and a message that contains these words. */
#define FAILS(call, status, words) check_status((call), (status), (words), #call, __FILE__, __LINE__)
/* |value - expected| <= tolerance; not a number is not near anything. */
#define NEAR(value, expected, tolerance)                                                                               \
    check_near((double)(value), (double)(expected), (double)(tolerance), #value, __FILE__, __LINE__)

static inline void check_that(int holds, const char *what, const char *file, int line) {
    if (!holds) {
        fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
        exit(1);
    }
    checks_passed++;
}

static inline void check_status(scalert_status_t got, scalert_status_t expected, const char *words, const char *what,
                                const char *file, int line) {
    scalert_error_t error = SCALERT_ERROR_INIT;
    scalert_last_error(&error);
    if (got != expected) {
        fprintf(stderr, "%s:%d: %s returned %s, not %s: %s\n", file, line, what, scalert_status_name(got),
                scalert_status_name(expected), got == SCALERT_OK ? "" : error.message);
        exit(1);
    }
    if (expected != SCALERT_OK && (error.status != expected || !error.message || !strstr(error.message, words))) {
        fprintf(stderr, "%s:%d: %s should mention '%s', but says: %s\n", file, line, what, words, error.message);
        exit(1);
    }
    checks_passed++;
}

static inline void check_near(double value, double expected, double tolerance, const char *what, const char *file,
                              int line) {
    if (!(fabs(value - expected) <= tolerance)) {
        fprintf(stderr, "%s:%d: %s is %.9g, not %.9g within %.2g\n", file, line, what, value, expected, tolerance);
        exit(1);
    }
    checks_passed++;
}

/* The end of main. */
static inline int passed(void) {
    printf("%d passed\n", checks_passed);
    return 0;
}

static inline scalert_tensor_t tensor(void *data, scalert_dtype_t dtype, int32_t ndim, int64_t a, int64_t b, int64_t c,
                                      int64_t d) {
    const int64_t shape[4] = {a, b, c, d};
    scalert_tensor_t view;
    OK(scalert_tensor_contiguous(data, dtype, ndim, shape, &view));
    return view;
}

/* f32 views. */
static inline scalert_tensor_t vector(float *data, int64_t n) {
    return tensor(data, SCALERT_F32, 1, n, 0, 0, 0);
}
static inline scalert_tensor_t matrix(float *data, int64_t rows, int64_t columns) {
    return tensor(data, SCALERT_F32, 2, rows, columns, 0, 0);
}

static inline scalert_runtime_t *cpu_runtime(void) {
    scalert_runtime_desc_t desc = SCALERT_RUNTIME_DESC_INIT;
    scalert_runtime_t *runtime = NULL;
    OK(scalert_runtime_create(&desc, &runtime));
    return runtime;
}

static inline scalert_state_t *new_state(scalert_runtime_t *runtime) {
    scalert_state_desc_t desc = SCALERT_STATE_DESC_INIT;
    scalert_state_t *state = NULL;
    OK(scalert_state_create(runtime, &desc, &state));
    return state;
}

static inline scalert_stream_t *stream_of(scalert_runtime_t *runtime) {
    scalert_stream_t *stream = NULL;
    OK(scalert_stream_create(runtime, &stream));
    return stream;
}

static inline scalert_memory_report_t memory_of(const scalert_runtime_t *runtime) {
    scalert_memory_report_t report = SCALERT_MEMORY_REPORT_INIT;
    OK(scalert_runtime_memory(runtime, &report));
    return report;
}

#endif /* CHECK_H */
