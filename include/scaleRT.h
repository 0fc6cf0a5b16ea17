/* scaleRT.h - libscaleRT: an embedded mixed-precision training runtime behind a C ABI.
 *
 * The host framework owns the model, the graph, the streams and the threads; libscaleRT owns precision, memory and
 * training state. The library never aborts, exits, prints, or leaves a global behind.
 *
 * Reading this header
 *   - Every function that can fail returns scalert_status_t; scalert_last_error() says which argument was wrong,
 *     what it was and what it must be. A call that fails has changed nothing, unless its comment says otherwise.
 *   - Arguments: the stream first, inputs, then outputs, options last; options may be NULL for the defaults. A desc
 *     must not be NULL.
 *   - Handles are opaque. X_create gives one, X_destroy drops it; destroying NULL does nothing. A child keeps its
 *     parent alive, so handles may be destroyed in any order.
 *   - Descriptors begin with struct_size and have an _INIT macro; a zero field is always the default. An older,
 *     shorter struct is filled with zeros; a longer one is accepted when its unknown tail is zero.
 *   - Enumerations travel as int32_t, flags as uint32_t, booleans as uint8_t (0 or 1).
 *   - Tensors are plain values on the host's stack that borrow memory; the library keeps no pointer to them after
 *     the call.
 *   - Element (i, j, ...) of a tensor lies at data + (i * stride[0] + j * stride[1] + ...) elements. Unless a
 *     comment says otherwise the last dimension is contiguous (stride 1), the other strides are free, data is
 *     aligned to the element only, and an output shares no memory with any other argument. Tensors with zero
 *     elements are allowed.
 *   - [.., n] stands for up to four leading dimensions, then n. "float" dtype stands for F32, BF16 or F16.
 *
 * CUDA devices
 *   - Tensors lie in memory of the runtime's device, in managed memory, or in pinned host memory. Any other address is
 *     INVALID_ARGUMENT, which names the argument. scalert_memory_copy moves bytes between host and device.
 *   - Work runs in a CUDA context of the host's: the one that is current on the thread that creates the runtime, if
 *     it is of the device, else the device's primary one. Calls leave the current context as it was and never reset
 *     one. A context that the host has destroyed fails every call but those that destroy handles, which succeed.
 *   - A failure of asynchronous work is returned, as DEVICE_ERROR with the CUresult, by the next call that notices
 *     it and by every later call on a runtime of that context. CPU runtimes of the process are not affected.
 *   - While the host captures a stream into a graph, what cannot be captured is FAILED_PRECONDITION and leaves the
 *     capture valid. A graph holds what calls were given by value, numbers and random keys alike, and the addresses of
 *     tensors; each replay reads what is in the tensors by then.
 *   - After fork() a child cannot use CUDA that its parent has used: calls are FAILED_PRECONDITION, and destroying a
 *     handle only forgets it.
 *
 * Tags after each comment
 *   - [thread-safe]: may be called from several threads at once, also on the same handle.
 *   - [externally-synchronised]: one thread at a time per handle; the library detects misuse where it can.
 *   - [sync]: done when it returns. [async]: enqueued on the stream; on the CPU device, done when it returns.
 *   - [capturable]: may be captured into a CUDA graph.
 *   - Only functions with _wait in their name block on a device.
 */
#ifndef SCALERT_H
#define SCALERT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- version ---------------------------------------------------------------------------------------------------- */

#define SCALERT_VERSION_MAJOR 0
#define SCALERT_VERSION_MINOR 1
#define SCALERT_VERSION_PATCH 0
/* The version of this header: major * 10000 + minor * 100 + patch. */
#define SCALERT_VERSION (SCALERT_VERSION_MAJOR * 10000 + SCALERT_VERSION_MINOR * 100 + SCALERT_VERSION_PATCH)

/* The version of the loaded library, as SCALERT_VERSION. [thread-safe] [sync] */
uint32_t scalert_version(void);

/* ---- status ----------------------------------------------------------------------------------------------------- */

/* What a call came to. The numbers are frozen; new ones are only ever added. */
typedef int32_t scalert_status_t;
#define SCALERT_OK 0
#define SCALERT_INVALID_ARGUMENT 1      /* the message names the argument, what it was, what it must be */
#define SCALERT_FAILED_PRECONDITION 2   /* a legal call at the wrong time */
#define SCALERT_OUT_OF_BUDGET 3         /* a byte budget does not allow it: needed, available, who holds the rest */
#define SCALERT_OUT_OF_MEMORY 4         /* the budget allowed it, the system or the allocator hook did not */
#define SCALERT_UNAVAILABLE 5           /* not in this build or on this machine: the message says what is missing */
#define SCALERT_DEVICE_ERROR 6          /* the device failed: native_domain and native_code in scalert_error_t */
#define SCALERT_COMM_ERROR 7            /* a communicator failed */
#define SCALERT_TIMEOUT 8               /* something did not happen in time */
#define SCALERT_DATA_LOSS 9             /* stored data does not match its checksum */
#define SCALERT_LOSS_SCALE_COLLAPSED 10 /* gradients overflow even at the smallest loss scale */
#define SCALERT_INTERNAL 11             /* a bug of ours; only the handle of this call is poisoned */

/* Where native_code comes from. */
#define SCALERT_NATIVE_NONE 0
#define SCALERT_NATIVE_ERRNO 1
#define SCALERT_NATIVE_CUDA 2
#define SCALERT_NATIVE_CUBLAS 3
#define SCALERT_NATIVE_CUDNN 4
#define SCALERT_NATIVE_NCCL 5
#define SCALERT_NATIVE_HOST_CALLBACK 6

typedef struct scalert_error {
    size_t struct_size;
    scalert_status_t status;
    int32_t native_domain; /* SCALERT_NATIVE_* */
    int64_t native_code;   /* errno, CUresult, ...; 0 when the domain is NONE */
    const char *message;   /* UTF-8; valid until this thread's next failing call; "" when status is OK */
} scalert_error_t;
#define SCALERT_ERROR_INIT {sizeof(scalert_error_t), SCALERT_OK, SCALERT_NATIVE_NONE, 0, NULL}

/* Fills *out with what this thread's last failing call did wrong; status OK when none has failed. A succeeding call
 * leaves it as it was. The caller sets out->struct_size. [thread-safe] [sync] */
scalert_status_t scalert_last_error(scalert_error_t *out);

/* The name of a status, such as "INVALID_ARGUMENT"; "UNKNOWN" for a number this library does not know. A static string.
 * [thread-safe] [sync] */
const char *scalert_status_name(scalert_status_t status);

/* ---- devices ---------------------------------------------------------------------------------------------------- */

typedef int32_t scalert_device_kind_t;
#define SCALERT_DEVICE_CPU 0
#define SCALERT_DEVICE_CUDA 1

typedef struct scalert_device_info {
    size_t struct_size;
    scalert_device_kind_t kind;
    int32_t ordinal;
    uint64_t memory_bytes;       /* physical memory of the device */
    uint32_t threads;            /* CPU threads that a runtime uses by default */
    char name[96];               /* CPU: the best instruction set found, e.g. "CPU (avx512bf16)" */
    uint32_t compute_capability; /* CUDA: 10 major + minor, e.g. 90; CPU: 0 */
    uint32_t multiprocessors;    /* CUDA; CPU: 0 */
} scalert_device_info_t;
#define SCALERT_DEVICE_INFO_INIT {sizeof(scalert_device_info_t), SCALERT_DEVICE_CPU, 0, 0, 0, {0}, 0, 0}

/* Number of devices of a kind. There is one CPU. UNAVAILABLE, with the reason, when this build has no CUDA kernels or
 * this machine no CUDA driver, no device, or a driver that is too old. [thread-safe] [sync] */
scalert_status_t scalert_device_count(scalert_device_kind_t kind, uint32_t *count);

/* Describes one device. UNAVAILABLE as above, or when the machine has no CUDA device of this ordinal. The caller sets
 * out->struct_size. [thread-safe] [sync] */
scalert_status_t scalert_device_describe(scalert_device_kind_t kind, int32_t ordinal, scalert_device_info_t *out);

/* ---- hooks: the host's allocator, threads and log --------------------------------------------------------------- */

/* Memory tiers. On the CPU device DEVICE is host memory as well, with a budget of its own. */
typedef int32_t scalert_tier_t;
#define SCALERT_TIER_DEVICE 0
#define SCALERT_TIER_PINNED 1
#define SCALERT_TIER_HOST 2
#define SCALERT_TIER_DISK 3
#define SCALERT_TIERS 4 /* length of arrays indexed by tier */

/* Where the library's memory comes from. alloc returns NULL when it cannot; the call that needed it then returns
 * OUT_OF_MEMORY. free gets exactly what alloc gave and was asked for. Both may be called from any thread that calls the
 * library, and must not call it back. Copied at runtime creation; user must outlive the runtime and its children.
 * On a CUDA device the runtime's context is current during both, DEVICE is memory of the device, aligned to 256 bytes,
 * and PINNED is host memory that alloc has pinned. The library has waited for its work before it calls free. */
typedef struct scalert_allocator {
    size_t struct_size;
    void *user;
    void *(*alloc)(void *user, size_t bytes, size_t alignment, scalert_tier_t tier, int32_t ordinal,
                   void *native_stream);
    void (*free)(void *user, void *memory, size_t bytes, size_t alignment, scalert_tier_t tier, int32_t ordinal,
                 void *native_stream);
} scalert_allocator_t;
#define SCALERT_ALLOCATOR_INIT {sizeof(scalert_allocator_t), NULL, NULL, NULL}

/* The host's threads instead of the library's pool. parallel_for calls body(context, i) once for each i below n, which
 * is at most threads, in any order, on any threads, at the same time or one after another, and returns when all have
 * returned. Like every callback, it must not throw. */
typedef struct scalert_thread_pool {
    size_t struct_size;
    void *user;
    uint32_t threads; /* most bodies that run at the same time, at least 1 */
    void (*parallel_for)(void *user, uint32_t n, void (*body)(void *context, uint32_t index), void *context);
} scalert_thread_pool_t;
#define SCALERT_THREAD_POOL_INIT {sizeof(scalert_thread_pool_t), NULL, 0, NULL}

