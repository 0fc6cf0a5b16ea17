/* Calls every exported function with everything that is wrong, one thing at a time, and demands that the status and the
 * message say so, that no byte changed, and that the right call still works afterwards. */
#include "world.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- slots: every argument, and every field behind an argument --------------------------------------------------- */

struct slot {
    const char *name;
    const struct item *item;
    unsigned char *at;  /* where the argument or field lies */
    const char *parent; /* the argument that a field belongs to, or NULL */
};

#define SLOTS 96

static void set_pointer(unsigned char *at, const void *pointer) {
    memcpy(at, &pointer, sizeof pointer);
}

static size_t collect(struct slot *slots, size_t n, const struct item *items, size_t count, unsigned char *base,
                      const char *parent) {
    for (size_t i = 0; i < count; i++) {
        struct slot slot = {items[i].name, &items[i], base + items[i].offset, parent};
        if (n == SLOTS) {
            fprintf(stderr, "SLOTS is too small\n");
            exit(3);
        }
        slots[n++] = slot;
        if (items[i].kind == KIND_STRUCT && pointer_at(slot.at) != NULL) {
            n = collect(slots, n, items[i].record->items, items[i].record->count, pointer_at(slot.at), slot.name);
        }
    }
    return n;
}

/* One call being made: a fresh world, the function's fixture, its slots. */
struct attempt {
    struct world world;
    const struct function *function;
    unsigned char *arguments;
    struct slot slots[SLOTS];
    size_t count;
};

static void attempt_open(struct attempt *attempt, const struct function *function) {
    world_open(&attempt->world);
    attempt->function = function;
    attempt->arguments = world_memory(&attempt->world, function->size);
    function->fixture(&attempt->world, attempt->arguments);
    attempt->count = collect(attempt->slots, 0, function->items, function->count, attempt->arguments, NULL);
    world_remember_first(&attempt->world);
}

static int32_t call(struct attempt *attempt) {
    return attempt->function->call(attempt->arguments);
}

static void discard(struct attempt *attempt) {
    discard_results(attempt->function, attempt->arguments);
}

/* ---- annotations ------------------------------------------------------------------------------------------------- */

static int contains(const char *names, const char *name) {
    size_t length = strlen(name);
    for (const char *at = names; (at = strstr(at, name)) != NULL; at += length) {
        if ((at == names || at[-1] == ' ') && (at[length] == ' ' || at[length] == '\0')) {
            return 1;
        }
    }
    return 0;
}

/* The names that may be NULL together with name, or NULL. */
static const char *optional_with(const struct attempt *attempt, const char *name) {
    for (size_t i = 0; i < attempt->world.note_count; i++) {
        if (attempt->world.notes[i].what == NOTE_OPTIONAL && contains(attempt->world.notes[i].a, name)) {
            return attempt->world.notes[i].a;
        }
    }
    return NULL;
}

static int is_output(const struct attempt *attempt, const char *name) {
    for (size_t i = 0; i < attempt->world.note_count; i++) {
        if (attempt->world.notes[i].what == NOTE_OUTPUT && contains(attempt->world.notes[i].a, name)) {
            return 1;
        }
    }
    return 0;
}

static int is_in_place(const struct attempt *attempt, const char *a, const char *b) {
    for (size_t i = 0; i < attempt->world.note_count; i++) {
        if (attempt->world.notes[i].what == NOTE_MAY_BE &&
            ((strcmp(attempt->world.notes[i].a, a) == 0 && contains(attempt->world.notes[i].b, b)) ||
             (strcmp(attempt->world.notes[i].a, b) == 0 && contains(attempt->world.notes[i].b, a)))) {
            return 1;
        }
    }
    return 0;
}

/* Whether the fixture noted this of a tensor's dimensions. */
static int is_noted(const struct attempt *attempt, const char *name, int dimension) {
    for (size_t i = 0; i < attempt->world.note_count; i++) {
        if (attempt->world.notes[i].what == NOTE_FREE && strcmp(attempt->world.notes[i].a, name) == 0 &&
            attempt->world.notes[i].dimension == dimension) {
            return 1;
        }
    }
    return 0;
}

