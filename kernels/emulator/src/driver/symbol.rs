//! Exported functions by name.

use std::ffi::{c_int, c_void};

use super::argument::{Out, Text};
use super::error::Status;
use super::export::{Export, exports};
use super::{
    attribute, context, copy, current, device, error, event, function, graph, launch, limit, managed, memory, module,
    occupancy, pointer, pool, profiler, stream,
};

fn all() -> impl Iterator<Item = &'static Export> {
    [
        attribute::EXPORTS,
        context::EXPORTS,
        copy::EXPORTS,
        current::EXPORTS,
        device::EXPORTS,
        error::EXPORTS,
        event::EXPORTS,
        function::EXPORTS,
        graph::EXPORTS,
        launch::EXPORTS,
        limit::EXPORTS,
        managed::EXPORTS,
        memory::EXPORTS,
        module::EXPORTS,
        occupancy::EXPORTS,
        pointer::EXPORTS,
        pool::EXPORTS,
        profiler::EXPORTS,
        stream::EXPORTS,
        EXPORTS,
    ]
    .into_iter()
    .flatten()
}

/// The address of an exported function, by its exact name: what `dlsym` returns for the shared library.
pub fn symbol(name: &str) -> Option<*const c_void> {
    all().find(|export| export.0 == name).map(|export| export.1)
}

/// Names whose suffix depends on the version that a caller was made for: from which version on, and the function.
const VERSIONED: &[(&str, c_int, &str)] = &[
    ("cuCtxCreate", 13000, "cuCtxCreate_v4"),
    ("cuCtxCreate", 0, "cuCtxCreate_v2"),
    ("cuGraphInstantiate", 12000, "cuGraphInstantiateWithFlags"),
    ("cuGraphInstantiate", 0, "cuGraphInstantiate_v2"),
    ("cuStreamGetCaptureInfo", 12030, "cuStreamGetCaptureInfo_v3"),
    ("cuStreamGetCaptureInfo", 0, "cuStreamGetCaptureInfo_v2"),
    ("cuMemAdvise", 12020, "cuMemAdvise_v2"),
    ("cuMemAdvise", 0, "cuMemAdvise"),
    ("cuMemPrefetchAsync", 12020, "cuMemPrefetchAsync_v2"),
    ("cuMemPrefetchAsync", 0, "cuMemPrefetchAsync"),
    ("cuGraphGetEdges", 12030, "cuGraphGetEdges_v2"),
    ("cuGraphGetEdges", 0, "cuGraphGetEdges"),
];

/// The function that a name without suffix means: the newest with that name that the version knows.
fn unsuffixed(name: &str, version: c_int) -> Option<*const c_void> {
    if let Some(row) = VERSIONED.iter().find(|row| row.0 == name && version >= row.1) {
        return symbol(row.2);
    }
    let of_name = |export: &&Export| {
        let suffix = export.0.strip_prefix(name);
        suffix.is_some_and(|suffix| suffix.is_empty() || (suffix.len() == 3 && suffix.starts_with("_v")))
    };
    all().filter(of_name).max_by_key(|export| export.0.len()).map(|export| export.1)
}

exports! {
    /// The address of a function, by its name without suffix.
    fn cuGetProcAddress_v2(name: Text, function: Out<*const c_void>, version: c_int, flags: u64, found: Out<c_int>) {
        const PER_THREAD_STREAM: u64 = 2;
        const NOT_FOUND: c_int = 1;
        let (name, function) = (name.get()?, function.required()?);
        if flags & !3 != 0 {
            return Err(Status::INVALID_VALUE);
        }
        let address = unsuffixed(name, version).filter(|_| flags & PER_THREAD_STREAM == 0);
        function.set(address.unwrap_or(std::ptr::null()))?;
        found.set_if_wanted(if address.is_some() { 0 } else { NOT_FOUND });
        if address.is_none() && found.is_null() { Err(Status::NOT_FOUND) } else { Ok(()) }
    }
}