#define SCALERT_LOG_ERROR 1
#define SCALERT_LOG_WARN 2
#define SCALERT_LOG_INFO 3
#define SCALERT_LOG_DEBUG 4

/* Receives messages of one runtime up to a level. May be called from any thread; must not call the library. */
typedef struct scalert_log_sink {
    size_t struct_size;
    void *user;
    int32_t level; /* SCALERT_LOG_*; 0 = INFO */
    void (*write)(void *user, int32_t level, const char *message);
} scalert_log_sink_t;
#define SCALERT_LOG_SINK_INIT {sizeof(scalert_log_sink_t), NULL, 0, NULL}

/* ---- runtime ---------------------------------------------------------------------------------------------------- */

/* One device of one rank: byte budgets, hooks, threads and the ledger that every byte of it is entered in. */
typedef struct scalert_runtime scalert_runtime_t;

/* Instruction sets of the CPU device. Optimizers and casts give the same bits at every level; other operations agree
 * within their stated tolerance. */
typedef int32_t scalert_simd_t;
#define SCALERT_SIMD_BEST 0
#define SCALERT_SIMD_PORTABLE 1
#define SCALERT_SIMD_AVX2 2
#define SCALERT_SIMD_AVX512 3
#define SCALERT_SIMD_AVX512_BF16 4

typedef struct scalert_runtime_desc {
    size_t struct_size;
    scalert_device_kind_t device;
    int32_t ordinal;
    uint64_t device_bytes, pinned_bytes, host_bytes, disk_bytes; /* budgets; 0 = no limit */
    uint32_t threads;                         /* CPU threads; 0 = as many as the machine has; at most 1024 */
    scalert_simd_t simd;                      /* UNAVAILABLE when the CPU lacks it */
    const scalert_allocator_t *allocator;     /* NULL = the system's */
    const scalert_thread_pool_t *thread_pool; /* NULL = the library's own; with one, threads must be 0 */
    const scalert_log_sink_t *log;            /* NULL = silence */
} scalert_runtime_desc_t;
#define SCALERT_RUNTIME_DESC_INIT                                                                                      \
    {sizeof(scalert_runtime_desc_t), SCALERT_DEVICE_CPU, 0, 0, 0, 0, 0, 0, SCALERT_SIMD_BEST, NULL, NULL, NULL}

/* Creates a runtime. UNAVAILABLE, with the reason, when this build or machine lacks the device, or when a CUDA device
 * is older than compute capability 8.0. After fork() the child may use the parent's CPU runtimes; its threads are
 * started anew. [thread-safe] [sync] */
scalert_status_t scalert_runtime_create(const scalert_runtime_desc_t *desc, scalert_runtime_t **out);
/* [thread-safe] [sync] */
void scalert_runtime_destroy(scalert_runtime_t *runtime);

/* Bytes of one tier. The purposes sum to used. */
typedef struct scalert_tier_report {
    uint64_t limit; /* the budget; UINT64_MAX = no limit */
    uint64_t used, peak;
    uint64_t weights, master, moments, gradients; /* held by states */
    uint64_t workspace;                           /* scratch of streams */
    uint64_t arena;                               /* arenas lent to the host */
    uint64_t other;                               /* accumulators, scalers, flags */
} scalert_tier_report_t;

typedef struct scalert_memory_report {
    size_t struct_size;
    scalert_tier_report_t tier[SCALERT_TIERS]; /* indexed by SCALERT_TIER_* */
} scalert_memory_report_t;
#define SCALERT_TIER_REPORT_INIT {0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
#define SCALERT_MEMORY_REPORT_INIT                                                                                     \
    {                                                                                                                  \
        sizeof(scalert_memory_report_t), {                                                                             \
            SCALERT_TIER_REPORT_INIT, SCALERT_TIER_REPORT_INIT, SCALERT_TIER_REPORT_INIT, SCALERT_TIER_REPORT_INIT     \
        }                                                                                                              \
    }

/* What the ledger holds now, and the most it ever held. The caller sets out->struct_size. [thread-safe] [sync] */
scalert_status_t scalert_runtime_memory(const scalert_runtime_t *runtime, scalert_memory_report_t *out);

/* ---- streams and events ----------------------------------------------------------------------------------------- */

/* An order of work on a device, with the scratch memory ("workspace") of the operations enqueued on it. */
typedef struct scalert_stream scalert_stream_t;
/* A point in a stream. */
typedef struct scalert_event scalert_event_t;

/* Creates a stream of the runtime's device. [thread-safe] [sync] */
scalert_status_t scalert_stream_create(scalert_runtime_t *runtime, scalert_stream_t **out);
/* Wraps the host's CUstream, which the host keeps owning and destroys after this handle. It must be of the runtime's
 * context; NULL is that context's default stream. CU_STREAM_PER_THREAD is INVALID_ARGUMENT: it is another stream on
 * each thread. On the CPU device native must be NULL. [thread-safe] [sync] */
scalert_status_t scalert_stream_wrap(scalert_runtime_t *runtime, void *native, scalert_stream_t **out);
/* Its work is finished before its workspace is freed. A CUDA graph captured on it uses that workspace: destroy the
 * graph first. [sync] */
void scalert_stream_destroy(scalert_stream_t *stream);
/* Makes the workspace at least bytes large, inside the DEVICE budget. Operations grow it by themselves when they need
 * more; reserving makes that happen at a chosen time. The old one is given back when the new one is there, so that a
 * failure leaves it; the budget counts the larger one alone. On a CUDA device growing waits for the stream's work and
 * gives the old one back first; while the stream is captured it is FAILED_PRECONDITION, so reserve before a capture. A
 * workspace that a captured graph uses is kept, and counted, until the stream is destroyed.
 * [externally-synchronised] [sync] */
scalert_status_t scalert_stream_reserve(scalert_stream_t *stream, uint64_t bytes);
/* Blocks until everything enqueued so far is done; returns a failure of asynchronous work. FAILED_PRECONDITION while
 * the stream is captured. [externally-synchronised] [sync] */
scalert_status_t scalert_stream_wait(scalert_stream_t *stream);
/* Work enqueued on stream after this call runs after event. An event never recorded counts as complete. On the CPU
 * device the call waits for an event of a CUDA device. A stream that is captured cannot follow an event that was
 * recorded outside of that capture: FAILED_PRECONDITION. [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_stream_follow(scalert_stream_t *stream, const scalert_event_t *event);
/* Copies bytes from one address to another, in stream order; each is host memory or memory that the device reaches, and
 * they do not overlap. Pinned memory is copied while the call returns: keep it until then. Other host memory has been
 * read or written when the call returns, which takes as long; on a captured stream it is FAILED_PRECONDITION.
 * [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_memory_copy(scalert_stream_t *stream, void *to, const void *from, uint64_t bytes);

/* [thread-safe] [sync] */
scalert_status_t scalert_event_create(scalert_runtime_t *runtime, scalert_event_t **out);
/* [thread-safe] [sync] */
void scalert_event_destroy(scalert_event_t *event);
/* The event completes when everything enqueued on stream so far is done. Recorded while the stream is captured it marks
 * a place in the graph: other streams may follow it, but it never completes. Both are of one device, and on CUDA of one
 * context. [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_event_record(scalert_event_t *event, scalert_stream_t *stream);
/* *complete = 1 when the event has completed or was never recorded. FAILED_PRECONDITION when it was last recorded in a
 * capture. [thread-safe] [sync] */
scalert_status_t scalert_event_query(const scalert_event_t *event, uint8_t *complete);
/* Blocks until the event completes. FAILED_PRECONDITION when it was last recorded in a capture. [thread-safe] [sync] */
scalert_status_t scalert_event_wait(const scalert_event_t *event);

/* ---- arenas: memory for the host's activations, inside the budgets ---------------------------------------------- */

/* One block of a tier, allocated at once and handed out in order; freed in the opposite order by rewinding. */
typedef struct scalert_arena scalert_arena_t;

/* Allocates bytes of a tier: DEVICE or HOST, or PINNED on a CUDA device, which is pinned to the exact byte.
 * OUT_OF_BUDGET when the budget does not allow it. [thread-safe] [sync] */
scalert_status_t scalert_arena_create(scalert_runtime_t *runtime, scalert_tier_t tier, uint64_t bytes,
                                      scalert_arena_t **out);
/* [sync] */
void scalert_arena_destroy(scalert_arena_t *arena);
/* The next bytes of the arena, aligned to 64 bytes, uninitialised. OUT_OF_BUDGET when it is exhausted. *out is not NULL
 * even for 0 bytes. [externally-synchronised] [sync] */
scalert_status_t scalert_arena_alloc(scalert_arena_t *arena, uint64_t bytes, void **out);
/* Bytes handed out so far, with what alignment took: a mark to rewind to. [externally-synchronised] [sync] */
scalert_status_t scalert_arena_mark(const scalert_arena_t *arena, uint64_t *mark);
/* Takes back everything handed out since mark (0 = everything). INVALID_ARGUMENT when mark is
 * beyond what is handed out. [externally-synchronised] [sync] */
scalert_status_t scalert_arena_rewind(scalert_arena_t *arena, uint64_t mark);

/* ---- tensors ---------------------------------------------------------------------------------------------------- */

typedef int32_t scalert_dtype_t;
#define SCALERT_F32 1  /* IEEE binary32 */
#define SCALERT_BF16 2 /* bfloat16 */
#define SCALERT_F16 3  /* IEEE binary16 */
#define SCALERT_I32 4  /* token ids, targets, positions */
#define SCALERT_I64 5  /* limbs and counters of exact sums */
#define SCALERT_I16 6  /* what SPLIT16 keeps; for communicators */
#define SCALERT_U8 7   /* codes, and bytes of any kind; for communicators */

#define SCALERT_MAX_DIMS 5