/* ---- demands ----------------------------------------------------------------------------------------------------- */

/* The message must be "function: argument: ..." with this argument, or, for something that two arguments disagree on,
 * any of the tensors. */
static void expect_named(const struct attempt *attempt, const struct slot *slot, int any_tensor) {
    const char *function = attempt->function->name + strlen("scalert_");
    size_t length = strlen(function);
    scalert_error_t error = last_error();
    const char *argument = error.message + length + 2;
    if (strncmp(error.message, function, length) != 0 || strncmp(error.message + length, ": ", 2) != 0) {
        fail("the message must begin with \"%s: \"", function);
        return;
    }
    for (size_t i = 0; i < attempt->count; i++) {
        const struct slot *other = &attempt->slots[i];
        size_t n = strlen(other->name);
        int allowed = other == slot || (slot->parent != NULL && strcmp(slot->parent, other->name) == 0) ||
                      (any_tensor && other->item->kind == KIND_TENSOR);
        if (allowed && strncmp(argument, other->name, n) == 0 && argument[n] == ':' && argument[n + 1] == ' ' &&
            argument[n + 2] != '\0') {
            return;
        }
    }
    fail("the message must name the argument %s", slot->name);
}

/* Makes the call that must be refused, then the right one. */
static void expect_invalid(struct attempt *attempt, const struct slot *slot, int any_tensor) {
    int32_t status;
    cases++;
    world_remember(&attempt->world);
    begin_call();
    status = call(attempt);
    if (status != SCALERT_INVALID_ARGUMENT) {
        fail("gave %s, must be INVALID_ARGUMENT", scalert_status_name(status));
        discard(attempt);
    } else {
        expect_named(attempt, slot, any_tensor);
    }
    if (!world_is_unchanged(&attempt->world)) {
        fail("a refused call changed memory");
    }
    world_restore_first(&attempt->world);
    place(attempt->function->name, "the right call after a refused one (%s)", slot->name);
    if (!is_right(&attempt->world, status = call(attempt))) {
        fail("gave %s, must be OK", scalert_status_name(status));
    }
    discard(attempt);
    world_close(&attempt->world);
}

static void expect_ok(struct attempt *attempt) {
    int32_t status;
    cases++;
    if (!is_right(&attempt->world, status = call(attempt))) {
        fail("gave %s, must be OK", scalert_status_name(status));
    }
    discard(attempt);
    world_close(&attempt->world);
}

static void expect_either(struct attempt *attempt, const struct slot *slot, int ok, int any_tensor) {
    ok ? expect_ok(attempt) : expect_invalid(attempt, slot, any_tensor);
}

/* ---- mutations --------------------------------------------------------------------------------------------------- */

/* Opens an attempt and gives slot i of it. */
static struct slot *begin(struct attempt *attempt, const struct function *function, size_t i) {
    attempt_open(attempt, function);
    return &attempt->slots[i];
}

static void null_pointer(const struct function *function, size_t i) {
    struct attempt a;
    struct slot *slot = begin(&a, function, i);
    const char *together = optional_with(&a, slot->name);
    int alone = together != NULL && strchr(together, ' ') == NULL;
    if (pointer_at(slot->at) == NULL) {
        world_close(&a.world);
        return;
    }
    if (strstr(function->name, "_destroy") != NULL) {
        void *handle = pointer_at(slot->at);
        place(function->name, "%s is NULL", slot->name);
        set_pointer(slot->at, NULL);
        if (call(&a) != SCALERT_OK) {
            fail("destroying NULL failed");
        }
        set_pointer(slot->at, handle);
        expect_ok(&a);
        return;
    }
    place(function->name, "%s is NULL", slot->name);
    set_pointer(slot->at, NULL);
    expect_either(&a, slot, alone, together != NULL);
    if (together != NULL && !alone) {
        begin(&a, function, i);
        place(function->name, "%s are NULL", together);
        for (size_t j = 0; j < a.count; j++) {
            if (contains(together, a.slots[j].name)) {
                set_pointer(a.slots[j].at, NULL);
            }
        }
        expect_ok(&a);
    }
}

