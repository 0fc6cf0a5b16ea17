//! The formulas in f64.

/// What the forward pass writes.
pub struct Forward {
    /// Output.
    pub y: Vec<f64>,
    /// Mean of each row.
    pub mean: Vec<f64>,
    /// 1 / sqrt(variance + epsilon) of each row.
    pub rstd: Vec<f64>,
}

/// Layer norm of the rows of x, each as long as `weight`; `bias` is as long.
pub fn forward(x: &[f64], weight: &[f64], bias: &[f64], epsilon: f64) -> Forward {
    let n = weight.len() as f64;
    let mut out = Forward { y: Vec::new(), mean: Vec::new(), rstd: Vec::new() };
    for x in x.chunks(weight.len().max(1)) {
        let mean = x.iter().sum::<f64>() / n;
        let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
        let rstd = 1.0 / (variance + epsilon).sqrt();
        out.y.extend(x.iter().zip(weight).zip(bias).map(|((x, w), b)| (x - mean) * rstd * w + b));
        out.mean.push(mean);
        out.rstd.push(rstd);
    }
    out
}

/// What the backward pass writes.
pub struct Backward {
    /// Gradient of the input.
    pub dx: Vec<f64>,
    /// Gradient of the weight.
    pub dweight: Vec<f64>,
    /// Gradient of the bias.
    pub dbias: Vec<f64>,
}

/// Gradients of [`forward`] from its statistics.
pub fn backward(dy: &[f64], x: &[f64], weight: &[f64], mean: &[f64], rstd: &[f64]) -> Backward {
    let width = weight.len();
    let n = width as f64;
    let mut out = Backward { dx: Vec::new(), dweight: vec![0.0; width], dbias: vec![0.0; width] };
    for (row, (dy, x)) in dy.chunks(width.max(1)).zip(x.chunks(width.max(1))).enumerate() {
        let xhat: Vec<f64> = x.iter().map(|x| (x - mean[row]) * rstd[row]).collect();
        let g: Vec<f64> = dy.iter().zip(weight).map(|(dy, w)| dy * w).collect();
        let mean_g = g.iter().sum::<f64>() / n;
        let mean_gx = g.iter().zip(&xhat).map(|(g, xhat)| g * xhat).sum::<f64>() / n;
        for j in 0..width {
            out.dx.push(rstd[row] * (g[j] - mean_g - xhat[j] * mean_gx));
            out.dweight[j] += dy[j] * xhat[j];
            out.dbias[j] += dy[j];
        }
    }
    out
}