/* A borrowed view. Strides are in elements and not negative. */
typedef struct scalert_tensor {
    void *data; /* on the stream's device; may be NULL when the tensor has no elements */
    scalert_dtype_t dtype;
    int32_t ndim; /* 0 (a scalar) to SCALERT_MAX_DIMS */
    int64_t shape[SCALERT_MAX_DIMS];
    int64_t stride[SCALERT_MAX_DIMS];
} scalert_tensor_t;

/* A contiguous tensor: shape from the first ndim of shape, strides computed. [thread-safe] [sync] */
scalert_status_t scalert_tensor_contiguous(void *data, scalert_dtype_t dtype, int32_t ndim, const int64_t *shape,
                                           scalert_tensor_t *out);

/* DLPack 1.x (include dlpack.h for the type). The view borrows the managed tensor's memory: keep it until the view is
 * no longer used, then call its deleter. Honours byte_offset and NULL strides. INVALID_ARGUMENT when the version's
 * major, the dtype, a negative stride or more than SCALERT_MAX_DIMS dimensions cannot be expressed, when the tensor is
 * not on the runtime's device, or when it is read-only and writable is 1. [thread-safe] [sync] */
struct DLManagedTensorVersioned;
scalert_status_t scalert_tensor_from_dlpack(const scalert_runtime_t *runtime,
                                            const struct DLManagedTensorVersioned *managed, uint8_t writable,
                                            scalert_tensor_t *out);
/* A new managed tensor over the view's memory on the runtime's device. When its consumer calls the deleter,
 * release(owner) is called once, on that thread, if release is not NULL. [thread-safe] [sync] */
scalert_status_t scalert_tensor_to_dlpack(const scalert_runtime_t *runtime, const scalert_tensor_t *tensor,
                                          uint8_t read_only, void *owner, void (*release)(void *owner),
                                          struct DLManagedTensorVersioned **out);

/* ---- operations: moving and filling ----------------------------------------------------------------------------- */

/* Randomness is a pure function of this key and of an element's index in row-major order (Philox4x32-10, Salmon et al.
 * 2011): it depends neither on threads and launch shapes nor on recomputation. */
typedef struct scalert_random_key {
    uint64_t seed;
    uint64_t step;   /* below 2^34; e.g. optimizer step or micro-batch counter */
    uint32_t tensor; /* distinguishes uses within one step */
} scalert_random_key_t;

typedef int32_t scalert_rounding_t;
#define SCALERT_ROUND_NEAREST_EVEN 0
#define SCALERT_ROUND_STOCHASTIC 1 /* up with probability proportional to the distance; unbiased */

typedef struct scalert_cast_options {
    size_t struct_size;
    scalert_rounding_t rounding;
    scalert_random_key_t key; /* for SCALERT_ROUND_STOCHASTIC */
} scalert_cast_options_t;
#define SCALERT_CAST_OPTIONS_INIT {sizeof(scalert_cast_options_t), SCALERT_ROUND_NEAREST_EVEN, {0, 0, 0}}

/* y = x in y's dtype. x, y [..] float, same shape. Denormals are kept, NaN stays NaN, values past the largest finite
 * one become infinite (nearest even). Same dtype: a copy. [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_cast(scalert_stream_t *stream, const scalert_tensor_t *x, const scalert_tensor_t *y,
                              const scalert_cast_options_t *options);

/* y = value. y [..] float. [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_fill(scalert_stream_t *stream, float value, const scalert_tensor_t *y);

/* y = uniform on [low, high), low < high. y [..] float. [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_random_uniform(scalert_stream_t *stream, scalert_random_key_t key, float low, float high,
                                        const scalert_tensor_t *y);
/* y = normal with this mean and standard deviation (Box & Muller 1958). y [..] float.
 * [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_random_normal(scalert_stream_t *stream, scalert_random_key_t key, float mean, float deviation,
                                       const scalert_tensor_t *y);

/* y = alpha x. x, y [..] float, same shape and dtype; y may be x. [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_scale(scalert_stream_t *stream, float alpha, const scalert_tensor_t *x,
                               const scalert_tensor_t *y);

/* y = alpha x + y, rounded once to f32, then to y's dtype. x, y [..] float, same shape, dtypes may differ.
 * [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_axpy(scalert_stream_t *stream, float alpha, const scalert_tensor_t *x,
                              const scalert_tensor_t *y);

/* y = a + b. a, b, y [..] float, same shape and dtype; y may be a or b. [externally-synchronised] [async] [capturable]
 */
scalert_status_t scalert_add(scalert_stream_t *stream, const scalert_tensor_t *a, const scalert_tensor_t *b,
                             const scalert_tensor_t *y);

/* y = x / (1 - probability) where an element is kept, 0 where it is dropped. The backward pass is the same call on dy
 * with the same key. x, y [..] float, same shape and dtype; y may be x. 0 <= probability < 1. Srivastava et al. 2014.
 * [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_dropout(scalert_stream_t *stream, const scalert_tensor_t *x, float probability,
                                 scalert_random_key_t key, const scalert_tensor_t *y);

/* ---- operations: exact sums ------------------------------------------------------------------------------------- */

/* An accumulator is an I64 tensor [SCALERT_EXACT_SUM_LIMBS], zero at first: 67 limbs of 32 bits that hold any sum of
 * doubles without rounding (Neal 2015), and a count of the elements that were not finite and left out. Accumulators may
 * be added limb by limb (all_reduce, sum, I64), so that a sum has the same bits in any order and on any number of
 * ranks. */
#define SCALERT_EXACT_SUM_LIMBS 68

typedef int32_t scalert_sum_t;
#define SCALERT_SUM_OF_VALUES 0
#define SCALERT_SUM_OF_SQUARES 1

/* accumulator += sum of x or of x^2, counting non-finite values. x [..] float. Each block of 256 elements is summed in
 * f64 in a fixed order; the blocks are added exactly. [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_exact_sum(scalert_stream_t *stream, const scalert_tensor_t *x, scalert_sum_t kind,
                                   const scalert_tensor_t *accumulator);
/* The nearest double to what the limbs hold, and the number of non-finite values. limbs is host memory of
 * SCALERT_EXACT_SUM_LIMBS; nonfinite may be NULL. [thread-safe] [sync] */
scalert_status_t scalert_exact_sum_read(const int64_t *limbs, double *sum, uint64_t *nonfinite);

/* ---- operations: matrix product --------------------------------------------------------------------------------- */

typedef int32_t scalert_activation_t;
#define SCALERT_ACTIVATION_NONE 0
#define SCALERT_ACTIVATION_GELU_TANH 1
#define SCALERT_ACTIVATION_GELU_EXACT 2
#define SCALERT_ACTIVATION_GELU_TANH_BACKWARD 3  /* multiplies by gelu'(pre_activation) */
#define SCALERT_ACTIVATION_GELU_EXACT_BACKWARD 4 /* multiplies by gelu'(pre_activation) */

typedef int32_t scalert_compute_t;
#define SCALERT_COMPUTE_DEFAULT 0 /* the fastest with f32 accumulation; bf16 dot products may flush denormals */
#define SCALERT_COMPUTE_F32 1     /* every product and sum in f32 */

/* Whose kernels run on a CUDA device; on the CPU there are the library's alone. */
typedef int32_t scalert_implementation_t;
#define SCALERT_IMPLEMENTATION_AUTO 0   /* the faster, of those that keep to what the operation's comment says */
#define SCALERT_IMPLEMENTATION_OWN 1    /* the library's: nothing but the driver is needed */
#define SCALERT_IMPLEMENTATION_VENDOR 2 /* NVIDIA's; UNAVAILABLE, with the reason, where there is none to be had */

typedef struct scalert_gemm_options {
    size_t struct_size;
    float alpha; /* 0 = 1 */
    float beta;  /* 1 accumulates into c; with 0, c is not read */
    const scalert_tensor_t
        *bias; /* [n], float F32 or c's dtype; added to each row; NULL = none, as a backward activation needs */
    scalert_activation_t activation;
    const scalert_tensor_t
        *pre_activation; /* c's shape and dtype. Forward: written, if given. Backward: read, required */
    scalert_compute_t compute;
    scalert_implementation_t implementation;
} scalert_gemm_options_t;
#define SCALERT_GEMM_OPTIONS_INIT                                                                                      \
    {sizeof(scalert_gemm_options_t), 0.0f, 0.0f, NULL, SCALERT_ACTIVATION_NONE, NULL, SCALERT_COMPUTE_DEFAULT,         \
     SCALERT_IMPLEMENTATION_AUTO}

/* c = activation(alpha op(a) op(b) + beta c + bias); a backward activation multiplies alpha op(a) op(b) and adds beta
 * c. op(a) [.., m, k], op(b) [.., k, n], c [.., m, n]; op transposes the last two dimensions when the flag is 1.
 * Leading dimensions of a and b are those of c, or absent or 1 to be used for the whole batch. a, b float, same dtype;
 * c that dtype or F32. Accumulation in f32. [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_gemm(scalert_stream_t *stream, uint8_t transpose_a, uint8_t transpose_b,
                              const scalert_tensor_t *a, const scalert_tensor_t *b, const scalert_tensor_t *c,
                              const scalert_gemm_options_t *options);

/* dbias = sum of the rows of dy, added to dbias when accumulate is 1. dy [.., n] float; dbias [n] F32 or dy's dtype.
 * Rows are added in a fixed order, in f32. [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_bias_gradient(scalert_stream_t *stream, const scalert_tensor_t *dy, uint8_t accumulate,
                                       const scalert_tensor_t *dbias);

/* ---- operations: embedding -------------------------------------------------------------------------------------- */