static void handles(const struct function *function, size_t i) {
    enum { ZEROS, MISALIGNED, OTHER_KIND, DESTROYED };
#ifdef SCALERT_TEST_SANITIZED
    /* Looking at freed memory is what a sanitizer is for. */
    const int mutations = DESTROYED;
#else
    const int mutations = DESTROYED + 1;
#endif
    for (int mutation = 0; mutation < mutations; mutation++) {
        struct attempt a;
        struct slot *slot = begin(&a, function, i);
        void *handle = pointer_at(slot->at);
        if (handle == NULL) {
            world_close(&a.world);
            return;
        }
        switch (mutation) {
        case ZEROS:
            handle = world_memory(&a.world, 256);
            break;
        case MISALIGNED:
            handle = (char *)handle + 1;
            break;
        case OTHER_KIND:
            handle =
                strcmp(slot->item->handle, "scalert_runtime_t") == 0 ? (void *)a.world.stream : (void *)a.world.runtime;
            break;
        default: {
            scalert_stream_t *stream;
            must(scalert_stream_create(a.world.runtime, &stream));
            scalert_stream_destroy(stream);
            handle = stream;
        }
        }
        set_pointer(slot->at, handle);
        place(function->name, "%s is not a handle of its kind (%d)", slot->name, mutation);
        expect_invalid(&a, slot, 0);
    }
}

static void misaligned_pointer(const struct function *function, size_t i) {
    struct attempt a;
    struct slot *slot = begin(&a, function, i);
    unsigned char *pointer = pointer_at(slot->at);
    if (pointer == NULL) {
        world_close(&a.world);
        return;
    }
    place(function->name, "%s is not aligned", slot->name);
    set_pointer(slot->at, pointer + 1);
    expect_invalid(&a, slot, 0);
}

static void enumerations(const struct function *function, size_t i) {
    static const int32_t unknown[] = {-1, 99, INT32_MAX, INT32_MIN};
    for (size_t k = 0; k < sizeof unknown / sizeof *unknown; k++) {
        struct attempt a;
        struct slot *slot = begin(&a, function, i);
        place(function->name, "%s is %d", slot->name, (int)unknown[k]);
        memcpy(slot->at, &unknown[k], sizeof(int32_t));
        /* The one function that has an answer to everything. */
        expect_either(&a, slot, strcmp(function->name, "scalert_status_name") == 0, 0);
    }
}

static void flags(const struct function *function, size_t i) {
    static const uint8_t bad[] = {2, 255};
    for (size_t k = 0; k < sizeof bad; k++) {
        struct attempt a;
        struct slot *slot = begin(&a, function, i);
        place(function->name, "%s is %d", slot->name, bad[k]);
        *slot->at = bad[k];
        expect_invalid(&a, slot, 0);
    }
}

/* A struct of another size at slot i, with the bytes of the old one as far as they go. */
static unsigned char *resized(struct attempt *a, struct slot *slot, size_t size, unsigned char rest) {
    size_t known = slot->item->record->size;
    unsigned char *bytes = world_memory(&a->world, size < sizeof size ? sizeof size : size);
    memset(bytes, rest, size);
    memcpy(bytes, pointer_at(slot->at), size < known ? size : known);
    memcpy(bytes, &size, sizeof size);
    set_pointer(slot->at, bytes);
    return bytes;
}

