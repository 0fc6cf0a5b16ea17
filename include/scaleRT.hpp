/* scaleRT.hpp - libscaleRT for C++17: owning handles, exceptions, and callbacks that may throw.
 *
 * A thin, header-only layer over scaleRT.h, which stays the contract: names, arguments and meanings are those of the C
 * functions without the scalert_ prefix. What this header adds:
 *   - Handles (Runtime, Stream, Event, Arena, Scaler, Comm, State) are move-only values that destroy what they own.
 *   - A failing call throws scalert::Error, which carries the status, the native code and the library's message.
 *   - Hooks are std::functions. No exception ever passes through the library: a trampoline catches it, and the wrapped
 * call during which it was thrown (or the next one on a handle of that runtime) rethrows it. That call has then taken
 * effect if the library succeeded nonetheless, e.g. when only the log sink threw.
 *   - Tensors are made from a pointer and a shape; optional tensor arguments are nullptr.
 *
 * Everything else, such as which thread may call what, is as scaleRT.h says. Works without RTTI. */
#ifndef SCALERT_HPP
#define SCALERT_HPP

#include <scaleRT.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace scalert {

/* ---- errors ----------------------------------------------------------------------------------------------------- */

/* A failed call: what() is the library's message, after the name of the status. */
class Error : public std::runtime_error {
  public:
    Error(scalert_status_t status, int32_t native_domain, int64_t native_code, const std::string &message)
        : std::runtime_error(std::string(scalert_status_name(status)) + ": " + message), status_(status),
          native_domain_(native_domain), native_code_(native_code) {}

    scalert_status_t status() const noexcept { return status_; }
    int32_t native_domain() const noexcept { return native_domain_; } /* SCALERT_NATIVE_* */
    int64_t native_code() const noexcept { return native_code_; }

  private:
    scalert_status_t status_;
    int32_t native_domain_;
    int64_t native_code_;
};

/* Throws Error, with this thread's last error, unless status is SCALERT_OK. */
inline void check(scalert_status_t status) {
    if (status == SCALERT_OK)
        return;
    scalert_error_t error = SCALERT_ERROR_INIT;
    if (scalert_last_error(&error) != SCALERT_OK || error.status != status || !error.message)
        throw Error(status, SCALERT_NATIVE_NONE, 0, "");
    throw Error(status, error.native_domain, error.native_code, error.message);
}

/* ---- hooks ------------------------------------------------------------------------------------------------------ */

/* Memory for the library; the signatures follow scalert_allocator_t. allocate may return nullptr or throw: the call
 * that needed the memory then fails, or rethrows. */
struct Allocator {
    std::function<void *(std::size_t bytes, std::size_t alignment, scalert_tier_t tier, int32_t ordinal, void *stream)>
        allocate;
    std::function<void(void *memory, std::size_t bytes, std::size_t alignment, scalert_tier_t tier, int32_t ordinal,
                       void *stream)>
        release;
};

/* Calls body(i) once for each i below n, on any threads, and returns when all have returned. If it throws or leaves
 * some out, the calling thread makes up for them: the library's work is complete in any case. */
using ParallelFor = std::function<void(uint32_t n, const std::function<void(uint32_t)> &body)>;

/* Receives messages; level is SCALERT_LOG_*. */
using LogSink = std::function<void(int32_t level, std::string_view message)>;

namespace detail {

/* The host's functions, and the first exception that one of them threw. Every handle of a runtime holds them, since any
 * of the handles may be the last to call them. */
class Hooks {
  public:
    Allocator allocator;
    ParallelFor parallel_for;
    LogSink log;

    void store_exception() noexcept {
        try {
            const std::lock_guard<std::mutex> guard(mutex_);
            if (!pending_)
                pending_ = std::current_exception();
        } catch (...) { /* a mutex that cannot be locked: the exception is lost, but nothing unwinds */
        }
    }

    /* Rethrows what a hook threw, otherwise throws what the library reported. */
    void check(scalert_status_t status) {
        std::exception_ptr pending;
        {
            const std::lock_guard<std::mutex> guard(mutex_);
            std::swap(pending, pending_);
        }
        if (pending)
            std::rethrow_exception(pending);
        scalert::check(status);
    }

    static void *allocate(void *user, std::size_t bytes, std::size_t alignment, scalert_tier_t tier, int32_t ordinal,
                          void *stream) noexcept {
        Hooks *self = static_cast<Hooks *>(user);
        try {
            return self->allocator.allocate(bytes, alignment, tier, ordinal, stream);
        } catch (...) {
            self->store_exception();
            return nullptr;
        }
    }

    static void release(void *user, void *memory, std::size_t bytes, std::size_t alignment, scalert_tier_t tier,
                        int32_t ordinal, void *stream) noexcept {
        Hooks *self = static_cast<Hooks *>(user);
        try {
            self->allocator.release(memory, bytes, alignment, tier, ordinal, stream);
        } catch (...) {
            self->store_exception();
        }
    }

    static void write(void *user, int32_t level, const char *message) noexcept {
        Hooks *self = static_cast<Hooks *>(user);
        try {
            self->log(level, message);
        } catch (...) {
            self->store_exception();
        }
    }

