/* scaleRT.hpp: ownership, exceptions, and callbacks that throw. */
#include <scaleRT.hpp>
#include <scaleRT.hpp>

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "../../examples/cpp/dlpack_min.h"

namespace {

int checks_passed = 0;

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            std::fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition);                        \
            std::exit(1);                                                                                              \
        }                                                                                                              \
        checks_passed++;                                                                                               \
    } while (0)

/* What call throws; the program fails when it throws nothing or something else. */
template <class Exception, class Call> Exception thrown(Call &&call) {
    try {
        call();
    } catch (const Exception &exception) {
        return exception;
    }
    std::fprintf(stderr, "nothing was thrown\n");
    std::exit(1);
}

bool mentions(const std::exception &exception, const char *words) {
    return std::strstr(exception.what(), words) != nullptr;
}

template <class T>
constexpr bool move_only = std::is_nothrow_move_constructible_v<T> && std::is_nothrow_move_assignable_v<T> &&
                           !std::is_copy_constructible_v<T> && !std::is_copy_assignable_v<T>;

void handles_are_move_only() {
    static_assert(move_only<scalert::Runtime> && move_only<scalert::Stream> && move_only<scalert::Event>);
    static_assert(move_only<scalert::Arena> && move_only<scalert::State> && move_only<scalert::Scaler> &&
                  move_only<scalert::Trace> && move_only<scalert::Comm>);
    scalert::Runtime runtime;
    const scalert_runtime_t *raw = runtime.get();
    scalert::Runtime moved(std::move(runtime));
    CHECK(moved.get() == raw && moved);
    CHECK(!runtime && runtime.get() == nullptr); /* NOLINT: a moved-from handle is empty */
    runtime = std::move(moved);
    CHECK(runtime.get() == raw);
    runtime = scalert::Runtime();
    CHECK(runtime);
    scalert::Stream stream(runtime);
    runtime = scalert::Runtime(); /* the stream keeps the old one alive */
    float values[3];
    scalert::fill(stream, 2.0f, scalert::Tensor(values, {3}));
    CHECK(values[2] == 2.0f);
}

void errors_carry_status_and_message() {
    const scalert::Runtime runtime = scalert::Runtime::Builder().threads(1).device_bytes(1000).build();
    const auto error = thrown<scalert::Error>([&] { const scalert::Arena arena(runtime, SCALERT_TIER_DEVICE, 2000); });
    CHECK(error.status() == SCALERT_OUT_OF_BUDGET);
    CHECK(mentions(error, "OUT_OF_BUDGET: ") && mentions(error, "2000"));
    CHECK(error.native_domain() == SCALERT_NATIVE_NONE && error.native_code() == 0);
    CHECK(runtime.memory().tier[SCALERT_TIER_DEVICE].limit == 1000);
    CHECK(scalert::version() == SCALERT_VERSION);
    CHECK(scalert::device_count(SCALERT_DEVICE_CPU) == 1);
    CHECK(scalert::device_describe(SCALERT_DEVICE_CPU, 0).threads >= 1);
}

void tensors_and_operations() {
    const scalert::Runtime runtime;
    scalert::Stream stream(runtime);
    std::vector<float> a{1, 2, 3, 4}, c(4);
    const scalert::Tensor ta(a.data(), {2, 2}), tc(c.data(), {2, 2});
    CHECK(ta.elements() == 4 && ta.stride[0] == 2 && scalert::Tensor().elements() == 0);
    scalert::gemm(stream, false, true, ta, ta, tc);
    CHECK(c[0] == 5 && c[1] == 11 && c[3] == 25);
    scalert::rms_norm_forward(stream, ta, nullptr, 1e-5f, tc, nullptr);
    CHECK(std::fabs(c[0] - 1 / std::sqrt(2.5f)) < 1e-5f);
    const auto error = thrown<scalert::Error>([&] { scalert::add(stream, ta, nullptr, tc); });
    CHECK(error.status() == SCALERT_INVALID_ARGUMENT && mentions(error, "b"));

    scalert::Event event(runtime);
    CHECK(event.query());
    event.record(stream);
    stream.follow(event);
    event.wait();

    scalert::Arena arena(runtime, SCALERT_TIER_HOST, 256);
    const uint64_t mark = arena.mark();
    void *first = arena.alloc(100);
    arena.rewind(mark);
    CHECK(arena.alloc(200) == first);
}