static void structs_in(const struct function *function, size_t i) {
    static const size_t bad[] = {0, 1, sizeof(size_t) - 1, 1 << 20, SIZE_MAX};
    struct attempt a, b;
    struct slot *slot = begin(&a, function, i);
    const struct record *record = slot->item->record;
    int given = pointer_at(slot->at) != NULL;
    world_close(&a.world);
    if (!given) {
        return;
    }
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        slot = begin(&a, function, i);
        place(function->name, "%s->struct_size is %zu", slot->name, bad[k]);
        memcpy(pointer_at(slot->at), &bad[k], sizeof bad[k]);
        expect_invalid(&a, slot, 0);
    }
    slot = begin(&a, function, i);
    place(function->name, "%s is longer, with a zero tail", slot->name);
    resized(&a, slot, record->size + 24, 0);
    expect_ok(&a);
    for (size_t at = 0; at < 24; at += 23) {
        slot = begin(&a, function, i);
        place(function->name, "%s is longer, with something in its tail at %zu", slot->name, at);
        resized(&a, slot, record->size + 24, 0)[record->size + at] = 1;
        expect_invalid(&a, slot, 0);
    }
    /* A shorter struct must be the same as one whose end is zero. */
    for (size_t field = 1; field < record->count; field++) {
        size_t size = record->items[field].offset;
        int32_t short_status, zero_status;
        char message[512];
        slot = begin(&a, function, i);
        place(function->name, "%s ends before %s", slot->name, record->items[field].name);
        cases++;
        resized(&a, slot, size, 0);
        begin_call();
        short_status = call(&a);
        snprintf(message, sizeof message, "%s", last_error().message);
        slot = begin(&b, function, i);
        memset((unsigned char *)pointer_at(slot->at) + size, 0, record->size - size);
        begin_call();
        zero_status = call(&b);
        if (short_status != zero_status || strcmp(message, last_error().message) != 0) {
            fail("gave %s \"%s\", but %s with zeros instead", scalert_status_name(short_status), message,
                 scalert_status_name(zero_status));
        }
        for (size_t m = 0, n = 0; m < a.world.memory_count && zero_status == SCALERT_OK; m++) {
            /* The shorter struct is a memory more, so elements are matched in order. */
            for (; n < b.world.memory_count && !b.world.memories[n].is_data; n++) {
            }
            if (a.world.memories[m].is_data) {
                if (memcmp(a.world.memories[m].bytes, b.world.memories[n].bytes, b.world.memories[n].size) != 0) {
                    fail("gave another result than with zeros instead");
                }
                n++;
            }
        }
        discard(&a);
        discard(&b);
        world_close(&a.world);
        world_close(&b.world);
    }
}

static void structs_out(const struct function *function, size_t i) {
    static const size_t bad[] = {0, 1, sizeof(size_t) - 1, 1 << 20, SIZE_MAX};
    struct attempt a;
    struct slot *slot = begin(&a, function, i);
    const struct record *record = slot->item->record;
    world_close(&a.world);
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        slot = begin(&a, function, i);
        place(function->name, "%s->struct_size is %zu", slot->name, bad[k]);
        memcpy(pointer_at(slot->at), &bad[k], sizeof bad[k]);
        expect_invalid(&a, slot, 0);
    }
    for (size_t field = 1; field <= record->count; field++) {
        /* After the last field, one size more: that of a newer header. */
        size_t size = field < record->count ? record->items[field].offset : record->size + 24, claimed;
        unsigned char *bytes;
        slot = begin(&a, function, i);
        place(function->name, "%s has %zu bytes", slot->name, size);
        cases++;
        bytes = resized(&a, slot, size + 16, 0xa5);
        memset(bytes + sizeof size, 0xa5, size + 16 - sizeof size);
        memcpy(bytes, &size, sizeof size);
        if (call(&a) != SCALERT_OK) {
            fail("must be OK");
        }
        memcpy(&claimed, bytes, sizeof claimed);
        if (claimed != size) {
            fail("struct_size is %zu afterwards", claimed);
        }
        for (size_t k = 0; k < 16; k++) {
            if (bytes[size + k] != 0xa5) {
                fail("wrote at %zu, past the caller's struct", size + k);
            }
        }
        for (size_t k = record->size; k < size; k++) {
            if (bytes[k] != 0) {
                fail("byte %zu, which this library does not know, is not 0", k);
            }
        }
        world_close(&a.world);
    }
}