/* y[.., i, :] = token_table[tokens[.., i]] + position_table[i].
 *   tokens [.., t] I32; token_table [v, c] float; position_table [p, c], p >= t, or NULL; y [.., t, c]; one float
 * dtype. On the CPU a token outside 0 .. v - 1 is INVALID_ARGUMENT before anything is written.
 *   [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_embedding_forward(scalert_stream_t *stream, const scalert_tensor_t *tokens,
                                           const scalert_tensor_t *token_table, const scalert_tensor_t *position_table,
                                           const scalert_tensor_t *y);
/* dtoken_table[w] = sum of dy over the places of token w; dposition_table[i] = sum of dy at position i over the batch
 * (rows from t on get 0); both added to what is there when accumulate is 1. Tables F32 or dy's dtype; dposition_table
 * may be NULL. Sums in f32 in a fixed order. [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_embedding_backward(scalert_stream_t *stream, const scalert_tensor_t *tokens,
                                            const scalert_tensor_t *dy, uint8_t accumulate,
                                            const scalert_tensor_t *dtoken_table,
                                            const scalert_tensor_t *dposition_table);

/* ---- operations: normalisation ---------------------------------------------------------------------------------- */

/* y = (x - mean) * rstd * weight + bias over the last dimension, rstd = 1 / sqrt(variance + epsilon), population
 * variance. x, y [.., width] float, same dtype; y may be x. weight, bias [width], x's dtype or F32; NULL = 1 and 0.
 *   mean, rstd [..] F32, kept for backward; each may be NULL when no backward follows. epsilon > 0.
 *   Statistics in f32, two passes. Ba, Kiros & Hinton 2016. [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_layer_norm_forward(scalert_stream_t *stream, const scalert_tensor_t *x,
                                            const scalert_tensor_t *weight, const scalert_tensor_t *bias, float epsilon,
                                            const scalert_tensor_t *y, const scalert_tensor_t *mean,
                                            const scalert_tensor_t *rstd);
/* Gradients of layer_norm_forward. dx may be dy or x. dweight, dbias [width] F32 or x's dtype, may be NULL; added to
 * what is there when accumulate is 1. Row sums in a fixed order. [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_layer_norm_backward(scalert_stream_t *stream, const scalert_tensor_t *dy,
                                             const scalert_tensor_t *x, const scalert_tensor_t *weight,
                                             const scalert_tensor_t *mean, const scalert_tensor_t *rstd,
                                             uint8_t accumulate, const scalert_tensor_t *dx,
                                             const scalert_tensor_t *dweight, const scalert_tensor_t *dbias);

/* y = x * rstd * weight over the last dimension, rstd = 1 / sqrt(mean(x^2) + epsilon). Arguments as for layer norm;
 * rstd may be NULL when no backward follows. Zhang & Sennrich 2019. [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_rms_norm_forward(scalert_stream_t *stream, const scalert_tensor_t *x,
                                          const scalert_tensor_t *weight, float epsilon, const scalert_tensor_t *y,
                                          const scalert_tensor_t *rstd);
/* Gradients of rms_norm_forward; as layer_norm_backward. [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_rms_norm_backward(scalert_stream_t *stream, const scalert_tensor_t *dy,
                                           const scalert_tensor_t *x, const scalert_tensor_t *weight,
                                           const scalert_tensor_t *rstd, uint8_t accumulate, const scalert_tensor_t *dx,
                                           const scalert_tensor_t *dweight);

/* ---- operations: activations ------------------------------------------------------------------------------------ */

typedef int32_t scalert_gelu_t;
#define SCALERT_GELU_TANH 0  /* 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) */
#define SCALERT_GELU_EXACT 1 /* 0.5 x (1 + erf(x / sqrt(2))) */

/* y = gelu(x). x, y [..] float, same shape and dtype; y may be x. Hendrycks & Gimpel 2016.
 * [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_gelu_forward(scalert_stream_t *stream, const scalert_tensor_t *x, scalert_gelu_t kind,
                                      const scalert_tensor_t *y);
/* dx = dy * gelu'(x). dx may be dy or x. [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_gelu_backward(scalert_stream_t *stream, const scalert_tensor_t *x, const scalert_tensor_t *dy,
                                       scalert_gelu_t kind, const scalert_tensor_t *dx);

/* y = silu(gate) * up, silu(z) = z / (1 + e^-z). gate, up, y [..] float, same shape and dtype; gate and up may be the
 * halves of one packed tensor; y may be either of them. Shazeer 2020.
 * [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_swiglu_forward(scalert_stream_t *stream, const scalert_tensor_t *gate,
                                        const scalert_tensor_t *up, const scalert_tensor_t *y);
/* dgate = dy * up * silu'(gate), dup = dy * silu(gate). dgate and dup may each be gate, up or dy.
 * [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_swiglu_backward(scalert_stream_t *stream, const scalert_tensor_t *gate,
                                         const scalert_tensor_t *up, const scalert_tensor_t *dy,
                                         const scalert_tensor_t *dgate, const scalert_tensor_t *dup);

/* ---- operations: attention -------------------------------------------------------------------------------------- */

typedef int32_t scalert_rotary_layout_t;
#define SCALERT_ROTARY_HALVES 0      /* pairs (i, i + d / 2), as GPT-NeoX and Llama */
#define SCALERT_ROTARY_INTERLEAVED 1 /* pairs (2i, 2i + 1), as GPT-J */

typedef struct scalert_rotary_options {
    size_t struct_size;
    const scalert_tensor_t *positions; /* [t] I32; NULL = 0, 1, ..., t - 1 */
    float base;                        /* at least 1; 0 = 10000 */
    scalert_rotary_layout_t layout;
    uint8_t inverse; /* rotates back: the backward pass is this on dy */
} scalert_rotary_options_t;
#define SCALERT_ROTARY_OPTIONS_INIT {sizeof(scalert_rotary_options_t), NULL, 0.0f, SCALERT_ROTARY_HALVES, 0}

/* y = x with pair i of each head rotated by position * base^(-2i / d). x, y [.., t, heads, d] float, same dtype, d
 * even; y may be x. Su et al. 2021. [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_rotary(scalert_stream_t *stream, const scalert_tensor_t *x, const scalert_tensor_t *y,
                                const scalert_rotary_options_t *options);

typedef struct scalert_attention_options {
    size_t struct_size;
    uint8_t causal; /* query i sees keys 0 .. i + s - t; needs s >= t */
    float scale;    /* 0 = 1 / sqrt(d) */
    scalert_implementation_t implementation;
} scalert_attention_options_t;
#define SCALERT_ATTENTION_OPTIONS_INIT {sizeof(scalert_attention_options_t), 0, 0.0f, SCALERT_IMPLEMENTATION_AUTO}

/* out = softmax(scale q k^T) v for each head.
 *   q, out [b, t, heads, d]; k, v [b, s, kv_heads, d]; one float dtype; d a multiple of 8 from 16 to 256; heads a
 * multiple of kv_heads (grouped-query: query head h reads key head h * kv_heads / heads). Views of one packed tensor
 * are fine. log_sum_exp [b, heads, t] F32, kept for backward; NULL when none follows. A query with no visible key gives
 * 0. Streaming softmax: memory is linear in t and s. Accumulation in f32. Dao 2023.
 *   On a CUDA device, NVIDIA's is cuDNN 9.21 or newer. It takes 16-bit dtypes with s of at least 1, where q, k, v, out,
 * log_sum_exp and the rows of the first four are aligned to 16 bytes; AUTO takes it for those. The first call for a
 * shape then takes about half a second. It masks scores and not values: an infinite or NaN element of v may reach
 * queries shortly before those that see it. [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_attention_forward(scalert_stream_t *stream, const scalert_tensor_t *q,
                                           const scalert_tensor_t *k, const scalert_tensor_t *v,
                                           const scalert_tensor_t *out, const scalert_tensor_t *log_sum_exp,
                                           const scalert_attention_options_t *options);
/* Gradients of attention_forward, whichever implementation that was, by recomputation; same causal and scale. dq, dk,
 * dv have the shapes and dtype of q, k, v. The same bits for any number of threads. On a CUDA device VENDOR is
 * UNAVAILABLE: cuDNN sums dq in no fixed order. [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_attention_backward(scalert_stream_t *stream, const scalert_tensor_t *q,
                                            const scalert_tensor_t *k, const scalert_tensor_t *v,
                                            const scalert_tensor_t *out, const scalert_tensor_t *log_sum_exp,
                                            const scalert_tensor_t *dout, const scalert_tensor_t *dq,
                                            const scalert_tensor_t *dk, const scalert_tensor_t *dv,
                                            const scalert_attention_options_t *options);

/* ---- operations: loss ------------------------------------------------------------------------------------------- */

typedef struct scalert_cross_entropy_options {
    size_t struct_size;
    int32_t ignore_index; /* rows with this target are ignored when it is not 0; negative targets always are */
    float gradient_scale; /* multiplies gradients, e.g. 1 / rows; 0 = 1 */
    const scalert_tensor_t *loss_scale; /* F32, one element; multiplies gradients; NULL = 1. See scalert_scaler_scale */
} scalert_cross_entropy_options_t;
#define SCALERT_CROSS_ENTROPY_OPTIONS_INIT {sizeof(scalert_cross_entropy_options_t), 0, 0.0f, NULL}

/* losses = logsumexp(logits) - logits[target] for each row; dlogits = (softmax(logits) - onehot(target)) *
 * gradient_scale * loss_scale. logits [.., v] float; targets [..] I32; losses [..] F32; dlogits like logits, may be
 * logits; NULL = losses only. Ignored rows have loss 0 and gradient 0. On the CPU a target >= v is INVALID_ARGUMENT
 * before anything is written. [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_cross_entropy(scalert_stream_t *stream, const scalert_tensor_t *logits,
                                       const scalert_tensor_t *targets, const scalert_tensor_t *losses,
                                       const scalert_tensor_t *dlogits, const scalert_cross_entropy_options_t *options);

/* The same for logits = x weight^T, which are made in chunks of rows and never stored whole.
 *   x [.., c], weight [v, c] float, same dtype; dx like x, may be x; dweight [v, c] F32 or weight's dtype; both, or
 * both NULL for losses only; dweight is added to what is there when accumulate is 1. [externally-synchronised] [async]
 * [capturable]
 */
scalert_status_t scalert_linear_cross_entropy(scalert_stream_t *stream, const scalert_tensor_t *x,
                                              const scalert_tensor_t *weight, const scalert_tensor_t *targets,
                                              uint8_t accumulate, const scalert_tensor_t *losses,
                                              const scalert_tensor_t *dx, const scalert_tensor_t *dweight,
                                              const scalert_cross_entropy_options_t *options);

