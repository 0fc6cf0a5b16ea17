//! The oracle.

/// The rank whose (overflow, largest) comes first.
pub fn choose(found: &[(u64, u64)]) -> usize {
    let mut order: Vec<usize> = (0..found.len()).collect();
    order.sort_by(|a, b| (found[*b].1, found[*b].0).cmp(&(found[*a].1, found[*a].0)));
    order[0]
}
