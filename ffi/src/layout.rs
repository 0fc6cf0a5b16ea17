//! What the structs and enumerations of the header look like from Rust, so that a test can compare them with C.

/// A field of a C struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its offset in bytes.
    pub offset: usize,
    /// Its size in bytes.
    pub size: usize,
}

/// A struct of the header.
///
/// # Safety
/// The type is `repr(C)` and all zero bytes are a value of it.
pub unsafe trait CStruct: Copy {
    /// Its name in C.
    const NAME: &'static str;
    /// Its fields in order.
    const FIELDS: &'static [Field];

    /// The value whose bytes are all zero: every default.
    fn zeroed() -> Self {
        // SAFETY: the trait's promise.
        unsafe { std::mem::zeroed() }
    }
}

/// An enumeration of the header, which travels as `int32_t`.
pub trait CEnum: Sized {
    /// Its typedef in C.
    const NAME: &'static str;
    /// Its constants and their numbers.
    const CONSTANTS: &'static [(&'static str, i64)];
    /// The value that a number stands for.
    fn from_raw(raw: i32) -> Option<Self>;
}

/// One struct as Rust lays it out.
#[derive(Clone, Copy, Debug)]
pub struct Struct {
    /// Its name in C.
    pub name: &'static str,
    /// Its size in bytes.
    pub size: usize,
    /// Its alignment in bytes.
    pub alignment: usize,
    /// Its fields in order.
    pub fields: &'static [Field],
}

fn of<T: CStruct>() -> Struct {
    Struct { name: T::NAME, size: size_of::<T>(), alignment: align_of::<T>(), fields: T::FIELDS }
}

/// Every struct of the header.
pub fn structs() -> Vec<Struct> {
    use crate::ops::{attention, gemm, loss, moving, optimizer};
    use crate::{comm, device, hooks, runtime, scaler, schedule, state, status, tensor, trace};
    vec![
        of::<status::LastError>(),
        of::<device::DeviceInfo>(),
        of::<hooks::AllocatorHook>(),
        of::<hooks::ThreadPoolHook>(),
        of::<hooks::LogSinkHook>(),
        of::<runtime::Desc>(),
        of::<runtime::TierBytes>(),
        of::<runtime::Memory>(),
        of::<tensor::Tensor>(),
        of::<moving::RandomKey>(),
        of::<moving::CastOptions>(),
        of::<gemm::GemmOptions>(),
        of::<attention::RotaryOptions>(),
        of::<attention::AttentionOptions>(),
        of::<loss::CrossEntropyOptions>(),
        of::<optimizer::AdamWOptions>(),
        of::<optimizer::SgdOptions>(),
        of::<optimizer::LionOptions>(),
        of::<schedule::Desc>(),
        of::<scaler::Desc>(),
        of::<scaler::Report>(),
        of::<comm::Desc>(),
        of::<comm::Call>(),
        of::<comm::Vtable>(),
        of::<state::Desc>(),
        of::<state::Group>(),
        of::<state::ParameterInfo>(),
        of::<state::Step>(),
        of::<state::Figures>(),
        of::<trace::Desc>(),
        of::<trace::Info>(),
    ]
}

/// Every constant of the header that this library has a number for.
pub fn constants() -> Vec<(&'static str, i64)> {
    use crate::ops::{moving, sum};
    use crate::runtime::Simd;
    use scalert_runtime::comm::Reduction;
    use scalert_runtime::device::DeviceKind;
    use scalert_runtime::exact_sum::WORDS;
    use scalert_runtime::log::LogLevel;
    use scalert_runtime::ops::gelu::GeluKind;
    use scalert_runtime::ops::gemm::{Activation, Compute, Implementation};
    use scalert_runtime::ops::rotary::RotaryLayout;
    use scalert_runtime::optim::{Optimizer, ScheduleKind};
    use scalert_runtime::{
        DType, GradientReduction, MAX_DIMS, MasterFormat, MomentFormat, NativeDomain, Part, Stage, Status, Tier,
    };
    let enumerations = [
        Status::CONSTANTS,
        Option::<NativeDomain>::CONSTANTS,
        DeviceKind::CONSTANTS,
        Tier::CONSTANTS,
        LogLevel::CONSTANTS,
        Simd::CONSTANTS,
        DType::CONSTANTS,
        moving::Rounding::CONSTANTS,
        sum::Summand::CONSTANTS,
        Activation::CONSTANTS,
        Compute::CONSTANTS,
        Implementation::CONSTANTS,
        GeluKind::CONSTANTS,
        RotaryLayout::CONSTANTS,
        ScheduleKind::CONSTANTS,
        Reduction::CONSTANTS,
        Optimizer::CONSTANTS,
        MasterFormat::CONSTANTS,
        MomentFormat::CONSTANTS,
        Stage::CONSTANTS,
        GradientReduction::CONSTANTS,
        Part::CONSTANTS,
    ];
    let version = i64::from(crate::version::VERSION);
    let others = [
        ("SCALERT_VERSION", version),
        ("SCALERT_VERSION_MAJOR", version / 10000),
        ("SCALERT_VERSION_MINOR", version / 100 % 100),
        ("SCALERT_VERSION_PATCH", version % 100),
        ("SCALERT_TIERS", Tier::ALL.len() as i64),
        ("SCALERT_MAX_DIMS", MAX_DIMS as i64),
        ("SCALERT_EXACT_SUM_LIMBS", WORDS as i64),
        ("SCALERT_NCCL_ID_BYTES", scalert_runtime::comm::nccl::UNIQUE_ID_BYTES as i64),
        ("SCALERT_NONE", i64::from(crate::state::NONE)),
    ];
    enumerations.concat().into_iter().chain(others).collect()
}