void a_state_trains() {
    const scalert::Runtime runtime;
    scalert::Stream stream(runtime);
    scalert::State state(runtime);
    const uint32_t group = state.add_group(scalert::Group().sgd().weight_dtype(SCALERT_F32));
    const uint32_t weight = state.add_parameter(group, "weight", {2});
    CHECK(state.parameter_count() == 1 && std::string(state.parameter_info(weight).name) == "weight");
    const uint64_t planned = state.memory().tier[SCALERT_TIER_DEVICE].used;
    state.seal();
    CHECK(state.memory().tier[SCALERT_TIER_DEVICE].used == planned);
    const scalert::Scaler scaler(runtime);
    float gradient[2];
    for (int i = 0; i < 50; i++) { /* towards (3, -1) */
        state.begin_step();
        state.begin_micro();
        {
            const scalert::Weight acquired(state, weight, stream);
            const float *w = static_cast<const float *>(acquired.view().data);
            const float scale = *static_cast<const float *>(scaler.scale().data);
            gradient[0] = (w[0] - 3) * scale;
            gradient[1] = (w[1] + 1) * scale;
        }
        state.gradient_ready(stream, weight, scalert::Tensor(gradient, {2}));
        state.end_micro();
        state.step(stream, scalert::Step(0.5f).scaler(scaler));
    }
    const scalert_step_result_t result = state.step_result_wait();
    CHECK(result.step == 50 && !result.skipped && result.loss_scale == 65536.0f);
    CHECK(scaler.read_wait().finite_steps == 50);
    float master[2];
    state.read(stream, weight, SCALERT_PART_MASTER, scalert::Tensor(master, {2}));
    CHECK(std::fabs(master[0] - 3) < 1e-4f && std::fabs(master[1] + 1) < 1e-4f);
    CHECK(thrown<scalert::Error>([&] { state.end_micro(); }).status() == SCALERT_FAILED_PRECONDITION);
}

struct Refused {
    int reason;
};

void a_trace_records_ranges() {
    const scalert::Runtime runtime;
    scalert::Stream stream(runtime);
    std::vector<float> values(4);
    scalert::Trace trace(runtime);
    trace.start();
    {
        const scalert::TraceRange step(trace, "step");
        const scalert::TraceRange forward(trace, "forward", &stream);
        scalert::fill(stream, 1.0f, scalert::Tensor(values.data(), {4}));
    }
    CHECK(thrown<scalert::Error>([&] { trace.write_wait("/nowhere/trace.json"); }).status() ==
          SCALERT_FAILED_PRECONDITION);
    trace.stop();
    CHECK(trace.describe().spans == 3 && trace.describe().dropped == 0);
    CHECK(thrown<scalert::Error>([&] { trace.write_wait("/nowhere/trace.json"); }).native_code() == ENOENT);
}

void communicators() {
    const scalert::Runtime a, b;
    std::vector<scalert::Comm> comms = scalert::Comm::local({&a, &b});
    CHECK(comms.size() == 2 && comms[1].rank() == 1 && comms[1].world() == 2 && comms[0].deterministic());
    std::thread other([&] {
        const scalert::Stream stream(b);
        std::vector<float> x{3, 4};
        comms[1].all_reduce(stream, scalert::Tensor(x.data(), {2}));
        comms[1].agree(stream, "sizes", {1, 2});
    });
    const scalert::Stream stream(a);
    std::vector<float> x{1, 2};
    comms[0].all_reduce(stream, scalert::Tensor(x.data(), {2}));
    comms[0].agree(stream, "sizes", {1, 2});
    other.join();
    CHECK(x[0] == 4 && x[1] == 6);
    comms.pop_back();
    const auto barrier = [&] { comms[0].barrier(stream); };
    CHECK(thrown<scalert::Error>(barrier).status() == SCALERT_COMM_ERROR);
    CHECK(mentions(thrown<scalert::Error>(barrier), "rank 1 has left"));
    CHECK(thrown<scalert::Error>([] { scalert::Comm::local({}); }).status() == SCALERT_INVALID_ARGUMENT);
    CHECK(thrown<scalert::Error>([&] { scalert::Comm(a, SCALERT_COMM_VTABLE_INIT); }).status() ==
          SCALERT_INVALID_ARGUMENT);
    scalert::Comm single = scalert::Comm::single(a);
    single.reduce(stream, scalert::Tensor(x.data(), {2}), scalert::Tensor(x.data(), {2}), SCALERT_REDUCE_MEAN, 0);
    single.barrier(stream);
    CHECK(x[0] == 4 && single.world() == 1);
}

/* One rank of two: a step of plain descent along the mean of the ranks' gradients. */
float descends(const scalert::Runtime &runtime, const scalert::Comm &comm, float slope) {
    const scalert::Stream stream(runtime);
    scalert::State state(runtime, scalert::Sharding(comm).stage(SCALERT_STAGE_PARAMETERS).overlap().bucket_bytes(1024));
    const uint32_t group =
        state.add_group(scalert::Group().sgd().weight_dtype(SCALERT_BF16).master(SCALERT_MASTER_SPLIT16).seed(3));
    const uint32_t frozen = state.add_group(scalert::Group().moments(SCALERT_MOMENTS_INT8).frozen());
    const uint32_t weight = state.add_parameter(group, "weight", {600});
    state.add_parameter(frozen, "table", {5});
    state.seal();
    const scalert_tier_report_t held = state.memory().tier[SCALERT_TIER_DEVICE];
    CHECK(held.weights == 2 * 512 + 2 * 256 && held.master == 2 * 512 && held.moments == 0 &&
          held.gradients == 4 * 512);
    std::vector<float> gradient(600, slope);
    state.begin_step();
    state.begin_micro();
    state.gradient_ready(stream, weight, scalert::Tensor(gradient.data(), {600}));
    state.end_micro();
    state.step(stream, scalert::Step(0.5f));
    CHECK(!state.step_result_wait().skipped);
    state.read(stream, weight, SCALERT_PART_MASTER, scalert::Tensor(gradient.data(), {600}));
    return gradient[599];
}