/* ---- operations: optimizers ------------------------------------------------------------------------------------- */

/* The optimizers as operations on single tensors, for hosts that keep their own state; scalert_state_step is the whole
 * of it. Each element is updated by a formula whose every rounding is fixed, so the bits are the same on any device, at
 * any instruction set and in any division of the elements. gradient [..] float; master and moments [..] F32, updated in
 * place; weight [..] float or NULL: the rounded copy of master (BF16: nearest, ties away from zero; F16: ties to even).
 * All of one shape. gradient_scale multiplies the gradient first (0 = 1). [externally-synchronised] [async]
 * [capturable] */
typedef struct scalert_adamw_options {
    size_t struct_size;
    float learning_rate;
    float beta1, beta2; /* 0 = 0.9 and 0.999 */
    float epsilon;      /* 0 = 1e-8 */
    float weight_decay; /* decoupled */
    float gradient_scale;
    uint64_t step; /* 1 for the first; bias corrections are 1 - beta^step, computed in f64 */
} scalert_adamw_options_t;
#define SCALERT_ADAMW_OPTIONS_INIT {sizeof(scalert_adamw_options_t), 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 1}
/* AdamW. Loshchilov & Hutter 2019, algorithm 2. */
scalert_status_t scalert_adamw(scalert_stream_t *stream, const scalert_tensor_t *gradient,
                               const scalert_tensor_t *master, const scalert_tensor_t *moment1,
                               const scalert_tensor_t *moment2, const scalert_tensor_t *weight,
                               const scalert_adamw_options_t *options);

typedef struct scalert_sgd_options {
    size_t struct_size;
    float learning_rate;
    float momentum;     /* 0 = none; the buffer is then NULL */
    float weight_decay; /* added to the gradient */
    float gradient_scale;
    uint64_t step; /* 1 for the first, which sets the buffer to the gradient */
    uint8_t nesterov;
} scalert_sgd_options_t;
#define SCALERT_SGD_OPTIONS_INIT {sizeof(scalert_sgd_options_t), 0.0f, 0.0f, 0.0f, 0.0f, 1, 0}
/* Stochastic gradient descent with momentum, as PyTorch defines it: buffer = momentum buffer + gradient. Sutskever
 * 2013. */
scalert_status_t scalert_sgd(scalert_stream_t *stream, const scalert_tensor_t *gradient, const scalert_tensor_t *master,
                             const scalert_tensor_t *momentum_buffer, const scalert_tensor_t *weight,
                             const scalert_sgd_options_t *options);

typedef struct scalert_lion_options {
    size_t struct_size;
    float learning_rate;
    float beta1, beta2; /* 0 = 0.9 and 0.99 */
    float weight_decay; /* decoupled */
    float gradient_scale;
} scalert_lion_options_t;
#define SCALERT_LION_OPTIONS_INIT {sizeof(scalert_lion_options_t), 0.0f, 0.0f, 0.0f, 0.0f, 0.0f}
/* Lion. Chen et al. 2023, algorithm 2. */
scalert_status_t scalert_lion(scalert_stream_t *stream, const scalert_tensor_t *gradient,
                              const scalert_tensor_t *master, const scalert_tensor_t *moment,
                              const scalert_tensor_t *weight, const scalert_lion_options_t *options);

/* ---- learning-rate schedules ------------------------------------------------------------------------------------ */

typedef int32_t scalert_schedule_kind_t;
#define SCALERT_SCHEDULE_CONSTANT 0
#define SCALERT_SCHEDULE_COSINE 1              /* half a cosine from peak to floor at total_steps */
#define SCALERT_SCHEDULE_LINEAR 2              /* a line from peak to floor at total_steps */
#define SCALERT_SCHEDULE_INVERSE_SQUARE_ROOT 3 /* peak * sqrt(max(warmup_steps, 1) / step), not below floor */
#define SCALERT_SCHEDULE_WARMUP_STABLE_DECAY 4 /* peak, then a line to floor over decay_steps */

typedef struct scalert_schedule {
    size_t struct_size;
    scalert_schedule_kind_t kind;
    float peak, floor;     /* learning rates, 0 <= floor <= peak */
    uint64_t warmup_steps; /* every kind first rises linearly: peak * step / warmup_steps */
    uint64_t
        total_steps; /* after these the rate is floor, 0 = no end; needed by COSINE, LINEAR and WARMUP_STABLE_DECAY */
    uint64_t decay_steps; /* the last of total_steps; warmup_steps + decay_steps is at most total_steps */
} scalert_schedule_t;
#define SCALERT_SCHEDULE_INIT {sizeof(scalert_schedule_t), SCALERT_SCHEDULE_CONSTANT, 0.0f, 0.0f, 0, 0, 0}

/* The learning rate of a step, the first being 1 (0 is taken as 1). INVALID_ARGUMENT names a
 * field that makes no sense. [thread-safe] [sync] */
scalert_status_t scalert_schedule_learning_rate(const scalert_schedule_t *schedule, uint64_t step,
                                                float *learning_rate);

/* ---- loss scaler ------------------------------------------------------------------------------------------------ */

/* The dynamic loss scale of f16 training (Micikevicius et al. 2018). It lives on the device: training never waits for
 * it. */
typedef struct scalert_scaler scalert_scaler_t;

typedef struct scalert_scaler_desc {
    size_t struct_size;
    float initial_scale;      /* 0 = 65536 */
    float growth_factor;      /* 0 = 2 */
    float backoff_factor;     /* 0 = 0.5 */
    float minimum, maximum;   /* 0 = 1 and 2^24 */
    uint32_t growth_interval; /* finite steps before it grows; 0 = 2000 */
    uint32_t hysteresis;      /* overflows in a row before it backs off; 0 = 1 */
} scalert_scaler_desc_t;
#define SCALERT_SCALER_DESC_INIT {sizeof(scalert_scaler_desc_t), 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0, 0}

/* [thread-safe] [sync] */
scalert_status_t scalert_scaler_create(scalert_runtime_t *runtime, const scalert_scaler_desc_t *desc,
                                       scalert_scaler_t **out);
/* [thread-safe] [sync] */
void scalert_scaler_destroy(scalert_scaler_t *scaler);
/* A view of the current scale, F32, one element, on the device, valid while the scaler lives: for the loss_scale of
 * cross_entropy. [thread-safe] [sync] */
scalert_status_t scalert_scaler_scale(const scalert_scaler_t *scaler, scalert_tensor_t *scale);
/* Updates the scale after a step: overflow when nonfinite, an I64 tensor with one element, is not 0. scalert_state_step
 * does this by itself for the scaler that it is given. stream belongs to the runtime of the scaler.
 * [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_scaler_update(scalert_scaler_t *scaler, scalert_stream_t *stream,
                                       const scalert_tensor_t *nonfinite);

typedef struct scalert_scaler_report {
    size_t struct_size;
    float scale;
    uint64_t overflows;    /* steps that overflowed, in all */
    uint32_t finite_steps; /* since the last overflow or growth */
    uint8_t collapsed;     /* an overflow at the minimum happened last */
} scalert_scaler_report_t;
#define SCALERT_SCALER_REPORT_INIT {sizeof(scalert_scaler_report_t), 0.0f, 0, 0, 0}
/* Blocks until the last update is done and reads it. Updates in a CUDA graph are known once the host has waited for the
 * graph. [externally-synchronised] [sync] */
scalert_status_t scalert_scaler_read_wait(const scalert_scaler_t *scaler, scalert_scaler_report_t *out);

/* ---- communicators ---------------------------------------------------------------------------------------------- */

/* A rank's member of a group of ranks. Every rank calls the same operations in the same order, each with a stream of
 * its own runtime. Tensors are contiguous, of any shape, and count as one row of elements; n below is their number.
 * Reductions take F32, BF16, F16 and I64, whose sums wrap around; what only moves takes any dtype.
 *
 * A wrong argument is refused before the rank takes part: the others then wait for it. What an operation has begun to
 * write when it fails is not specified. After a failure of the group every call is COMM_ERROR with what came first. One
 * thread at a time calls operations of a communicator; abort and the questions may come from any thread at any time. */
typedef struct scalert_comm scalert_comm_t;

typedef int32_t scalert_reduction_t;
#define SCALERT_REDUCE_SUM 0  /* 16-bit floats are summed in f32 and rounded once */
#define SCALERT_REDUCE_MAX 1  /* a NaN if one is */
#define SCALERT_REDUCE_MEAN 2 /* the sum divided by the number of ranks; floats only */

typedef struct scalert_comm_desc {
    size_t struct_size;
    uint64_t timeout_ms; /* longest time that a rank waits for others; 0 = 10 minutes */
    uint8_t checking;    /* 1: ranks compare their calls before data is touched */
} scalert_comm_desc_t;
#define SCALERT_COMM_DESC_INIT {sizeof(scalert_comm_desc_t), 0, 0}

/* A group of one rank, on any device: operations copy what they must. [thread-safe] [sync] */
scalert_status_t scalert_comm_create_single(scalert_runtime_t *runtime, scalert_comm_t **out);

/* A group of world ranks, 1 to 1024, that are threads of this process: runtimes[r], of the CPU and no other rank's,
 * becomes comms[r]. Each rank works on its own share of everyone's memory, so that sums are in the order of ranks and
 * have the same bits however tensors are divided.
 *
 * Ranks compare their calls in any case, without cost: a difference is FAILED_PRECONDITION on every rank, which names
 * two ranks and both calls; it touches nothing, and the group goes on. A rank that has waited timeout_ms gets TIMEOUT,
 * which names the operation, its number and the ranks that did not come, and so do those who wait with it; then the
 * group has failed. When a rank's communicator is destroyed, the others fail as soon as they need that rank. No rank
 * returns from an operation while another still uses its memory, so a call may outlast the timeout by what the others
 * have in progress. [thread-safe] [sync] */