    static void run(void *user, uint32_t n, void (*body)(void *context, uint32_t index), void *context) noexcept {
        Hooks *self = static_cast<Hooks *>(user);
        std::shared_ptr<Job> job;
        try {
            job = std::make_shared<Job>(n, body, context);
            self->parallel_for(n, [job](uint32_t index) { job->run(index); });
        } catch (...) {
            self->store_exception();
        }
        if (job) {
            job->finish();
        } else {
            for (uint32_t i = 0; i < n; i++)
                body(context, i);
        }
    }

  private:
    /* One parallel_for of the library. Each index runs once whatever the host's function does; a call that comes late
     * finds its index taken and does nothing, as the library's context may be gone by then. */
    class Job {
      public:
        Job(uint32_t n, void (*body)(void *, uint32_t), void *context) : body_(body), context_(context), taken_(n) {}

        void run(uint32_t index) noexcept {
            if (index < taken_.size() && !taken_[index].flag.exchange(true)) {
                body_(context_, index);
                done_.fetch_add(1, std::memory_order_release);
            }
        }

        void finish() noexcept {
            for (uint32_t i = 0; i < taken_.size(); i++)
                run(i);
            while (done_.load(std::memory_order_acquire) != taken_.size())
                std::this_thread::yield();
        }

      private:
        struct Flag {
            std::atomic<bool> flag{false};
        };
        void (*body_)(void *, uint32_t);
        void *context_;
        std::vector<Flag> taken_;
        std::atomic<std::size_t> done_{0};
    };

    std::mutex mutex_;
    std::exception_ptr pending_;
};

/* Owns one handle, and a share of the hooks that the library may call until the handle is gone. */
template <class T, void (*Destroy)(T *)> class Handle {
  public:
    Handle(Handle &&other) noexcept : hooks_(std::move(other.hooks_)), raw_(std::exchange(other.raw_, nullptr)) {}
    Handle &operator=(Handle &&other) noexcept {
        Handle taken(std::move(other)); /* destroys what this held, before its hooks */
        std::swap(raw_, taken.raw_);
        hooks_.swap(taken.hooks_);
        return *this;
    }
    Handle(const Handle &) = delete;
    Handle &operator=(const Handle &) = delete;
    ~Handle() { Destroy(raw_); }

    /* The C handle, still owned by this object; nullptr after a move. */
    T *get() const noexcept { return raw_; }
    /* False after a move. */
    explicit operator bool() const noexcept { return raw_ != nullptr; }
    /* For C functions called with this handle: throws what a hook threw or what the library reported. */
    void check(scalert_status_t status) const {
        if (hooks_)
            hooks_->check(status);
        else
            scalert::check(status);
    }
    const std::shared_ptr<Hooks> &hooks() const noexcept { return hooks_; }

  protected:
    explicit Handle(std::shared_ptr<Hooks> hooks) noexcept : hooks_(std::move(hooks)) {}
    T **out() noexcept { return &raw_; }

  private:
    std::shared_ptr<Hooks> hooks_; /* null without hooks */
    T *raw_ = nullptr;
};

} // namespace detail

/* ---- tensors ---------------------------------------------------------------------------------------------------- */

/* The scalert_dtype_t of a C++ type. */
template <class T> struct DtypeOf;
template <> struct DtypeOf<float> : std::integral_constant<scalert_dtype_t, SCALERT_F32> {};
template <> struct DtypeOf<int32_t> : std::integral_constant<scalert_dtype_t, SCALERT_I32> {};
template <> struct DtypeOf<int64_t> : std::integral_constant<scalert_dtype_t, SCALERT_I64> {};
template <> struct DtypeOf<int16_t> : std::integral_constant<scalert_dtype_t, SCALERT_I16> {};
template <> struct DtypeOf<uint8_t> : std::integral_constant<scalert_dtype_t, SCALERT_U8> {};

/* A borrowed view, usable wherever C wants a scalert_tensor_t. */
struct Tensor : scalert_tensor_t {
    /* No elements. */
    Tensor() noexcept : scalert_tensor_t{nullptr, SCALERT_F32, 1, {0, 0, 0, 0, 0}, {1, 0, 0, 0, 0}} {}
    Tensor(const scalert_tensor_t &view) noexcept : scalert_tensor_t(view) {}
    /* Contiguous, e.g. Tensor(memory, SCALERT_BF16, {rows, width}). */
    Tensor(void *memory, scalert_dtype_t element, std::initializer_list<int64_t> extents) : Tensor() {
        check(scalert_tensor_contiguous(memory, element, static_cast<int32_t>(extents.size()), extents.begin(), this));
    }
    /* Contiguous, with the dtype of the pointer, e.g. Tensor(vector.data(), {rows, width}). */
    template <class T, scalert_dtype_t element = DtypeOf<T>::value>
    Tensor(T *memory, std::initializer_list<int64_t> extents) : Tensor(static_cast<void *>(memory), element, extents) {}

    /* Product of the extents. */
    int64_t elements() const noexcept {
        int64_t product = 1;
        for (int32_t i = 0; i < ndim; i++)
            product *= shape[i];
        return product;
    }
};

/* A tensor argument: a view, or nullptr where the C function takes NULL. Lives no longer than the call. */
class TensorRef {
  public:
    TensorRef(const scalert_tensor_t &view) noexcept : view_(&view) {}
    TensorRef(std::nullptr_t) noexcept : view_(nullptr) {}
    operator const scalert_tensor_t *() const noexcept { return view_; }

  private:
    const scalert_tensor_t *view_;
};

