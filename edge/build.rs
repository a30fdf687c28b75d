//! Takes the files of Swagger UI that `/docs` serves out of their archive.

use std::error::Error;
use std::fs::File;
use std::io::{Cursor, copy};
use std::path::PathBuf;

use utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED;
use zip::ZipArchive;

const FILES: [&str; 2] = ["swagger-ui.css", "swagger-ui-bundle.js"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let mut archive = ZipArchive::new(Cursor::new(SWAGGER_UI_VENDORED))?;
    let mut left = FILES.to_vec();
    for place in 0..archive.len() {
        let mut file = archive.by_index(place)?;
        let path = file.name()?.to_string();
        if let Some(found) = left.iter().position(|name| path.ends_with(&format!("/dist/{name}"))) {
            copy(&mut file, &mut File::create(out.join(left.remove(found)))?)?;
        }
    }
    if left.is_empty() { Ok(()) } else { Err(format!("Swagger UI has no {left:?}").into()) }
}
