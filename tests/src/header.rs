//! A small reader of `scaleRT.h`: enough of C to know every function, struct and constant that it declares.

/// A declared name with its type: a parameter, or a field of a struct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// Its name.
    pub name: String,
    /// Its type without the name: `const scalert_tensor_t *`; `function` for a pointer to a function.
    pub c_type: String,
    /// How C declares it, name included.
    pub text: String,
    /// The length of an array, as written.
    pub array: Option<String>,
}

/// An exported function.
#[derive(Clone, Debug)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// What it returns.
    pub returns: String,
    /// Its parameters in order.
    pub parameters: Vec<Declaration>,
}

/// A struct with its fields.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its typedef, `scalert_tensor_t`.
    pub name: String,
    /// Its fields in order.
    pub fields: Vec<Declaration>,
}

impl Record {
    /// Whether it begins with `struct_size`.
    pub fn is_sized(&self) -> bool {
        self.fields[0].name == "struct_size"
    }
}

/// Everything that the header declares.
#[derive(Clone, Debug, Default)]
pub struct Header {
    /// Functions in order.
    pub functions: Vec<Function>,
    /// Structs in order.
    pub records: Vec<Record>,
    /// Opaque handles, `scalert_stream_t`.
    pub handles: Vec<String>,
    /// Typedefs of `int32_t`.
    pub enumerations: Vec<String>,
    /// Integer constants and what they are defined as.
    pub constants: Vec<(String, String)>,
}

impl Header {
    /// Reads the header of this repository.
    pub fn read() -> Header {
        Header::parse(include_str!("../../include/scaleRT.h"))
    }

    /// The struct with this typedef.
    pub fn record(&self, name: &str) -> Option<&Record> {
        self.records.iter().find(|r| r.name == name)
    }

    /// Reads declarations. Panics on what it does not understand, so that nothing is left out silently.
    pub fn parse(text: &str) -> Header {
        let mut header = Header::default();
        let code = without_comments(text).replace("\\\n", " ");
        let mut statements = String::new();
        for line in code.lines() {
            match line.trim().strip_prefix('#') {
                Some(directive) => header.directive(directive.trim()),
                None => statements.push_str(&format!("{line}\n")),
            }
        }
        let statements = statements.replace("extern \"C\" {", " ");
        let mut rest = statements.trim_end().trim_end_matches('}').trim();
        while !rest.is_empty() {
            let end = statement_end(rest);
            header.statement(rest[..end].trim());
            rest = rest[end + 1..].trim();
        }
        header
    }

    fn directive(&mut self, directive: &str) {
        let Some(define) = directive.strip_prefix("define ") else { return };
        let (name, value) = define.trim().split_once(char::is_whitespace).unwrap_or((define.trim(), ""));
        let value = value.trim();
        if name.starts_with("SCALERT_") && !value.is_empty() && !value.starts_with('{') {
            self.constants.push((name.to_string(), value.to_string()));
        }
    }