/* ---- runtime, streams, events, arenas --------------------------------------------------------------------------- */

/* A device of one rank: Runtime runtime = Runtime::Builder().threads(2).device_bytes(1 << 30).build(); */
class Runtime : public detail::Handle<scalert_runtime_t, scalert_runtime_destroy> {
  public:
    /* Collects what scalert_runtime_desc_t holds. Unset means the default. */
    class Builder {
      public:
        Builder &cpu() { return device(SCALERT_DEVICE_CPU, 0); }
        Builder &cuda(int32_t ordinal) { return device(SCALERT_DEVICE_CUDA, ordinal); }
        Builder &device(scalert_device_kind_t kind, int32_t ordinal) {
            desc_.device = kind;
            desc_.ordinal = ordinal;
            return *this;
        }
        Builder &device_bytes(uint64_t bytes) { return desc_.device_bytes = bytes, *this; }
        Builder &pinned_bytes(uint64_t bytes) { return desc_.pinned_bytes = bytes, *this; }
        Builder &host_bytes(uint64_t bytes) { return desc_.host_bytes = bytes, *this; }
        Builder &disk_bytes(uint64_t bytes) { return desc_.disk_bytes = bytes, *this; }
        Builder &threads(uint32_t count) { return desc_.threads = count, *this; }
        Builder &simd(scalert_simd_t level) { return desc_.simd = level, *this; }
        Builder &allocator(Allocator functions) { return hooks().allocator = std::move(functions), *this; }
        /* The host's threads; at most so many bodies run at the same time. */
        Builder &thread_pool(uint32_t threads, ParallelFor function) {
            pool_threads_ = threads;
            return hooks().parallel_for = std::move(function), *this;
        }
        Builder &log(LogSink function, int32_t level = SCALERT_LOG_INFO) {
            log_level_ = level;
            return hooks().log = std::move(function), *this;
        }
        /* Creates the runtime. The builder's hooks belong to it from then on: build once. */
        Runtime build() { return Runtime(*this); }

      private:
        friend class Runtime;
        detail::Hooks &hooks() {
            if (!hooks_)
                hooks_ = std::make_shared<detail::Hooks>();
            return *hooks_;
        }
        scalert_runtime_desc_t desc_ = SCALERT_RUNTIME_DESC_INIT;
        std::shared_ptr<detail::Hooks> hooks_;
        uint32_t pool_threads_ = 0;
        int32_t log_level_ = 0;
    };

    /* The CPU with all defaults. */
    Runtime() : Runtime(Builder()) {}

    scalert_memory_report_t memory() const {
        scalert_memory_report_t report = SCALERT_MEMORY_REPORT_INIT;
        check(scalert_runtime_memory(get(), &report));
        return report;
    }

  private:
    explicit Runtime(const Builder &builder) : Handle(builder.hooks_) {
        scalert_runtime_desc_t desc = builder.desc_;
        scalert_allocator_t allocator = SCALERT_ALLOCATOR_INIT;
        scalert_thread_pool_t pool = SCALERT_THREAD_POOL_INIT;
        scalert_log_sink_t sink = SCALERT_LOG_SINK_INIT;
        if (detail::Hooks *h = builder.hooks_.get()) {
            if (h->allocator.allocate || h->allocator.release) {
                allocator.user = h;
                allocator.alloc = &detail::Hooks::allocate;
                allocator.free = &detail::Hooks::release;
                desc.allocator = &allocator;
            }
            if (h->parallel_for) {
                pool.user = h;
                pool.threads = builder.pool_threads_;
                pool.parallel_for = &detail::Hooks::run;
                desc.thread_pool = &pool;
            }
            if (h->log) {
                sink.user = h;
                sink.level = builder.log_level_;
                sink.write = &detail::Hooks::write;
                desc.log = &sink;
            }
        }
        check(scalert_runtime_create(&desc, out()));
    }
};

class Stream;

/* A point in a stream. */
class Event : public detail::Handle<scalert_event_t, scalert_event_destroy> {
  public:
    explicit Event(const Runtime &runtime) : Handle(runtime.hooks()) {
        check(scalert_event_create(runtime.get(), out()));
    }
    inline void record(const Stream &stream);
    bool query() const {
        uint8_t complete = 0;
        check(scalert_event_query(get(), &complete));
        return complete != 0;
    }
    void wait() const { check(scalert_event_wait(get())); }
};

/* An order of work. */
class Stream : public detail::Handle<scalert_stream_t, scalert_stream_destroy> {
  public:
    explicit Stream(const Runtime &runtime) : Handle(runtime.hooks()) {
        check(scalert_stream_create(runtime.get(), out()));
    }
    /* Over the host's own stream, which the host keeps owning. */
    static Stream wrap(const Runtime &runtime, void *native) {
        Stream stream(runtime.hooks());
        stream.check(scalert_stream_wrap(runtime.get(), native, stream.out()));
        return stream;
    }
    void reserve(uint64_t bytes) { check(scalert_stream_reserve(get(), bytes)); }
    void wait() { check(scalert_stream_wait(get())); }
    void follow(const Event &event) { check(scalert_stream_follow(get(), event.get())); }
    /* Between any memory of host and device, in stream order. */
    void copy(void *to, const void *from, uint64_t bytes) { check(scalert_memory_copy(get(), to, from, bytes)); }

