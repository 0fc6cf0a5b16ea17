//! Order-independent sums.
