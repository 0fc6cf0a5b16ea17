//! Moving and filling.

use super::submit;
use crate::argument::{Argument, Live, Options, enumeration};
use crate::tensor::TensorView;
use scalert_runtime::ops::add::Add;
use scalert_runtime::ops::axpy::Axpy;
use scalert_runtime::ops::cast::{self, Cast};
use scalert_runtime::ops::dropout::Dropout;
use scalert_runtime::ops::fill::Fill;
use scalert_runtime::ops::random::{Distribution, Random};
use scalert_runtime::ops::scale::Scale;
use scalert_runtime::philox::Key;
use scalert_runtime::{Error, Stream};

/// `scalert_rounding_t`.
pub enum Rounding {
    /// To the nearest, ties to even.
    NearestEven,
    /// Up with probability proportional to the distance.
    Stochastic,
}

c_enum! {
    Rounding as "scalert_rounding_t" {
        SCALERT_ROUND_NEAREST_EVEN = 0 => Rounding::NearestEven,
        SCALERT_ROUND_STOCHASTIC = 1 => Rounding::Stochastic,
    }
}

c_struct! {
    RandomKey as "scalert_random_key_t" {
        seed: u64,
        step: u64,
        tensor: u32,
    }
}

c_struct! {
    CastOptions as "scalert_cast_options_t" {
        struct_size: usize,
        rounding: i32,
        key: RandomKey,
    }
}

impl From<RandomKey> for Key {
    fn from(key: RandomKey) -> Key {
        Key { seed: key.seed, step: key.step, tensor: key.tensor }
    }
}

impl Argument for RandomKey {
    type Raw = RandomKey;
    type Value<'a> = Key;
    unsafe fn accept<'a>(_name: &'static str, raw: RandomKey) -> Result<Self::Value<'a>, Error> {
        Ok(raw.into())
    }
}

export! {
    /// y = x in y's dtype.
    fn scalert_cast(stream: Live<Stream>, x: TensorView, y: TensorView, options: Options<CastOptions>) {
        let rounding = match enumeration("rounding", options.rounding)? {
            Rounding::NearestEven => cast::Rounding::NearestEven,
            Rounding::Stochastic => cast::Rounding::Stochastic { key: options.key.into(), first_index: 0 },
        };
        submit(stream, &Cast { x, rounding, y })
    }

    /// y = value.
    fn scalert_fill(stream: Live<Stream>, value: f32, y: TensorView) {
        submit(stream, &Fill { value, y })
    }

    /// y = uniform on [low, high).
    fn scalert_random_uniform(stream: Live<Stream>, key: RandomKey, low: f32, high: f32, y: TensorView) {
        submit(stream, &Random { key, first_index: 0, distribution: Distribution::Uniform { low, high }, y })
    }

    /// y = normal with this mean and standard deviation.
    fn scalert_random_normal(stream: Live<Stream>, key: RandomKey, mean: f32, deviation: f32, y: TensorView) {
        submit(stream, &Random { key, first_index: 0, distribution: Distribution::Normal { mean, deviation }, y })
    }

    /// y = alpha x.
    fn scalert_scale(stream: Live<Stream>, alpha: f32, x: TensorView, y: TensorView) {
        submit(stream, &Scale { alpha, x, y })
    }

    /// y = alpha x + y.
    fn scalert_axpy(stream: Live<Stream>, alpha: f32, x: TensorView, y: TensorView) {
        submit(stream, &Axpy { alpha, x, y })
    }

    /// y = a + b.
    fn scalert_add(stream: Live<Stream>, a: TensorView, b: TensorView, y: TensorView) {
        submit(stream, &Add { a, b, y })
    }

    /// y = x / (1 - probability) where an element is kept, else 0.
    fn scalert_dropout(stream: Live<Stream>, x: TensorView, probability: f32, key: RandomKey, y: TensorView) {
        submit(stream, &Dropout { x, probability, key, first_index: 0, y })
    }
}