scalert_status_t scalert_comm_create_local(scalert_runtime_t *const *runtimes, uint32_t world,
                                           const scalert_comm_desc_t *desc, scalert_comm_t **comms);

/* What the host's own communicator is asked to do. */
typedef struct scalert_comm_call {
    size_t struct_size;
    const void *input; /* what is read; NULL when nothing is */
    void *output;      /* what is written; NULL when nothing is. In place as the operations below say */
    uint64_t count;    /* elements that a rank gives to, or gets of, each other one: n of the operation below */
    scalert_dtype_t dtype;
    scalert_reduction_t reduction;
    uint32_t peer;          /* the root; or the rank that a message goes to or comes from */
    uint32_t message_bytes; /* size of message */
    char *message;          /* where a callback that fails may say why: UTF-8, NUL-terminated */
    void *native_stream;    /* the CUstream to enqueue on; NULL on the CPU, where the work is done on return */
} scalert_comm_call_t;
#define SCALERT_COMM_CALL_INIT                                                                                         \
    {sizeof(scalert_comm_call_t), NULL, NULL, 0, SCALERT_F32, SCALERT_REDUCE_SUM, 0, 0, NULL, NULL}

/* The host's own communicator. Memory is host memory on the CPU and memory of the device on CUDA. A callback returns 0
 * when it has succeeded, SCALERT_TIMEOUT when other ranks did not come in time, and anything else for COMM_ERROR with
 * that number as native code; afterwards none but abort and release is called. Callbacks come from the thread of the
 * call, one at a time, abort from any; they must neither throw nor call the library. Waiting is their business:
 * timeout_ms is not looked at. After SCALERT_TIMEOUT, or a failure that abort has brought about, the host may still
 * write to what the callback was given: the library never frees the memory that it lent, and the caller keeps its own.
 *
 * all_gather and all_to_all are required, on CUDA also all_reduce, reduce and reduce_scatter. Of the others, broadcast
 * and barrier, and on the CPU the reductions, are composed when they are NULL: reductions of all_to_all and sums in the
 * order of ranks, with 8 MiB of DEVICE memory. Without send or receive those operations are UNAVAILABLE. */
typedef struct scalert_comm_vtable {
    size_t struct_size;
    void *user;
    uint32_t rank, world;
    uint8_t deterministic; /* 1: the reductions given here are in the order of ranks */
    int32_t (*all_gather)(void *user, const scalert_comm_call_t *call);
    int32_t (*all_to_all)(void *user, const scalert_comm_call_t *call);
    int32_t (*all_reduce)(void *user, const scalert_comm_call_t *call); /* always in place */
    int32_t (*reduce)(void *user, const scalert_comm_call_t *call);     /* output is NULL on others than the root */
    int32_t (*reduce_scatter)(void *user, const scalert_comm_call_t *call);
    int32_t (*broadcast)(void *user, const scalert_comm_call_t *call); /* always in place */
    int32_t (*send)(void *user, const scalert_comm_call_t *call);
    int32_t (*receive)(void *user, const scalert_comm_call_t *call);
    int32_t (*barrier)(void *user, const scalert_comm_call_t *call);
    void (*abort)(void *user);   /* NULL, or makes callbacks in progress return; called once at most */
    void (*release)(void *user); /* NULL, or called last, when nothing uses the communicator any more */
} scalert_comm_vtable_t;
#define SCALERT_COMM_VTABLE_INIT                                                                                       \
    {sizeof(scalert_comm_vtable_t), NULL, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL}

/* A communicator over the host's callbacks, which are copied. When it fails, release is not called. With
 * desc->checking, each operation but messages first gathers a record of every rank's call, which waits for the device.
 * [thread-safe] [sync] */
scalert_status_t scalert_comm_create_from_vtable(scalert_runtime_t *runtime, const scalert_comm_vtable_t *vtable,
                                                 const scalert_comm_desc_t *desc, scalert_comm_t **out);

/* Bytes of the id of a group of NCCL. */
#define SCALERT_NCCL_ID_BYTES 128
/* An id for a new group, SCALERT_NCCL_ID_BYTES of them, which the host gives to all its ranks. UNAVAILABLE, with the
 * reason, on a machine without NCCL 2.14 or newer: libnccl.so.2, which is loaded when it is first asked for.
 * [thread-safe] [sync] */
scalert_status_t scalert_comm_nccl_id(uint8_t *id);
/* A rank of NCCL: one CUDA device of a group whose ranks were given the same id, in any processes. Waits until all have
 * come, timeout_ms at most. UNAVAILABLE as above, and for a runtime of the CPU.
 *
 * Sums are in an order of NCCL's (scalert_comm_deterministic says 0), as is what becomes of a NaN in a maximum. Work
 * on the device is NCCL's too: while the host waits for it, it asks scalert_comm_async_error, or aborts from another
 * thread, after which the work ends. Operations are capturable. With desc->checking they are not, and wait for the
 * device. Destroying it waits for the other ranks, 10 s at most. [thread-safe] [sync] */
scalert_status_t scalert_comm_create_nccl(scalert_runtime_t *runtime, const uint8_t *id, uint32_t rank, uint32_t world,
                                          const scalert_comm_desc_t *desc, scalert_comm_t **out);

/* The rank leaves its group, once no child of the communicator needs it any more. [sync] */
void scalert_comm_destroy(scalert_comm_t *comm);

/* This rank, 0 to world - 1; the number of ranks; whether sums are in the order of ranks, so that they have the same
 * bits every time and however tensors are divided. [thread-safe] [sync] */
scalert_status_t scalert_comm_rank(const scalert_comm_t *comm, uint32_t *rank);
scalert_status_t scalert_comm_world(const scalert_comm_t *comm, uint32_t *world);
scalert_status_t scalert_comm_deterministic(const scalert_comm_t *comm, uint8_t *deterministic);

/* Names this rank's calls from now on, where ranks compare their calls: the tags must be the same too. At most 64
 * bytes; "" for none. [externally-synchronised] [sync] */
scalert_status_t scalert_comm_set_tag(scalert_comm_t *comm, const char *tag);

/* x = the reduction of x [n] over the ranks, on every rank. [externally-synchronised] [async] */
scalert_status_t scalert_comm_all_reduce(scalert_comm_t *comm, scalert_stream_t *stream, const scalert_tensor_t *x,
                                         scalert_reduction_t reduction);
/* output [n] = the reduction of input [n] over the ranks, on the root. Elsewhere output is not looked at and may be
 * NULL. It may be input. [externally-synchronised] [async] */
scalert_status_t scalert_comm_reduce(scalert_comm_t *comm, scalert_stream_t *stream, const scalert_tensor_t *input,
                                     const scalert_tensor_t *output, scalert_reduction_t reduction, uint32_t root);
/* output [n] = part rank of the reduction of input [world n]; it may be that part of input. [externally-synchronised]
 * [async] */
scalert_status_t scalert_comm_reduce_scatter(scalert_comm_t *comm, scalert_stream_t *stream,
                                             const scalert_tensor_t *input, const scalert_tensor_t *output,
                                             scalert_reduction_t reduction);
/* output [world n] = the inputs [n] of the ranks, one behind the other. input may be its part of output.
 * [externally-synchronised] [async] */
scalert_status_t scalert_comm_all_gather(scalert_comm_t *comm, scalert_stream_t *stream, const scalert_tensor_t *input,
                                         const scalert_tensor_t *output);
/* x [n] = x of the root. [externally-synchronised] [async] */
scalert_status_t scalert_comm_broadcast(scalert_comm_t *comm, scalert_stream_t *stream, const scalert_tensor_t *x,
                                        uint32_t root);
/* Part r of output [world n] = part rank of input [world n] of rank r. [externally-synchronised] [async] */
scalert_status_t scalert_comm_all_to_all(scalert_comm_t *comm, scalert_stream_t *stream, const scalert_tensor_t *input,
                                         const scalert_tensor_t *output);
/* Gives x [n] to another rank, which receives it. May wait until it does: two ranks that both send first wait until
 * their time is out. [externally-synchronised] [async] */
scalert_status_t scalert_comm_send(scalert_comm_t *comm, scalert_stream_t *stream, const scalert_tensor_t *x,
                                   uint32_t to);
/* x [n] = what another rank sends: as many elements of the same dtype. [externally-synchronised] [async] */
scalert_status_t scalert_comm_receive(scalert_comm_t *comm, scalert_stream_t *stream, const scalert_tensor_t *x,
                                      uint32_t from);
/* Holds later work of the stream back until every rank has come here. [externally-synchronised] [async] */
scalert_status_t scalert_comm_barrier(scalert_comm_t *comm, scalert_stream_t *stream);
/* Requires every rank to have the same count words: else FAILED_PRECONDITION on every rank, which begins with what and
 * names two ranks and the first word that they have differently. Waits for the device. [externally-synchronised] [sync]
 */
scalert_status_t scalert_comm_agree(scalert_comm_t *comm, scalert_stream_t *stream, const char *what,
                                    const uint64_t *words, uint64_t count);

/* Gives the group up: operations in progress and later ones, of every rank that can be reached, fail with COMM_ERROR.
 * [thread-safe] [sync] */
scalert_status_t scalert_comm_abort(scalert_comm_t *comm);
/* What has gone wrong in the group so far: OK or COMM_ERROR. [thread-safe] [sync] */
scalert_status_t scalert_comm_async_error(const scalert_comm_t *comm);

/* ---- training state --------------------------------------------------------------------------------------------- */

/* Parameters in the dtype that the model reads, f32 master weights, optimizer moments and gradient accumulators, and
 * the step over all of them.
 *
 *   create, add_group, add_parameter ..., seal
 *   begin_step -> { begin_micro -> gradient_ready for each parameter -> end_micro } any number of times (none: zero
 * gradients) -> step
 *                 -> step_result_wait (when the figures are wanted); abandon_step gives a begun step up
 *
 * A call out of this order is FAILED_PRECONDITION and changes nothing. Where calls name different streams, the host
 * orders these with events. */
typedef struct scalert_state scalert_state_t;

