//! With coverage: libFuzzer searches, in this process, with the arguments that `cargo xtask fuzz` gives. It keeps what
//! reaches new code and writes down what breaks the property.

use std::ffi::{CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::OnceLock;

// Brings libFuzzer itself.
use libfuzzer_sys as _;

/// Where the arguments of libFuzzer stand, one a line.
const ARGUMENTS: &str = "FUZZ_ARGUMENTS";

type Property = Box<dyn Fn(&[u8]) + Send + Sync>;

/// The one property of this process: libFuzzer takes a bare function.
static PROPERTY: OnceLock<Property> = OnceLock::new();

pub fn check(folder: &Path, property: impl Fn(&[u8]) + Send + Sync + 'static) {
    let Ok(arguments) = std::env::var(ARGUMENTS) else {
        panic!("{} is fuzzed by `cargo xtask fuzz`", folder.display());
    };
    assert!(PROPERTY.set(Box::new(property)).is_ok(), "one target a process");
    let arguments = ["fuzzing"].into_iter().chain(arguments.lines());
    let arguments: Vec<_> = arguments.map(|argument| CString::new(argument).expect("no NUL")).collect();
    assert_eq!(search(&arguments), 0, "libFuzzer failed");
}

#[allow(
    unsafe_code,
    reason = "libFuzzer is C++; its driver keeps the arguments for as long as it runs and no longer"
)]
fn search(arguments: &[CString]) -> c_int {
    unsafe extern "C" {
        fn LLVMFuzzerRunDriver(
            count: *mut c_int,
            arguments: *mut *mut *mut c_char,
            test: extern "C" fn(*const u8, usize) -> c_int,
        ) -> c_int;
    }

    extern "C" fn test(input: *const u8, length: usize) -> c_int {
        // SAFETY: libFuzzer gives a pointer to `length` bytes that nobody changes meanwhile; to none, it may be null.
        let input = if length == 0 { &[] } else { unsafe { std::slice::from_raw_parts(input, length) } };
        try_one(input);
        0
    }

    let mut pointers: Vec<*mut c_char> = arguments.iter().map(|text| text.as_ptr().cast_mut()).collect();
    let mut count = pointers.len() as c_int;
    pointers.push(std::ptr::null_mut());
    let mut pointers = pointers.as_mut_ptr();
    // SAFETY: `count` strings that end in NUL and outlive the call, and a null after them, as `main` gets them.
    unsafe { LLVMFuzzerRunDriver(&mut count, &mut pointers, test) }
}

/// A panic must not unwind into C++. libFuzzer writes the input down when the process aborts.
fn try_one(input: &[u8]) {
    let Some(property) = PROPERTY.get() else { return };
    if catch_unwind(AssertUnwindSafe(|| property(input))).is_err() {
        std::process::abort();
    }
}
