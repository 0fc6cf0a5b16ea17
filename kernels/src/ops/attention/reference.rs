//! The oracle: every score of every row in f64, softmax over the visible ones.

/// Sizes and settings of an attention.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Batch.
    pub b: usize,
    /// Queries.
    pub t: usize,
    /// Keys.
    pub s: usize,
    /// Query heads.
    pub hq: usize,
    /// Key heads.
    pub hk: usize,
    /// Elements of a head.
    pub d: usize,
    /// Whether a query sees only keys up to its own position.
    pub causal: bool,
    /// Factor of the scores; 0 stands for `1 / sqrt(d)`.
    pub scale: f64,
}

impl Attention {
    /// The factor of the scores.
    pub fn factor(&self) -> f64 {
        if self.scale == 0.0 { 1.0 / (self.d as f64).sqrt() } else { self.scale }
    }
    /// Elements of query head `h` of token `i` of sequence `n`.
    fn query<'x>(&self, x: &'x [f64], n: usize, i: usize, h: usize) -> &'x [f64] {
        &x[((n * self.t + i) * self.hq + h) * self.d..][..self.d]
    }
    /// Offset of the key head that query head `h` reads.
    fn key_at(&self, n: usize, j: usize, h: usize) -> usize {
        ((n * self.s + j) * self.hk + h / (self.hq / self.hk)) * self.d
    }
    /// Keys that query `i` sees.
    fn visible(&self, i: usize) -> usize {
        if self.causal { i + self.s - self.t + 1 } else { self.s }
    }
    /// Scores of query `i` and log of the sum of their exponentials.
    fn scores(&self, q: &[f64], k: &[f64], n: usize, i: usize, h: usize) -> (Vec<f64>, f64) {
        let scores: Vec<f64> = (0..self.visible(i))
            .map(|j| self.factor() * dot(self.query(q, n, i, h), &k[self.key_at(n, j, h)..][..self.d]))
            .collect();
        if scores.is_empty() {
            return (scores, f64::NEG_INFINITY);
        }
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let log_sum = max + scores.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
        (scores, log_sum)
    }

    /// `out` and `log_sum_exp`.
    pub fn forward(&self, q: &[f64], k: &[f64], v: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let mut out = vec![0.0; self.b * self.t * self.hq * self.d];
        let mut log_sum_exp = Vec::new();
        for n in 0..self.b {
            for h in 0..self.hq {
                for i in 0..self.t {
                    let (scores, log_sum) = self.scores(q, k, n, i, h);
                    log_sum_exp.push(log_sum);
                    let row = &mut out[((n * self.t + i) * self.hq + h) * self.d..][..self.d];
                    for (j, score) in scores.iter().enumerate() {
                        add(row, (score - log_sum).exp(), &v[self.key_at(n, j, h)..][..self.d]);
                    }
                }
            }
        }
        (out, log_sum_exp)
    }

    /// Calls `visit` for each visible pair with the offsets of its query and its key, its weight `P`, the gradient
    /// `scale P (dP - D)` of its product, and the size `scale P (|dP| + |D|)` of that gradient's terms.
    fn pairs(&self, [q, k, v, dout]: [&[f64]; 4], mut visit: impl FnMut(usize, usize, f64, f64, f64)) {
        let (out, _) = self.forward(q, k, v);
        for n in 0..self.b {
            for h in 0..self.hq {
                for i in 0..self.t {
                    let (scores, log_sum) = self.scores(q, k, n, i, h);
                    let dout_row = self.query(dout, n, i, h);
                    let delta = dot(dout_row, self.query(&out, n, i, h));
                    for (j, score) in scores.iter().enumerate() {
                        let key = self.key_at(n, j, h);
                        let weight = (score - log_sum).exp();
                        let dweight = dot(dout_row, &v[key..][..self.d]);
                        let (gradient, size) = (dweight - delta, dweight.abs() + delta.abs());
                        let factor = self.factor() * weight;
                        let query = ((n * self.t + i) * self.hq + h) * self.d;
                        visit(query, key, weight, factor * gradient, factor.abs() * size);
                    }
                }
            }
        }
    }

    /// `dq`, `dk` and `dv`.
    pub fn backward(&self, q: &[f64], k: &[f64], v: &[f64], dout: &[f64]) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
        self.pairs([q, k, v, dout], |query, key, weight, gradient, _| {
            add(&mut dq[query..][..self.d], gradient, &k[key..][..self.d]);
            add(&mut dk[key..][..self.d], gradient, &q[query..][..self.d]);
            add(&mut dv[key..][..self.d], weight, &dout[query..][..self.d]);
        });
        (dq, dk, dv)
    }

    /// The largest term of the sums of `dq`, `dk` and `dv`: what their rounding errors are measured by.
    pub fn largest_terms(&self, q: &[f64], k: &[f64], v: &[f64], dout: &[f64]) -> [f64; 3] {
        let mut largest = [0.0_f64; 3];
        self.pairs([q, k, v, dout], |query, key, weight, _, size| {
            let max = |row: &[f64]| row[..self.d].iter().fold(0.0_f64, |m, x| m.max(x.abs()));
            let terms = [size * max(&k[key..]), size * max(&q[query..]), weight * max(&dout[query..])];
            largest.iter_mut().zip(terms).for_each(|(most, term)| *most = most.max(term));
        });
        largest
    }
}

/// Sum of products.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `y += factor * x`.
fn add(y: &mut [f64], factor: f64, x: &[f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += factor * x);
}