/* What the ranks of a communicator divide among them instead of each having all of it (ZeRO, Rajbhandari et al. 2020).
 * Of n parameters in a 16-bit dtype with f32 master weights, two f32 moments and 16-bit gradients, each of N ranks
 * holds these bytes per parameter; f32 accumulation takes 2 more, from GRADIENTS on 2/N. */
typedef int32_t scalert_stage_t;
#define SCALERT_STAGE_REPLICATED 0 /* nothing: 16 */
#define SCALERT_STAGE_OPTIMIZER 1  /* master weights and moments: 4 + 12/N */
#define SCALERT_STAGE_GRADIENTS 2  /* gradient accumulators too: 2 + 14/N */
#define SCALERT_STAGE_PARAMETERS 3 /* weights too, which acquire gathers: 16/N */

/* When gradients are summed over the ranks.
 *   EACH_MICRO  those of each micro-batch during its backward pass, and then over micro-batches: the same bits at every
 *               stage
 *   AT_STEP     each rank sums its own over micro-batches, and the step over ranks: less traffic; up to stage OPTIMIZER
 *   AUTO        EACH_MICRO where the communicator is deterministic, and from stage GRADIENTS on; else AT_STEP */
typedef int32_t scalert_gradient_reduction_t;
#define SCALERT_GRADIENT_REDUCTION_AUTO 0
#define SCALERT_GRADIENT_REDUCTION_EACH_MICRO 1
#define SCALERT_GRADIENT_REDUCTION_AT_STEP 2

/* With a communicator of several ranks the state is one of several that train one model, each in its own process or
 * thread with its own data. Gradients are summed over ranks, the step takes their mean. All ranks add the same groups
 * and parameters and make the same calls in the same order: those tagged [collective] talk to the others. Where the
 * communicator compares calls (checking, or ranks of one process), a difference is FAILED_PRECONDITION on every rank,
 * which names the gradients or weights that each meant. With a deterministic communicator, a run has the same bits at
 * every stage, with any bucket_bytes, with or without overlap. After a failure of the communicator, destroy the state.
 */
typedef struct scalert_state_desc {
    size_t struct_size;
    scalert_dtype_t gradient_dtype; /* of accumulation, F32 or BF16; 0 = F32 */
    scalert_comm_t *comm;           /* the ranks; NULL = this one alone */
    uint64_t bucket_bytes; /* WORKSPACE memory in which gradients wait for their sum; 0 = 16 MiB, at most all */
    uint64_t gather_bytes; /* PARAMETERS: WORKSPACE memory for weights in use. 0 = 16 MiB or twice the largest
                              parameter; at most all weights */
    scalert_stage_t stage;
    scalert_gradient_reduction_t gradient_reduction;
    scalert_dtype_t reduction_dtype; /* of gradients on their way between ranks: F32, or BF16, which halves the traffic,
                                        the sum being in f32 and rounded once. 0 = F32. Not with AT_STEP */
    uint8_t overlap; /* what goes between ranks goes while the host goes on, with a second bucket: on the CPU device on
                        a thread of the state, on a CUDA device on a stream of its own. Weights that were acquired next
                        in the step before are then fetched ahead */
} scalert_state_desc_t;
#define SCALERT_STATE_DESC_INIT {sizeof(scalert_state_desc_t), 0, NULL, 0, 0, 0, 0, 0, 0}

typedef int32_t scalert_optimizer_t;
#define SCALERT_OPTIMIZER_ADAMW 0
#define SCALERT_OPTIMIZER_SGD 1
#define SCALERT_OPTIMIZER_LION 2

/* Where the f32 master weights of a group are, and the bytes per parameter that they take beside the weight.
 *   F32      4  in f32. F32 weights are their own master weights: 0
 *   SPLIT16  2  the BF16 weight and a 16-bit remainder are the master weight: it trains with the very bits of F32
 *   NONE     0  weights are updated in f32 and rounded stochastically to their dtype, by Philox4x32-10 of the group's
 *               seed, the step and the element: the bits do not depend on ranks or threads */
typedef int32_t scalert_master_format_t;
#define SCALERT_MASTER_F32 0
#define SCALERT_MASTER_SPLIT16 1
#define SCALERT_MASTER_NONE 2

/* How a group's optimizer keeps each moment, and the bytes per parameter that it takes.
 *   F32   4
 *   BF16  2         rounded stochastically, as with MASTER_NONE
 *   INT8  1 + 1/64  codes of the dynamic map, with one f32 scale for each 256 of them (Dettmers et al. 2022) */
typedef int32_t scalert_moment_format_t;
#define SCALERT_MOMENTS_F32 0
#define SCALERT_MOMENTS_BF16 1
#define SCALERT_MOMENTS_INT8 2

/* Hyper-parameters and formats that a group of parameters shares. */
typedef struct scalert_group_desc {
    size_t struct_size;
    scalert_optimizer_t optimizer;
    scalert_dtype_t weight_dtype; /* what the model reads; 0 = BF16 */
    float learning_rate_scale;    /* multiplies the step's learning rate; 0 = 1 */
    float beta1, beta2;           /* 0 = the optimizer's defaults */
    float epsilon;                /* AdamW; 0 = 1e-8 */
    float weight_decay;
    float momentum;                 /* SGD; 0 = none */
    uint8_t nesterov;               /* SGD */
    uint64_t seed;                  /* of what is rounded stochastically */
    scalert_master_format_t master; /* SPLIT16 is of BF16 weights */
    scalert_moment_format_t moments;
    uint8_t frozen; /* the weights never change: no master weights, moments and gradients; MASTER reads and writes the
                       weights */
} scalert_group_desc_t;
#define SCALERT_GROUP_DESC_INIT                                                                                        \
    {sizeof(scalert_group_desc_t), SCALERT_OPTIMIZER_ADAMW, 0, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0, 0,               \
     SCALERT_MASTER_F32,           SCALERT_MOMENTS_F32,     0}

/* [thread-safe] [sync] */
scalert_status_t scalert_state_create(scalert_runtime_t *runtime, const scalert_state_desc_t *desc,
                                      scalert_state_t **out);
/* [sync] */
void scalert_state_destroy(scalert_state_t *state);
/* Adds a group and gives its number: 0, 1, ... in order. Before seal. [externally-synchronised] [sync] */
scalert_status_t scalert_state_add_group(scalert_state_t *state, const scalert_group_desc_t *desc, uint32_t *group);
/* Adds a parameter and gives its number over all groups. name is unique and not empty; shape as in shape[0 .. ndim -
 * 1]. Before seal. [externally-synchronised] [sync] */
scalert_status_t scalert_state_add_parameter(scalert_state_t *state, uint32_t group, const char *name, int32_t ndim,
                                             const int64_t *shape, uint32_t *parameter);
/* Exact bytes per tier that the state takes: what seal will take before it, what is held after it. limit, used and peak
 * are the state's own: no limit, and the sum. The caller sets out->struct_size. [externally-synchronised] [sync] */
scalert_status_t scalert_state_memory(const scalert_state_t *state, scalert_memory_report_t *out);
/* Fixes the layout and allocates; all weights and moments are zero. OUT_OF_BUDGET leaves the state as it was. It fails
 * on every rank if it does on one, or if they have not added the same: FAILED_PRECONDITION names the first difference.
 * [collective] [externally-synchronised] [sync] */
scalert_status_t scalert_state_seal(scalert_state_t *state);

typedef struct scalert_parameter_info {
    size_t struct_size;
    const char *name; /* valid while the state lives */
    uint32_t group;
    scalert_dtype_t dtype;
    int32_t ndim;
    int64_t shape[SCALERT_MAX_DIMS];
} scalert_parameter_info_t;
#define SCALERT_PARAMETER_INFO_INIT {sizeof(scalert_parameter_info_t), NULL, 0, 0, 0, {0, 0, 0, 0, 0}}
/* [externally-synchronised] [sync] */
scalert_status_t scalert_state_parameter_count(const scalert_state_t *state, uint32_t *count);
/* The caller sets out->struct_size. [externally-synchronised] [sync] */
scalert_status_t scalert_state_parameter_info(const scalert_state_t *state, uint32_t parameter,
                                              scalert_parameter_info_t *out);

/* The parts of a parameter's state. */
typedef int32_t scalert_part_t;
#define SCALERT_PART_MASTER 0   /* f32 weights; writing it also rounds them into the weight. Without any, the weights */
#define SCALERT_PART_MOMENT1 1  /* AdamW m, Lion m, SGD momentum buffer */
#define SCALERT_PART_MOMENT2 2  /* AdamW v */
#define SCALERT_PART_GRADIENT 3 /* accumulated so far in this step; read only */
/* Copies a part out, [shape of the parameter] F32: for the host's own checkpoints and inspection.
 * INVALID_ARGUMENT for a moment that the group's optimizer does not keep; the gradient is there within a step only. Of
 * several ranks: [collective] for what their stage divides, which every rank gets whole, destination being contiguous,
 * and for the gradient, which is the sum over ranks (with AT_STEP this rank's own) and is there between micro-batches.
 * [externally-synchronised] [async] */
scalert_status_t scalert_state_read(scalert_state_t *state, scalert_stream_t *stream, uint32_t parameter,
                                    scalert_part_t part, const scalert_tensor_t *destination);
/* Copies a part in from a float tensor of the parameter's shape: initial weights, or a checkpoint. Outside of a step,
 * while the parameter is not acquired. Of several ranks each gives the same values; where they divide the state, source
 * is contiguous. What SPLIT16 and INT8 keep is made from F32, contiguous; reading it out, destination is contiguous as
 * well. [collective] [externally-synchronised] [async] */
scalert_status_t scalert_state_write(scalert_state_t *state, scalert_stream_t *stream, uint32_t parameter,
                                     scalert_part_t part, const scalert_tensor_t *source);
/* The number of steps taken, which bias corrections and momentum depend on; setting it belongs to restoring a
 * checkpoint. Outside of a step. The next scalert_state_step takes it to the device, where steps are counted: CUDA
 * graphs captured before do not know of it. [externally-synchronised] [sync] */
