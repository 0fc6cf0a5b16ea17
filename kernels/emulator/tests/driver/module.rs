//! Modules.

use crate::api::*;
use std::ffi::{CString, c_void};

fn load(image: &[u8]) -> i32 {
    cuModuleLoadData(&mut 0, image.as_ptr().cast())
}

fn load_text(text: &str) -> i32 {
    load(CString::new(text).unwrap().as_bytes_with_nul())
}

#[test]
fn only_text_that_the_device_understands_is_taken() {
    let _session = Session::new();
    assert_eq!(load(b"\x7fELF\x02\x01\x01\x00"), NO_BINARY_FOR_GPU, "so that a program falls back to PTX");
    assert_eq!(load(&[0x50, 0xed, 0x55, 0xba, 1, 0, 0, 0]), NO_BINARY_FOR_GPU);
    assert_eq!(load(b"\0"), 200);
    assert_eq!(load(b"\x7fE\0"), 200, "a text that only begins like a binary");
    assert_eq!(cuModuleLoadData(&mut 0, std::ptr::null()), INVALID_VALUE);
    assert_eq!(load_text(KERNELS), SUCCESS);
    assert_eq!(load_text(&KERNELS.replace("8.0", "9.9")), 222, "a newer language");
    assert_eq!(load_text(&KERNELS.replace("sm_80", "sm_90")), INVALID_PTX, "another device");
    assert_eq!(load_text(&KERNELS.replace("add.f32", "frobnicate.f32")), INVALID_PTX);
}

#[test]
fn a_text_may_come_from_a_file() {
    let _session = Session::new();
    let file = std::env::temp_dir().join(format!("emulator-module-{}.ptx", std::process::id()));
    let path = CString::new(file.to_str().expect("a name in UTF-8")).unwrap();
    std::fs::write(&file, KERNELS).expect("it is written");
    assert_eq!(cuModuleLoad(&mut 0, path.as_ptr()), SUCCESS);
    std::fs::write(&file, b"\x7fELF").expect("it is written");
    assert_eq!(cuModuleLoad(&mut 0, path.as_ptr()), NO_BINARY_FOR_GPU);
    std::fs::remove_file(&file).expect("it was there");
    assert_eq!(cuModuleLoad(&mut 0, path.as_ptr()), 301);
}

#[test]
fn what_is_wrong_with_a_text_is_told() {
    let _session = Session::new();
    let text = CString::new(KERNELS.replace("add.f32", "frobnicate.f32")).unwrap();
    let mut log = [1_u8; 256];
    let options = [5, 6, 7];
    let values =
        [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(256), std::ptr::without_provenance_mut(4)];
    let outcome = cuModuleLoadDataEx(&mut 0, text.as_ptr().cast(), 3, options.as_ptr(), values.as_ptr());
    assert_eq!(outcome, INVALID_PTX);
    let told = std::ffi::CStr::from_bytes_until_nul(&log).unwrap().to_str().unwrap();
    assert!(told.contains("frobnicate"), "{told}");
}

#[test]
fn kernels_and_variables_have_names() {
    let session = Session::new();
    let text = CString::new(KERNELS).unwrap();
    let (mut module, mut first, mut second) = (0, 0, 0);
    assert_eq!(cuModuleLoadData(&mut module, text.as_ptr().cast()), SUCCESS);
    assert_eq!(cuModuleGetFunction(&mut first, module, c"store".as_ptr()), SUCCESS);
    assert_eq!(cuModuleGetFunction(&mut second, module, c"store".as_ptr()), SUCCESS);
    assert_eq!(first, second);
    assert_eq!(cuModuleGetFunction(&mut first, module, c"absent".as_ptr()), NOT_FOUND);
    assert_eq!(cuModuleGetFunction(&mut first, module, std::ptr::null()), INVALID_VALUE);
    let (mut address, mut bytes) = (0, 0);
    assert_eq!(cuModuleGetGlobal_v2(&mut address, &mut bytes, module, c"absent".as_ptr()), NOT_FOUND);
    assert_eq!(cuModuleGetGlobal_v2(&mut address, &mut bytes, module, c"counter".as_ptr()), SUCCESS);
    assert_eq!(bytes, 4);
    assert_eq!(session.download(address, 1)[0].to_bits(), 7, "its initial value");
    assert_eq!(store(second, 0, address, 8), SUCCESS);
    assert_eq!(session.download(address, 1)[0].to_bits(), 8);
    assert_eq!(cuMemFree_v2(address), INVALID_VALUE);

    assert_eq!(cuModuleUnload(module), SUCCESS);
    assert_eq!(cuModuleUnload(module), INVALID_HANDLE);
    assert_eq!(store(second, 0, address, 9), INVALID_HANDLE);
    assert_eq!(cuModuleGetFunction(&mut first, module, c"store".as_ptr()), INVALID_HANDLE);
    let mut word = 0_u32;
    assert_eq!(cuMemcpyDtoH_v2((&raw mut word).cast(), address, 4), INVALID_VALUE, "the variable is gone");
}