void ranks_train_together() {
    const scalert::Runtime a, b;
    std::vector<scalert::Comm> comms = scalert::Comm::local({&a, &b});
    float second = 0;
    std::thread other([&] { second = descends(b, comms[1], 3); });
    CHECK(descends(a, comms[0], 1) == -1);
    other.join();
    CHECK(second == -1);
}

void a_throwing_allocator() {
    bool refuse = false;
    int64_t blocks = 0;
    {
        scalert::Allocator hooks;
        hooks.allocate = [&](std::size_t bytes, std::size_t alignment, scalert_tier_t, int32_t, void *) -> void * {
            if (refuse)
                throw Refused{7};
            blocks++;
            return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
        };
        hooks.release = [&](void *memory, std::size_t, std::size_t, scalert_tier_t, int32_t, void *) {
            blocks--;
            std::free(memory);
            throw Refused{8}; /* swallowed by destructors, kept for the next call */
        };
        const scalert::Runtime runtime = scalert::Runtime::Builder().allocator(std::move(hooks)).build();
        scalert::Arena arena(runtime, SCALERT_TIER_HOST, 1000);
        CHECK(blocks >= 1);
        refuse = true;
        const Refused refused =
            thrown<Refused>([&] { const scalert::Arena another(runtime, SCALERT_TIER_HOST, 1000); });
        CHECK(refused.reason == 7);
        refuse = false;
        {
            const scalert::Arena another(runtime, SCALERT_TIER_HOST, 1000);
        }
        CHECK(thrown<Refused>([&] { runtime.memory(); }).reason == 8);
        CHECK(runtime.memory().tier[SCALERT_TIER_HOST].arena == 1000);
    }
    CHECK(blocks == 0);
}

/* However the host's function misbehaves, the product is right, and the exception comes out of the call. */
void a_throwing_thread_pool() {
    constexpr int64_t n = 256;
    std::vector<float> a(n * n, 1.0f), c(n * n);
    const scalert::Tensor ta(a.data(), {n, n}), tc(c.data(), {n, n});
    int calls = 0;
    bool misbehave = true;
    const scalert::ParallelFor pool = [&](uint32_t count, const std::function<void(uint32_t)> &body) {
        calls++;
        if (!misbehave) {
            std::vector<std::thread> threads;
            for (uint32_t i = 0; i < count; i++)
                threads.emplace_back(body, i);
            for (std::thread &thread : threads)
                thread.join();
            return;
        }
        body(0);
        body(0);     /* twice */
        body(count); /* out of range */
        throw Refused{static_cast<int>(count)};
    };
    const scalert::Runtime runtime = scalert::Runtime::Builder().thread_pool(3, pool).build();
    scalert::Stream stream(runtime);
    for (int round = 0; round < 2; round++) {
        std::fill(c.begin(), c.end(), 0.0f);
        calls = 0;
        misbehave = round == 0;
        if (misbehave)
            CHECK(thrown<Refused>([&] { scalert::gemm(stream, false, false, ta, ta, tc); }).reason <= 3);
        else
            scalert::gemm(stream, false, false, ta, ta, tc);
        CHECK(calls > 0);
        for (const float value : c)
            CHECK(value == n);
    }
}

void a_throwing_log() {
    int messages = 0;
    const scalert::LogSink sink = [&](int32_t level, std::string_view message) {
        CHECK(level >= SCALERT_LOG_ERROR && level <= SCALERT_LOG_DEBUG && !message.empty());
        messages++;
        throw std::string(message);
    };
    scalert::Runtime::Builder builder;
    const auto build = [&] { const scalert::Runtime runtime = builder.log(sink, SCALERT_LOG_DEBUG).build(); };
    CHECK(!thrown<std::string>(build).empty());
    CHECK(messages > 0);
}

void dlpack() {
    const scalert::Runtime runtime;
    std::vector<float> values{1, 2, 3, 4};
    int released = 0;
    DLManagedTensorVersioned *managed = scalert::to_dlpack(runtime, scalert::Tensor(values.data(), {2, 2}), true,
                                                           [&] { released++, throw Refused{1}; });
    const scalert::Tensor view = scalert::from_dlpack(runtime, managed, false);
    CHECK(view.data == values.data() && view.shape[1] == 2);
    CHECK(thrown<scalert::Error>([&] { scalert::from_dlpack(runtime, managed, true); }).status() ==
          SCALERT_INVALID_ARGUMENT);
    managed->deleter(managed);
    CHECK(released == 1);
}

} // namespace

int main() {
    handles_are_move_only();
    errors_carry_status_and_message();
    tensors_and_operations();
    a_state_trains();
    ranks_train_together();
    a_trace_records_ranges();
    communicators();
    a_throwing_allocator();
    a_throwing_thread_pool();
    a_throwing_log();
    dlpack();
    std::printf("%d passed\n", checks_passed);
}