  private:
    explicit Stream(std::shared_ptr<detail::Hooks> hooks) noexcept : Handle(std::move(hooks)) {}
};

inline void Event::record(const Stream &stream) {
    check(scalert_event_record(get(), stream.get()));
}

/* One block of memory, handed out in order. */
class Arena : public detail::Handle<scalert_arena_t, scalert_arena_destroy> {
  public:
    Arena(const Runtime &runtime, scalert_tier_t tier, uint64_t bytes) : Handle(runtime.hooks()) {
        check(scalert_arena_create(runtime.get(), tier, bytes, out()));
    }
    void *alloc(uint64_t bytes) {
        void *memory = nullptr;
        check(scalert_arena_alloc(get(), bytes, &memory));
        return memory;
    }
    uint64_t mark() const {
        uint64_t mark = 0;
        check(scalert_arena_mark(get(), &mark));
        return mark;
    }
    void rewind(uint64_t mark) { check(scalert_arena_rewind(get(), mark)); }
};

/* ---- loss scaler ------------------------------------------------------------------------------------------------ */

/* The dynamic loss scale of f16 training. */
class Scaler : public detail::Handle<scalert_scaler_t, scalert_scaler_destroy> {
  public:
    explicit Scaler(const Runtime &runtime, const scalert_scaler_desc_t &desc = defaults()) : Handle(runtime.hooks()) {
        check(scalert_scaler_create(runtime.get(), &desc, out()));
    }
    static scalert_scaler_desc_t defaults() { return SCALERT_SCALER_DESC_INIT; }

    /* The current scale, on the device. */
    Tensor scale() const {
        Tensor view;
        check(scalert_scaler_scale(get(), &view));
        return view;
    }
    void update(const Stream &stream, const scalert_tensor_t &nonfinite) {
        check(scalert_scaler_update(get(), stream.get(), &nonfinite));
    }
    scalert_scaler_report_t read_wait() const {
        scalert_scaler_report_t report = SCALERT_SCALER_REPORT_INIT;
        check(scalert_scaler_read_wait(get(), &report));
        return report;
    }
};

/* ---- communicators ---------------------------------------------------------------------------------------------- */

/* A rank's member of a group: Comm::single, Comm::local, or over a host's table of callbacks, which must not throw. */
class Comm : public detail::Handle<scalert_comm_t, scalert_comm_destroy> {
  public:
    static Comm single(const Runtime &runtime) {
        Comm comm(runtime.hooks());
        comm.check(scalert_comm_create_single(runtime.get(), comm.out()));
        return comm;
    }
    /* The ranks of a group of threads of this process, in the order of their runtimes. */
    static std::vector<Comm> local(const std::vector<const Runtime *> &runtimes,
                                   const scalert_comm_desc_t &desc = defaults()) {
        std::vector<scalert_runtime_t *> raw;
        std::vector<scalert_comm_t *> made(runtimes.size() + 1);
        std::vector<Comm> comms;
        for (const Runtime *runtime : runtimes) {
            raw.push_back(runtime->get());
            comms.push_back(Comm(runtime->hooks()));
        }
        raw.push_back(nullptr); /* so that there is memory for no ranks, which the library refuses */
        scalert::check(
            scalert_comm_create_local(raw.data(), static_cast<uint32_t>(runtimes.size()), &desc, made.data()));
        for (std::size_t rank = 0; rank < comms.size(); rank++)
            *comms[rank].out() = made[rank];
        return comms;
    }
    Comm(const Runtime &runtime, const scalert_comm_vtable_t &vtable, const scalert_comm_desc_t &desc = defaults())
        : Handle(runtime.hooks()) {
        check(scalert_comm_create_from_vtable(runtime.get(), &vtable, &desc, out()));
    }
    /* A rank of NCCL; the ranks of a group share an id that one of them has made. */
    using NcclId = std::array<uint8_t, SCALERT_NCCL_ID_BYTES>;
    static NcclId nccl_id() {
        NcclId id{};
        scalert::check(scalert_comm_nccl_id(id.data()));
        return id;
    }
    static Comm nccl(const Runtime &runtime, const NcclId &id, uint32_t rank, uint32_t world,
                     const scalert_comm_desc_t &desc = defaults()) {
        Comm comm(runtime.hooks());
        comm.check(scalert_comm_create_nccl(runtime.get(), id.data(), rank, world, &desc, comm.out()));
        return comm;
    }
    static scalert_comm_desc_t defaults() { return SCALERT_COMM_DESC_INIT; }

    uint32_t rank() const {
        uint32_t rank = 0;
        check(scalert_comm_rank(get(), &rank));
        return rank;
    }
    uint32_t world() const {
        uint32_t world = 0;
        check(scalert_comm_world(get(), &world));
        return world;
    }
    bool deterministic() const {
        uint8_t deterministic = 0;
        check(scalert_comm_deterministic(get(), &deterministic));
        return deterministic != 0;
    }
    void set_tag(const std::string &tag) { check(scalert_comm_set_tag(get(), tag.c_str())); }