scalert_status_t scalert_state_set_step(scalert_state_t *state, uint64_t step);

/* The current weights of a parameter, resident on the device for work enqueued on stream until release: a borrowed,
 * read-only view, contiguous, in the group's weight dtype. May be acquired several times; each needs its release. At
 * stage PARAMETERS they are gathered from all ranks unless they still are there [collective]; OUT_OF_BUDGET when the
 * parameters that are acquired leave no room in gather_bytes: release some first. [externally-synchronised] [async]
 * [capturable] */
scalert_status_t scalert_state_acquire(scalert_state_t *state, uint32_t parameter, scalert_stream_t *stream,
                                       scalert_tensor_t *weight);
/* [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_state_release(scalert_state_t *state, uint32_t parameter, scalert_stream_t *stream);

/* Begins a step. [externally-synchronised] [sync] */
scalert_status_t scalert_state_begin_step(scalert_state_t *state);
/* Begins a micro-batch. [externally-synchronised] [sync] */
scalert_status_t scalert_state_begin_micro(scalert_state_t *state);
/* Takes the gradient of one parameter, complete in stream order, and adds it to the accumulator in f32. gradient:
 * float, the parameter's shape. Parameters may come in any order, each once per micro-batch; a tied parameter's
 * gradient is the sum over its uses. Of several ranks all take the same order [collective], and a gradient larger than
 * a bucket is contiguous. If consumed is not NULL it is recorded: gradient may be reused once it completes.
 * [externally-synchronised] [async] [capturable] */
scalert_status_t scalert_state_gradient_ready(scalert_state_t *state, scalert_stream_t *stream, uint32_t parameter,
                                              const scalert_tensor_t *gradient, scalert_event_t *consumed);
/* Ends a micro-batch. FAILED_PRECONDITION names the first parameter that has had no gradient; it may still be given.
 * [externally-synchronised] [sync] */
scalert_status_t scalert_state_end_micro(scalert_state_t *state);

typedef struct scalert_step_desc {
    size_t struct_size;
    float learning_rate;
    float max_norm;           /* clips the global norm; 0 = no clipping */
    float gradient_scale;     /* multiplies the accumulated gradients, of ranks their mean; 1 / micro-batches; 0 = 1 */
    float loss_scale;         /* divides them; 0 = 1. With a scaler it must be 0 */
    scalert_scaler_t *scaler; /* the scale of its device value divides them, and it is updated; NULL = none */
} scalert_step_desc_t;
#define SCALERT_STEP_DESC_INIT {sizeof(scalert_step_desc_t), 0.0f, 0.0f, 0.0f, 0.0f, NULL}

/* Unscales, clips by the exact global norm over all parameters, and updates master weights, moments and weights. When
 * any gradient is not finite the update is skipped: nothing changes but the scaler. Needs no parameter to be acquired.
 * gradient_scale divided by the loss scale, with a scaler by any scale that it may come to, must fit F32 and not be 0.
 *
 * The device decides, and the host waits for nothing. A CUDA graph may hold the calls from begin_step to step, on one
 * stream, whose workspace has been reserved. What is passed by value is fixed in it: learning_rate, max_norm,
 * gradient_scale, loss_scale, the hyper-parameters of groups and the number of micro-batches; also the addresses of
 * gradients. What the device keeps goes on with each replay as with each call: weights, moments, the number of steps
 * taken, with it bias corrections, and the scaler.
 *
 * Of several ranks: [collective]. They decide as one: the norm is that of the mean over ranks, with the same bits
 * however the state is divided, and an overflow on one of them skips the step on all. [externally-synchronised] [async]
 * [capturable] */
scalert_status_t scalert_state_step(scalert_state_t *state, scalert_stream_t *stream, const scalert_step_desc_t *desc);
/* Drops a begun step with its gradients, at any point between begin_step and step; of several ranks all do.
 * [externally-synchronised] [sync] */
scalert_status_t scalert_state_abandon_step(scalert_state_t *state);

#define SCALERT_NONE UINT32_MAX

typedef struct scalert_step_result {
    size_t struct_size;
    uint64_t step;               /* steps taken so far; a skipped step does not count */
    double gradient_norm;        /* of all gradients times gradient_scale / loss scale; NaN when skipped */
    double clip_factor;          /* min(1, max_norm / (gradient_norm + 1e-6)); 1 without clipping or when skipped */
    float loss_scale;            /* that this step was divided by */
    uint8_t skipped;             /* a gradient was not finite */
    uint32_t overflow_parameter; /* the first of them by micro-batch, parameter, rank; SCALERT_NONE when not skipped */
    uint32_t overflow_rank;      /* that of the gradient; if only a sum over ranks overflowed, the one that has it */
    uint32_t overflow_micro;
} scalert_step_result_t;
#define SCALERT_STEP_RESULT_INIT                                                                                       \
    {sizeof(scalert_step_result_t), 0, 0.0, 0.0, 0.0f, 0, SCALERT_NONE, SCALERT_NONE, SCALERT_NONE}
/* Blocks until the figures of the last step are known. Training itself never needs them on the host. Of steps in a CUDA
 * graph they are those of the last replay that the host has waited for. FAILED_PRECONDITION before any step. Returns
 * LOSS_SCALE_COLLAPSED, with *out filled and the message naming the first bad parameter, when the step overflowed at
 * the scaler's minimum. The caller sets out->struct_size. [externally-synchronised] [sync] */
scalert_status_t scalert_state_step_result_wait(scalert_state_t *state, scalert_step_result_t *out);

/* ---- traces ----------------------------------------------------------------------------------------------------- */

/* A recording of when the operations of one runtime ran, and of ranges that the host names, such as "step" or
 * "forward". It is written as a Trace Event file, which ui.perfetto.dev and chrome://tracing show: a track for each
 * host thread and for each stream of a CUDA device, and the bytes in use of each memory tier over time.
 *
 * A span is an operation, a copy, or a range: its name, the bytes of its tensors (those of each argument once) and
 * with them GB/s, its stream, and which implementation ran where there is a choice, such as cuBLASLt. On the CPU
 * device it is the time that the operation took. On a CUDA device the host's track has the time that enqueueing took,
 * and the stream's track the time that the work took, by events around it. Work on a stream that is captured has host
 * times only; what a CUDA graph runs when it is launched is not seen, but a range around the launch is.
 *
 * While nothing records, an operation pays for two loads. While a trace records, an operation on the CPU device takes
 * about 60 ns more (measured on a Zen 4 core), and one on a CUDA device two cuEventRecord; nothing waits.
 *
 * Where a profiler, such as Nsight Systems, has put itself into the process, it gets spans as NVTX ranges of the domain
 * "scaleRT", with the bytes as payload: operations in any case, and ranges of any trace, recording or not. */
typedef struct scalert_trace scalert_trace_t;

typedef struct scalert_trace_desc {
    size_t struct_size;
    uint32_t spans; /* kept, the newest; 0 = 65536; at most 2^24 */
    uint32_t rank;  /* names the process in the file */
} scalert_trace_desc_t;
#define SCALERT_TRACE_DESC_INIT {sizeof(scalert_trace_desc_t), 0, 0}

/* Creates a trace, which does not record yet. Its memory, about 224 bytes for each span, is of the HOST tier and taken
 * at once: OUT_OF_BUDGET when the budget does not allow it. [thread-safe] [sync] */
scalert_status_t scalert_trace_create(scalert_runtime_t *runtime, const scalert_trace_desc_t *desc,
                                      scalert_trace_t **out);
/* Stops it, if it records. [sync] */
void scalert_trace_destroy(scalert_trace_t *trace);
/* Begins a new recording; what the last one kept is dropped. FAILED_PRECONDITION while this or another trace of the
 * runtime records. [externally-synchronised] [sync] */
scalert_status_t scalert_trace_start(scalert_trace_t *trace);
/* Ends the recording: operations that begin later are not in it. FAILED_PRECONDITION when the trace does not record.
 * [externally-synchronised] [sync] */
scalert_status_t scalert_trace_stop(scalert_trace_t *trace);

typedef struct scalert_trace_info {
    size_t struct_size;
    uint64_t spans;      /* kept, of those that have ended */
    uint64_t dropped;    /* of the recording: newer ones took their place */
    uint64_t capacity;   /* most spans that are kept */
    uint64_t host_bytes; /* HOST memory of the trace */
    uint8_t recording;
} scalert_trace_info_t;
#define SCALERT_TRACE_INFO_INIT {sizeof(scalert_trace_info_t), 0, 0, 0, 0, 0}
/* What the trace holds. The caller sets out->struct_size. [thread-safe] [sync] */
scalert_status_t scalert_trace_describe(const scalert_trace_t *trace, scalert_trace_info_t *out);

/* Begins a range on this thread. name is not empty; the file has its first 62 bytes. Ranges nest; at most 64 are open
 * on a thread, else FAILED_PRECONDITION. With a stream of the runtime, a range on a CUDA device is on the stream's
 * track too, around the work that is enqueued within; stream may be NULL. A range that begins while the trace does not
 * record is not recorded.
 * [thread-safe] [async] [capturable] */
scalert_status_t scalert_trace_range_begin(scalert_trace_t *trace, scalert_stream_t *stream, const char *name);
/* Ends the range that began last of those of the trace on this thread; stream as it began. FAILED_PRECONDITION when
 * none is open. [thread-safe] [async] [capturable] */
scalert_status_t scalert_trace_range_end(scalert_trace_t *trace, scalert_stream_t *stream);
/* Writes the recording to a file, once the work of its spans is done; spans that have not ended are left out. The file
 * is written beside path and then takes its place, whole: a failure leaves what was there. INVALID_ARGUMENT when path
 * cannot be written, OUT_OF_MEMORY when there is no room for it, both with the errno. FAILED_PRECONDITION while the
 * trace records. After a failure of the device the file has host times only, and its otherData says why.
 * [externally-synchronised] [sync] */
scalert_status_t scalert_trace_write_wait(scalert_trace_t *trace, const char *path);

#ifdef __cplusplus
}
#endif
#endif /* SCALERT_H */