static void tensors(const struct function *function, size_t i) {
    enum {
        DTYPE_ZERO,
        DTYPE_NEGATIVE,
        DTYPE_UNKNOWN,
        DTYPE_OTHER,
        NDIM_NEGATIVE,
        NDIM_SIX,
        NDIM_HUGE,
        NDIM_LESS,
        NDIM_MORE,
        SHAPE_NEGATIVE,
        SHAPE_SMALLEST,
        SHAPE_HUGE,
        STRIDE_NEGATIVE,
        STRIDE_HUGE,
        LAST_STRIDE,
        UNALIGNED,
        NO_DATA,
        HIGHEST_ADDRESS,
        FIRST_EXTENT
    };
    for (int mutation = 0; mutation < FIRST_EXTENT + 2 * SCALERT_MAX_DIMS; mutation++) {
        struct attempt a;
        struct slot *slot = begin(&a, function, i);
        scalert_tensor_t *t = pointer_at(slot->at);
        int ok = 0, any_tensor = 0, applies = t != NULL;
        int last, extent = (mutation - FIRST_EXTENT) / 2;
        if (!applies) {
            world_close(&a.world);
            return;
        }
        last = t->ndim - 1;
        switch (mutation) {
        case DTYPE_ZERO:
            t->dtype = 0;
            break;
        case DTYPE_NEGATIVE:
            t->dtype = -1;
            break;
        case DTYPE_UNKNOWN:
            t->dtype = 99;
            break;
        case DTYPE_OTHER:
            /* An integer instead of a float, a float instead of an integer. */
            ok = strncmp(function->name, "scalert_tensor_", 15) == 0 || is_noted(&a, slot->name, ANY_DTYPE);
            any_tensor = 1;
            t->dtype = t->dtype == SCALERT_I32 || t->dtype == SCALERT_I64 ? SCALERT_F32 : SCALERT_I32;
            if (dtype_size(t->dtype) == 4 && (uintptr_t)t->data % 4 != 0) {
                applies = 0;
            }
            break;
        case NDIM_NEGATIVE:
            t->ndim = -1;
            break;
        case NDIM_SIX:
            t->ndim = SCALERT_MAX_DIMS + 1;
            break;
        case NDIM_HUGE:
            t->ndim = INT32_MAX;
            break;
        case NDIM_LESS:
            applies = t->ndim > 0 && t->shape[0] > 1;
            ok = is_noted(&a, slot->name, ANY_SHAPE) || is_noted(&a, slot->name, ANY_NDIM) ||
                 is_noted(&a, slot->name, FEWER_DIMENSIONS);
            any_tensor = 1;
            t->ndim--;
            memmove(t->shape, t->shape + 1, sizeof t->shape - sizeof *t->shape);
            memmove(t->stride, t->stride + 1, sizeof t->stride - sizeof *t->stride);
            break;
        case NDIM_MORE:
            /* A dimension of 1 in front: the same elements. */
            applies = t->ndim < SCALERT_MAX_DIMS && !is_noted(&a, slot->name, FEWER_DIMENSIONS);
            ok = is_noted(&a, slot->name, ANY_SHAPE) || is_noted(&a, slot->name, ANY_NDIM);
            any_tensor = 1;
            memmove(t->shape + 1, t->shape, sizeof t->shape - sizeof *t->shape);
            memmove(t->stride + 1, t->stride, sizeof t->stride - sizeof *t->stride);
            t->ndim++;
            t->shape[0] = 1;
            break;
        case SHAPE_NEGATIVE:
            t->shape[0] = -1;
            applies = t->ndim > 0;
            break;
        case SHAPE_SMALLEST:
            t->shape[0] = INT64_MIN;
            applies = t->ndim > 0;
            break;
        case SHAPE_HUGE:
            t->shape[0] = INT64_MAX;
            applies = t->ndim > 0;
            any_tensor = 1;
            break;
        case STRIDE_NEGATIVE:
            t->stride[0] = -1;
            applies = t->ndim > 0;
            break;
        case STRIDE_HUGE:
            t->stride[0] = INT64_MAX;
            applies = t->ndim > 0 && t->shape[0] > 2;
            break;
        case LAST_STRIDE:
            applies = t->ndim > 0 && t->shape[last] > 1 && !is_noted(&a, slot->name, ANY_STRIDE);
            ok = strncmp(function->name, "scalert_tensor_", 15) == 0;
            any_tensor = 1; /* a wrong overlap may be seen first */
            t->stride[applies ? last : 0] = 2;
            break;
        case UNALIGNED:
            t->data = (char *)t->data + 1;
            break;
        case NO_DATA:
            t->data = NULL;
            break;
        case HIGHEST_ADDRESS:
            t->data = (void *)(UINTPTR_MAX - 7);
            applies = elements(t) * dtype_size(t->dtype) > 8;
            break;
        default:
            applies = extent <= last && (mutation % 2 || t->shape[extent] > 2);
            ok = is_noted(&a, slot->name, ANY_SHAPE) || is_noted(&a, slot->name, extent);
            any_tensor = 1;
            if (applies) {
                t->shape[extent] += mutation % 2 ? 1 : -1;
                /* More elements than there are must not be touched: only what depends on the extent can refuse. */
                applies = !(ok && mutation % 2);
            }
        }
        if (!applies) {
            world_close(&a.world);
            continue;
        }
        place(function->name, "%s as a tensor made wrong (%d)", slot->name, mutation);
        expect_either(&a, slot, ok, any_tensor);
    }
}