    fn statement(&mut self, statement: &str) {
        let words: Vec<&str> = statement.split_whitespace().collect();
        match words[..] {
            ["typedef", "int32_t", name] => self.enumerations.push(name.to_string()),
            ["struct", "DLManagedTensorVersioned"] => {}
            ["typedef", "struct", tag, name] if !tag.contains('{') => {
                assert_eq!(format!("{tag}_t"), name);
                self.handles.push(name.to_string());
            }
            ["typedef", "struct", ..] => {
                let open = statement.find('{').expect("a struct has fields");
                let close = statement.rfind('}').expect("a struct ends");
                let name = statement[close + 1..].trim().to_string();
                let fields = split(&statement[open + 1..close], ';').iter().flat_map(|f| fields(f)).collect();
                self.records.push(Record { name, fields });
            }
            _ => {
                let open = statement.find('(').unwrap_or_else(|| panic!("not understood: {statement}"));
                let close = statement.rfind(')').expect("a function's parameters end");
                let start = statement[..open].rfind(|c: char| !is_word(c)).map_or(0, |i| i + 1);
                let name = statement[start..open].to_string();
                assert!(name.starts_with("scalert_"), "not understood: {statement}");
                let parameters = split(&statement[open + 1..close], ',')
                    .iter()
                    .filter(|p| p.as_str() != "void")
                    .map(|p| declaration(p))
                    .collect();
                self.functions.push(Function { name, returns: spaced(&statement[..start]), parameters });
            }
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn without_comments(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("/*") {
        code.push_str(&rest[..start]);
        // Line structure matters to preprocessor lines; a comment inside one continues with its backslashes.
        let end = rest[start..].find("*/").expect("a comment ends") + start + 2;
        if rest[start..end].contains('\n') && !rest[start..end].contains("\\\n") {
            code.push('\n');
        }
        rest = &rest[end..];
    }
    code + rest
}

/// Where the statement that `text` begins with has its semicolon.
fn statement_end(text: &str) -> usize {
    let mut depth = 0;
    for (i, c) in text.char_indices() {
        match c {
            '{' | '(' => depth += 1,
            '}' | ')' => depth -= 1,
            ';' if depth == 0 => return i,
            _ => {}
        }
    }
    panic!("no end: {text}");
}

/// Parts between separators that stand in no brackets, without empty ones.
fn split(text: &str, separator: char) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0;
    for c in text.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        match c == separator && depth == 0 {
            true => parts.push(String::new()),
            false => parts.last_mut().expect("never empty").push(c),
        }
    }
    parts.iter().map(|p| spaced(p)).filter(|p| !p.is_empty()).collect()
}

/// The fields of one declaration, of which there may be several: `float beta1, beta2`.
fn fields(text: &str) -> Vec<Declaration> {
    let parts = split(text, ',');
    let first = declaration(&parts[0]);
    let base = first.c_type.clone();
    let others = parts[1..].iter().map(|name| declaration(&format!("{base} {name}")));
    std::iter::once(first.clone()).chain(others).collect()
}

fn declaration(text: &str) -> Declaration {
    if let Some(start) = text.find("(*") {
        let name: String = text[start + 2..].chars().take_while(|c| is_word(*c)).collect();
        return Declaration { name, c_type: "function".into(), text: text.into(), array: None };
    }
    let (plain, array) = match text.split_once('[') {
        Some((plain, length)) => (plain, Some(length.trim_end_matches(']').to_string())),
        None => (text, None),
    };
    let start = plain.rfind(|c: char| !is_word(c)).expect("a type and a name") + 1;
    Declaration { name: plain[start..].to_string(), c_type: spaced(&plain[..start]), text: text.into(), array }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_declaration_is_read() {
        let header = Header::parse(
            "#define SCALERT_A 1 /* a */\n#define SCALERT_S_INIT {1}\n#define SCALERT_LONG \\\n    4 /* b \\\n */\n\
             typedef int32_t scalert_e_t;\ntypedef struct scalert_h scalert_h_t;\n/* x\n y */\n\
             typedef struct scalert_s {\n size_t struct_size; float a, b;\n const char *name; int64_t shape[SCALERT_A];\n\
             void *(*alloc)(void *user, size_t bytes);\n} scalert_s_t;\n\
             const char *scalert_f(void);\nvoid scalert_g(const scalert_s_t *s, void (*release)(void *owner),\n scalert_h_t **out);",
        );
        assert_eq!(header.constants, [("SCALERT_A".into(), "1".into()), ("SCALERT_LONG".into(), "4".into())]);
        assert_eq!(header.enumerations, ["scalert_e_t"]);
        assert_eq!(header.handles, ["scalert_h_t"]);
        let fields: Vec<_> = header.records[0].fields.iter().map(|f| (&*f.name, &*f.c_type)).collect();
        let expected = [
            ("struct_size", "size_t"),
            ("a", "float"),
            ("b", "float"),
            ("name", "const char *"),
            ("shape", "int64_t"),
            ("alloc", "function"),
        ];
        assert_eq!(fields, expected);
        assert_eq!(header.records[0].fields[4].array.as_deref(), Some("SCALERT_A"));
        assert_eq!(header.functions[0].returns, "const char *");
        let parameters: Vec<_> = header.functions[1].parameters.iter().map(|p| (&*p.name, &*p.c_type)).collect();
        assert_eq!(parameters, [("s", "const scalert_s_t *"), ("release", "function"), ("out", "scalert_h_t **")]);
    }

    #[test]
    fn the_whole_header_is_read() {
        let text = include_str!("../../include/scaleRT.h");
        let header = Header::parse(text);
        let code = without_comments(text);
        assert_eq!(header.records.len(), code.matches("typedef struct").count() - header.handles.len());
        assert_eq!(
            header.functions.len(),
            code.split("scalert_")
                .filter(|s| s.split(|c| !is_word(c)).next().is_some_and(|w| s[w.len()..].starts_with('(')))
                .count()
        );
    }
}
