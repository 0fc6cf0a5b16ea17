//! C made from the header: a description of every function for the hostile and fault tests, and a program that prints
//! the layout of every struct and the value of every constant.

use crate::header::{Declaration, Function, Header, Record};
use std::fmt::Write;

/// The generated C files by name.
pub fn files(header: &Header, fixtures: &str) -> Vec<(&'static str, String)> {
    for function in &header.functions {
        let fixture = format!("void fixture_{}(", function.name);
        assert!(
            fixtures.contains(&fixture),
            "{} has no fixture: write {fixture}struct world *w, struct args_{} *a) in tests/abi/fixtures*.c",
            function.name,
            function.name
        );
    }
    vec![("functions.h", arguments(header)), ("functions.c", tables(header)), ("layout.c", layout(header))]
}

/// One struct of arguments per function, and what its fixture looks like.
fn arguments(header: &Header) -> String {
    let mut c = String::from("#include \"world.h\"\n#include \"dlpack.h\"\n");
    for function in &header.functions {
        let name = &function.name;
        let mut members: String = function.parameters.iter().map(|p| format!("    {};\n", p.text)).collect();
        if members.is_empty() {
            members.push_str("    int none;\n");
        }
        writeln!(
            c,
            "struct args_{name} {{\n{members}}};\nvoid fixture_{name}(struct world *w, struct args_{name} *a);"
        )
        .expect("memory");
    }
    c
}

/// The kind of a parameter or field, with the struct or handle that it points to.
fn kind<'a>(header: &'a Header, item: &'a Declaration) -> (&'static str, Option<&'a Record>, Option<&'a str>) {
    let c_type = item.c_type.as_str();
    let is_const = c_type.starts_with("const ");
    let base = c_type.trim_start_matches("const ").trim_end_matches(['*', ' ']);
    let stars = c_type.matches('*').count();
    if c_type == "function" {
        return ("CALLBACK", None, None);
    }
    if header.handles.iter().any(|h| h == base) {
        return (if stars == 2 { "OUT_HANDLE" } else { "HANDLE" }, None, Some(base));
    }
    if stars == 1 && base == "scalert_tensor_t" {
        return (if is_const { "TENSOR" } else { "OUT_TENSOR" }, None, None);
    }
    match header.record(base).filter(|r| stars == 1 && r.is_sized()) {
        Some(record) => return (if is_const { "STRUCT" } else { "OUT_STRUCT" }, Some(record), None),
        None if stars > 0 => return ("POINTER", None, None),
        None => {}
    }
    let is_value = item.array.is_none();
    match c_type {
        "uint8_t" if is_value => ("FLAG", None, None),
        _ if is_value && header.enumerations.iter().any(|e| e == c_type) => ("ENUM", None, None),
        _ => ("PLAIN", None, None),
    }
}

fn items(header: &Header, c: &mut String, of: &str, table: &str, declarations: &[Declaration]) {
    writeln!(c, "static const struct item {table}_items[] = {{").expect("memory");
    for item in declarations {
        let name = &item.name;
        let (kind, record, handle) = kind(header, item);
        let record = record.map_or("NULL".to_string(), |r| format!("&record_{}", r.name));
        let handle = handle.map_or("NULL".to_string(), |h| format!("\"{h}\""));
        writeln!(
            c,
            "    {{\"{name}\", KIND_{kind}, offsetof({of}, {name}), sizeof((({of} *)0)->{name}), {record}, {handle}}},"
        )
        .expect("memory");
    }
    c.push_str("    {NULL, KIND_PLAIN, 0, 0, NULL, NULL}};\n");
}

fn call(c: &mut String, function: &Function) {
    let name = &function.name;
    let arguments: Vec<String> = function.parameters.iter().map(|p| format!("a->{}", p.name)).collect();
    let call = format!("{name}({})", arguments.join(", "));
    let body = match function.returns.as_str() {
        "scalert_status_t" => format!("return {call};"),
        "void" => format!("begin_call(); {call}; return end_call();"),
        _ => format!("begin_call(); if (!{call}) return SCALERT_INTERNAL; return end_call();"),
    };
    writeln!(
        c,
        "static void prepare_{name}(struct world *w, void *a) {{ fixture_{name}(w, a); }}\n\
         static int32_t call_{name}(void *p) {{ struct args_{name} *a = p; (void)a; {body} }}\n"
    )
    .expect("memory");
}

fn tables(header: &Header) -> String {
    let mut c = String::from("#include \"functions.h\"\n#include <string.h>\n");
    // Those that only callbacks get are not the host's to fill.
    let parameters = header.functions.iter().flat_map(|f| &f.parameters);
    let pointed_to: Vec<&str> = parameters
        .chain(header.records.iter().flat_map(|r| &r.fields))
        .map(|item| item.c_type.trim_start_matches("const ").trim_end_matches(['*', ' ']))
        .collect();
    for record in header.records.iter().filter(|r| r.is_sized() && pointed_to.contains(&r.name.as_str())) {
        let name = &record.name;
        items(header, &mut c, name, name, &record.fields);
        let count = record.fields.len();
        writeln!(
            c,
            "static const struct record record_{name} = {{\"{name}\", sizeof({name}), {name}_items, {count}}};"
        )
        .expect("memory");
    }
    for function in &header.functions {
        items(header, &mut c, &format!("struct args_{}", function.name), &function.name, &function.parameters);
        call(&mut c, function);
    }
    c.push_str("const struct function functions[] = {\n");
    for function in &header.functions {
        let (name, count) = (&function.name, function.parameters.len());
        writeln!(
            c,
            "    {{\"{name}\", {name}_items, {count}, sizeof(struct args_{name}), prepare_{name}, call_{name}}},"
        )
        .expect("memory");
    }
    write!(c, "}};\nconst size_t function_count = {};\n", header.functions.len()).expect("memory");
    c.push_str("void destroy_handle(const char *type, void *handle) {\n");
    for handle in &header.handles {
        let destroy = format!("{}_destroy", handle.trim_end_matches("_t"));
        writeln!(c, "    if (strcmp(type, \"{handle}\") == 0) {destroy}(handle);").expect("memory");
    }
    c.push_str("}\n");
    c
}

/// A program that prints `tests/abi/layout.txt`.
fn layout(header: &Header) -> String {
    let mut c = String::from("#include \"scaleRT.h\"\n#include <stdio.h>\nint main(void) {\n");
    for record in &header.records {
        let name = &record.name;
        writeln!(c, "    printf(\"struct {name} %zu\\n\", sizeof({name}));").expect("memory");
        for field in &record.fields {
            let field = &field.name;
            writeln!(
                c,
                "    printf(\"  {field} %zu %zu\\n\", offsetof({name}, {field}), sizeof((({name} *)0)->{field}));\n"
            )
            .expect("memory");
        }
    }
    for (name, _) in &header.constants {
        writeln!(c, "    printf(\"constant {name} %lld\\n\", (long long)({name}));").expect("memory");
    }
    c.push_str("    return 0;\n}\n");
    c
}
