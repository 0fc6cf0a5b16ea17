//! The macros that every export, every C struct and every C enumeration goes through.

/// Defines exported functions.
///
/// Each argument is written as what it must be ([`Argument`](crate::argument::Argument)); the macro gives the function
/// the matching C type, checks the arguments in order inside the panic fence, and runs the body with the checked
/// values. The body is a `Result<(), Error>`, or, for a function that returns no status, a `Result` of what it returns,
/// with the value for failures after `else`.
macro_rules! export {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $kind:ty),* $(,)?) $(-> $return:ty, else $fallback:expr;)? $body:block)*) => {
        $(export! { @one $(#[$doc])* $name ($($arg: $kind),*) ($($return, $fallback)?) $body })*
    };
    (@one $(#[$doc:meta])* $name:ident ($($arg:ident: $kind:ty),*) () $body:block) => {
        export! { @function $(#[$doc])* $name ($($arg: $kind),*) (i32) $body outcome => match outcome {
            Ok(()) => scalert_runtime::Status::Ok as i32,
            Err(status) => status as i32,
        } }
    };
    (@one $(#[$doc:meta])* $name:ident ($($arg:ident: $kind:ty),*) ($return:ty, $fallback:expr) $body:block) => {
        export! { @function $(#[$doc])* $name ($($arg: $kind),*) ($return) $body outcome => outcome.unwrap_or($fallback) }
    };
    (@function $(#[$doc:meta])* $name:ident ($($arg:ident: $kind:ty),*) ($return:ty) $body:block
     $outcome:ident => $result:expr) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// Pointers are NULL or as `scaleRT.h` requires of this function, for as long as it runs.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: <$kind as crate::argument::Argument>::Raw),*) -> $return {
            let $outcome = crate::fence::fence(
                stringify!($name),
                || {
                    $(
                        // SAFETY: the caller of the exported function keeps the promises of the header.
                        let $arg = unsafe { <$kind as crate::argument::Argument>::accept(stringify!($arg), $arg)? };
                    )*
                    $body
                },
                || {
                    // The first handle among the arguments is the one that the call is about.
                    let _ = false $(|| {
                        // SAFETY: as above.
                        unsafe { <$kind as crate::argument::Argument>::poison($arg) }
                    })*;
                },
            );
            $result
        }
    };
}

/// Defines a struct of the header: same fields, same layout, every bit pattern valid.
macro_rules! c_struct {
    ($(#[$doc:meta])* $name:ident as $c_name:literal { $($field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[doc = concat!("`", $c_name, "`.")]
        #[repr(C)]
        #[derive(Clone, Copy)]
        pub struct $name {
            $(
                #[doc = concat!("`", stringify!($field), "`, as in `scaleRT.h`.")]
                pub $field: $type,
            )*
        }

        // SAFETY: the macro is used with integers, floats, raw pointers, optional function pointers, arrays of these
        // and structs made by this macro: zero bytes are a value of each.
        unsafe impl crate::layout::CStruct for $name {
            const NAME: &'static str = $c_name;
            const FIELDS: &'static [crate::layout::Field] = &[$(crate::layout::Field {
                name: stringify!($field),
                offset: std::mem::offset_of!($name, $field),
                size: size_of::<$type>(),
            },)*];
        }
    };
}

/// Says which value stands for each number of a C enumeration.
macro_rules! c_enum {
    ($type:ty as $c_name:literal { $($constant:ident = $raw:literal => $value:expr,)* }) => {
        impl crate::layout::CEnum for $type {
            const NAME: &'static str = $c_name;
            const CONSTANTS: &'static [(&'static str, i64)] = &[$((stringify!($constant), $raw),)*];
            fn from_raw(raw: i32) -> Option<Self> {
                match raw {
                    $($raw => Some($value),)*
                    _ => None,
                }
            }
        }
    };
}