/* Every tensor that is written, over every other tensor. */
static void overlaps(const struct function *function, size_t i) {
    struct attempt a;
    struct slot *slot = begin(&a, function, i);
    size_t count = a.count;
    int written = is_output(&a, slot->name);
    world_close(&a.world);
    for (size_t j = 0; j < count && written; j++) {
        for (int shifted = 0; shifted < 2; shifted++) {
            scalert_tensor_t *out, *other;
            size_t shift;
            slot = begin(&a, function, i);
            out = pointer_at(slot->at);
            other = a.slots[j].item->kind == KIND_TENSOR && j != i ? pointer_at(a.slots[j].at) : NULL;
            if (out == NULL || other == NULL) {
                world_close(&a.world);
                continue;
            }
            shift =
                dtype_size(out->dtype) > dtype_size(other->dtype) ? dtype_size(out->dtype) : dtype_size(other->dtype);
            if (shifted && elements(other) * dtype_size(other->dtype) <= shift) {
                world_close(&a.world);
                continue;
            }
            out->data = (char *)other->data + (shifted ? shift : 0);
            place(function->name, "%s lies over %s%s", slot->name, a.slots[j].name, shifted ? ", shifted" : "");
            expect_either(&a, slot, !shifted && is_in_place(&a, slot->name, a.slots[j].name), 1);
        }
    }
}

static void callbacks(const struct function *function, size_t i) {
    struct attempt a;
    struct slot *slot = begin(&a, function, i);
    void (*none)(void) = NULL;
    place(function->name, "%s is NULL", slot->name);
    memcpy(slot->at, &none, sizeof none);
    expect_either(&a, slot, optional_with(&a, slot->name) != NULL, 0);
}

static void all(const struct function *function) {
    struct attempt a;
    size_t count, before = (size_t)cases;
    attempt_open(&a, function);
    count = a.count;
    place(function->name, "the right call");
    expect_ok(&a);
    for (size_t i = 0; i < count; i++) {
        enum kind kind = a.slots[i].item->kind;
        switch (kind) {
        case KIND_PLAIN:
            continue;
        case KIND_FLAG:
            flags(function, i);
            continue;
        case KIND_ENUM:
            enumerations(function, i);
            continue;
        case KIND_CALLBACK:
            callbacks(function, i);
            continue;
        case KIND_STRUCT:
            structs_in(function, i);
            break;
        case KIND_OUT_STRUCT:
            structs_out(function, i);
            break;
        case KIND_TENSOR:
            tensors(function, i);
            overlaps(function, i);
            break;
        case KIND_HANDLE:
            handles(function, i);
            break;
        case KIND_OUT_HANDLE:
        case KIND_OUT_TENSOR:
        case KIND_POINTER:
            break;
        }
        null_pointer(function, i);
        /* Bytes, and what is the host's own business, have no alignment. */
        if (kind != KIND_HANDLE &&
            !contains("name path user owner native complete to from tag what deterministic id", a.slots[i].name)) {
            misaligned_pointer(function, i);
        }
    }
    if (getenv("SCALERT_TEST_COUNTS")) {
        printf("%s: %d cases\n", function->name, (int)((size_t)cases - before));
    }
}

int main(int argc, char **argv) {
    for (size_t i = 0; i < function_count; i++) {
        if (argc < 2 || strcmp(argv[1], functions[i].name) == 0) {
            all(&functions[i]);
        }
    }
    return summary("hostile calls");
}