    void all_reduce(const Stream &stream, TensorRef x, scalert_reduction_t reduction = SCALERT_REDUCE_SUM) {
        check(scalert_comm_all_reduce(get(), stream.get(), x, reduction));
    }
    void reduce(const Stream &stream, TensorRef input, TensorRef output, scalert_reduction_t reduction, uint32_t root) {
        check(scalert_comm_reduce(get(), stream.get(), input, output, reduction, root));
    }
    void reduce_scatter(const Stream &stream, TensorRef input, TensorRef output,
                        scalert_reduction_t reduction = SCALERT_REDUCE_SUM) {
        check(scalert_comm_reduce_scatter(get(), stream.get(), input, output, reduction));
    }
    void all_gather(const Stream &stream, TensorRef input, TensorRef output) {
        check(scalert_comm_all_gather(get(), stream.get(), input, output));
    }
    void broadcast(const Stream &stream, TensorRef x, uint32_t root) {
        check(scalert_comm_broadcast(get(), stream.get(), x, root));
    }
    void all_to_all(const Stream &stream, TensorRef input, TensorRef output) {
        check(scalert_comm_all_to_all(get(), stream.get(), input, output));
    }
    void send(const Stream &stream, TensorRef x, uint32_t to) { check(scalert_comm_send(get(), stream.get(), x, to)); }
    void receive(const Stream &stream, TensorRef x, uint32_t from) {
        check(scalert_comm_receive(get(), stream.get(), x, from));
    }
    void barrier(const Stream &stream) { check(scalert_comm_barrier(get(), stream.get())); }
    void agree(const Stream &stream, const std::string &what, const std::vector<uint64_t> &words) {
        check(scalert_comm_agree(get(), stream.get(), what.c_str(), words.data(), words.size()));
    }
    void abort() { check(scalert_comm_abort(get())); }
    void async_error() const { check(scalert_comm_async_error(get())); }

  private:
    explicit Comm(std::shared_ptr<detail::Hooks> hooks) noexcept : Handle(std::move(hooks)) {}
};

/* ---- training state --------------------------------------------------------------------------------------------- */

/* What a group of parameters shares: Group().lion().weight_decay(0.1f). Unset means the default. */
class Group {
  public:
    Group &adamw(float beta1 = 0, float beta2 = 0, float epsilon = 0) {
        desc_.optimizer = SCALERT_OPTIMIZER_ADAMW;
        desc_.epsilon = epsilon;
        return betas(beta1, beta2);
    }
    Group &lion(float beta1 = 0, float beta2 = 0) {
        desc_.optimizer = SCALERT_OPTIMIZER_LION;
        return betas(beta1, beta2);
    }
    Group &sgd(float momentum = 0, bool nesterov = false) {
        desc_.optimizer = SCALERT_OPTIMIZER_SGD;
        desc_.momentum = momentum;
        desc_.nesterov = nesterov ? 1 : 0;
        return *this;
    }
    Group &weight_dtype(scalert_dtype_t dtype) { return desc_.weight_dtype = dtype, *this; }
    Group &weight_decay(float decay) { return desc_.weight_decay = decay, *this; }
    Group &learning_rate_scale(float scale) { return desc_.learning_rate_scale = scale, *this; }
    Group &master(scalert_master_format_t format) { return desc_.master = format, *this; }
    Group &moments(scalert_moment_format_t format) { return desc_.moments = format, *this; }
    Group &seed(uint64_t seed) { return desc_.seed = seed, *this; }
    Group &frozen(bool frozen = true) { return desc_.frozen = frozen ? 1 : 0, *this; }
    const scalert_group_desc_t &desc() const noexcept { return desc_; }

  private:
    Group &betas(float beta1, float beta2) {
        desc_.beta1 = beta1;
        desc_.beta2 = beta2;
        return *this;
    }
    scalert_group_desc_t desc_ = SCALERT_GROUP_DESC_INIT;
};

/* How one step is taken: Step(3e-4f).max_norm(1).scaler(scaler). Unset means the default. */
class Step {
  public:
    explicit Step(float learning_rate) { desc_.learning_rate = learning_rate; }
    Step &max_norm(float norm) { return desc_.max_norm = norm, *this; }
    Step &gradient_scale(float scale) { return desc_.gradient_scale = scale, *this; }
    Step &loss_scale(float scale) { return desc_.loss_scale = scale, *this; }
    Step &scaler(const Scaler &scaler) { return desc_.scaler = scaler.get(), *this; }
    const scalert_step_desc_t &desc() const noexcept { return desc_; }

  private:
    scalert_step_desc_t desc_ = SCALERT_STEP_DESC_INIT;
};

/* How a state is made, and which ranks share it: Sharding(comm).stage(SCALERT_STAGE_GRADIENTS).overlap(). Unset means
 * the default. */
class Sharding {
  public:
    Sharding() = default;
    explicit Sharding(const Comm &comm) { desc_.comm = comm.get(); }
    Sharding &stage(scalert_stage_t stage) { return desc_.stage = stage, *this; }
    Sharding &gradient_dtype(scalert_dtype_t dtype) { return desc_.gradient_dtype = dtype, *this; }
    Sharding &gradient_reduction(scalert_gradient_reduction_t when) { return desc_.gradient_reduction = when, *this; }
    Sharding &reduction_dtype(scalert_dtype_t dtype) { return desc_.reduction_dtype = dtype, *this; }
    Sharding &bucket_bytes(uint64_t bytes) { return desc_.bucket_bytes = bytes, *this; }
    Sharding &gather_bytes(uint64_t bytes) { return desc_.gather_bytes = bytes, *this; }
    Sharding &overlap(bool overlap = true) { return desc_.overlap = overlap ? 1 : 0, *this; }
    const scalert_state_desc_t &desc() const noexcept { return desc_; }

