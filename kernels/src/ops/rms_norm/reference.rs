//! The formulas in f64.

/// (y, rstd) of the rows of x, each as long as `weight`.
pub fn forward(x: &[f64], weight: &[f64], epsilon: f64) -> (Vec<f64>, Vec<f64>) {
    let (mut y, mut rstds) = (Vec::new(), Vec::new());
    for x in x.chunks(weight.len().max(1)) {
        let rstd = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / weight.len() as f64 + epsilon).sqrt();
        y.extend(x.iter().zip(weight).map(|(x, w)| x * rstd * w));
        rstds.push(rstd);
    }
    (y, rstds)
}

/// (dx, dweight) of [`forward`] from its statistics.
pub fn backward(dy: &[f64], x: &[f64], weight: &[f64], rstd: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let width = weight.len();
    let (mut dx, mut dweight) = (Vec::new(), vec![0.0; width]);
    for (row, (dy, x)) in dy.chunks(width.max(1)).zip(x.chunks(width.max(1))).enumerate() {
        let r = rstd[row];
        let mean_gx = (0..width).map(|j| dy[j] * weight[j] * x[j] * r).sum::<f64>() / width as f64;
        for j in 0..width {
            dx.push(r * (dy[j] * weight[j] - x[j] * r * mean_gx));
            dweight[j] += dy[j] * x[j] * r;
        }
    }
    (dx, dweight)
}
