//! Handles: numbers that are looked up, never addresses that are followed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::error::Status;

/// Kinds of handle; each has its own range of numbers, none of which is an address that can be mapped.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Context = 0xc1,
    Stream,
    Event,
    Module,
    Function,
    Graph,
    Node,
    GraphExec,
    Pool,
}

/// The live objects of one kind. A number is never issued twice.
pub(super) struct Registry<T> {
    kind: Kind,
    issued: AtomicUsize,
    entries: RwLock<BTreeMap<usize, Arc<T>>>,
}

const STRIDE: usize = 16;

impl<T> Registry<T> {
    /// No handles yet.
    pub(super) const fn new(kind: Kind) -> Self {
        Self { kind, issued: AtomicUsize::new(0), entries: RwLock::new(BTreeMap::new()) }
    }

    fn first(&self) -> usize {
        (self.kind as usize) << 48
    }

    /// A number that was never issued before.
    pub(super) fn issue(&self) -> usize {
        self.first() + (self.issued.fetch_add(1, Ordering::Relaxed) + 1) * STRIDE
    }

    /// Whether the number was issued at some time: what is issued and not live has been destroyed.
    pub(super) fn was_issued(&self, handle: usize) -> bool {
        let offset = handle.wrapping_sub(self.first());
        offset != 0 && offset.is_multiple_of(STRIDE) && offset / STRIDE <= self.issued.load(Ordering::Relaxed)
    }

    /// Makes an issued number stand for an object.
    pub(super) fn insert(&self, handle: usize, object: Arc<T>) {
        self.entries.write().unwrap_or_else(PoisonError::into_inner).insert(handle, object);
    }

    /// The object behind a handle.
    pub(super) fn find(&self, handle: usize) -> Option<Arc<T>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).get(&handle).cloned()
    }

    /// The object behind a handle, or the error for what is not one.
    pub(super) fn get(&self, handle: usize) -> Result<Arc<T>, Status> {
        self.find(handle).ok_or(Status::INVALID_HANDLE)
    }

    /// Forgets a handle and returns its object, or the error for what is not one.
    pub(super) fn remove(&self, handle: usize) -> Result<Arc<T>, Status> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner).remove(&handle).ok_or(Status::INVALID_HANDLE)
    }

    /// Forgets the handles whose objects satisfy `condition`, and returns the objects.
    pub(super) fn remove_where(&self, condition: impl Fn(&T) -> bool) -> Vec<Arc<T>> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let chosen: Vec<usize> = entries.iter().filter(|entry| condition(entry.1)).map(|entry| *entry.0).collect();
        chosen.iter().filter_map(|handle| entries.remove(handle)).collect()
    }

    /// The live objects.
    pub(super) fn all(&self) -> Vec<Arc<T>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