  private:
    scalert_state_desc_t desc_ = SCALERT_STATE_DESC_INIT;
};

/* Parameters, master weights, moments, gradients, and the step over them. */
class State : public detail::Handle<scalert_state_t, scalert_state_destroy> {
  public:
    explicit State(const Runtime &runtime, const Sharding &sharding = Sharding()) : Handle(runtime.hooks()) {
        check(scalert_state_create(runtime.get(), &sharding.desc(), out()));
    }
    uint32_t add_group(const Group &group) {
        uint32_t number = 0;
        check(scalert_state_add_group(get(), &group.desc(), &number));
        return number;
    }
    uint32_t add_parameter(uint32_t group, const std::string &name, std::initializer_list<int64_t> shape) {
        uint32_t number = 0;
        check(scalert_state_add_parameter(get(), group, name.c_str(), static_cast<int32_t>(shape.size()), shape.begin(),
                                          &number));
        return number;
    }
    void seal() { check(scalert_state_seal(get())); }
    scalert_memory_report_t memory() const {
        scalert_memory_report_t report = SCALERT_MEMORY_REPORT_INIT;
        check(scalert_state_memory(get(), &report));
        return report;
    }
    uint32_t parameter_count() const {
        uint32_t count = 0;
        check(scalert_state_parameter_count(get(), &count));
        return count;
    }
    scalert_parameter_info_t parameter_info(uint32_t parameter) const {
        scalert_parameter_info_t info = SCALERT_PARAMETER_INFO_INIT;
        check(scalert_state_parameter_info(get(), parameter, &info));
        return info;
    }
    void read(const Stream &stream, uint32_t parameter, scalert_part_t part, const scalert_tensor_t &destination) {
        check(scalert_state_read(get(), stream.get(), parameter, part, &destination));
    }
    void write(const Stream &stream, uint32_t parameter, scalert_part_t part, const scalert_tensor_t &source) {
        check(scalert_state_write(get(), stream.get(), parameter, part, &source));
    }
    void set_step(uint64_t step) { check(scalert_state_set_step(get(), step)); }

    Tensor acquire(uint32_t parameter, const Stream &stream) {
        Tensor weight;
        check(scalert_state_acquire(get(), parameter, stream.get(), &weight));
        return weight;
    }
    void release(uint32_t parameter, const Stream &stream) {
        check(scalert_state_release(get(), parameter, stream.get()));
    }

    void begin_step() { check(scalert_state_begin_step(get())); }
    void begin_micro() { check(scalert_state_begin_micro(get())); }
    void gradient_ready(const Stream &stream, uint32_t parameter, const scalert_tensor_t &gradient,
                        const Event *consumed = nullptr) {
        check(scalert_state_gradient_ready(get(), stream.get(), parameter, &gradient,
                                           consumed ? consumed->get() : nullptr));
    }
    void end_micro() { check(scalert_state_end_micro(get())); }
    void step(const Stream &stream, const Step &step) { check(scalert_state_step(get(), stream.get(), &step.desc())); }
    void abandon_step() { check(scalert_state_abandon_step(get())); }
    /* Throws Error with SCALERT_LOSS_SCALE_COLLAPSED when the step overflowed at the scaler's minimum. */
    scalert_step_result_t step_result_wait() {
        scalert_step_result_t result = SCALERT_STEP_RESULT_INIT;
        check(scalert_state_step_result_wait(get(), &result));
        return result;
    }
};

/* A parameter acquired for a scope. State and stream outlive it. */
class Weight {
  public:
    Weight(State &state, uint32_t parameter, const Stream &stream)
        : state_(&state), parameter_(parameter), stream_(&stream), view_(state.acquire(parameter, stream)) {}
    Weight(Weight &&other) noexcept
        : state_(std::exchange(other.state_, nullptr)), parameter_(other.parameter_), stream_(other.stream_),
          view_(other.view_) {}
    Weight(const Weight &) = delete;
    Weight &operator=(const Weight &) = delete;
    Weight &operator=(Weight &&) = delete;
    ~Weight() {
        if (state_) /* cannot fail for what acquire has given */
            scalert_state_release(state_->get(), parameter_, stream_->get());
    }
    const Tensor &view() const noexcept { return view_; }
    operator TensorRef() const noexcept { return view_; }

  private:
    State *state_;
    uint32_t parameter_;
    const Stream *stream_;
    Tensor view_;
};

/* ---- traces ----------------------------------------------------------------------------------------------------- */

/* A recording of when operations and the host's ranges ran: start, stop, then write_wait. */
class Trace : public detail::Handle<scalert_trace_t, scalert_trace_destroy> {
  public:
    explicit Trace(const Runtime &runtime, const scalert_trace_desc_t &desc = defaults()) : Handle(runtime.hooks()) {
        check(scalert_trace_create(runtime.get(), &desc, out()));
    }
    static scalert_trace_desc_t defaults() { return SCALERT_TRACE_DESC_INIT; }

    void start() { check(scalert_trace_start(get())); }
    void stop() { check(scalert_trace_stop(get())); }
    scalert_trace_info_t describe() const {
        scalert_trace_info_t info = SCALERT_TRACE_INFO_INIT;
        check(scalert_trace_describe(get(), &info));
        return info;
    }
    void write_wait(const std::string &path) { check(scalert_trace_write_wait(get(), path.c_str())); }
};

