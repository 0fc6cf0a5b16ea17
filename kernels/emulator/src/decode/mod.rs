//! From the syntax tree to programs: registers get rows, labels get addresses, calls are inlined.

mod builder;
mod compare;
mod control;
mod convert;
mod floating;
mod half_floating;
mod integer;
mod matrix;
mod memory;
mod moves;
pub(crate) mod opcode;
mod operands;
mod warp;

use crate::module::{Entry, Param, Stored};
use crate::syntax::ParseError;
use crate::syntax::tree::{Function, Tree, Width};
use builder::Builder;
use std::collections::HashMap;

/// Decodes a kernel; a function that is no kernel is decoded to see whether all of it is known.
pub(crate) fn entry(
    tree: &Tree,
    function: &Function,
    variables: &HashMap<String, Stored>,
) -> Result<Entry, ParseError> {
    let mut params = Vec::new();
    let mut end = 0usize;
    if function.is_entry {
        for parameter in &function.parameters {
            let offset = end.next_multiple_of(parameter.align);
            end = offset + parameter.bytes;
            params.push(Param { offset, bytes: parameter.bytes, align: parameter.align });
        }
    }
    let mut builder = Builder::new(tree, variables);
    builder.kernel(function, &params)?;
    let (program, shared_bytes) = builder.finish()?;
    let weight = |item: &crate::syntax::tree::Item| match item {
        crate::syntax::tree::Item::Registers(Width::Double, names) => 2 * names.len(),
        crate::syntax::tree::Item::Registers(Width::Word | Width::Half, names) => names.len(),
        _ => 0,
    };
    let declared = function.body.iter().flatten().map(weight).sum::<usize>();
    Ok(Entry {
        name: function.name.clone(),
        params,
        shared_bytes: shared_bytes as u32,
        local_bytes: program.local_bytes as u32,
        max_threads: function.max_threads,
        params_bytes: end,
        declared_registers: declared as u32,
        program,
    })
}
