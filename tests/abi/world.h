/* What the generated and hand-written parts of the ABI tests share: a description of every exported function, and a
 * world of valid arguments whose every byte is watched. */
#ifndef SCALERT_TESTS_WORLD_H
#define SCALERT_TESTS_WORLD_H

#include "scaleRT.h"

#include <stddef.h>
#include <stdint.h>

/* ---- descriptions, generated from the header (functions.c) ------------------------------------------------------- */

enum kind {
    KIND_PLAIN,
    KIND_FLAG,       /* uint8_t, 0 or 1 */
    KIND_ENUM,       /* int32_t with named values */
    KIND_HANDLE,     /* pointer to a handle */
    KIND_OUT_HANDLE, /* where a new handle goes */
    KIND_TENSOR,
    KIND_OUT_TENSOR,
    KIND_STRUCT, /* pointer to a struct with struct_size, read */
    KIND_OUT_STRUCT,
    KIND_POINTER, /* pointer to anything else */
    KIND_CALLBACK
};

struct record;

/* A parameter or a field. */
struct item {
    const char *name;
    enum kind kind;
    size_t offset, size;
    const struct record *record; /* of STRUCT and OUT_STRUCT */
    const char *handle;          /* of HANDLE and OUT_HANDLE: "scalert_stream_t" */
};

struct record {
    const char *name;
    size_t size;
    const struct item *items;
    size_t count;
};

struct world;

struct function {
    const char *name;
    const struct item *items;
    size_t count, size; /* of the struct of arguments */
    void (*fixture)(struct world *world, void *arguments);
    int32_t (*call)(void *arguments);
};

extern const struct function functions[];
extern const size_t function_count;

/* Calls X_destroy for a handle of type. */
void destroy_handle(const char *type, void *handle);

/* The pointer that lies at an address. */
void *pointer_at(const unsigned char *at);
/* Destroys what a successful call with these arguments created. */
void discard_results(const struct function *function, unsigned char *arguments);

/* Brackets around a call that returns no status: the status of the failure in between, or OK. */
void begin_call(void);
int32_t end_call(void);

/* A struct of the world with its struct_size set. */
#define STRUCT(world, type) world_struct(world, sizeof(type))

/* ---- worlds ------------------------------------------------------------------------------------------------------ */

#define WORLD_MEMORIES 128
#define WORLD_NOTES 32

struct memory {
    unsigned char *bytes, *copy, *first;
    size_t size;
    int is_data; /* elements, not descriptions */
};

struct world {
    scalert_runtime_t *runtime;
    scalert_stream_t *stream;
    struct memory memories[WORLD_MEMORIES];
    size_t memory_count;
    struct {
        const char *type;
        void *handle;
    } owned[16];
    size_t owned_count;
    /* Annotations of the fixture: see below. */
    struct {
        enum { NOTE_OPTIONAL, NOTE_OUTPUT, NOTE_MAY_BE, NOTE_FREE, NOTE_UNAVAILABLE } what;
        const char *a, *b;
        int dimension;
    } notes[WORLD_NOTES];
    size_t note_count;
};

/* A runtime with one thread and a stream. */
void world_open(struct world *world);
/* Destroys what the fixture owns and frees all memory. */
void world_close(struct world *world);
/* Zeroed memory of exactly this size, freed with the world. */
void *world_memory(struct world *world, size_t size);
void *world_struct(struct world *world, size_t size);
/* A handle that the world destroys. */
void world_owns(struct world *world, const char *type, void *handle);
/* Remembers every byte; says whether all are as remembered; puts them back. */
void world_remember(struct world *world);
int world_is_unchanged(const struct world *world);
/* The same for how the fixture left it, before anything was made wrong. */
void world_remember_first(struct world *world);
void world_restore_first(struct world *world);

/* A contiguous tensor with memory of its own, of exactly its size. Floats get small values, integers 0, 1, 0, 1, ... */
scalert_tensor_t *tensor(struct world *world, scalert_dtype_t dtype, int ndim, ...);
scalert_tensor_t *floats(struct world *world, int ndim, ...);  /* BF16 */
scalert_tensor_t *singles(struct world *world, int ndim, ...); /* F32 */
size_t dtype_size(scalert_dtype_t dtype);
size_t elements(const scalert_tensor_t *tensor);

/* Fixtures say what their function allows. Names are those of parameters and fields, several divided by spaces. */
void optional(struct world *world, const char *names);                   /* each may be NULL; these together may be */
void output(struct world *world, const char *names);                     /* tensors that are written */
void may_be(struct world *world, const char *output, const char *input); /* in place */
/* What it needs is not there in these tests, or need not be: the right call may be UNAVAILABLE. */
void may_be_unavailable(struct world *world);
/* Whether the right call has come to what it may. */
int is_right(const struct world *world, int32_t status);
/* Nothing else depends on the extent of this dimension. ANY_SHAPE: on any, nor on how many there are; ANY_NDIM: on a
 * dimension of 1 in front, or on one less; FEWER_DIMENSIONS: on one less, and one more is the operation's business. */
void any_extent(struct world *world, const char *name, int dimension);
#define ANY_SHAPE (-1)
#define ANY_NDIM (-2)
#define FEWER_DIMENSIONS (-3)
/* The last dimension may have a stride. */
#define ANY_STRIDE (-4)
/* Any dtype will do. */
#define ANY_DTYPE (-5)

/* ---- failures ---------------------------------------------------------------------------------------------------- */

/* Where a test is, for messages. */
void place(const char *function, const char *format, ...);
/* Prints where, why, and the last error; counts. */
void fail(const char *format, ...);
extern int failures, cases;
/* The last failing call of this thread. */
scalert_error_t last_error(void);
/* Ends the program when a call that sets a test up fails. */
#define must(call) must_be_ok((call), #call, __FILE__, __LINE__)
void must_be_ok(scalert_status_t status, const char *call, const char *file, int line);
/* Counts a failure, and goes on, unless condition. */
#define expect(condition) ((condition) ? (void)cases++ : fail("%s:%d: %s", __FILE__, __LINE__, #condition))
/* Prints a summary; the program's exit status. */
int summary(const char *program);

#endif
