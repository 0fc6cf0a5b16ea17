//! The device code in this library: one image per source file and target, compressed.

use std::ffi::CString;

/// The device code of one `.cu` file.
pub struct Image {
    /// Name of the file without its ending.
    pub name: &'static str,
    /// A cubin for each target: the compute capability as 10 major + minor, whether only that one runs it, and the
    /// bytes.
    pub cubins: &'static [(u32, bool, &'static [u8])],
    /// PTX for compute_80, which the driver compiles for every later device.
    pub ptx: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// The image of a file; the error says why there is none.
pub fn find(name: &str) -> Result<&'static Image, String> {
    if let Err(reason) = built() {
        return Err(reason.to_owned());
    }
    IMAGES.iter().find(|image| image.name == name).ok_or_else(|| format!("no device code is named {name}"))
}

/// Whether this build has device code; the error says why not.
pub fn built() -> Result<(), &'static str> {
    BUILT
}

/// Names of all images.
pub fn names() -> impl Iterator<Item = &'static str> {
    IMAGES.iter().map(|image| image.name)
}

impl Image {
    /// The best cubin for a compute capability, decompressed.
    pub fn cubin(&self, capability: u32) -> Option<Vec<u8>> {
        let runs = |target: u32, only: bool| {
            target == capability || (!only && target / 10 == capability / 10 && target <= capability)
        };
        let best = self.cubins.iter().filter(|(target, only, _)| runs(*target, *only)).max_by_key(|(t, _, _)| *t)?;
        Some(decompress(best.2))
    }

    /// The PTX text.
    pub fn ptx(&self) -> CString {
        CString::new(decompress(self.ptx)).expect("PTX is text")
    }
}

fn decompress(bytes: &[u8]) -> Vec<u8> {
    zstd::decode_all(bytes).expect("the build compressed it")
}
