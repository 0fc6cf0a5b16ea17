/* Traces: what they record, what the file says, and what is refused. On the CPU device, and on a CUDA device where
 * there is one. */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <ctype.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- files ---------------------------------------------------------------------------------------------------------
 */

static char directory[64];

static const char *in_directory(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

static int files(void) {
    DIR *open = opendir(directory);
    int count = 0;
    CHECK(open != NULL);
    while (readdir(open) != NULL)
        count++;
    closedir(open);
    return count - 2; /* not itself and its parent */
}

static char *content(const char *path) {
    FILE *file = fopen(path, "rb");
    char *text = (char *)calloc(1, 1 << 20);
    CHECK(file != NULL && text != NULL);
    CHECK(fread(text, 1, (1 << 20) - 1, file) > 0 && feof(file));
    fclose(file);
    return text;
}

/* The end of the JSON value that begins at s, or NULL. */
static const char *json(const char *s) {
    if (*s == '{' || *s == '[') {
        const char end = *s == '{' ? '}' : ']';
        for (s++; *s != end; s++) {
            while (isspace((unsigned char)*s))
                s++;
            if (end == '}') {
                if (*s != '"' || !(s = json(s)) || *s++ != ':')
                    return NULL;
            }
            if (!(s = json(s)))
                return NULL;
            while (isspace((unsigned char)*s))
                s++;
            if (*s == end)
                break;
            if (*s != ',')
                return NULL;
        }
        return s + 1;
    }
    if (*s == '"') {
        for (s++; *s != '"'; s++) {
            if ((unsigned char)*s < ' ' || (*s == '\\' && !strchr("\"\\/bfnrtu", *++s)))
                return NULL;
        }
        return s + 1;
    }
    if (*s == '-' || isdigit((unsigned char)*s)) {
        char *end;
        strtod(s, &end);
        return end;
    }
    return NULL;
}

/* Writes the trace, checks that the file is JSON, and returns it. */
static char *written(scalert_trace_t *trace) {
    const char *path = in_directory("trace.json");
    const char *end;
    char *text;
    OK(scalert_trace_write_wait(trace, path));
    CHECK(files() == 1);
    text = content(path);
    end = json(text);
    CHECK(end != NULL && strcmp(end, "\n") == 0);
    CHECK(strncmp(text, "{\"traceEvents\":[", 16) == 0);
    remove(path);
    return text;
}

/* Begin and end of the n-th complete event of this name and category, counted from 0; ends the program without one. */
typedef struct span {
    double begin, end;
    long track;
    char line[512];
} span_t;

static span_t span(const char *text, const char *category, const char *name, int n) {
    char wanted[128];
    span_t found;
    snprintf(wanted, sizeof wanted, "\"cat\":\"%s\",\"name\":\"%s\"", category, name);
    for (const char *line = text; line; line = (line = strchr(line, '\n')) ? line + 1 : NULL) {
        const char *at = strstr(line, wanted), *newline = strchr(line, '\n');
        if (!at || !newline || at > newline || n-- > 0)
            continue;
        snprintf(found.line, sizeof found.line, "%.*s", (int)(newline - line), line);
        CHECK(strncmp(line, "{\"ph\":\"X\"", 9) == 0);
        found.track = strtol(strstr(line, "\"tid\":") + 6, NULL, 10);
        found.begin = strtod(strstr(line, "\"ts\":") + 5, NULL);
        found.end = found.begin + strtod(strstr(line, "\"dur\":") + 6, NULL);
        return found;
    }
    fprintf(stderr, "no event %s in\n%s", wanted, text);
    exit(1);
}

static int contains(const span_t *outer, const span_t *inner) {
    const double rounding = 1e-4;
    return outer->track == inner->track && outer->begin <= inner->begin + rounding &&
           inner->end <= outer->end + rounding;
}

/* ---- traces --------------------------------------------------------------------------------------------------------
 */

static scalert_trace_t *trace_of(scalert_runtime_t *runtime, uint32_t spans) {
    scalert_trace_desc_t desc = SCALERT_TRACE_DESC_INIT;
    scalert_trace_t *trace = NULL;
    desc.spans = spans;
    desc.rank = 5;
    OK(scalert_trace_create(runtime, &desc, &trace));
    return trace;
}

static scalert_trace_info_t info_of(const scalert_trace_t *trace) {
    scalert_trace_info_t info = SCALERT_TRACE_INFO_INIT;
    OK(scalert_trace_describe(trace, &info));
    return info;
}

static void operations_and_ranges(void) {
    static float values[64 * 64], product[64 * 64];
    scalert_runtime_t *runtime = cpu_runtime();
    scalert_stream_t *stream = stream_of(runtime);
    scalert_trace_t *trace = trace_of(runtime, 100);
    scalert_tensor_t a = matrix(values, 64, 64), c = matrix(product, 64, 64);
    span_t step, forward, fill, gemm;
    char *text;
    OK(scalert_fill(stream, 1.0f, &a));
    OK(scalert_trace_start(trace));
    OK(scalert_trace_range_begin(trace, NULL, "step 1"));
    OK(scalert_fill(stream, 2.0f, &a));
    OK(scalert_trace_range_begin(trace, stream, "forward"));
    OK(scalert_gemm(stream, 0, 0, &a, &a, &c, NULL));
    CHECK(info_of(trace).spans == 2 && info_of(trace).recording == 1);
    OK(scalert_trace_range_end(trace, stream));
    OK(scalert_trace_range_end(trace, NULL));
    OK(scalert_trace_stop(trace));
    OK(scalert_fill(stream, 3.0f, &a));
    CHECK(info_of(trace).spans == 4 && info_of(trace).dropped == 0 && info_of(trace).recording == 0);
    CHECK(info_of(trace).capacity == 100);
    CHECK(memory_of(runtime).tier[SCALERT_TIER_HOST].other == info_of(trace).host_bytes);
    scalert_stream_destroy(stream);
    scalert_runtime_destroy(runtime); /* the trace keeps it alive */

    text = written(trace);
    step = span(text, "range", "step 1", 0);
    forward = span(text, "range", "forward", 0);
    fill = span(text, "operation", "fill", 0);
    gemm = span(text, "operation", "gemm", 0);
    CHECK(contains(&step, &forward) && contains(&step, &fill) && contains(&forward, &gemm));
    CHECK(fill.end <= forward.begin && gemm.end > gemm.begin);
    CHECK(strstr(gemm.line, "\"bytes\":49152") && strstr(gemm.line, "\"GB/s\":"));
    CHECK(strstr(text, "\"name\":\"rank 5\"") && strstr(text, "\"name\":\"host thread "));
    CHECK(strstr(text, "\"ph\":\"C\"") && strstr(text, "\"dropped\":0"));
    free(text);
    text = written(trace); /* as often as one likes */
    free(text);
    scalert_trace_destroy(trace);
    scalert_trace_destroy(NULL);
}

static void calls_at_the_wrong_time(void) {
    scalert_runtime_t *runtime = cpu_runtime(), *other = cpu_runtime();
    scalert_stream_t *stream = stream_of(other);
    scalert_trace_t *first = trace_of(runtime, 10), *second = trace_of(runtime, 10), *foreign = trace_of(other, 10);
    scalert_trace_desc_t desc = SCALERT_TRACE_DESC_INIT;
    scalert_trace_t *none = NULL;
    FAILS(scalert_trace_stop(first), SCALERT_FAILED_PRECONDITION, "not recording");
    OK(scalert_trace_start(first));
    FAILS(scalert_trace_start(first), SCALERT_FAILED_PRECONDITION, "already");
    FAILS(scalert_trace_start(second), SCALERT_FAILED_PRECONDITION, "another trace");
    FAILS(scalert_trace_stop(second), SCALERT_FAILED_PRECONDITION, "not recording");
    FAILS(scalert_trace_write_wait(first, in_directory("trace.json")), SCALERT_FAILED_PRECONDITION, "stopped");
    OK(scalert_trace_start(foreign)); /* of another runtime */
    FAILS(scalert_trace_range_end(first, NULL), SCALERT_FAILED_PRECONDITION, "no range");
    FAILS(scalert_trace_range_begin(first, stream, "forward"), SCALERT_INVALID_ARGUMENT, "stream");
    FAILS(scalert_trace_range_begin(first, NULL, ""), SCALERT_INVALID_ARGUMENT, "name");
    scalert_trace_destroy(first);
    OK(scalert_trace_start(second));
    desc.spans = (1u << 24) + 1;
    FAILS(scalert_trace_create(runtime, &desc, &none), SCALERT_INVALID_ARGUMENT, "spans");
    CHECK(none == NULL && files() == 0);
    scalert_trace_destroy(second);
    scalert_trace_destroy(foreign);
    scalert_stream_destroy(stream);
    scalert_runtime_destroy(runtime);
    scalert_runtime_destroy(other);
}

static void errno_of_last(scalert_status_t status, int code) {
    scalert_error_t error = SCALERT_ERROR_INIT;
    OK(scalert_last_error(&error));
    CHECK(error.status == status && error.native_domain == SCALERT_NATIVE_ERRNO && error.native_code == code);
}

static void files_that_cannot_be_written(void) {
    static float values[4];
    scalert_runtime_t *runtime = cpu_runtime();
    scalert_stream_t *stream = stream_of(runtime);
    scalert_trace_t *trace = trace_of(runtime, 2000);
    scalert_tensor_t y = vector(values, 4);
    struct rlimit limit, small;
    char before[64], *after;
    FILE *file;
    OK(scalert_trace_start(trace));
    for (int i = 0; i < 2500; i++)
        OK(scalert_fill(stream, 1.0f, &y));
    OK(scalert_trace_stop(trace));
    CHECK(info_of(trace).spans == 2000 && info_of(trace).dropped == 500);

    FAILS(scalert_trace_write_wait(trace, in_directory("none/it.json")), SCALERT_INVALID_ARGUMENT, "none/it.json");
    errno_of_last(SCALERT_INVALID_ARGUMENT, ENOENT);
    FAILS(scalert_trace_write_wait(trace, directory), SCALERT_INVALID_ARGUMENT, "path");
    errno_of_last(SCALERT_INVALID_ARGUMENT, EISDIR);

    /* No room: what was there stays, and nothing else is left behind. */
    file = fopen(in_directory("trace.json"), "wb");
    CHECK(file != NULL && fputs("as before", file) >= 0 && fclose(file) == 0);
    CHECK(getrlimit(RLIMIT_FSIZE, &limit) == 0);
    small = limit;
    small.rlim_cur = 100000;
    signal(SIGXFSZ, SIG_IGN);
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    FAILS(scalert_trace_write_wait(trace, in_directory("trace.json")), SCALERT_OUT_OF_MEMORY, "trace.json");
    errno_of_last(SCALERT_OUT_OF_MEMORY, EFBIG);
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    CHECK(files() == 1);
    after = content(in_directory("trace.json"));
    snprintf(before, sizeof before, "%s", after);
    CHECK(strcmp(before, "as before") == 0);
    free(after);
    after = written(trace); /* replaces it */
    CHECK(strstr(after, "\"500 spans dropped\"") && strstr(after, "\"dropped\":500"));
    free(after);
    scalert_trace_destroy(trace);
    scalert_stream_destroy(stream);
    scalert_runtime_destroy(runtime);
}

static void a_forked_child_records(void) {
    static float values[4];
    scalert_runtime_t *runtime = cpu_runtime();
    scalert_stream_t *stream = stream_of(runtime);
    scalert_trace_t *trace = trace_of(runtime, 10);
    scalert_tensor_t y = vector(values, 4);
    int status = 0;
    pid_t child;
    OK(scalert_trace_start(trace));
    OK(scalert_fill(stream, 1.0f, &y));
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        char *text;
        OK(scalert_fill(stream, 2.0f, &y));
        OK(scalert_trace_stop(trace));
        CHECK(info_of(trace).spans == 2);
        text = written(trace);
        span(text, "operation", "fill", 1);
        free(text);
        scalert_trace_destroy(trace);
        scalert_stream_destroy(stream);
        scalert_runtime_destroy(runtime);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(info_of(trace).spans == 1);
    scalert_trace_destroy(trace);
    scalert_stream_destroy(stream);
    scalert_runtime_destroy(runtime);
}

/* ---- CUDA ----------------------------------------------------------------------------------------------------------
 */

typedef void *handle;

static struct {
    int (*context_create)(handle *context, unsigned flags, int device);
    int (*context_destroy)(handle context);
    int (*stream_create)(handle *stream, unsigned flags);
    int (*stream_destroy)(handle stream);
    int (*begin_capture)(handle stream, int mode);
    int (*end_capture)(handle stream, handle *graph);
    int (*graph_nodes)(handle graph, handle *nodes, size_t *count);
    int (*graph_instantiate)(handle *executable, handle graph, unsigned long long flags);
    int (*graph_launch)(handle executable, handle stream);
    int (*graph_executable_destroy)(handle executable);
    int (*graph_destroy)(handle graph);
} cu;

#define CU(call) check_that((call) == 0, #call, __FILE__, __LINE__)

static void find(void *library, const char *name, void *function) {
    void *address = dlsym(library, name);
    check_that(address != NULL, name, __FILE__, __LINE__);
    memcpy(function, &address, sizeof address);
}

static void open_driver(void) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    CHECK(library != NULL);
    find(library, "cuCtxCreate_v2", &cu.context_create);
    find(library, "cuCtxDestroy_v2", &cu.context_destroy);
    find(library, "cuStreamCreate", &cu.stream_create);
    find(library, "cuStreamDestroy_v2", &cu.stream_destroy);
    find(library, "cuStreamBeginCapture_v2", &cu.begin_capture);
    find(library, "cuStreamEndCapture", &cu.end_capture);
    find(library, "cuGraphGetNodes", &cu.graph_nodes);
    find(library, "cuGraphInstantiateWithFlags", &cu.graph_instantiate);
    find(library, "cuGraphLaunch", &cu.graph_launch);
    find(library, "cuGraphExecDestroy", &cu.graph_executable_destroy);
    find(library, "cuGraphDestroy", &cu.graph_destroy);
}

