//! Arenas.

use crate::argument::{Doomed, Enum, Live, Out, OutHandle};
use crate::handle::Kind;
use scalert_runtime::{Arena, Runtime, Tier};
use std::ffi::c_void;

c_enum! {
    Tier as "scalert_tier_t" {
        SCALERT_TIER_DEVICE = 0 => Tier::Device,
        SCALERT_TIER_PINNED = 1 => Tier::Pinned,
        SCALERT_TIER_HOST = 2 => Tier::Host,
        SCALERT_TIER_DISK = 3 => Tier::Disk,
    }
}

impl Kind for Arena {
    const MAGIC: u64 = u64::from_le_bytes(*b"rtARENA.");
    const NAME: &'static str = "arena";
}

export! {
    /// Allocates an arena.
    fn scalert_arena_create(runtime: Live<Runtime>, tier: Enum<Tier>, bytes: u64, out: OutHandle<Arena>) {
        out.give(Arena::new(runtime, tier, bytes)?);
        Ok(())
    }

    /// Frees an arena.
    fn scalert_arena_destroy(arena: Doomed<Arena>) -> (), else (); {
        drop(arena);
        Ok(())
    }

    /// The next bytes of the arena.
    fn scalert_arena_alloc(arena: Live<Arena>, bytes: u64, out: Out<*mut c_void>) {
        out.write(arena.alloc(bytes)?.as_ptr().cast());
        Ok(())
    }

    /// Bytes handed out so far.
    fn scalert_arena_mark(arena: Live<Arena>, mark: Out<u64>) {
        mark.write(arena.mark()?);
        Ok(())
    }

    /// Takes back what was handed out since a mark.
    fn scalert_arena_rewind(arena: Live<Arena>, mark: u64) {
        arena.rewind(mark)
    }
}
