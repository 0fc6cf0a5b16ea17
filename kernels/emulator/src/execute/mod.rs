//! Executes a decoded kernel.

pub(crate) mod address;
pub(crate) mod atomic;
pub(crate) mod block;
pub(crate) mod collective;
pub(crate) mod copies;
pub(crate) mod copy;
pub(crate) mod lanewise;
pub(crate) mod launch;
pub(crate) mod matrix;
pub(crate) mod order;
pub(crate) mod shared;
pub(crate) mod transfer;
pub(crate) mod warp;

pub(crate) use block::Block;
pub(crate) use warp::Warp;
