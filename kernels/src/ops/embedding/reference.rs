//! The formulas in f64.

/// y for `tokens`, whose position is their index modulo `t`; tables of rows of `c` elements.
pub fn forward(tokens: &[i32], t: usize, token_table: &[f64], position_table: Option<&[f64]>, c: usize) -> Vec<f64> {
    let mut y = Vec::new();
    for (i, &token) in tokens.iter().enumerate() {
        for j in 0..c {
            let position = position_table.map_or(0.0, |table| table[i % t * c + j]);
            y.push(token_table[token as usize * c + j] + position);
        }
    }
    y
}

/// Adds dy to the rows of `dtoken_table` and of `dposition_table`.
pub fn backward(tokens: &[i32], t: usize, dy: &[f64], c: usize, dtoken_table: &mut [f64], dposition_table: &mut [f64]) {
    for (i, &token) in tokens.iter().enumerate() {
        for j in 0..c {
            dtoken_table[token as usize * c + j] += dy[i * c + j];
            dposition_table[i % t * c + j] += dy[i * c + j];
        }
    }
}