/* Host and device times of operations and ranges, and of a graph, which is as without a trace. */
static void on_a_device(void) {
    enum { N = 128 };
    handle mine = NULL, native = NULL, graph = NULL, executable = NULL;
    scalert_runtime_desc_t desc = SCALERT_RUNTIME_DESC_INIT;
    scalert_runtime_t *runtime = NULL;
    scalert_stream_t *stream = NULL;
    scalert_arena_t *arena = NULL;
    scalert_trace_t *trace;
    scalert_tensor_t a, c;
    span_t step, fill, gemm, enqueue, replay;
    void *memory = NULL;
    size_t nodes = 0;
    char *text;
    CU(cu.context_create(&mine, 0, 0));
    CU(cu.stream_create(&native, 1));
    desc.device = SCALERT_DEVICE_CUDA;
    OK(scalert_runtime_create(&desc, &runtime));
    OK(scalert_stream_wrap(runtime, native, &stream));
    OK(scalert_stream_reserve(stream, 1 << 20));
    OK(scalert_arena_create(runtime, SCALERT_TIER_DEVICE, 2 * N * N * sizeof(float), &arena));
    OK(scalert_arena_alloc(arena, N * N * sizeof(float), &memory));
    a = matrix((float *)memory, N, N);
    OK(scalert_arena_alloc(arena, N * N * sizeof(float), &memory));
    c = matrix((float *)memory, N, N);
    trace = trace_of(runtime, 20);
    OK(scalert_trace_start(trace));
    for (int round = 0; round < 20; round++) { /* the ring goes round: events are used again */
        OK(scalert_trace_range_begin(trace, stream, "step"));
        OK(scalert_fill(stream, 1.0f, &a));
        OK(scalert_gemm(stream, 0, 0, &a, &a, &c, NULL));
        OK(scalert_trace_range_end(trace, stream));
    }
    OK(scalert_trace_stop(trace));
    text = written(trace);
    step = span(text, "range", "step", 1); /* first on the thread's track, then on the stream's */
    enqueue = span(text, "enqueue", "gemm", 1);
    fill = span(text, "operation", "fill", 1);
    gemm = span(text, "operation", "gemm", 1);
    CHECK(contains(&step, &fill) && contains(&step, &gemm) && fill.end <= gemm.begin + 1e-4);
    CHECK(enqueue.track != gemm.track && enqueue.begin <= gemm.end);
    CHECK(gemm.end > gemm.begin && strstr(gemm.line, "\"implementation\":\"") && strstr(gemm.line, "\"GB/s\":"));
    CHECK(!strstr(enqueue.line, "GB/s") && strstr(text, "\"name\":\"cuda:0 stream 1\""));
    CHECK(!strstr(text, "without_device_times"));
    free(text);

    OK(scalert_trace_start(trace));
    CU(cu.begin_capture(native, 0));
    OK(scalert_trace_range_begin(trace, stream, "captured"));
    OK(scalert_fill(stream, 1.0f, &a));
    OK(scalert_fill(stream, 2.0f, &c));
    OK(scalert_trace_range_end(trace, stream));
    CU(cu.end_capture(native, &graph));
    CU(cu.graph_nodes(graph, NULL, &nodes));
    CHECK(nodes == 2);
    CU(cu.graph_instantiate(&executable, graph, 0));
    OK(scalert_trace_range_begin(trace, stream, "replay"));
    CU(cu.graph_launch(executable, native));
    OK(scalert_trace_range_end(trace, stream));
    OK(scalert_trace_stop(trace));
    CHECK(info_of(trace).spans == 4);
    text = written(trace);
    span(text, "enqueue", "fill", 1);
    CHECK(!strstr(text, "\"cat\":\"operation\""));
    replay = span(text, "range", "replay", 1);
    CHECK(replay.track != span(text, "range", "captured", 0).track && replay.end > replay.begin);
    free(text);
    CU(cu.graph_executable_destroy(executable));
    CU(cu.graph_destroy(graph));

    /* Work that has gone with its context has host times only. */
    OK(scalert_trace_start(trace));
    OK(scalert_fill(stream, 1.0f, &a));
    OK(scalert_trace_stop(trace));
    OK(scalert_stream_wait(stream));
    CU(cu.stream_destroy(native));
    CU(cu.context_destroy(mine));
    text = written(trace);
    span(text, "enqueue", "fill", 0);
    CHECK(strstr(text, "\"without_device_times\":\"") && !strstr(text, "\"cat\":\"operation\""));
    free(text);
    scalert_trace_destroy(trace);
    scalert_arena_destroy(arena);
    scalert_stream_destroy(stream);
    scalert_runtime_destroy(runtime);
}

int main(void) {
    uint32_t devices = 0;
    snprintf(directory, sizeof directory, "/tmp/scalert-trace-%ld", (long)getpid());
    CHECK(mkdir(directory, 0700) == 0);
    operations_and_ranges();
    calls_at_the_wrong_time();
    files_that_cannot_be_written();
    a_forked_child_records();
    if (scalert_device_count(SCALERT_DEVICE_CUDA, &devices) == SCALERT_OK) {
        open_driver();
        on_a_device();
    }
    CHECK(rmdir(directory) == 0);
    return passed();
}