/* A range of the host from here to the end of the scope, on this thread; with a stream, on its track too. The trace and
 * the stream outlive it. */
class TraceRange {
  public:
    TraceRange(Trace &trace, const char *name, const Stream *stream = nullptr)
        : trace_(trace.get()), stream_(stream ? stream->get() : nullptr) {
        trace.check(scalert_trace_range_begin(trace_, stream_, name));
    }
    TraceRange(const TraceRange &) = delete;
    TraceRange &operator=(const TraceRange &) = delete;
    ~TraceRange() {
        if (scalert_trace_range_end(trace_, stream_) != SCALERT_OK) /* the stream is of no use any more */
            scalert_trace_range_end(trace_, nullptr);
    }

  private:
    scalert_trace_t *trace_;
    scalert_stream_t *stream_;
};

/* ---- DLPack ----------------------------------------------------------------------------------------------------- */

/* A view of a managed tensor's memory: call its deleter when the view is no longer used. */
inline Tensor from_dlpack(const Runtime &runtime, const DLManagedTensorVersioned *managed, bool writable) {
    Tensor view;
    runtime.check(scalert_tensor_from_dlpack(runtime.get(), managed, writable ? 1 : 0, &view));
    return view;
}

/* A managed tensor over the view's memory. release is called once, when the consumer calls the deleter; what it throws
 * is dropped, as there is nobody to hand it to. */
inline DLManagedTensorVersioned *to_dlpack(const Runtime &runtime, const scalert_tensor_t &view, bool read_only,
                                           std::function<void()> release) {
    using Release = std::function<void()>;
    void (*const trampoline)(void *) = [](void *owner) noexcept {
        const std::unique_ptr<Release> function(static_cast<Release *>(owner));
        try {
            if (*function)
                (*function)();
        } catch (...) {
        }
    };
    auto owner = std::make_unique<Release>(std::move(release));
    DLManagedTensorVersioned *managed = nullptr;
    scalert::check(
        scalert_tensor_to_dlpack(runtime.get(), &view, read_only ? 1 : 0, owner.get(), trampoline, &managed));
    owner.release(); /* NOLINT: the deleter owns it now */
    return managed;
}

/* ---- devices, schedules, exact sums ----------------------------------------------------------------------------- */

inline uint32_t version() noexcept {
    return scalert_version();
}

inline uint32_t device_count(scalert_device_kind_t kind) {
    uint32_t count = 0;
    check(scalert_device_count(kind, &count));
    return count;
}

inline scalert_device_info_t device_describe(scalert_device_kind_t kind, int32_t ordinal) {
    scalert_device_info_t info = SCALERT_DEVICE_INFO_INIT;
    check(scalert_device_describe(kind, ordinal, &info));
    return info;
}

inline float schedule_learning_rate(const scalert_schedule_t &schedule, uint64_t step) {
    float learning_rate = 0.0f;
    check(scalert_schedule_learning_rate(&schedule, step, &learning_rate));
    return learning_rate;
}

/* The sum that an accumulator holds, and how many values were not finite. */
inline std::pair<double, uint64_t> exact_sum_read(const int64_t *limbs) {
    std::pair<double, uint64_t> result{0.0, 0};
    check(scalert_exact_sum_read(limbs, &result.first, &result.second));
    return result;
}

/* ---- operations: the C functions without their prefix ----------------------------------------------------------- */

