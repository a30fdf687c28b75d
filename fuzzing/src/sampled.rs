//! Without coverage: the inputs as they are, then changed at random.

use std::ops::Range;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};

/// How many changed inputs are tried: a second or two of a debug build.
const CHANGED: u32 = 1024;
/// The most bytes that one edit puts in.
const LONGEST_EDIT: usize = 12;
/// What parsers look for: bytes at random would seldom be among them.
const TELLING: &[u8] = b"\0\t\n\r %&+,-./0:;<=>?@AZ[\\]_az{|}~\x7f\"'";

pub fn check(folder: &Path, property: impl Fn(&[u8])) {
    let inputs = inputs(folder);
    for (name, input) in &inputs {
        println!("{name}");
        property(input);
    }
    let inputs = inputs.into_iter().map(|(_, input)| input).collect();
    let config = Config { cases: CHANGED, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&changed(inputs), |input| {
        property(&input);
        Ok(())
    });
    if let Err(fault) = outcome {
        panic!("{fault}\nOnce the fault is found, keep the input in {}.", folder.display());
    }
}

fn inputs(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let files = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut inputs: Vec<_> = files
        .map(|file| {
            let path = file.expect("a file").path();
            let input = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            (path.display().to_string(), input)
        })
        .collect();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    inputs.sort();
    inputs
}

/// One of the inputs with some parts of it replaced: by bytes, or by a part of another input.
fn changed(inputs: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![2 => select(TELLING), 1 => any::<u8>()];
    let part = (select(inputs.clone()), any::<(Index, Index)>()).prop_map(|(input, place)| {
        let range = range(place, &input);
        input[range].to_vec()
    });
    let put_in = prop_oneof![4 => vec(byte, 0..LONGEST_EDIT), 1 => part];
    let edits = vec((any::<(Index, Index)>(), any::<bool>(), put_in), 0..6);
    (select(inputs), edits).prop_map(|(mut input, edits)| {
        for (place, inserts, put_in) in edits {
            let range = range(place, &input);
            let end = if inserts { range.start } else { range.end.min(range.start + LONGEST_EDIT) };
            input.splice(range.start..end, put_in);
        }
        input
    })
}

fn range((one, other): (Index, Index), input: &[u8]) -> Range<usize> {
    let (one, other) = (one.index(input.len() + 1), other.index(input.len() + 1));
    one.min(other)..one.max(other)
}
