//! The product in f64, one element after the other.

/// alpha op(a) op(b) + beta c + bias, row-major, on row-major matrices: `a` is `[m, k]` (`[k, m]` if `transpose_a`),
/// `b` is `[k, n]` (`[n, k]` if `transpose_b`), `c` is `[m, n]` and not read if beta is 0, `bias` is `[n]`.
pub fn gemm(
    [m, n, k]: [usize; 3],
    [transpose_a, transpose_b]: [bool; 2],
    a: &[f64],
    b: &[f64],
    c: &[f64],
    alpha: f64,
    beta: f64,
    bias: Option<&[f64]>,
) -> Vec<f64> {
    let mut result = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            let mut sum = 0.0;
            for l in 0..k {
                let x = if transpose_a { a[l * m + i] } else { a[i * k + l] };
                let y = if transpose_b { b[j * k + l] } else { b[l * n + j] };
                sum += x * y;
            }
            let mut value = alpha * sum;
            if beta != 0.0 {
                value += beta * c[i * n + j];
            }
            if let Some(bias) = bias {
                value += bias[j];
            }
            result[i * n + j] = value;
        }
    }
    result
}
