//! Fuzz targets that are ordinary tests. `cargo test` tries the committed inputs and some hundred changed ones, a number
//! rather than a time; `cargo xtask fuzz` builds the same tests so that libFuzzer sees which code an input reaches, and
//! lets it search for as long as one likes.

#[cfg(coverage_guided)]
mod guided;
#[cfg(not(coverage_guided))]
mod sampled;

use std::path::Path;

/// Tries whether a property holds for the inputs in `folder` and for what is made of them. The property panics when it
/// does not hold. Every input that ever broke it belongs into the folder.
///
/// # Panics
/// When the property does not hold, or there are no inputs to begin with.
pub fn check(folder: &str, property: impl Fn(&[u8]) + Send + Sync + 'static) {
    let folder = Path::new(folder);
    #[cfg(coverage_guided)]
    guided::check(folder, property);
    #[cfg(not(coverage_guided))]
    sampled::check(folder, property);
}