inline void cast(Stream &s, TensorRef x, TensorRef y, const scalert_cast_options_t *options = nullptr) {
    s.check(scalert_cast(s.get(), x, y, options));
}
inline void fill(Stream &s, float value, TensorRef y) {
    s.check(scalert_fill(s.get(), value, y));
}
inline void random_uniform(Stream &s, scalert_random_key_t key, float low, float high, TensorRef y) {
    s.check(scalert_random_uniform(s.get(), key, low, high, y));
}
inline void random_normal(Stream &s, scalert_random_key_t key, float mean, float deviation, TensorRef y) {
    s.check(scalert_random_normal(s.get(), key, mean, deviation, y));
}
inline void scale(Stream &s, float alpha, TensorRef x, TensorRef y) {
    s.check(scalert_scale(s.get(), alpha, x, y));
}
inline void axpy(Stream &s, float alpha, TensorRef x, TensorRef y) {
    s.check(scalert_axpy(s.get(), alpha, x, y));
}
inline void add(Stream &s, TensorRef a, TensorRef b, TensorRef y) {
    s.check(scalert_add(s.get(), a, b, y));
}
inline void dropout(Stream &s, TensorRef x, float probability, scalert_random_key_t key, TensorRef y) {
    s.check(scalert_dropout(s.get(), x, probability, key, y));
}
inline void exact_sum(Stream &s, TensorRef x, scalert_sum_t kind, TensorRef accumulator) {
    s.check(scalert_exact_sum(s.get(), x, kind, accumulator));
}
inline void gemm(Stream &s, bool transpose_a, bool transpose_b, TensorRef a, TensorRef b, TensorRef c,
                 const scalert_gemm_options_t *options = nullptr) {
    s.check(scalert_gemm(s.get(), transpose_a ? 1 : 0, transpose_b ? 1 : 0, a, b, c, options));
}
inline void bias_gradient(Stream &s, TensorRef dy, bool accumulate, TensorRef dbias) {
    s.check(scalert_bias_gradient(s.get(), dy, accumulate ? 1 : 0, dbias));
}
inline void embedding_forward(Stream &s, TensorRef tokens, TensorRef token_table, TensorRef position_table,
                              TensorRef y) {
    s.check(scalert_embedding_forward(s.get(), tokens, token_table, position_table, y));
}
inline void embedding_backward(Stream &s, TensorRef tokens, TensorRef dy, bool accumulate, TensorRef dtoken_table,
                               TensorRef dposition_table) {
    s.check(scalert_embedding_backward(s.get(), tokens, dy, accumulate ? 1 : 0, dtoken_table, dposition_table));
}
inline void layer_norm_forward(Stream &s, TensorRef x, TensorRef weight, TensorRef bias, float epsilon, TensorRef y,
                               TensorRef mean, TensorRef rstd) {
    s.check(scalert_layer_norm_forward(s.get(), x, weight, bias, epsilon, y, mean, rstd));
}
inline void layer_norm_backward(Stream &s, TensorRef dy, TensorRef x, TensorRef weight, TensorRef mean, TensorRef rstd,
                                bool accumulate, TensorRef dx, TensorRef dweight, TensorRef dbias) {
    s.check(scalert_layer_norm_backward(s.get(), dy, x, weight, mean, rstd, accumulate ? 1 : 0, dx, dweight, dbias));
}
inline void rms_norm_forward(Stream &s, TensorRef x, TensorRef weight, float epsilon, TensorRef y, TensorRef rstd) {
    s.check(scalert_rms_norm_forward(s.get(), x, weight, epsilon, y, rstd));
}
inline void rms_norm_backward(Stream &s, TensorRef dy, TensorRef x, TensorRef weight, TensorRef rstd, bool accumulate,
                              TensorRef dx, TensorRef dweight) {
    s.check(scalert_rms_norm_backward(s.get(), dy, x, weight, rstd, accumulate ? 1 : 0, dx, dweight));
}
inline void gelu_forward(Stream &s, TensorRef x, scalert_gelu_t kind, TensorRef y) {
    s.check(scalert_gelu_forward(s.get(), x, kind, y));
}
inline void gelu_backward(Stream &s, TensorRef x, TensorRef dy, scalert_gelu_t kind, TensorRef dx) {
    s.check(scalert_gelu_backward(s.get(), x, dy, kind, dx));
}
inline void swiglu_forward(Stream &s, TensorRef gate, TensorRef up, TensorRef y) {
    s.check(scalert_swiglu_forward(s.get(), gate, up, y));
}
inline void swiglu_backward(Stream &s, TensorRef gate, TensorRef up, TensorRef dy, TensorRef dgate, TensorRef dup) {
    s.check(scalert_swiglu_backward(s.get(), gate, up, dy, dgate, dup));
}
inline void rotary(Stream &s, TensorRef x, TensorRef y, const scalert_rotary_options_t *options = nullptr) {
    s.check(scalert_rotary(s.get(), x, y, options));
}
inline void attention_forward(Stream &s, TensorRef q, TensorRef k, TensorRef v, TensorRef out, TensorRef log_sum_exp,
                              const scalert_attention_options_t *options = nullptr) {
    s.check(scalert_attention_forward(s.get(), q, k, v, out, log_sum_exp, options));
}
inline void attention_backward(Stream &s, TensorRef q, TensorRef k, TensorRef v, TensorRef out, TensorRef log_sum_exp,
                               TensorRef dout, TensorRef dq, TensorRef dk, TensorRef dv,
                               const scalert_attention_options_t *options = nullptr) {
    s.check(scalert_attention_backward(s.get(), q, k, v, out, log_sum_exp, dout, dq, dk, dv, options));
}
inline void cross_entropy(Stream &s, TensorRef logits, TensorRef targets, TensorRef losses, TensorRef dlogits,
                          const scalert_cross_entropy_options_t *options = nullptr) {
    s.check(scalert_cross_entropy(s.get(), logits, targets, losses, dlogits, options));
}
inline void linear_cross_entropy(Stream &s, TensorRef x, TensorRef weight, TensorRef targets, bool accumulate,
                                 TensorRef losses, TensorRef dx, TensorRef dweight,
                                 const scalert_cross_entropy_options_t *options = nullptr) {
    s.check(
        scalert_linear_cross_entropy(s.get(), x, weight, targets, accumulate ? 1 : 0, losses, dx, dweight, options));
}
inline void adamw(Stream &s, TensorRef gradient, TensorRef master, TensorRef moment1, TensorRef moment2,
                  TensorRef weight, const scalert_adamw_options_t &options) {
    s.check(scalert_adamw(s.get(), gradient, master, moment1, moment2, weight, &options));
}
inline void sgd(Stream &s, TensorRef gradient, TensorRef master, TensorRef momentum_buffer, TensorRef weight,
                const scalert_sgd_options_t &options) {
    s.check(scalert_sgd(s.get(), gradient, master, momentum_buffer, weight, &options));
}
inline void lion(Stream &s, TensorRef gradient, TensorRef master, TensorRef moment, TensorRef weight,
                 const scalert_lion_options_t &options) {
    s.check(scalert_lion(s.get(), gradient, master, moment, weight, &options));
}

} // namespace scalert
#endif /* SCALERT_HPP */
